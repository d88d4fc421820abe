"""All probes of one label: linear and attentive ones and neighbours, beside rivals, on few labels.

Everything is chosen on training samples alone; held-out samples are only scored.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fourm.any2any import Any2Any
from fourm.evaluation.intervals import interval_of, resampled_scores
from fourm.evaluation.probing.maps import map_probes
from fourm.evaluation.probing.material import Material, StudyConfig
from fourm.evaluation.probing.pooled import pooled_probes
from fourm.evaluation.probing.tasks import choose_few, find_task, floor, rows_with, score
from fourm.evaluation.results import format_number, why_failed
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import Values


def study(
    model: Any2Any,
    untrained: Any2Any,
    training: SampleSet,
    heldout: SampleSet,
    values: Mapping[str, Values],
    config: StudyConfig,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measures all probes of one label.

    Linear probes read the mean of the encoder's tokens, or of a map every token at its place; an
    attentive probe reads all tokens, and neighbours vote by the mean. The rivals of the linear
    probe are `best_layer`, the layer that is best on training samples; `raw_pixels`; `untrained`,
    the same encoder with fresh weights; `token_histogram`; and `tokenizer`, the codes of the
    tokens as the tokenizer has them.

    Args:
        model: Trained.
        untrained: The same tokenizers and architecture with fresh weights.
        training: Samples on which probes are fitted.
        heldout: Samples on which they are scored.
        values: What the values of the label's modality mean, if it is one.
        config: What to read.

    Returns:
        A row per probe and share of labels, {"label", "probe", "features", "share", "num_train",
        "num_test", "metric", "better", "value", "interval", "floor", "chosen"}; and a sentence for
        each that could not be measured.

    Raises:
        ValueError: One sentence, if the label or the inputs can't be used.
    """
    if config.label in config.inputs:
        raise ValueError(f"{config.label} is both the label and an input; take one of them out.")
    task, known, asked = find_task(config.label, training, heldout, values, config.read_as)
    known = rows_with(training, config.inputs, known, config.num_train)
    asked = rows_with(heldout, config.inputs, asked, config.num_test)
    shown = [
        {name: samples.take(name, labels.rows) for name in config.inputs}
        for samples, labels in ((training, known), (heldout, asked))
    ]
    ids = [model.encode_inputs(each) for each in shown]
    material = Material(model, untrained, task, known, asked, shown, ids, config)
    probes_of = map_probes if task.kind == "map" else pooled_probes
    rows, notes = [], []
    lowest = floor(task, known.labels, asked.labels)
    for (probe, features), build in probes_of(material):
        try:
            fitted = build()
            for share in sorted(set(config.shares), reverse=True):
                if share < 1 and features == "best_layer":
                    continue  # The layer that was chosen on all labels would be told too much.
                few = choose_few(task, known.labels, share, config.seed)
                found = fitted(few)
                drawn = resampled_scores(task.values, found.answers, asked.labels, task.metric)
                interval = interval_of(drawn)
                rows.append(
                    {
                        "label": task.name,
                        "probe": probe,
                        "features": features,
                        "share": share,
                        "num_train": len(few),
                        "num_test": len(asked.labels),
                        "metric": task.metric,
                        "better": task.better,
                        "value": score(task, found.answers, asked.labels),
                        "interval": list(interval) if interval else None,
                        "floor": lowest,
                        "chosen": found.chosen,
                    }
                )
        except Exception as error:  # Whatever it is: the others can still be compared.
            notes.append(why_failed(f"The probe {probe} of {features}", error))
    return rows, notes


def format_study(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a study as aligned text: a line per probe, a column per share of the labels."""
    shares = sorted({row["share"] for row in rows}, reverse=True)
    names = list(dict.fromkeys((row["probe"], row["features"]) for row in rows))
    by_name = {(row["probe"], row["features"], row["share"]): row for row in rows}
    first, metric = rows[0], f"{rows[0]['label']}: {rows[0]['metric']}"
    width = max(len(metric), *(len(" of ".join(name)) for name in names)) + 2
    heads = [f"{100 * share:.3g}% of labels" for share in shares]
    lines = [metric.ljust(width) + "".join(head.rjust(26) for head in heads)]
    for name in names:
        cells = []
        for share in shares:
            row = by_name.get((*name, share))
            told = "-"
            if row is not None:
                told = format_number(row["value"])
                if row["interval"]:
                    told += " ({} to {})".format(*map(format_number, row["interval"]))
            cells.append(told.rjust(26))
        lines.append(" of ".join(name).ljust(width) + "".join(cells))
    lines.append("constant answer".ljust(width) + format_number(first["floor"]).rjust(26))
    return "\n".join(lines)

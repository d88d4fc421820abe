"""The outcome of a run: `report.json` for programs and `report.md` for people."""

import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from fourm.evaluation.results import (
    Row,
    beats_floor,
    beats_rival,
    format_json,
    format_share,
    share_of_way,
    write_file,
)
from tokenizers.process.command import make_visible
from tokenizers.storage.pieces import write_piece
from tokenizers.storage.run_paths import LEFT_OUT, MODEL, REPORT, REPORT_PAGE, SAMPLES_PICTURE

ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}

EXPLANATION = """\
**Floor**: the best answer that ignores the input, fitted on training samples, for each metric its
own: for pictures of any kind one constant picture (a value per pixel position), for text the most
frequent words, for boxes the best constant list, for numbers the median or the mean.
**Ceiling**: the truth after its own tokenizer's round trip, which no prediction made of tokens can
be expected to beat. **Share**: how much of the way from floor to ceiling the model goes; below 0
it is worse than a constant, and there is none where the ceiling is no better than the floor. An
arrow shows the direction in which a metric improves. Metrics of pixels are pooled over all pixels
whose truth is known. `readback_` metrics: the model predicts the
input again from its own answer, by its ids, and is scored against the input that was given; the
floor is a constant answer, the ceiling is what it reads from true pictures. Metrics of a region,
such as `_objects`, score the same predictions on its pixels alone; their floor is the one best
value for the region's training pixels.
`ap`: average precision of boxes as COCO defines it, at overlaps of 0.5 to 0.95 (`ap50`, `ap75`: at
one), a box being as sure as its tokens are likely. `cider_d`: CIDEr-D of texts by their own words,
unstemmed, 0 to 10 and beyond; its floor is one training text for all."""

RIVALS = """\
**Simple method**: what takes seconds on the same inputs and at most some thousand of the same
training samples, scored on at most 64 of the held-out ones. *forest*: a random forest on every
pixel, the means of 3 x 3 and 5 x 5 pixels around it, and its place; *ridge*: ridge regression on
means of 8 x 8 cells of pictures, and on counts of words and boxes; *nearest*: the answer of the
training sample whose input is most similar by these."""

PROBES = """\
Accuracy, on held-out samples, of a linear classifier (logistic regression on standardised features,
fitted on training samples, its regularisation chosen on a fifth of them). Its features are, by
column: the mean of the frozen encoder's tokens; the input itself, pictures averaged down to 16 x 16
pixels; those of the same encoder with fresh weights; how often each token occurs in the input.
Chance always answers the commonest training label. C is the inverse strength of the regularisation
chosen for the encoder's features: the best of a grid, which is widened while its best is at its
end. Beside the linear classifier stand, where they were measured, an attentive probe, which pools
the encoder's tokens by learned queries, and the weighted vote of the nearest training samples."""


UNMEASURED = """\
The model was trained on stored tokens alone, without data to evaluate it on; where there is data,
`python train.py {run} files --data.path PATH --training.steps 0` measures it."""


def describe_device() -> str:
    """Returns what this process computes on, such as "cpu, 4 cores" or "2 x NVIDIA H100"."""
    device, count = jax.devices()[0], jax.device_count()
    if device.platform == "cpu":
        # What this process may use, where the system can tell.
        mine = getattr(os, "sched_getaffinity", None)
        return f"cpu, {len(mine(0)) if mine else os.cpu_count()} cores"
    return f"{count} x {device.device_kind}" if count > 1 else device.device_kind


RISE = 1.01
"""Ratio of the last held-out loss to the lowest from which on a report speaks of it."""


def say_overfitted(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Returns a sentence if the held-out loss rose before training ended; else nothing.

    Args:
        metrics: Lines of metrics.jsonl.
    """
    measured = [
        (line["heldout_loss"], line["step"])
        for line in metrics
        if line["stage"] == MODEL and "heldout_loss" in line
    ]
    if not measured:
        return ""
    (lowest, step), (last, _) = min(measured), measured[-1]
    if not last > RISE * lowest:
        return ""
    return (
        f"The held-out loss was lowest after {step:,} steps, {lowest:.2f}, and is {last:.2f} at "
        "the end: since then the training samples were learned by heart. Fewer --training.steps or "
        "more --crops.views would do; --use best takes the parameters of the lowest loss."
    )


LIKELIHOODS = (
    "Held-out texts of which some were exchanged, pictures with a piece of another one, and all "
    "pairs of texts and samples: how well the run's own likelihoods tell what belongs together. An "
    "auc is how often what does not belong has the higher score; recall@k is how often the own "
    "answer is among the first k. The ceiling of a fact that is told without training is its probe."
)


@dataclass(frozen=True)
class Report:
    """The contents of report.md and report.json."""

    seconds: dict[str, float]
    """Time of every stage, in order."""
    config: Mapping[str, Any]
    """The resolved configuration, as JSON holds it."""
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As `Evaluator.tokenizers` returns them."""
    results: list[Row] = field(default_factory=list)
    """As `Evaluator.evaluate` returns them."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    """As `probe` returns them."""
    likelihoods: list[dict[str, Any]] = field(default_factory=list)
    """As `measure_likelihoods` returns them."""
    device: str = field(default_factory=describe_device)
    """What it ran on, such as "cpu, 4 cores"."""
    command: str = "python train.py"
    """What to type to get this run."""
    split: str = ""
    """Where `results` were measured; empty if there was no data to measure anything on."""
    num_samples: int = 0
    """Held-out samples of that split that were measured on."""
    num_kept: Mapping[str, int] = field(default_factory=dict)
    """Samples that the run keeps, by split: those are evenly spread over the split."""
    other_splits: dict[str, list[Row]] = field(default_factory=dict)
    """Results on further splits, by name."""
    data: Sequence[Mapping[str, Any]] = ()
    """By split and modality, how many samples have it: rows of split, modality, samples, present,
    missing and left_out."""
    notes: Sequence[str] = ()
    """Sentences on what a reader should know."""


def write_report(folder: Path, report: Report) -> None:
    """Writes `report.json` and `report.md` into a run directory, each whole or not at all.

    `report.json` has the keys seconds, tokenizers, results, probes, device and config, and data,
    likelihoods and other_splits if there are any; a number that could not be measured is null.
    """
    folder = Path(folder)
    content = {
        "seconds": report.seconds,
        "tokenizers": report.tokenizers,
        "results": report.results,
        "probes": report.probes,
        "device": report.device,
        "config": report.config,
    }
    if report.data:
        content["data"] = list(report.data)
    if report.likelihoods:
        content["likelihoods"] = report.likelihoods
    if report.other_splits:
        content["other_splits"] = report.other_splits
    write_piece(folder, REPORT, format_json(content).encode())
    write_file(folder / REPORT_PAGE, format_report(folder, report).encode())


def format_report(folder: Path, report: Report) -> str:
    """Returns the report as Markdown, with the pictures that lie in `folder`."""
    total = float(sum(report.seconds.values()))
    parts = [f"# {make_visible(folder.name)}", _headline(report, total)]
    if (folder / SAMPLES_PICTURE).exists():
        parts.append(f"![Held-out samples: shown, truth, predicted]({SAMPLES_PICTURE})")
    parts += (
        _measured(report) if report.split else [UNMEASURED.format(run=shlex.quote(str(folder)))]
    )
    if (folder / "curves.png").exists():
        parts += ["## Training", "![Curves of training](curves.png)"]
    if report.data:
        parts += ["## Data", _data_table(report.data)]
        if any(row["left_out"] for row in report.data):
            parts.append(
                f"`{LEFT_OUT}` says of each value that was left out what is wrong with it."
            )
    stages = [(stage, _duration(seconds)) for stage, seconds in report.seconds.items()]
    parts += ["## Time", _table(("stage", "time"), [*stages, ("**all**", _duration(total))])]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    parts += ["## Again", *_again(folder, report)]
    return "\n\n".join(parts) + "\n"


def _measured(report: Report) -> list[str]:
    parts = [f"## Predictions on held-out samples ({report.split})"]
    parts += [_results_table(report.results), EXPLANATION]
    if any("simple" in row for row in report.results):
        parts.append(RIVALS)
    if report.num_kept:
        kept = " and ".join(f"{count:,} of {split}" for split, count in report.num_kept.items())
        parts.append(
            f"Samples are evenly spread over each split, in the order of its files: {kept} are "
            f"kept with the run; at most {report.num_samples:,} are predicted in a direction, and "
            "floors and probes are fitted to those of training."
        )
    for split, rows in report.other_splits.items():
        parts += [f"### On {split}", _results_table(rows)]
    if report.probes:
        parts += ["## Linear probes", _probes_table(report.probes), PROBES]
    if any("note" not in row for row in report.likelihoods):
        parts += ["## What likelihoods find", _tasks_table(report.likelihoods), LIKELIHOODS]
    parts += ["## Tokenizers", _tokenizers_table(report.tokenizers)]
    parts.append(
        "The round trip of held-out samples through the tokenizer alone, by its main metric. "
        "Usage is the share of all ids that occur in them; perplexity is the number of equally "
        "likely ids that would have the same entropy."
    )
    return parts


def _again(folder: Path, report: Report) -> list[str]:
    numbers = "`report.json` has all numbers and the resolved configuration."
    if not report.split:
        return [f"```\n{report.command}\n```", numbers]
    again = shlex.join(["python", "-m", "fourm.evaluate", str(folder)])
    return [
        f"```\n{report.command}\n{again}\n```",
        f"The second command measures this run once more from what its directory holds. {numbers}",
    ]


def _headline(report: Report, total: float) -> str:
    mains: dict[tuple, Row] = {}
    for row in report.results:  # The first metric of each direction is its main one.
        mains.setdefault((*row["inputs"], row["target"]), row)
    text = f"Trained in {_duration(total)} on {report.device}."
    if mains:
        text += (
            f" In {sum(map(beats_floor, mains.values()))} of {len(mains)} directions the "
            f"prediction of {report.num_samples} held-out samples beats the best constant answer"
        )
        rivalled = [row for row in mains.values() if "simple" in row]
        if rivalled:
            text += (
                f", and in {sum(map(beats_rival, rivalled))} of {len(rivalled)} it beats a simple "
                "method"
            )
        shares = [share for share in map(share_of_way, mains.values()) if math.isfinite(share)]
        if shares:
            text += (
                "; the mean share of the way from there to what the tokenizers allow is "
                f"{sum(shares) / len(shares):.0%}"
            )
        text += "."
    return text


def _results_table(rows: Sequence[Row]) -> str:
    lines, last = [], None
    has_rivals = any("simple" in row for row in rows)
    for row in rows:
        direction = f"{' + '.join(row['inputs'])} \N{RIGHTWARDS ARROW} {row['target']}"
        lines.append(
            (
                "" if direction == last else direction,
                f"{row['metric']} {ARROWS[row['better']]}",
                _number(row["floor"]),
                *([_simple(row)] if has_rivals else []),
                f"**{_number(row['value'])}**",
                _number(row["ceiling"]),
                format_share(row),
            )
        )
        last = direction
    simple = ["simple method"] if has_rivals else []
    return _table(("direction", "metric", "floor", *simple, "value", "ceiling", "share"), lines)


def _simple(row: Row) -> str:
    """Returns the score of the simple method and its name."""
    return f"{_number(row['simple'])} {row['method']}" if "simple" in row else "-"


def _data_table(data: Sequence[Mapping[str, Any]]) -> str:
    heads = ("split", "modality", "samples", "with it", "without it", "left out as damaged")
    names = ("samples", "present", "missing", "left_out")
    lines = [(row["split"], row["modality"], *(f"{row[n]:,}" for n in names)) for row in data]
    return _table(heads, lines)


def _tokenizers_table(tokenizers: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        (
            name,
            f"{entry['metric']} {ARROWS.get(entry.get('better', ''), '')}".strip(),
            _number(entry["floor"]),
            f"**{_number(entry['value'])}**",
            "-" if entry["codebook_usage"] is None else f"{entry['codebook_usage']:.0%}",
            _number(entry.get("perplexity")),
            str(entry.get("vocab_size", "-")),
            str(entry.get("tokens", "-")),
        )
        for name, entry in tokenizers.items()
    ]
    heads = ("modality", "metric", "floor", "round trip", "usage", "perplexity", "ids", "tokens")
    return _table(heads, lines)


def _probes_table(probes: Sequence[Mapping[str, Any]]) -> str:
    columns = {
        "value": "encoder",
        "attentive": "attentive probe",
        "knn": "neighbours",
        "raw_pixels": "raw pixels",
        "untrained": "untrained encoder",
        "token_histogram": "token histogram",
        "chance": "chance",
    }
    columns = {name: told for name, told in columns.items() if any(name in row for row in probes)}
    lines = []
    for row in probes:
        numbers = [_number(row.get(name)) for name in columns]
        strength = row.get("inverse_regularization")
        told = "-" if strength is None else f"{strength:.3g}"
        lines.append((row["task"], f"**{numbers[0]}**", *numbers[1:], told))
    return _table(("task", *columns.values(), "C"), lines)


def _tasks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        if "note" not in row:
            low, high = map(_number, row["interval"] or (None, None))
            told = row["task"], row["of"], row["metric"], _number(row["floor"])
            value, ceiling = f"**{_number(row['value'])}**", _number(row.get("ceiling"))
            lines.append((*told, value, f"{low} to {high}", ceiling))
    return _table(("task", "of", "metric", "floor", "value", "95 %", "ceiling"), lines)


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

"""All that is measured and drawn of a run, once it is trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.evaluation import EvaluationConfig, Evaluator
from fourm.pictures import draw_samples
from fourm.probing import ProbeConfig, probe, untrained_like
from fourm.run import load
from fourm.sample_set import HELDOUT, TRAINING, load_heldout
from fourm.stages import Stages


def measure_run(
    folder: Path,
    splits: Sequence[str],
    evaluation: EvaluationConfig,
    probes: ProbeConfig,
    stage: Stages,
) -> dict[str, Any]:
    """Measures a run on its held-out samples and draws `samples.png`.

    Args:
        folder: The run directory.
        splits: Of its data. Evaluated are those whose name starts with test, or else the last;
            the first of them in full, others on fewer samples.
        evaluation: What is predicted from what.
        probes: Linear probes of the frozen encoder.
        stage: Told what is under way.

    Returns:
        The fields of `fourm.report.Report` that hold results, by name.
    """
    split, *others = [name for name in splits if name.startswith("test")] or [splits[-1]]
    training, heldout = load_heldout(folder, TRAINING), load_heldout(folder, split)
    model = load(folder)
    with stage("evaluation", folder / HELDOUT / split):
        evaluator = Evaluator(model, heldout, training, evaluation)
        tokenizers, results = evaluator.tokenizers(), evaluator.evaluate()
        fewer = replace(evaluation, num_samples=evaluation.num_samples_elsewhere)
        elsewhere = {
            name: Evaluator(model, load_heldout(folder, name), training, fewer).evaluate()
            for name in others
        }
    with stage("probes", folder / "report.md"):
        rows, notes = probe(model, untrained_like(model), training, heldout, probes)
    with stage("pictures", folder / "samples.png"):
        draw_samples(folder / "samples.png", model, heldout, evaluator.examples)
    return {
        "tokenizers": tokenizers,
        "results": results,
        "other_splits": elsewhere,
        "probes": rows,
        "notes": notes,
        "split": split,
        "num_samples": min(heldout.size, evaluation.num_samples),
    }

"""All that is measured and drawn of a run, once it is trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.any2any import load
from fourm.evaluation.directions import EvaluationConfig, Evaluator
from fourm.evaluation.probes import ProbeConfig, probe, untrained_like
from fourm.evaluation.results import notes_of, why_failed
from fourm.presentation.pictures import draw_samples
from fourm.run_directory.sample_set import HELDOUT, TRAINING, load_heldout
from fourm.run_directory.stages import Stages


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

    Whatever can't be measured is left out, and a note says why: the rest is there all the same.

    Returns:
        The fields of `fourm.presentation.report.Report` that hold results, by name.

    Raises:
        ValueError: If the model or the samples that were kept can't be read.
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
    rows, notes = [], notes_of(tokenizers.values(), results, *elsewhere.values())
    with stage("probes", folder / "report.md"):
        try:
            rows, told = probe(model, untrained_like(model), training, heldout, probes)
            notes += told
        except Exception as error:  # Whatever it is: the rest of the report stands.
            notes.append(why_failed("The probes", error))
    with stage("pictures", folder / "samples.png"):
        try:
            draw_samples(folder / "samples.png", model, heldout, evaluator.examples)
        except Exception as error:  # Whatever it is: the numbers are there.
            notes.append(why_failed("The page of samples", error))
    return {
        "tokenizers": tokenizers,
        "results": results,
        "other_splits": elsewhere,
        "probes": rows,
        "notes": notes,
        "split": split,
        "num_samples": min(heldout.size, evaluation.num_samples),
        "num_kept": {"training": training.size, split: heldout.size},
    }

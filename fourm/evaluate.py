"""Measures a trained run: all of its report, or from the command line what is asked for.

python -m fourm.evaluate runs/scenes
python -m fourm.evaluate runs/scenes --pairs "rgb->depth" "caption->rgb->caption" --matrix
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fourm.any2any import load
from fourm.evaluation.directions import EvaluationConfig, Evaluator
from fourm.evaluation.probes import ProbeConfig, format_probes, probe, untrained_like
from fourm.evaluation.results import (
    format_matrix,
    format_table,
    notes_of,
    why_failed,
    write_json,
)
from fourm.presentation.pictures import draw_samples
from fourm.presentation.report import Report
from fourm.run_directory.sample_set import TRAINING, load_heldout
from fourm.run_directory.stages import Stages
from tokenizers.process.command import make_visible, run_command
from tokenizers.settings.checked import check_all, checked_later
from tokenizers.settings.plain import from_plain
from tokenizers.storage.run_paths import HELDOUT, REPORT_PAGE, SAMPLES_PICTURE


@dataclass(frozen=True)
class Command:
    """Scores a trained run on held-out samples and writes evaluation_SPLIT.json."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    split: str = "test"
    """Which of the run's held-out samples."""
    pairs: tuple[str, ...] | None = None
    """Directions, like "rgb->depth" or "caption->rgb->caption"; by default the run's own."""
    num_samples: int | None = None
    """How many samples; by default the run's own number."""
    matrix: bool = False
    """Also predict every modality from every other."""
    probes: bool = True
    """Also probe the frozen encoder."""
    seed: int | None = None
    """Seed of generation; by default the run's own."""
    use: str = "last"
    """Which parameters: of the end of the training (last), of the checkpoint of the lowest held-out
    loss (best), or of that of a step. Others than the last have results of their own, in
    evaluation_SPLIT_USE.json."""
    out: Path | None = None
    """Folder for the results; RUN by default."""


def evaluate_run(command: Command) -> dict[str, Any]:
    """Evaluates a run directory, prints tables, and returns what it wrote."""
    folder = command.out or command.run
    model = load(command.run, command.use)
    check_writable(folder)
    config, probes = configs_of_run(model.config)
    chosen = {name: getattr(command, name) for name in ("pairs", "num_samples", "seed")}
    with checked_later():
        config = dataclasses.replace(
            config,
            matrix=config.matrix or command.matrix,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    check_all(config)
    heldout = load_heldout(command.run, command.split)
    training = load_heldout(command.run, TRAINING)
    evaluator = Evaluator(model, heldout, training, config)
    found: dict[str, Any] = {"split": command.split, "results": evaluator.evaluate()}
    print(format_table(found["results"]))
    if config.matrix:
        found["matrix"] = evaluator.matrix()
        print(f"\n{format_matrix(found['matrix'])}")
    notes = notes_of(found["results"], found.get("matrix", []))
    if command.probes and probes.tasks:
        found["probes"], told = probe(model, untrained_like(model), training, heldout, probes)
        notes += told
        if found["probes"]:
            print(f"\n{format_probes(found['probes'])}")
    if notes:
        found["notes"] = notes
        print("\n".join(["", *notes]))
    parts = ("evaluation", command.split, *(() if command.use == "last" else (command.use,)))
    path = folder / f"{'_'.join(parts)}.json"
    write_json(path, found | {"use": command.use, "config": dataclasses.asdict(config)})
    print(f"\nWritten to {make_visible(str(path))}")
    return found


def measure_run(
    report: Report,
    folder: Path,
    splits: Sequence[str],
    evaluation: EvaluationConfig,
    probes: ProbeConfig,
    stage: Stages,
) -> Report:
    """Returns a report with all that a run's held-out samples say; draws `samples.png`.

    Whatever can't be measured is left out, and a note says why: the rest is there all the same.

    Args:
        report: Without results yet.
        folder: The run directory.
        splits: Of its data. Evaluated are those whose name starts with test, or else the last;
            the first of them in full, others on fewer samples.
        evaluation: What is predicted from what.
        probes: Linear probes of the frozen encoder.
        stage: Told what is under way.

    Raises:
        ValueError: If the model or the samples that were kept can't be read.
    """
    split, *others = [name for name in splits if name.startswith("test")] or [splits[-1]]
    training, heldout = load_heldout(folder, TRAINING), load_heldout(folder, split)
    model = load(folder)
    with stage("evaluation", folder / HELDOUT / split):
        evaluator = Evaluator(model, heldout, training, evaluation)
        tokenizers, results = evaluator.tokenizers(), evaluator.evaluate()
        fewer = dataclasses.replace(evaluation, num_samples=evaluation.num_samples_elsewhere)
        elsewhere = {
            name: Evaluator(model, load_heldout(folder, name), training, fewer).evaluate()
            for name in others
        }
    rows, notes = [], notes_of(tokenizers.values(), results, *elsewhere.values())
    with stage("probes", folder / REPORT_PAGE):
        try:
            rows, told = probe(model, untrained_like(model), training, heldout, probes)
            notes += told
        except Exception as error:  # Whatever it is: the rest of the report stands.
            notes.append(why_failed("The probes", error))
    with stage("pictures", folder / SAMPLES_PICTURE):
        try:
            draw_samples(folder / SAMPLES_PICTURE, model, heldout, evaluator.examples)
        except Exception as error:  # Whatever it is: the numbers are there.
            notes.append(why_failed("The page of samples", error))
    return dataclasses.replace(
        report,
        tokenizers=tokenizers,
        results=results,
        other_splits=elsewhere,
        probes=rows,
        notes=notes,
        split=split,
        num_samples=min(heldout.size, evaluation.num_samples),
        num_kept={"training": training.size, split: heldout.size},
    )


def check_writable(folder: Path) -> None:
    """Makes a folder for results, or says at once that nothing can be written to it.

    Raises:
        ValueError: In one sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"Nothing can be written to {folder}; give another folder with --out.")


def configs_of_run(config: Mapping[str, Any]) -> tuple[EvaluationConfig, ProbeConfig]:
    """Returns what a run's resolved configuration, as JSON holds it, asks to measure.

    Raises:
        ValueError: If it has a field that this version does not know.
    """
    evaluation = from_plain(config.get("evaluation", {}), EvaluationConfig)
    return evaluation, from_plain(config.get("probes", {}), ProbeConfig)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        evaluate_run(tyro.cli(Command, prog="python -m fourm.evaluate", args=arguments))

    return run_command(work, arguments, again="the same command starts it again")


if __name__ == "__main__":
    sys.exit(main())

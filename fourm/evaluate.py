"""Measures a trained run: all of its report, or from the command line what is asked for.

python -m fourm.evaluate runs/scenes
python -m fourm.evaluate runs/scenes --pairs "rgb->depth" "caption->rgb->caption"
python -m fourm.evaluate runs/scenes --matrix                 every modality from the others
python -m fourm.evaluate runs/scenes --matrix --cells.all-but-each --cells.hidden 0 0.5
python -m fourm.evaluate runs/scenes --matrix --compare runs/other
python -m fourm.evaluate runs/scenes --calibration       does spread predict the error
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

from fourm.evaluation.calibration import format_calibration, measure_calibration
from fourm.evaluation.config import CalibrationConfig, EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.likelihood_tasks import add_ceilings, format_tasks, measure_likelihoods
from fourm.evaluation.matrix import (
    MatrixConfig,
    compare_matrices,
    load_matrix,
    measure_matrix,
)
from fourm.evaluation.probes import ProbeConfig, format_probes, probe, untrained_like
from fourm.evaluation.results import (
    Row,
    format_table,
    notes_of,
    why_failed,
    write_json,
)
from fourm.load_run import load
from fourm.presentation.calibration_curves import draw_calibration
from fourm.presentation.heat_map import draw_matrix
from fourm.presentation.matrix_tables import as_csv, as_markdown, as_text, comparison_as_text
from fourm.presentation.pictures import draw_samples
from fourm.presentation.report import Report
from fourm.run_directory.sample_set import TRAINING, load_heldout
from fourm.run_directory.stages import Stages
from tokenizers.process.command import make_visible, run_command
from tokenizers.settings.checked import check_all, checked_later
from tokenizers.settings.plain import from_plain
from tokenizers.storage.folders import fingerprint_files
from tokenizers.storage.run_paths import (
    HELDOUT,
    MODEL,
    REPORT_PAGE,
    SAMPLES_PICTURE,
    TOKENIZERS,
)
from tokenizers.storage.unfinished import write_file


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
    """Also predict every modality from single others and from all others, and write
    matrix_SPLIT.json, .md, .csv and .png. What is there already is not measured again."""
    likelihoods: bool = False
    """Also measure what the run's likelihoods find: swapped texts, pairs, odd places, and facts
    without training."""
    distributions: bool = False
    """Also measure how generated pictures are distributed, and what they tell of what was given."""
    calibration: bool = False
    """Also measure whether the spread of several draws tells how wrong they are, and write
    calibration_SPLIT.png."""
    draws: CalibrationConfig = dataclasses.field(default_factory=CalibrationConfig)
    """How that is measured."""
    cells: MatrixConfig = dataclasses.field(default_factory=MatrixConfig)
    """Which cells the matrix has."""
    compare: Path | None = None
    """Another run whose matrix of the same split, measured on the same samples, is put beside."""
    probes: bool = True
    """Also probe the frozen encoder."""
    matrix_samples: int | None = None
    """How many samples for each cell of the matrix; by default the run's own number."""
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
    names = ("pairs", "num_samples", "matrix_samples", "seed")
    chosen = {name: getattr(command, name) for name in names}
    with checked_later():
        config = dataclasses.replace(
            config,
            matrix=config.matrix or command.matrix,
            distributions=config.distributions or command.distributions,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    check_all(config)
    check_all(command.cells)
    check_all(command.draws)
    heldout = load_heldout(command.run, command.split)
    training = load_heldout(command.run, TRAINING)
    evaluator = Evaluator(model, heldout, training, config)
    found: dict[str, Any] = {"split": command.split, "results": evaluator.evaluate()}
    print(format_table(found["results"]))
    if config.matrix:
        cells = write_matrix(command, folder, evaluator)
        found["matrix"] = [
            {name: value for name, value in row.items() if name not in ("resampled", "seconds")}
            for row in cells
        ]
        print(f"\n{as_text(cells)}")
    notes = notes_of(found["results"], found.get("matrix", []))
    if command.likelihoods or config.likelihoods:
        found["likelihoods"] = measure_likelihoods(
            model, heldout, config.likelihood_tasks, config.region
        )
        notes += notes_of(found["likelihoods"])
    if command.calibration:
        found["calibration"] = measure_calibration(evaluator, evaluator.pairs, command.draws)
        notes += notes_of(found["calibration"])
        print(f"\n{format_calibration(found['calibration'])}")
        draw_calibration(file_of(folder, command, "calibration", "png"), found["calibration"])
    if command.compare is not None:
        found["compared"] = compare_with(command, folder)
        print(f"\n{comparison_as_text(found['compared'])}")
    if command.probes and probes.tasks:
        found["probes"], told = probe(model, untrained_like(model), training, heldout, probes)
        notes += told
        if found["probes"]:
            print(f"\n{format_probes(found['probes'])}")
    if "likelihoods" in found:
        found["likelihoods"] = add_ceilings(
            found["likelihoods"], found.get("probes", []), probes.input
        )
        print(f"\n{format_tasks(found['likelihoods'])}")
    if notes:
        found["notes"] = notes
        print("\n".join(["", *notes]))
    path = file_of(folder, command, "evaluation", "json")
    write_json(path, found | {"use": command.use, "config": dataclasses.asdict(config)})
    print(f"\nWritten to {make_visible(str(path))}")
    return found


def file_of(folder: Path, command: Command, name: str, ending: str) -> Path:
    """Returns where what was measured of a split, with some parameters, is kept."""
    parts = (name, command.split, *(() if command.use == "last" else (command.use,)))
    return folder / f"{'_'.join(parts)}.{ending}"


def write_matrix(command: Command, folder: Path, evaluator: Evaluator) -> list[Row]:
    """Measures a run's matrix and writes its pages; returns a row for each cell."""
    file = file_of(folder, command, "matrix", "json")
    of = {
        "model": fingerprint_files(command.run / MODEL),
        "tokenizers": fingerprint_files(command.run / TOKENIZERS),
        "heldout": fingerprint_files(command.run / HELDOUT / command.split),
        "use": command.use,
    }
    cells = measure_matrix(evaluator, command.cells, file, of)
    write_file(file.with_suffix(".md"), as_markdown(cells).encode())
    write_file(file.with_suffix(".csv"), as_csv(cells).encode())
    draw_matrix(file.with_suffix(".png"), cells)
    return cells


def compare_with(command: Command, folder: Path) -> list[Row]:
    """Returns the cells that the matrices of two runs share, with the difference of each.

    Raises:
        ValueError: If one of them has no matrix, or other samples.
    """
    first = load_matrix(file_of(folder, command, "matrix", "json"))
    second = load_matrix(file_of(command.compare, command, "matrix", "json"))
    for name in ("heldout", "num_samples", "seed"):
        if first.of.get(name) != second.of.get(name):
            raise ValueError(
                f"The matrices of {folder} and {command.compare} differ in their {name}; runs are "
                "compared on the same samples: use the same data, --matrix-samples and --seed."
            )
    return compare_matrices(first.cells, second.cells)


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
    tasks: list[dict[str, Any]] = []
    if evaluation.likelihoods:
        with stage("likelihoods", folder / REPORT_PAGE):
            tasks = measure_likelihoods(
                model, heldout, evaluation.likelihood_tasks, evaluation.region
            )
            notes += notes_of(tasks)
            tasks = add_ceilings(tasks, rows, probes.input)
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
        likelihoods=tasks,
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
        with checked_later():
            command = tyro.cli(Command, prog="python -m fourm.evaluate", args=arguments)
        evaluate_run(command)

    return run_command(work, arguments, again="the same command starts it again")


if __name__ == "__main__":
    sys.exit(main())

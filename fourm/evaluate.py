"""Scores a trained run from the command line.

python -m fourm.evaluate runs/scenes
python -m fourm.evaluate runs/scenes --pairs "rgb->depth" "caption->rgb->caption" --matrix
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fourm.evaluation import EvaluationConfig, Evaluator, config_of_run
from fourm.results import format_matrix, format_table, write_json
from fourm.sample_set import TRAINING, load_heldout


@dataclass(frozen=True)
class Command:
    """Scores a trained run on held-out samples and writes RUN/evaluation_SPLIT.json."""

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
    seed: int | None = None
    """Of generation; by default the run's own."""


def evaluate_run(command: Command) -> dict[str, Any]:
    """Evaluates a run directory, prints tables, and returns what it wrote."""
    from fourm.run import load  # Here, so that --help does not wait for it.

    model = load(command.run)
    config: EvaluationConfig = config_of_run(model.config)
    chosen = {name: getattr(command, name) for name in ("pairs", "num_samples", "seed")}
    config = dataclasses.replace(
        config,
        matrix=config.matrix or command.matrix,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    heldout = load_heldout(command.run, command.split)
    evaluator = Evaluator(model, heldout, load_heldout(command.run, TRAINING), config)
    found: dict[str, Any] = {"split": command.split, "results": evaluator.evaluate()}
    print(format_table(found["results"]))
    if config.matrix:
        found["matrix"] = evaluator.matrix()
        print(f"\n{format_matrix(found['matrix'])}")
    path = command.run / f"evaluation_{command.split}.json"
    write_json(path, found | {"config": dataclasses.asdict(config)})
    print(f"\nWritten to {path}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; bad input is one sentence and exit code 2."""
    command = tyro.cli(Command, prog="python -m fourm.evaluate", args=arguments)
    try:
        evaluate_run(command)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

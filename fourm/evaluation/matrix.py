"""The whole matrix: every modality from many subsets of the others, each cell with its interval.

A cell says what is shown, what is predicted, which share of the shown tokens is hidden, and how
many draws are combined. Cells are measured one by one and kept in a file, so that a matrix that was
interrupted goes on, and one that is asked for more has only more to do.
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from fourm.evaluation.directions import Evaluator
from fourm.evaluation.intervals import difference, interval_of, resampled_scores
from fourm.evaluation.results import (
    Pair,
    Row,
    why_failed,
    write_json,
)
from fourm.inference.settings import GenerationConfig
from fourm.requests.editing import hide_tokens
from fourm.requests.ensembles import as_drawn
from tokenizers.base import main_metric
from tokenizers.settings.checked import Checked, name_knob


@dataclass(frozen=True)
class MatrixConfig(Checked):
    """Which cells a matrix has."""

    singles: bool = True
    """Every modality from every single other one."""
    all_others: bool = True
    """Every modality from all others together."""
    all_but_each: bool = False
    """Every modality from all others without one of them, in turn: what is that one worth?"""
    pairs: tuple[str, ...] = ()
    """Further directions, such as rgb+depth->semseg."""
    hidden: tuple[float, ...] = (0.0,)
    """Shares of the shown tokens that are hidden: random ones of grids, the last of sequences."""
    draws: tuple[int, ...] = (1,)
    """How many draws are combined; 1 is a single answer. Several are drawn, at temperature 1 where
    the run takes the likeliest or the expected answer."""

    def check_knobs(self, knob: str) -> None:
        for pair in self.pairs:
            if Pair.parse(pair).readback:
                raise ValueError(
                    f"{name_knob(knob, 'pairs')} has {pair!r}; a matrix reads nothing back."
                )
        if not self.hidden or not all(0 <= share < 1 for share in self.hidden):
            raise ValueError(
                f"{name_knob(knob, 'hidden')} is {self.hidden}; shares from 0 to below 1 are "
                "allowed."
            )
        if not self.draws or min(self.draws) < 1:
            raise ValueError(f"{name_knob(knob, 'draws')} is {self.draws}; at least 1 is allowed.")


class Cell(NamedTuple):
    """What is predicted from what, and how.

    Attributes:
        inputs: Modalities that are shown, in the order of the run.
        target: The one that is predicted.
        hidden: Share of the shown tokens that is hidden.
        draws: How many draws are combined.
    """

    inputs: tuple[str, ...]
    target: str
    hidden: float
    draws: int

    @property
    def key(self) -> str:
        """Its name in the file, which a person can read."""
        return f"{'+'.join(self.inputs)}->{self.target} hidden={self.hidden:g} draws={self.draws}"


def cells_of(names: Sequence[str], targets: Sequence[str], config: MatrixConfig) -> list[Cell]:
    """Returns the cells of a matrix, each once.

    Args:
        names: All modalities of the run, in their order.
        targets: Those that can be predicted.
        config: Which cells are wanted.

    Raises:
        ValueError: If a direction names a modality that there is not.
    """
    subsets: dict[tuple[tuple[str, ...], str], None] = {}
    for target in targets:
        others = tuple(name for name in names if name != target)
        if config.singles:
            subsets.update({((name,), target): None for name in others})
        if config.all_others and others:
            subsets[others, target] = None
        if config.all_but_each and len(others) > 1:
            for left_out in others:
                kept = tuple(name for name in others if name != left_out)
                subsets[kept, target] = None
    for text in config.pairs:
        pair = Pair.parse(text)
        for name in (*pair.inputs, pair.target):
            if name not in names:
                raise ValueError(
                    f"There is no modality {name!r} in this run; it has {', '.join(names)}."
                )
        subsets[tuple(sorted(pair.inputs, key=list(names).index)), pair.target] = None
    return [
        Cell(inputs, target, share, draws)
        for inputs, target in subsets
        for share, draws in itertools.product(config.hidden, config.draws)
    ]


def measure_matrix(
    evaluator: Evaluator, config: MatrixConfig, file: Path, of: Mapping[str, Any]
) -> list[Row]:
    """Measures all cells that are not in a file yet, which grows by every one of them.

    A cell that can't be measured has a note that says why; it is tried again another time.

    Args:
        evaluator: Of a model and a held-out split; its `matrix_samples` are measured, with its
            seed for generation, for what is hidden, and for the intervals.
        config: Which cells.
        file: JSON. One that was written for something else is written anew.
        of: What the numbers are of: the run's fingerprint, its split, and so on.

    Returns:
        A row for each cell, as `Row` says, with "hidden", "draws", "samples", "seconds", "interval"
        (low and high end, 95 %) and "resampled" besides.
    """
    names = list(evaluator.model.tokenizers)
    targets = [name for name in names if evaluator.is_predictable(name)]
    cells = cells_of(names, targets, config)
    of = {**of, "num_samples": evaluator.config.matrix_samples, "seed": evaluator.config.seed}
    known = _read_cells(file, of)
    for cell in tqdm(cells, desc="matrix", unit="cell", dynamic_ncols=True):
        if "note" in known.get(cell.key, {"note": "not measured"}):
            known[cell.key] = _measure_cell(evaluator, cell)
            write_json(file, {"of": of, "cells": known})
    return [known[cell.key] for cell in cells]


class StoredMatrix(NamedTuple):
    """What a file of cells holds.

    Attributes:
        of: What the numbers are of.
        cells: One row each.
    """

    of: dict[str, Any]
    cells: list[Row]


def load_matrix(file: Path) -> StoredMatrix:
    """Returns what `measure_matrix` wrote.

    Raises:
        ValueError: If there is none, or it can't be read.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return StoredMatrix(dict(stored["of"]), list(stored["cells"].values()))
    except FileNotFoundError as error:
        raise ValueError(
            f"There is no {file}; python -m fourm.evaluate {file.parent} --matrix writes it."
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} can't be read ({error}); delete it, it is made anew.") from error


def _read_cells(file: Path, of: Mapping[str, Any]) -> dict[str, Row]:
    """Returns the cells of a file by their names; none if there are none of the same thing."""
    if not file.exists():
        return {}
    stored = load_matrix(file)
    if stored.of != json.loads(json.dumps(of)):
        return {}
    return {cell_of(row).key: row for row in stored.cells}


def _measure_cell(evaluator: Evaluator, cell: Cell) -> Row:
    values = evaluator.values_of(cell.target)
    main, better = main_metric(values)
    row: Row = {"inputs": list(cell.inputs), "target": cell.target, "metric": main}
    row |= {"better": better, "hidden": cell.hidden, "draws": cell.draws}
    try:
        rows = evaluator.rows_with((*cell.inputs, cell.target), evaluator.config.matrix_samples)
        if not len(rows):
            needed = " and ".join((*cell.inputs, cell.target))
            raise ValueError(f"no held-out sample has {needed}")
        start = time.perf_counter()
        predicted = _predict(evaluator, cell, rows)
        seconds = time.perf_counter() - start
        truth = evaluator.truth(cell.target, rows)
        whole = evaluator.bounds(cell.target, rows)[0]
        resampled = resampled_scores(values, predicted, truth, main, seed=evaluator.config.seed)
        row |= {
            "floor": whole.floor[main],
            "value": values.score(predicted, truth)[main],
            "ceiling": whole.ceiling[main],
            "interval": list(interval_of(resampled) or (None, None)),
            "resampled": [float(f"{score:.7g}") for score in resampled],
            "samples": len(rows),
            "seconds": round(seconds, 3),
        }
    except Exception as error:  # Whatever it is: other cells can still be measured.
        row |= dict.fromkeys(("floor", "value", "ceiling"))
        row["note"] = why_failed(f"{'+'.join(cell.inputs)} -> {cell.target}", error)
    return row


def _predict(evaluator: Evaluator, cell: Cell, rows: np.ndarray) -> Any:
    model, seed = evaluator.model, evaluator.config.seed
    inputs = {name: evaluator.heldout.take(name, rows) for name in cell.inputs}
    options: dict[str, Any] = {"seed": seed, "settings": evaluator.settings}
    if cell.draws > 1:
        settings = settings_of_draws(evaluator, cell.target)
        options |= {"num_draws": cell.draws, "settings": settings}
    if not cell.hidden:
        return model.generate(inputs, [cell.target], **options).values[cell.target]
    keys = jax.random.split(jax.random.key(seed), len(rows))
    known = hide_tokens(model.encode_inputs(inputs), cell.hidden, model.space, keys)
    return model.generate({}, [cell.target], known=known, **options).values[cell.target]


def settings_of_draws(evaluator: Evaluator, target: str) -> dict[str, GenerationConfig]:
    """Returns settings under which draws of a target differ; others are as the run has them."""
    own = evaluator.settings
    if isinstance(own, GenerationConfig):
        return {name: as_drawn(own) for name in evaluator.model.tokenizers}
    chosen = {**getattr(evaluator.model, "settings", {}), **(own or {})}
    return chosen | {target: as_drawn(chosen.get(target, GenerationConfig()))}


def compare_matrices(first: Sequence[Row], second: Sequence[Row]) -> list[Row]:
    """Returns, of the cells that two matrices share, both values and how sure their difference is.

    Each row has "first", "second", "interval" of second minus first, "p" (two-sided) and "winner":
    1 or 2 where p is below 0.05, otherwise 0. Both must have been measured on the same samples.
    """
    others = {cell_of(row).key: row for row in second}
    found = []
    for row in first:
        other = others.get(cell_of(row).key)
        if other is None or "resampled" not in row or "resampled" not in other:
            continue
        if row["metric"] != other["metric"]:
            continue  # Such as F1 from another overlap on.
        told = difference(np.array(row["resampled"], float), np.array(other["resampled"], float))
        if told is None:
            continue
        interval, p = told
        is_second_better = (interval.low + interval.high > 0) == (row["better"] == "higher")
        kept = {name: row[name] for name in ("inputs", "target", "metric", "hidden", "draws")}
        kept |= {"first": row["value"], "second": other["value"], "interval": list(interval)}
        found.append(kept | {"p": p, "winner": 0 if p >= 0.05 else 1 + is_second_better})
    return found


def cell_of(row: Row) -> Cell:
    """Returns which cell a row is of."""
    return Cell(tuple(row["inputs"]), row["target"], row["hidden"], row["draws"])

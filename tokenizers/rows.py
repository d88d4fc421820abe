"""Rows of a table: named numbers and categories, any of which may be missing, an id for each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Int32

from tokenizers.base import Better, Crop, RawBatch, check_ids, rank_features
from tokenizers.scalars import Scalar, ScalarTokenizer, ScalarTokenizerConfig
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import check_finite, load_folder, read_part, save_folder


@dataclass(frozen=True)
class Row(Checked):
    """A row of a table: float64 [columns], first the numbers and then an index per category.

    What is missing is NaN: it is neither asked of the model in any answer nor scored. A mapping by
    the columns' names is understood, too, as is a JSON object.
    """

    numbers: tuple[str, ...] = ()
    """Names of the columns that hold numbers."""
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the columns that hold one of several words, each with its words."""

    def check_knobs(self, knob: str) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"{name_knob(knob, 'numbers')} and {name_knob(knob, 'categories')} name the "
                f"columns {', '.join(self.columns) or 'none'}; give at least one, each once."
            )
        for column, words in self.categories.items():
            if not words or len(set(words)) < len(words):
                raise ValueError(
                    f"{name_knob(knob, 'categories')} has the words {', '.join(words) or 'none'} "
                    f"for {column}; give at least one, each once."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in the order of the values."""
        return (*self.numbers, *self.categories)

    @property
    def metrics(self) -> dict[str, Better]:
        """The mean over the columns of how wrong they are, and what this is made of.

        A number is as wrong as its mean absolute error, divided by that of the truth's own median:
        1 is what a constant reaches. A category is as wrong as the share of its wrong answers.
        """
        parts: dict[str, Better] = {"error": "lower"}
        if self.numbers:
            parts["number_error"] = "lower"
        if self.categories:
            parts["accuracy"] = "higher"
        return parts

    def check(self, value: Any, name: str) -> Float[np.ndarray, "columns"]:
        """Returns a row as numbers.

        Raises:
            ValueError: If a column is unknown, a cell is not allowed, or all are missing.
        """
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _read_json(value, name)
        if isinstance(value, Mapping):
            unknown = sorted(set(map(str, value)) - set(self.columns))
            if unknown:
                raise ValueError(
                    f"{name} has a column {unknown[0]!r}; allowed are {', '.join(self.columns)}."
                )
            value = [value.get(column) for column in self.columns]
        if np.shape(value) != (len(self.columns),):
            raise ValueError(
                f"{name} has shape {np.shape(value)}; one value for each of the columns "
                f"{', '.join(self.columns)} is allowed, or a mapping by their names."
            )
        cells = zip(self.columns, value, strict=True)
        row = np.array([self._cell(cell, column, name) for column, cell in cells], np.float64)
        if np.isnan(row).all():
            raise ValueError(f"{name} has no value in any column; leave such rows out.")
        return row

    def _cell(self, cell: Any, column: str, name: str) -> float:
        text = cell.strip() if isinstance(cell, str) else None
        if cell is None or text == "":
            return np.nan
        words = self.categories.get(column)
        if words is not None and text is not None:
            if text not in words:
                raise ValueError(f"{name} has {column} {text!r}; allowed are {', '.join(words)}.")
            return float(words.index(text))
        try:
            number = float(cell)
        except (TypeError, ValueError, OverflowError) as error:
            shown = str(cell)[:40]
            raise ValueError(f"{name} has {column} {shown!r}; a number is allowed.") from error
        if np.isinf(number):
            raise ValueError(f"{name} has {column} {number}; a finite number is allowed.")
        if words is not None and number == -1:
            return np.nan  # As many write that there is none.
        if words is not None and number == number and number not in range(len(words)):
            raise ValueError(
                f"{name} has {column} {number:g}; 0 to {len(words) - 1} is allowed, for "
                f"{', '.join(words)}."
            )
        return number

    def as_dict(self, value: Float[np.ndarray, "columns"]) -> dict[str, float | str | None]:
        """Returns a row by the names of its columns, categories as words; None if missing."""
        found: dict[str, float | str | None] = {}
        for column, cell in zip(self.columns, value, strict=True):
            words = self.categories.get(column)
            known = float(cell) if words is None or np.isnan(cell) else words[int(cell)]
            found[column] = None if cell != cell else known
        return found

    def crop(
        self, value: np.ndarray, crop: Crop, size: tuple[int, int]
    ) -> Float[np.ndarray, "columns"]:
        """Returns the row as it is: it says the same of every part of a picture."""
        return value

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` does not apply to rows and is ignored.

        An answer that is missing is as wrong as a constant, or as a wrong category.
        """
        found, true = self._stack(predicted), self._stack(truth)
        errors = np.full(len(self.columns), np.nan)
        for place in range(len(self.columns)):
            known = ~np.isnan(true[:, place])
            answers, truths = found[known, place], true[known, place]
            if not known.any():
                continue
            if place >= len(self.numbers):
                errors[place] = (answers != truths).mean()
                continue
            off = np.abs(truths - np.median(truths)).mean()
            given = np.isfinite(answers)
            wrong = np.where(given, np.abs(np.where(given, answers, 0) - truths), off)
            errors[place] = wrong.mean() / off if off else float(wrong.any())
        kinds = np.arange(len(self.columns)) < len(self.numbers)
        scores = {
            "error": _mean(errors),
            "number_error": _mean(errors[kinds]),
            "accuracy": 1 - _mean(errors[~kinds]),
        }
        return {name: scores[name] for name in self.metrics}

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what each column's median or commonest word scores on `truth`."""
        rows = self._stack(training)
        answer = np.zeros(len(self.columns))
        for place, cells in enumerate(rows.T):
            known = cells[~np.isnan(cells)]
            if known.size and place < len(self.numbers):
                answer[place] = np.median(known)
            elif known.size:
                answer[place] = np.bincount(known.astype(int)).argmax()
        return self.score(np.tile(answer, (len(truth), 1)), truth)

    def draw(self, value: Float[np.ndarray, "columns"], size: tuple[int, int]) -> str:
        """Returns the columns that are known, such as "age 34, sex f"."""
        cells = self.as_dict(value).items()
        shown = {k: v if isinstance(v, str) else f"{v:.3g}" for k, v in cells if v is not None}
        return ", ".join(f"{column} {cell}" for column, cell in shown.items())

    def vectors(self, values: RawBatch) -> Float[np.ndarray, "batch n"]:
        """Returns numbers, categories apart and what is known, for simple methods."""
        rows = self._stack(values)
        parts = [np.nan_to_num(rows[:, : len(self.numbers)]), ~np.isnan(rows)]
        for place, words in enumerate(self.categories.values(), len(self.numbers)):
            parts.append(rows[:, place : place + 1] == np.arange(len(words)))
        return np.concatenate(parts, axis=1).astype(np.float64)

    def _stack(self, values: RawBatch) -> Float[np.ndarray, "batch columns"]:
        return np.asarray(values, np.float64).reshape(len(values), len(self.columns))


@dataclass(frozen=True)
class RowTokenizerConfig(Checked):
    """An id per column: a bin, a category, or that the cell is missing."""

    num_bins: int = 64
    """Largest number of bins of each column of numbers; see `ScalarTokenizerConfig`."""

    def check_knobs(self, knob: str) -> None:
        if self.num_bins < 1:
            raise ValueError(
                f"{name_knob(knob, 'num_bins')} is {self.num_bins}; at least 1 is allowed."
            )

    def most_tokens(self, values: Row) -> int:
        """Returns the number of columns."""
        return len(values.columns)

    def fit(self, values: Row, training: RawBatch, key: Array | None = None) -> "RowTokenizer":
        """Returns a tokenizer whose bins are the quantiles of each column of `training`.

        Raises:
            ValueError: If a column of numbers is missing in all of it.
        """
        rows = np.stack([values.check(row, "a training row") for row in training])
        bins = []
        for column, cells in zip(values.numbers, rows.T, strict=False):
            known = cells[~np.isnan(cells)]
            if not known.size:
                raise ValueError(
                    f"The column {column} is missing in all {len(rows)} training rows; leave it "
                    "out of Row.numbers."
                )
            bins.append(ScalarTokenizerConfig(self.num_bins).fit(Scalar(), known))
        return RowTokenizer(values, bins)


class RowTokenizer:
    """Rows to ids and back. Each column has a range of ids of its own, which begins with "missing".

    A cell that is missing is shown to the model as such. It never answers so: what it thinks of the
    other ids of the column, given that there is one, is the answer, and samples in which the cell
    was missing say nothing of that.
    """

    special: None = None

    def __init__(self, values: Row, bins: list[ScalarTokenizer]) -> None:
        """Args:
        values: What the columns are.
        bins: Of each column of numbers.
        """
        self.values, self._bins = values, bins
        sizes = [each.vocab_size for each in bins]
        sizes += [len(words) for words in values.categories.values()]
        self._starts = np.concatenate([[0], np.cumsum(np.array(sizes) + 1)]).astype(np.int32)
        self.vocab_size = int(self._starts[-1])
        self.token_shape = (len(values.columns),)

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch columns"]:
        rows = np.asarray(values, np.float64).reshape(len(values), len(self.values.columns))
        ids = np.tile(self._starts[:-1], (len(rows), 1))
        for place, cells in enumerate(rows.T):
            known = ~np.isnan(cells)
            if place < len(self._bins):
                found = self._bins[place].encode(cells[known])[:, 0]
            else:
                found = cells[known].astype(np.int32)
            ids[known, place] += 1 + found
        return ids

    def decode(self, ids: Int[np.ndarray, "batch columns"]) -> Float[np.ndarray, "batch columns"]:
        """Returns rows; a cell whose id is of another column is missing.

        Raises:
            ValueError: If an id is out of range.
        """
        check_ids(ids, self.vocab_size)
        rows = np.full(ids.shape, np.nan)
        for place in range(len(self.values.columns)):
            inner = ids[:, place] - self._starts[place] - 1
            known = (inner >= 0) & (ids[:, place] < self._starts[place + 1])
            rows[known, place] = self._cells(place, inner[known])
        return rows

    def _cells(self, place: int, inner: Int[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
        """Returns what ids of a column, counted from its first value, stand for."""
        if place < len(self._bins):
            return self._bins[place].decode(inner[:, None])
        return inner.astype(np.float64)

    def decode_expected(
        self, probabilities: Float[np.ndarray | Array, "batch columns vocab"]
    ) -> Float[np.ndarray, "batch columns"]:
        """Returns the mean number and the likeliest category, given that no cell is missing."""
        shares = np.asarray(probabilities, np.float64)
        rows = np.zeros(shares.shape[:2])
        for place in range(len(self.values.columns)):
            start, stop = int(self._starts[place]) + 1, int(self._starts[place + 1])
            share = shares[:, place, start:stop] + 1e-12
            share /= share.sum(axis=1, keepdims=True)
            if place < len(self._bins):
                rows[:, place] = self._bins[place].decode_expected(share[:, None])
            else:
                rows[:, place] = share.argmax(axis=1)
        return rows

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns features of the order of each column's bins; the other ids have none."""
        parts = [rank_features(each.vocab_size) for each in self._bins]
        features = np.zeros((self.vocab_size, max([part.shape[1] for part in parts], default=1)))
        for start, part in zip(self._starts, parts, strict=False):
            features[start + 1 : start + 1 + len(part), : part.shape[1]] = part
        return features

    def save(self, folder: Path) -> None:
        """Writes the bins into `folder`."""
        arrays = {}
        for place, each in enumerate(self._bins):
            arrays |= {f"{name}/{place}": array for name, array in each.arrays.items()}
        save_folder(folder, {"tokenizer": "row", "values": to_part(self.values)}, arrays)

    @classmethod
    def load(cls, folder: Path) -> "RowTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, arrays, _ = load_folder(folder, "row")
        check_finite(arrays, folder)
        values = read_part(description, "values", Row, folder)
        bins = [
            ScalarTokenizer(Scalar(), arrays[f"centers/{place}"], arrays[f"edges/{place}"])
            for place in range(len(values.numbers))
        ]
        return cls(values, bins)


def _read_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is {text[:40]!r}, which is no JSON object ({error}).") from error


def _mean(errors: Float[np.ndarray, "_"]) -> float:
    """Returns the mean of what is known, NaN if nothing is."""
    known = errors[~np.isnan(errors)]
    return float(known.mean()) if known.size else float("nan")

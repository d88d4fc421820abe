"""Which samples are for training, validation and test."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from data_pipeline.sources.files.tables import Table
from tokenizers.settings.checked import Checked, name_knob


@dataclass(frozen=True)
class Splits(Checked, ABC):
    """How a data set is split."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the splits."""

    @property
    def grouping(self) -> str:
        """The table's column whose groups stay together; empty if there is none."""
        return ""

    @abstractmethod
    def folder_of(self, split: str) -> str:
        """Returns the folder below the data set's path that holds the split's samples."""

    @abstractmethod
    def select(self, split: str, keys: Sequence[str], table: Table | None) -> list[str]:
        """Returns those of the folder's keys that belong to the split, in the same order."""


@dataclass(frozen=True)
class SplitByFolder(Splits):
    """The data set comes split: a folder for each."""

    folders: dict[str, str] = field(default_factory=lambda: {"train": "train", "validation": "val"})
    """Folder of each split, or the names of its archives, such as train-*.tar or
    train-{00000..00099}.tar. A second name for the same folder is fine."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def folder_of(self, split: str) -> str:
        return self.folders[split]

    def select(self, split: str, keys: Sequence[str], table: Table | None) -> list[str]:
        return list(keys)


@dataclass(frozen=True)
class SplitByColumn(Splits):
    """A column of the data set's table says of which split a sample is; without a row, of none."""

    column: str = "split"
    """Name of the column."""
    values: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "validation": "val", "test": "test"}
    )
    """What the column holds for the samples of each split."""
    folder: str = ""
    """Folder below the data set's path; empty if the modalities' folders are right there."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def grouping(self) -> str:
        return self.column

    def folder_of(self, split: str) -> str:
        return self.folder

    def select(self, split: str, keys: Sequence[str], table: Table | None) -> list[str]:
        cells = {key: str(row.get(self.column)) for key, row in table.rows.items()} if table else {}
        chosen = [key for key in keys if cells.get(key) == self.values[split]]
        if not chosen:
            have = ", ".join(sorted(set(cells.values()))[:10]) or "there is no table"
            raise ValueError(
                f"No sample has {self.values[split]!r} in the column {self.column!r} of the table, "
                f"which would make it one of the split {split!r}; there are: {have}. Set "
                "splits_by.column or splits_by.values."
            )
        return chosen


@dataclass(frozen=True)
class SplitByFraction(Splits):
    """One folder, cut into train, validation and test; samples of one group stay together.

    Frames of one scene are near-duplicates: split by frame, a model is tested on what it was
    trained on. Groups are ordered by a hash of their name and the seed and dealt out in that
    order, so the split depends on nothing else: not on the order of files, nor on the machine.
    """

    folder: str = "train"
    """Folder below the data set's path; empty if the modalities' folders are right there."""
    group_column: str = ""
    """Column of the data set's table that names a sample's group, such as scene. If empty,
    every sample is its own group."""
    validation: float = 0.1
    """Share of the samples for validation."""
    test: float = 0.1
    """Share of the samples for test."""
    seed: int = 0
    """Another number gives another split."""

    def check_knobs(self, knob: str) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"{name_knob(knob, 'validation')} is {self.validation} and "
                f"{name_knob(knob, 'test')} {self.test}; shares are 0 or more and must leave "
                "something for training."
            )

    @property
    def names(self) -> tuple[str, ...]:
        shares = {"validation": self.validation, "test": self.test}
        return ("train", *(name for name, share in shares.items() if share > 0))

    @property
    def grouping(self) -> str:
        return self.group_column

    def folder_of(self, split: str) -> str:
        return self.folder

    def select(self, split: str, keys: Sequence[str], table: Table | None) -> list[str]:
        group_of = {key: self._group(key, table) for key in keys}
        size_of = Counter(group_of.values())
        order = sorted(size_of, key=lambda group: _hash(f"{self.seed}/{group}"))
        if len(order) < len(self.names):
            raise ValueError(
                f"{len(order)} groups of samples can't be split into {', '.join(self.names)}; "
                "set the shares of validation and test to 0 or take a finer group_column."
            )
        # Test first, then validation, so that moving their border leaves the test set alone.
        wanted = {"test": self.test, "validation": self.validation}
        split_of: dict[str, str] = {}
        position = 0
        for name in [name for name in wanted if name in self.names]:
            target, taken = wanted[name] * len(keys), 0
            still_needed = len(self.names) - 1 - len(set(split_of.values()))
            while taken < target and len(order) - position > still_needed:
                split_of[order[position]] = name
                taken += size_of[order[position]]
                position += 1
        return [key for key in keys if split_of.get(group_of[key], "train") == split]

    def _group(self, key: str, table: Table | None) -> str:
        if not self.group_column:
            return key
        if table is None or self.group_column not in table.columns:
            have = "there is no table" if table is None else f"columns are {table.columns}"
            raise ValueError(
                f"group_column is {self.group_column!r} but {have}; set the data's `table`."
            )
        if key not in table.rows:
            raise ValueError(
                f"The table has no row for the key {key!r}, so its {self.group_column} is unknown; "
                "add the row or remove the files."
            )
        group = table.rows[key].get(self.group_column)
        return "" if group is None else str(group)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

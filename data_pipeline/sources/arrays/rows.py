"""Rows of arrays in several files, read in blocks of which the last ones are kept."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.arrays.opening import open_store
from data_pipeline.sources.arrays.stores import About, Store, state_of_store

MAX_OPEN = 16
"""Files that are kept open."""
MOST_TEXTS = 64
"""Rows of texts, or of bytes, that are read at once; nobody says how long they are."""


class ArrayRows:
    """The rows of arrays in several files, counted through, read in blocks of whole chunks.

    The last blocks are kept, up to a number of bytes. It may be sent to another process, and be
    used by several threads.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str], axis: str, cache_bytes: int):
        """Reads what files say of their arrays, and no row.

        Args:
            files: Of which each has all arrays.
            names: Of the arrays.
            axis: Name of the dimension that counts rows; the first one if empty.
            cache_bytes: How much is kept in memory, about.

        Raises:
            ValueError: If a file is damaged, lacks an array, or has others of another length.
        """
        self._files, self._cache_bytes = list(files), cache_bytes
        self._abouts: list[dict[str, About]] = []
        self._axes: list[dict[str, int]] = []
        rows = [0]
        self._start_reading()
        for file in self._files:
            store = self._opened(file)
            abouts = {name: store.about(name) for name in names}
            axes = {name: _axis_of(each, axis, name, file) for name, each in abouts.items()}
            counts = {name: each.shape[axes[name]] for name, each in abouts.items()}
            if len(set(counts.values())) > 1:
                told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
                raise ValueError(
                    f"{file} has arrays of different numbers of samples: {told}. Set "
                    "--data.sample-axis or other --data.arrays."
                )
            self._abouts.append(abouts)
            self._axes.append(axes)
            rows.append(next(iter(counts.values())))
        self._states = [state_of_store(file) for file in self._files]
        self._starts = np.cumsum(rows)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_files", "_cache_bytes", "_abouts", "_axes", "_states", "_starts")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_reading()

    def about(self, name: str) -> About:
        """Returns what the first file says of an array."""
        return self._abouts[0][name]

    def file(self, index: int) -> Path:
        return self._files[self._place(index)[0]]

    def state(self, index: int) -> str:
        """Returns a text that is another one if the file that a row is in has changed."""
        return self._states[self._place(index)[0]]

    def row(self, name: str, index: int) -> Any:
        """Returns a row of an array, as stored.

        Raises:
            ValueError: If the file is damaged there.
        """
        number, row = self._place(index)
        if self._process != os.getpid():  # Files that are open can't be shared.
            self._start_reading()
        with self._lock:
            about, axis = self._abouts[number][name], self._axes[number][name]
            count = self._rows_of_block(about, axis)
            block = self._block(number, name, axis, row // count, count)
            found = np.moveaxis(block, axis, 0)[row % count]
        is_number = isinstance(found, np.generic) and found.dtype.kind in "biuf"
        return np.asarray(found) if is_number else found

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _rows_of_block(self, about: About, axis: int) -> int:
        """Returns how many rows are read at once: those of a chunk, if they are not too large."""
        if about.dtype.kind == "O":
            return max(1, min(about.chunks[axis], MOST_TEXTS))
        size = max(1, int(np.prod(about.shape)) // max(1, about.shape[axis]) * about.dtype.itemsize)
        return max(1, min(about.chunks[axis], self._cache_bytes // (4 * size)))

    def _block(self, number: int, name: str, axis: int, block: int, count: int) -> np.ndarray:
        wanted = (number, name, block)
        if wanted in self._blocks:
            self._blocks.move_to_end(wanted)
            return self._blocks[wanted]
        file = self._files[number]
        stop = min((block + 1) * count, self._abouts[number][name].shape[axis])
        stored = self._opened(file).read(name, axis, block * count, stop)
        if stored.shape[axis] != stop - block * count:
            raise ValueError(f"{file} has fewer rows of {name} than it says.")
        self._blocks[wanted] = stored
        self._kept_bytes += stored.nbytes
        while self._kept_bytes > self._cache_bytes and len(self._blocks) > 1:
            self._kept_bytes -= self._blocks.popitem(last=False)[1].nbytes
        return stored

    def _opened(self, file: Path) -> Store:
        if file not in self._stores:
            self._stores[file] = open_store(file)
            if len(self._stores) > MAX_OPEN:
                self._stores.popitem(last=False)[1].close()
        self._stores.move_to_end(file)
        return self._stores[file]

    def _start_reading(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._stores: OrderedDict[Path, Store] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, str, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0


def _axis_of(about: About, axis: str, name: str, file: Path) -> int:
    if not about.shape:
        raise ValueError(f"{file} has a single value at {name!r}, and no axis of samples.")
    if not axis:
        return 0
    if axis not in about.dimensions:
        have = ", ".join(filter(None, about.dimensions)) or "no names"
        raise ValueError(
            f"{file} has no dimension {axis!r} of {name!r}; its dimensions have {have}. Set "
            "--data.sample-axis."
        )
    return about.dimensions.index(axis)

"""Rows of parquet files by number: indexed by what files say of themselves, read block by block."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_OPEN = 16
"""Files that are kept open."""
MAX_BLOCK_ROWS = 4096
"""Rows that are decoded at once, at most."""


class Place(NamedTuple):
    """Where a row is: the block of so many rows of a row group of a file, and its number there."""

    file: Path
    group: int
    block: int
    block_rows: int
    row: int


class ParquetRows:
    """The rows of several files, counted through, of some columns.

    Row groups may be large: they are decoded in blocks of rows, of which the last used are kept,
    up to a number of bytes. Reading in order decodes everything once. It may be sent to another
    process, and be used by several threads.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str], cache_bytes: int):
        """Reads how many rows there are, and no row.

        Args:
            files: Of one schema.
            columns: What is read: columns, and fields of structures, joined by a dot.
            cache_bytes: How much is kept in memory, about.

        Raises:
            ValueError: If a file is damaged or has no such column.
        """
        self._columns, self._cache_bytes = list(columns), cache_bytes
        self._groups: list[tuple[Path, int, int]] = []  # File, number of the group, block's rows.
        self._states: dict[Path, str] = {}
        rows = [0]
        for file in files:
            state = file.stat()
            self._states[file] = f"{file.name}:{state.st_size}:{state.st_mtime_ns}"
            for number, (count, size) in enumerate(self._sizes(file)):
                # A quarter of the cache, so that it holds several blocks.
                per_block = int(count * cache_bytes / (4 * size))
                block_rows = max(1, min(per_block, count, MAX_BLOCK_ROWS))
                self._groups.append((file, number, block_rows))
                rows.append(count)
        self._starts = np.cumsum(rows)
        self._start_reading()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_columns", "_cache_bytes", "_groups", "_starts", "_states")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_reading()

    def place(self, index: int) -> Place:
        """Returns where a row is."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        file, group, block_rows = self._groups[number]
        block, row = divmod(index - int(self._starts[number]), block_rows)
        return Place(file, group, block, block_rows, row)

    def state(self, index: int) -> str:
        """Returns the name, size and time of change of the file that a row is in."""
        return self._states[self.place(index).file]

    def row(self, index: int) -> dict[str, Any]:
        """Returns a row's values by column, as arrow has them: `as_py` makes them Python's.

        Raises:
            ValueError: If the file is damaged there.
        """
        place = self.place(index)
        with self._lock, _said_of(place.file):
            block = self._block(place)
            return {
                name: block.column(number)[place.row]
                for number, name in enumerate(block.schema.names)
            }

    def column(self, name: str) -> list[Any]:
        """Returns all values of a column of this name."""
        values: list[Any] = []
        for file in dict.fromkeys(file for file, _, _ in self._groups):
            with _said_of(file):
                values += _open(file).read(columns=[name]).column(0).to_pylist()
        return values

    def _start_reading(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._blocks: OrderedDict[Place, Any] = OrderedDict()
        self._kept_bytes = 0
        self._under_way: tuple[tuple[Path, int], int, Iterator[Any]] | None = None

    def _sizes(self, file: Path) -> list[tuple[int, int]]:
        """Returns the number of rows and bytes of every row group."""
        state = file.stat()
        paths, sizes = _index(file, state.st_size, state.st_mtime_ns)
        for wanted in self._columns:
            if not any(path == wanted or path.startswith(f"{wanted}.") for path in paths):
                have = ", ".join(dict.fromkeys(path.split(".")[0] for path in paths))
                raise ValueError(f"{file} has no column {wanted!r}; its columns are {have}.")
        return sizes

    def _block(self, place: Place) -> Any:
        wanted = place._replace(row=0)
        if wanted in self._blocks:
            self._blocks.move_to_end(wanted)
            return self._blocks[wanted]
        block = self._decoded(place)
        self._blocks[wanted] = block
        self._kept_bytes += block.nbytes
        while self._kept_bytes > self._cache_bytes and len(self._blocks) > 1:
            self._kept_bytes -= self._blocks.popitem(last=False)[1].nbytes
        return block

    def _decoded(self, place: Place) -> Any:
        """Returns a block; the blocks of a row group are decoded one after the other."""
        group = (place.file, place.group)
        if self._under_way and self._under_way[0] == group and self._under_way[1] <= place.block:
            _, following, blocks = self._under_way
        else:
            following = 0
            blocks = self._opened(place.file).iter_batches(
                place.block_rows, row_groups=[place.group], columns=self._columns, use_threads=False
            )
        self._under_way = None  # Should one of them be damaged.
        block = None
        for _ in range(following, place.block + 1):
            block = next(blocks, None)
        if block is None or block.num_rows <= place.row:
            raise ValueError(f"{place.file} has fewer rows than it says.")
        self._under_way = (group, place.block + 1, blocks)
        return block

    def _opened(self, file: Path) -> Any:
        if file not in self._files:
            self._files[file] = _open(file)
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(file)
        return self._files[file]


@contextlib.contextmanager
def _said_of(file: Path) -> Iterator[None]:
    """Turns what a decoder raises into one sentence about a file."""
    try:
        yield
    except Exception as error:
        if type(error) is ValueError:
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(
            f"{file} is damaged or no parquet file ({reason}); fetch it again."
        ) from error


def schema_of(file: Path) -> Any:
    """Returns the arrow schema of a file.

    Raises:
        ValueError: If it is damaged, or no parquet file.
    """
    with _said_of(file):
        return _open(file).schema_arrow


def parquet() -> Any:
    """Returns the module that reads parquet files.

    Raises:
        ValueError: If it is not installed.
    """
    # Takes time to import, and only those who read such data need it.
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Reading parquet files needs `pip install pyarrow`.") from error
    return pyarrow.parquet


def _open(file: Path) -> Any:
    return parquet().ParquetFile(file, pre_buffer=False, page_checksum_verification=True)


@lru_cache(maxsize=4096)  # The splits of a data set may share their files.
def _index(file: Path, size: int, changed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Returns the paths of all columns, and the rows and bytes of every row group."""
    with _said_of(file):
        about = parquet().read_metadata(file)
        paths = [about.schema.column(number).path for number in range(len(about.schema))]
        # What it says of a single column is not asked for: of a damaged file, that ends Python.
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        sizes = [(group.num_rows, max(1, group.total_byte_size)) for group in groups]
    if min((count for count, _ in sizes), default=0) < 0:
        raise ValueError(f"{file} is damaged (it has a group of {min(sizes)[0]} rows).")
    return paths, sizes

"""Tokens of a whole data set on disk, read in any order.

The records are described in `token_records`, the folder in `token_index`; `token_writer` makes it.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Int

from data_pipeline.tokens.index import StoreIndex
from data_pipeline.tokens.records import (
    DamagedRecordError,
    Layouts,
    check_records,
    unpack_keys,
    unpack_records,
)
from tokenizers.base import TokenBatch

Unpacked = TypeVar("Unpacked")

READ_BYTES = 2**15
"""Bytes read from a file at once at least: a few records of ids."""
MOST_OPEN = 512
"""Files kept open at once; an operating system allows a process about a thousand."""
IN_MEMORY = 256 * 2**20
"""Bytes of arrays up to which a store is unpacked once and kept."""


class TokenStore:
    """The tokens of a data set.

    Small stores are unpacked once and kept in memory. Of others every batch is read from disk; the
    arrays are the same.
    """

    def __init__(
        self,
        folder: Path,
        index: StoreIndex,
        wanted: Layouts | None = None,
        in_memory: int = IN_MEMORY,
    ):
        """See `open`."""
        self.folder, self.index = folder, index
        self.wanted = index.layouts if wanted is None else wanted
        self._starts = np.cumsum([0, *(shard.samples for shard in index.shards)])
        # Threads share readers, and may open one twice: the library allows both.
        self._reader = lru_cache(MOST_OPEN)(self._open_reader)
        sample = sum(
            4 * each.num_tokens * (each.width if each.kind == "features" else 1)
            for each in self.wanted.values()
        )
        self.is_in_memory = len(self) * sample <= in_memory

    @classmethod
    def open(
        cls, folder: Path, wanted: Layouts | None = None, in_memory: int = IN_MEMORY
    ) -> "TokenStore":
        """Returns a complete store.

        Args:
            folder: Where it is.
            wanted: The modalities of batches; those of the store by default. What the store does
                not have is absent from all of its samples.
            in_memory: Bytes of arrays up to which a store is unpacked once and kept.

        Raises:
            ValueError: If there is none, samples are missing, or a file is not as it was written.
        """
        index = StoreIndex.read(folder)
        index.check_counts(folder)
        if not index.shards:
            done = [n for n in range(index.num_shards) if index.read_shard(folder, n)]
            samples = sum(len(index.range_of(number)) for number in done)
            raise ValueError(
                f"{folder} has tokens of {samples} of {index.samples} samples; run again what "
                "computes them and it will continue."
            )
        if not len(index.filled):
            raise ValueError(
                f"None of the {index.samples} samples of {folder} has a token: nothing of them "
                "could be used."
            )
        for shard in index.shards:
            file = folder / shard.file
            if not file.exists() or file.stat().st_size != shard.bytes:
                raise ValueError(
                    f"{file} is not there or not of {shard.bytes} bytes; delete it, if it is "
                    "there, and run again what made it."
                )
        return cls(folder, index, wanted, in_memory)

    def __len__(self) -> int:
        return len(self.index.filled)

    def batch(self, indices: Int[np.ndarray, "batch"]) -> TokenBatch:
        """Returns the tokens of some samples.

        Raises:
            ValueError: If a record is damaged; the sentence names file and sample.
        """
        indices = np.asarray(indices)
        if self.is_in_memory:
            return _rows(self._everything, indices)
        return self._read(indices)

    def keys(self, indices: Int[np.ndarray, "batch"]) -> list[str]:
        """Returns what names some samples: their keys in the data set, or else their indices."""
        return self._unpack(indices, lambda records: unpack_keys(records, self.index.layouts))

    @cached_property
    def _everything(self) -> TokenBatch:
        batch = self._read(np.arange(len(self)))
        # Records have checksums of their own, but whole ones may be those of another store.
        for shard in self.index.shards:
            if not shard.is_intact(self.folder):
                raise ValueError(
                    f"{self.folder / shard.file} is not what was written; delete it and run again "
                    "what made it."
                )
        return batch

    def _read(self, indices: Int[np.ndarray, "batch"]) -> TokenBatch:
        layouts = self.index.layouts
        return self._unpack(
            indices, lambda records: unpack_records(records, layouts, self.wanted, indices)
        )

    def _unpack(
        self, indices: Int[np.ndarray, "batch"], unpack: Callable[[list[bytes]], Unpacked]
    ) -> Unpacked:
        try:
            return unpack(self._records(indices))
        except DamagedRecordError as error:
            raise self._damaged(int(indices[error.row])) from error
        except RuntimeError as error:  # What the library raises, whatever is wrong with a file.
            raise self._damaged(self._find_damaged(indices)) from error

    def _records(self, indices: Int[np.ndarray, "batch"]) -> list[bytes]:
        """Returns the records of some samples, from each shard all at once."""
        indices = self.index.filled[indices]
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        by_shard = np.argsort(numbers, kind="stable")
        records = [b""] * len(indices)
        for rows in np.split(by_shard, np.flatnonzero(np.diff(numbers[by_shard])) + 1):
            number = int(numbers[rows[0]])
            places = (indices[rows] - self._starts[number]).tolist()
            for row, record in zip(rows, self._reader(number).read(places), strict=True):
                records[row] = record
        return records

    def _open_reader(self, number: int) -> ArrayRecordReader:
        # Reading ahead within a file would be of samples that are asked for elsewhere.
        return ArrayRecordReader(
            str(self.folder / self.index.file_of(number)),
            options="readahead_buffer_size:0,max_parallelism:0",
            file_reader_buffer_size=READ_BYTES,
        )

    def _find_damaged(self, indices: Int[np.ndarray, "batch"]) -> int:
        """Returns the first sample that can't be read."""
        for index in indices:
            try:
                check_records(self._records(np.array([index])))
            except (RuntimeError, DamagedRecordError):
                return int(index)
        return int(indices[0])

    def _damaged(self, index: int) -> ValueError:
        record = self.index.filled[index]
        number = int(np.searchsorted(self._starts, record, side="right")) - 1
        file = self.folder / self.index.file_of(number)
        return ValueError(
            f"{file} is damaged (at sample {index}); delete it and run again what made it."
        )


def _rows(batch: TokenBatch, indices: Int[np.ndarray, "batch"]) -> TokenBatch:
    def take(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in arrays.items()}

    features = None if batch.features is None else take(batch.features)
    return TokenBatch(take(batch.ids), take(batch.num_real), batch.index[indices], features)

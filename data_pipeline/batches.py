"""The order of training samples as a pure function of the step, and an iterator over batches.

The whole state of the input is one integer, the next step. So a run continues exactly where it
stopped, on any number of workers or devices, without anything to replay.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

import grain
import numpy as np
from jaxtyping import Int, Int64

from tokenizers.settings.checked import Checked

Batch = TypeVar("Batch")

PARTS = 10_000
"""Weights of data sets are rounded to shares of this."""


@dataclass(frozen=True)
class BatchOrder(Checked):
    """Which samples are in the batch of each step.

    Every epoch of a data set is a fresh permutation of all its samples, drawn from (seed, epoch).
    Epochs follow each other without a gap: a batch may hold the end of one and the start of the
    next, so no sample is left out, whatever the batch size.

    Several data sets are interleaved evenly by their weights, each with epochs of its own. Their
    samples are counted through, one data set after the other.
    """

    num_samples: int | tuple[int, ...]
    """Samples of the data set, or of each."""
    batch_size: int
    """Samples of a batch. May exceed `num_samples`; a batch then spans several epochs."""
    seed: int = 0
    """Another number gives another order."""
    weights: tuple[float, ...] = (1.0,)
    """How often each data set is drawn from, in proportion."""

    def check_knobs(self, knob: str) -> None:
        sizes = self.num_samples if isinstance(self.num_samples, tuple) else (self.num_samples,)
        if not sizes or min(sizes) < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                f"The order of batches got num_samples={self.num_samples}, "
                f"batch_size={self.batch_size}, seed={self.seed}; the first two must be at least "
                "1 and the seed not negative."
            )
        if len(self.weights) != len(sizes) or not all(0 < w < np.inf for w in self.weights):
            raise ValueError(
                f"The order of batches got weights={self.weights} for {len(sizes)} data sets; "
                "each has one, positive and finite."
            )

    def indices(self, step: int) -> Int64[np.ndarray, "batch"]:
        """Returns the samples of a step, counted from 0.

        Example:
            >>> order = BatchOrder(num_samples=3, batch_size=2)
            >>> epochs = np.concatenate([order.indices(step) for step in range(3)])
            >>> sorted(epochs[:3].tolist()), sorted(epochs[3:].tolist())
            ([0, 1, 2], [0, 1, 2])
        """
        if step < 0:
            raise ValueError(f"There is no step {step}; steps are counted from 0.")
        start = step * self.batch_size
        chosen, places = interleave(self._parts, np.arange(start, start + self.batch_size))
        indices = np.empty(self.batch_size, np.int64)
        first = 0
        for number, epochs in enumerate(self._epochs):
            rows = chosen == number
            # Places in one data set follow each other.
            if rows.any():
                own = places[rows]
                indices[rows] = first + epochs.samples(int(own[0]), int(own[-1]) + 1)
            first += epochs.num_samples
        return indices

    @cached_property
    def _parts(self) -> tuple[int, ...]:
        shares = np.array(self.weights) / sum(self.weights)
        return tuple(max(1, round(share * PARTS)) for share in shares)

    @cached_property
    def _epochs(self) -> tuple["_Epochs", ...]:
        sizes = self.num_samples if isinstance(self.num_samples, tuple) else (self.num_samples,)
        # The first data set is ordered as if it were alone.
        names = [(self.seed,), *((self.seed, number) for number in range(1, len(sizes)))]
        return tuple(_Epochs(size, name) for size, name in zip(sizes, names, strict=True))


class BatchIterator(Generic[Batch]):
    """Loads the batches of an order, a few ahead of their use, in background threads of grain.

    Endless. The threads run while the accelerator computes. Use it in a `with` statement, or call
    `close`.
    """

    def __init__(
        self,
        order: BatchOrder,
        load: Callable[[Int64[np.ndarray, "batch"]], Batch],
        next_step: int = 0,
        ahead: int | None = None,
        threads: int = 1,
        rows: slice | Int[np.ndarray, "rows"] = slice(None),
    ):
        """Starts to load.

        Args:
            order: Which samples each step takes.
            load: Returns a batch from the samples' indices, such as `TokenStore.batch`. If it also
                puts them on the devices, that too is done ahead.
            next_step: The step of the first batch.
            ahead: How many batches are loaded before they are asked for, at least 1; one more than
                threads by default.
            threads: How many of them at the same time, at least 1.
            rows: Which part of every batch to load. The order is the same whatever it is, so that
                processes that load different parts have whole batches together.
        """
        ahead = threads + 1 if ahead is None else ahead
        if ahead < 1 or threads < 1:
            raise ValueError(
                f"The iterator got ahead={ahead}, threads={threads}; it loads at least 1 batch "
                "ahead, in at least 1 thread."
            )
        steps = grain.MapDataset.source(_Steps(order, load, rows)).to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        )
        self._batches = iter(steps)
        self._batches.set_state({"next_index": next_step})
        self._batches.start_prefetch()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the batch of the next step; raises what loading it raised."""
        if self._batches is None:
            raise ValueError("This iterator is closed; open another one.")
        try:
            batch = next(self._batches)
        except BaseException:
            self.close()
            raise
        return batch

    def __enter__(self) -> "BatchIterator[Batch]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the threads end with the batches that they are loading."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None


@dataclass(frozen=True)
class Batches(Generic[Batch]):
    """What a training reads: the batches of an order, from any step on."""

    order: BatchOrder
    """Which samples each step takes."""
    load: Callable[[Int64[np.ndarray, "batch"]], Batch]
    """Returns a batch from the samples' indices; see `BatchIterator`."""
    name: Callable[[Int64[np.ndarray, "batch"]], Sequence[Any]]
    """Returns what errors call these samples."""
    rows: slice = field(default_factory=lambda: slice(None))
    """Which part of every batch this process loads."""
    threads: int = 1
    """How many batches are loaded at the same time."""

    def open(self, step: int) -> BatchIterator[Batch]:
        """Returns the batches of this step and those that follow."""
        return BatchIterator(self.order, self.load, step, threads=self.threads, rows=self.rows)

    def samples(self, step: int) -> Sequence[Any]:
        """Returns what errors call the samples of a step."""
        return self.name(self.order.indices(step))


class _Steps(Generic[Batch]):
    """The batches of an order by their steps, as grain takes a data set."""

    def __init__(
        self,
        order: BatchOrder,
        load: Callable[[Int64[np.ndarray, "batch"]], Batch],
        rows: slice | Int[np.ndarray, "rows"],
    ):
        self._order, self._load, self._rows = order, load, rows

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        return self._load(self._order.indices(step)[self._rows])


class _Epochs:
    """An endless sequence of permutations of a data set's samples."""

    def __init__(self, num_samples: int, seed: tuple[int, ...]):
        self.num_samples, self._seed = num_samples, seed
        # A batch seldom has more than the end of one and the start of another.
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def samples(self, start: int, stop: int) -> Int64[np.ndarray, "samples"]:
        """Returns the samples at the places `start` to `stop`, counted over all epochs."""
        parts = []
        while start < stop:
            epoch, place = divmod(start, self.num_samples)
            part = self._permutation(epoch)[place : place + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts).astype(np.int64)

    def _draw(self, epoch: int) -> Int[np.ndarray, "samples"]:
        seed, *number = self._seed
        random = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([seed, epoch, *number]))
        )
        return random.permutation(np.arange(self.num_samples, dtype=np.int32))


def interleave(
    parts: tuple[int, ...], positions: Int64[np.ndarray, "batch"]
) -> tuple[Int64[np.ndarray, "batch"], Int64[np.ndarray, "batch"]]:
    """Returns which of several endless sequences each position draws from, and its place there.

    Any stretch has of each sequence what its part demands, to within a few draws. The draws are
    those of `grain.MapDataset.mix`, for many positions at once.

    Args:
        parts: How many draws of each sequence there are in `sum(parts)`.
        positions: From 0.

    Example:
        >>> interleave((1, 2), np.arange(6))
        (array([0, 1, 1, 0, 1, 1]), array([0, 0, 1, 1, 2, 3]))
    """
    chosen = np.full(len(positions), -1)
    places = np.zeros(len(positions), np.int64)
    before, after, remaining = positions, positions + 1, sum(parts)
    for number, part in enumerate(parts):
        left_before = before * (remaining - part) // remaining
        left_after = after * (remaining - part) // remaining
        is_own = (chosen < 0) & (after - left_after > before - left_before)
        chosen[is_own] = number
        places[is_own] = (after - left_after - 1)[is_own]
        before, after, remaining = left_before, left_after, remaining - part
    return chosen, places

"""The order of training samples as a pure function of the step, and an iterator over batches.

The whole state of the input is one integer, the next step. So a run continues exactly where it
stopped, on any number of workers or devices, without anything to replay.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class BatchOrder:
    """Which samples are in the batch of each step.

    Every epoch is a fresh permutation of all samples, drawn from (seed, epoch). Epochs follow
    each other without a gap: a batch may hold the end of one and the start of the next, so no
    sample is left out, whatever the batch size.
    """

    num_samples: int
    """Samples of the data set."""
    batch_size: int
    """Samples of a batch. May exceed `num_samples`; a batch then spans several epochs."""
    seed: int = 0
    """Another number gives another order."""

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                f"The order of batches got num_samples={self.num_samples}, "
                f"batch_size={self.batch_size}, seed={self.seed}; the first two must be at least "
                "1 and the seed not negative."
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
        position, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while position < end:
            epoch, start = divmod(position, self.num_samples)
            part = _permutation(self.num_samples, self.seed, epoch)[start : start + end - position]
            parts.append(part)
            position += len(part)
        return np.concatenate(parts)


class BatchIterator(Generic[Batch]):
    """Loads the batches of an order, a few ahead of their use, in one background thread.

    Endless. The thread runs while the accelerator computes, so it needs no processes of its own.
    Use it in a `with` statement, or call `close`.
    """

    def __init__(
        self,
        order: BatchOrder,
        load: Callable[[Int64[np.ndarray, "batch"]], Batch],
        next_step: int = 0,
        ahead: int = 2,
    ):
        """Starts to load.

        Args:
            order: Which samples each step takes.
            load: Returns a batch from the samples' indices, such as `TokenStore.batch`.
            next_step: The step of the first batch.
            ahead: How many batches are loaded before they are asked for, at least 1.
        """
        if ahead < 1:
            raise ValueError(f"The iterator got ahead={ahead}; it loads at least 1 batch ahead.")
        self._order = order
        self._load = load
        self._ahead = ahead
        self._start(next_step)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the batch of the next step; raises what loading it raised."""
        if self._thread is None:
            raise ValueError("This iterator is closed; `set_state` starts it again.")
        batch, error = self._loaded.get()
        if error is not None:
            self.close()
            raise error
        self._next_step += 1
        return batch

    def __enter__(self) -> "BatchIterator[Batch]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def get_state(self) -> dict[str, int]:
        """Returns the state: the step of the batch that comes next."""
        return {"next_step": self._next_step}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a state, forwards or backwards, dropping what was loaded ahead."""
        self.close()
        self._start(state["next_step"])

    def close(self) -> None:
        """Stops the thread, and waits for the batch that it is loading."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None

    def _start(self, next_step: int) -> None:
        self._next_step = next_step
        self._stop = threading.Event()
        self._loaded: queue.Queue = queue.Queue(maxsize=self._ahead)
        self._thread: threading.Thread | None = threading.Thread(
            target=_load_ahead,
            args=(self._order, self._load, next_step, self._loaded, self._stop),
            daemon=True,
        )
        self._thread.start()


def _load_ahead(
    order: BatchOrder,
    load: Callable[[Int64[np.ndarray, "batch"]], Batch],
    step: int,
    loaded: queue.Queue,
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            item = load(order.indices(step)), None
        except BaseException as error:  # Handed to the consumer, who raises it.
            item = None, error
        while not stop.is_set():
            try:
                loaded.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if item[1] is not None:
            return
        step += 1


@lru_cache(maxsize=4)
def _permutation(num_samples: int, seed: int, epoch: int) -> Int64[np.ndarray, "samples"]:
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    permutation = random.permutation(num_samples)
    permutation.flags.writeable = False  # Shared between calls.
    return permutation

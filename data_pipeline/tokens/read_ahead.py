"""Reads what comes next while what was read is worked on."""

import contextvars
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from data_pipeline.sources.source import Sample, Source, key_of, state_of

Part = TypeVar("Part")
Found = TypeVar("Found")


class Chunk(NamedTuple):
    """Samples that are encoded at once.

    Attributes:
        indices: Of the samples.
        keys: Their names.
        states: Of the files that they are in, before they were read.
        samples: Raw values.
    """

    indices: Sequence[int]
    keys: list[str]
    states: list[str]
    samples: list[Sample]


def read_chunk(source: Source, indices: Sequence[int]) -> Chunk:
    """Reads some samples."""
    keys = [key_of(source, index) for index in indices]
    states = [state_of(source, index) for index in indices]  # What changes meanwhile is noticed.
    return Chunk(indices, keys, states, source.__getitems__(list(indices)))


def read_ahead(
    read: Callable[[Part], Found], parts: Iterable[Part]
) -> Generator[Found, None, None]:
    """Yields what is read of each part, in order.

    A single thread reads, one part ahead: as much again as one part is in memory. What a part
    raises is raised when it is its turn. Whoever stops early closes the generator, which waits for
    the part that is being read.

    Args:
        read: Called in the thread, in the context of the first call.
        parts: Its arguments.
    """
    context = contextvars.copy_context()
    pool = ThreadPoolExecutor(1)
    try:
        waiting: Future[Found] | None = None
        for part in parts:
            following = pool.submit(context.run, read, part)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
    finally:
        pool.shutdown(cancel_futures=True)

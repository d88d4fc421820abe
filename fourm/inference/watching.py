"""Whoever watches generation is told of every pass while the compiled program runs.

A program that is watched differs from one that is not by a call at the end of each pass, which
hands over a copy of the tokens so far and gives nothing back.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Array, Int

Watch = Callable[[str, int, Int[np.ndarray, "batch tokens"]], None]
"""Takes the modality, the number of passes that are done (of a sequence: of tokens), and its ids so
far, `PADDING` where there is none yet."""

_LISTENING: dict[int, Callable[[int, np.ndarray], None]] = {}
_NUMBERS = itertools.count()


@contextmanager
def listening(watch: Watch | None, name: str) -> Iterator[Int[np.ndarray, ""] | None]:
    """Yields the number by which a program tells of its passes; None if nobody watches.

    Raises:
        Exception: What the one who watches raised, once the program has ended.
    """
    if watch is None:
        yield None
        return
    number, raised = next(_NUMBERS), []

    def hear(done: int, ids: np.ndarray) -> None:
        if raised:
            return
        try:
            watch(name, done, ids)
        except BaseException as error:  # It would end in the middle of the compiler's program.
            raised.append(error)

    _LISTENING[number] = hear
    try:
        yield np.int32(number)
        jax.effects_barrier()
    finally:
        del _LISTENING[number]
    if raised:
        raise raised[0]


def tell(
    listener: Int[Array, ""] | None, done: Int[Array, ""], ids: Int[Array, "batch tokens"]
) -> None:
    """Tells, within a compiled program, that a pass is done."""
    if listener is not None:
        jax.debug.callback(_hand_over, listener, done, ids, ordered=True)


def _hand_over(listener: Array, done: Array, ids: Array) -> None:
    hear = _LISTENING.get(int(listener))
    if hear is not None:
        hear(int(done), np.asarray(ids))

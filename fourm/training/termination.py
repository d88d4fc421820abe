"""SIGTERM, by which a scheduler asks for the machine back, as an exception at a good moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """The process was asked to end. No `Exception`, so that nothing takes it for a failure."""


class _Request:
    """What the handler knows; signals belong to the process, and so does this."""

    is_made = False
    is_deferred = False


@contextmanager
def raises_terminated() -> Iterator[None]:
    """Lets SIGTERM raise `Terminated` in the main thread, at once or where it is `deferred`.

    A second SIGTERM changes nothing. In any other thread, where Python allows no handlers,
    SIGTERM keeps its meaning. The handler of before is put back afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        is_first, _Request.is_made = not _Request.is_made, True
        if is_first and not _Request.is_deferred:
            raise Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        # None: it was set by a library in C, such as JAX's own, and can't be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        _Request.is_made = False


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has come, so that work can be saved first.

    Raises:
        Terminated: On leaving, if SIGTERM has come and nobody asked.
    """
    _Request.is_deferred = True
    try:
        yield lambda: _Request.is_made
    finally:
        _Request.is_deferred = False
    if _Request.is_made:
        raise Terminated

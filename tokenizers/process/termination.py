"""Signals that ask the process to end, as exceptions at a good moment."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Of the keyboard, of a scheduler that wants the machine back, of a terminal that was closed."""
AT_ONCE = 1.0
"""Seconds within which a launcher may pass the same request on once more."""


class Terminated(BaseException):
    """The process was asked to end.

    A BaseException, so that `except Exception` does not catch it.
    """

    def __init__(self) -> None:
        super().__init__(_Request.name or "a signal to another process")


class _Request:
    """What the handler knows; signals belong to the process, and so does this."""

    name = ""
    made_at = 0.0
    is_deferred = False


@contextmanager
def raises_terminated() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP raise `Terminated` in the main thread, SIGINT `KeyboardInterrupt`.

    Where work is `deferred`, `Terminated` waits for it. An exception that a signal raises may be
    lost, as in a callback of the garbage collector; so `check_terminated` raises it again between
    the steps of longer work. A second signal, unless it comes with the first, ends the process.

    In any other thread, where Python allows no handlers, signals keep their meaning, and everywhere
    those that the process was started to ignore. The handlers of before are put back afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if _Request.name:
            if now - _Request.made_at > AT_ONCE:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        _Request.name, _Request.made_at = signal.Signals(number).name, now
        if number == signal.SIGINT or not _Request.is_deferred:
            check_terminated()

    before = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)  # Not every system has SIGHUP.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was set by a library in C, such as JAX's own, and can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _Request.name = ""


def check_terminated() -> None:
    """Raises what a signal asked for, if one came; for the moments between steps of work.

    Raises:
        KeyboardInterrupt: After SIGINT.
        Terminated: After another.
    """
    if _Request.name == "SIGINT":
        raise KeyboardInterrupt
    if _Request.name:
        raise Terminated


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM or SIGHUP has come, so that work can be saved.

    Raises:
        KeyboardInterrupt: When that function is called, if an exception of SIGINT was lost.
        Terminated: On leaving, if the signal has come and nobody asked.
    """

    def is_terminated() -> bool:
        if _Request.name == "SIGINT":
            check_terminated()
        return bool(_Request.name)

    _Request.is_deferred = True
    try:
        yield is_terminated
    finally:
        _Request.is_deferred = False
    check_terminated()

"""What all commands have in common: how they begin, and how they end when something goes wrong.

Only Python's own modules are imported here, and those of ours that import nothing else: a command
begins before it imports the rest.
"""

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from tokenizers.process.compile_cache import keep_compiled_programs
from tokenizers.process.huge_pages import restart_with_huge_pages
from tokenizers.process.termination import Terminated, raises_terminated
from tokenizers.settings.own_code import run_file, take_code

BAD_INPUT, FAILED, INTERRUPTED, REQUEUE = 2, 1, 130, os.EX_TEMPFAIL
PACKAGES = ("fourm", "tokenizers", "data_pipeline", "configs")
DEBUG = "FOURM_DEBUG"
LONGEST = 1000
"""Letters of an error that are shown; libraries tell theirs at any length."""


def begin(has_huge_pages: bool = False) -> None:
    """Prepares the process for a command; called before anything else is imported.

    Imports take seconds, in which Ctrl-C ends the process without a word and a wrong environment
    is one sentence. Streams that are closed or break no longer matter to what writes to them.

    Args:
        has_huge_pages: Whether to restart the program with memory in huge pages, see
            `restart_with_huge_pages`.
    """
    _open_standard_files()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    if has_huge_pages:
        restart_with_huge_pages()
    if "--debug" in sys.argv:
        os.environ[DEBUG] = "1"
    sys.excepthook = lambda kind, error, trace: _tell(error)
    threading.excepthook = lambda failed: _tell(failed.exc_value)
    if not is_debugging():  # Callbacks of libraries, after the failure that is told.
        sys.unraisablehook = lambda failed: None
    sys.stdout, sys.stderr = Unbreakable(sys.stdout), Unbreakable(sys.stderr)
    # Pages are drawn into files, whatever shows them elsewhere; and types of arrays are ours.
    os.environ["MPLBACKEND"] = "agg"
    os.environ["JAX_ENABLE_X64"] = "0"
    keep_compiled_programs()


def run_command(
    work: Callable[[list[str]], int | None],
    arguments: Sequence[str] | None = None,
    *,
    again: str = "the same command resumes it",
) -> int:
    """Runs a command and returns its exit code; what goes wrong is one sentence.

    Args:
        work: Gets the arguments without --debug and --code; may return an exit code.
        arguments: Of the command line; those of this process by default. --debug, or FOURM_DEBUG=1
            in the environment, shows the place in the code where something went wrong. --code FILE
            runs a file of the user's own first, whose classes a run directory names.
        again: What to do after an interruption.

    Returns:
        0 if it is done; 2 after bad input; 1 where the system, a library or the training failed;
        130 after Ctrl-C; 75 after SIGTERM or SIGHUP.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given.remove("--debug")
        os.environ[DEBUG] = "1"
    given, files = take_code(given)
    show, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        with raises_terminated():
            for file in files:
                run_file(Path(file).expanduser())
            return work(given) or 0
    except KeyboardInterrupt:
        print(f"\nInterrupted; {again}.", file=sys.stderr)
        return INTERRUPTED
    except Terminated as asked:
        print(f"\nTerminated by {asked}; {again}.", file=sys.stderr)
        return REQUEUE
    except Exception as error:
        _tell(error)
        return BAD_INPUT if _is_told(error) else FAILED
    finally:
        warnings.showwarning = show


def is_debugging() -> bool:
    """True if errors are to be shown with their place in the code."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def describe_error(error: BaseException) -> str:
    """Returns one line that says what went wrong, and with which file if the system refused one."""
    told = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        reason = error.strerror or errno.errorcode.get(error.errno, str(error.errno))
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        told = f"The system refuses {' and '.join(named) or 'a file'}: {reason}."
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            told = f"{told[:-1]}; give the right to it, or another place."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            told = f"{told[:-1]}; make room, or give another place."
    elif isinstance(error, MemoryError):
        told = f"There is not enough memory. {told}".strip()
    elif not (_is_told(error) or isinstance(error, OSError)) or not told:
        told = f"{type(error).__name__}: {told}" if told else type(error).__name__
    told = told if len(told) <= LONGEST else f"{told[:LONGEST]} ..."
    return make_visible(told)


def make_visible(text: str) -> str:
    """Returns text whose control codes are written out, as they would reach the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Unbreakable:
    """A stream that goes on, into nothing, when nobody reads it any more or its disk is full."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        # What the stream still holds would fail again, at the latest when Python ends.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)


def _open_standard_files() -> None:
    """Opens what was closed: else the next file would take its number, and errors go into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest number that is free.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _tell(error: BaseException) -> None:
    if is_debugging():
        traceback.print_exception(error)
        return
    hint = "" if _is_told(error) or isinstance(error, OSError) else " (--debug shows where)"
    print(f"error: {describe_error(error)}{hint}", file=sys.stderr)


def _is_told(error: BaseException) -> bool:
    """True for an error whose message is a sentence of its own."""
    return isinstance(error, ValueError) or type(error).__module__.partition(".")[0] in PACKAGES


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {make_visible(' '.join(str(message).split()))}", file=file or sys.stderr)

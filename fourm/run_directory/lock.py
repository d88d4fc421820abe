"""One process at a time writes to a run directory, and one that was refused leaves nothing."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tokenizers.process.command import make_visible
from tokenizers.storage.run_paths import CONFIG, LEFT_OUT

try:
    import fcntl
except ImportError:  # On Windows; nothing is locked there.
    fcntl = None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a run directory while this context lasts.

    The lock is the system's own on a file beside the directory, which need not exist yet. It ends
    with the process, however that ends, so there are no stale locks. Where the file system knows
    no locks, nothing is locked.

    Raises:
        ValueError: If another process has it; the sentence says which.
    """
    is_first = not folder.parent.exists()
    file = _open_lock(folder)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                os.unlink(file.name)
            file.close()
            if is_first:
                with suppress(OSError):  # It stays if there is a run in it.
                    folder.parent.rmdir()


def _open_lock(folder: Path) -> IO[str] | None:
    path = folder.with_name(f".{folder.name}.lock")
    if fcntl is None or folder.name in ("", ".."):
        return None
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  Open while it is locked.
        except OSError:  # Whatever is wrong with the place is told when it is written to.
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the file meanwhile.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except BlockingIOError:
            owner = _describe_owner(file)
            file.close()
            raise ValueError(
                f"{folder} is being written to by {owner}; wait for it, stop it, or give --run-dir "
                "another folder."
            ) from None
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            return None
        file.close()
    file.truncate(0)
    json.dump({"process": os.getpid(), "machine": socket.gethostname(), "command": sys.argv}, file)
    file.flush()
    return file


def _describe_owner(file: IO[str]) -> str:
    for _ in range(10):  # It may be about to say who it is.
        with suppress(ValueError, KeyError, TypeError, OSError):
            file.seek(0)
            owner = json.load(file)
            command = make_visible(" ".join(map(str, owner["command"])))[:200]
            return f"process {owner['process']} on {owner['machine']} ({command})"
        time.sleep(0.05)
    return "another process"


@contextmanager
def undone_if_refused(folder: Path) -> Iterator[None]:
    """Removes a run directory that began in this context and ended before it had its settings.

    So a mistyped command, or one whose data can't be read, leaves no directory behind, unless there
    is a list in it of what is damaged.
    """
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new and not any((folder / name).exists() for name in (CONFIG, LEFT_OUT)):
            shutil.rmtree(folder, ignore_errors=True)
        raise

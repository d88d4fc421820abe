"""Files and folders are made under another name and then renamed: whole, or not there at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<kind>partial|replaced)-(?P<process>\d+)")
"""Name of what process `process` is making, or is about to throw away."""


def partial_name(path: Path) -> Path:
    """Returns what this process calls `path` while it makes it."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def replaced_name(path: Path) -> Path:
    """Returns what this process calls the old `path` while the new one takes its place."""
    return path.with_name(f".{path.name}.replaced-{os.getpid()}")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives what the system refuses in this context the name of what is being made.

    The system names a file that it does not open, here a temporary one, and names none that it has
    no room for.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; what could not be written leaves nothing behind.

    Raises:
        OSError: If the system refuses, such as a full disk.
    """
    partial = partial_name(path)
    try:
        with naming(path):
            partial.write_bytes(content)
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which is `path` afterwards; after an error there is nothing new.

    A folder that is there already stays until then, and is replaced.

    Raises:
        OSError: If the system refuses, such as a full disk; it names `path`.
    """
    partial, replaced = partial_name(path), replaced_name(path)
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with naming(path):
            partial.mkdir(parents=True)
        yield partial
        with naming(path):
            if path.exists():
                path.rename(replaced)  # A folder that is not empty cannot be renamed over.
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def clear_unfinished(folder: Path, name: str = "*") -> None:
    """Removes from a folder what processes that are gone left there unfinished.

    What was moved aside, and nothing came in its place, gets its name back. Nothing happens to
    what a living process makes, or in a folder that can't be written to.

    Args:
        folder: Whose own entries are looked at; it need not be there.
        name: What was to be made, as a pattern for `Path.glob`; anything by default.
    """
    with contextlib.suppress(OSError):
        for path, found in _unfinished(Path(folder), name):
            if found["kind"] == "replaced" and not path.with_name(found["name"]).exists():
                path.rename(path.with_name(found["name"]))
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _unfinished(folder: Path, name: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(folder.glob(f".{name}-*") if folder.is_dir() else ()):
        found = UNFINISHED.fullmatch(path.name)
        if found and not _is_alive(int(found["process"])):
            yield path, found


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # It is another user's.
        return True
    return process > 0

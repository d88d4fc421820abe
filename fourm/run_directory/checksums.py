"""Checksums of a checkpoint's files, as neither orbax nor its storage checks the numbers it reads.

`checksums.json`, within the checkpoint, has the step and a SHA-256 of every other file. It is
written in the background behind a save. A checkpoint that has none, because it is from before there
were any or because its process was killed at that moment, gets one where it is first used.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers.storage.unfinished import write_file

CHECKSUMS = "checksums.json"
MARKER = "commit_success.txt"
"""What orbax writes into a checkpoint when all else is there."""
PLAIN = ("_CHECKPOINT_METADATA", "metrics/metrics")
"""Of orbax's files those that hold a JSON object."""
SMALL = 2**20
"""Bytes of the largest file that is always read."""
THREADS = 4


def write_checksums(checkpoint: Path) -> None:
    """Gives a checkpoint, which lies in a folder named by its step, the checksums of its files.

    Raises:
        OSError: If the system refuses, as in a folder that may only be read.
    """
    names = sorted(path.relative_to(checkpoint).as_posix() for path in _files(checkpoint))
    with ThreadPoolExecutor(THREADS) as threads:
        digests = threads.map(lambda name: _digest(checkpoint / name), names)
        content = {"step": int(checkpoint.name), "files": dict(zip(names, digests, strict=True))}
    content["sha256"] = _seal(content)
    write_file(checkpoint / CHECKSUMS, (json.dumps(content, indent=1) + "\n").encode())


def has_checksums(checkpoint: Path) -> bool:
    return (checkpoint / CHECKSUMS).is_file()


def find_damage(checkpoint: Path, is_whole: bool = True) -> str:
    """Returns what is wrong with a checkpoint, as "FILE has changed"; "" if nothing is.

    Args:
        checkpoint: Its folder, named by its step.
        is_whole: Whether large files are read too, or only looked for.
    """
    parts = [path for path in checkpoint.iterdir() if path.is_dir()]
    if not all((part / MARKER).is_file() for part in (checkpoint, *parts)):
        return f"{MARKER} is missing, with which a save ends"
    if not has_checksums(checkpoint):
        files = (name for name in PLAIN if (checkpoint / name).exists())
        return next(
            (f"{name} is no JSON" for name in files if not _is_plain(checkpoint / name)), ""
        )
    try:
        content = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        files, is_intact = dict(content["files"]), content.pop("sha256") == _seal(content)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        is_intact = False
    if not is_intact:
        return f"{CHECKSUMS} is damaged"
    if checkpoint.name != str(content["step"]):
        return f"it is the checkpoint of step {content['step']} under another name"

    def check(name: str) -> str:
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        is_read = is_whole or file.stat().st_size <= SMALL
        return f"{name} has changed" if is_read and _digest(file) != files[name] else ""

    try:
        with ThreadPoolExecutor(THREADS) as threads:
            return next(filter(None, threads.map(check, files)), "")
    except OSError as error:
        return f"{error.filename} can't be read ({error.strerror})"


def _files(checkpoint: Path) -> list[Path]:
    found = [path for path in checkpoint.rglob("*") if path.is_file()]
    return [path for path in found if path.name != CHECKSUMS and not path.name.startswith(".")]


def _is_plain(file: Path) -> bool:
    """True for a file that holds a JSON object, or is not there."""
    if not file.exists():
        return True
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""The pieces of a run directory know each other: `pieces.json` says which belong together.

Tokenizers, model and held-out samples are whole each by its own checksums, and those of another run
are as whole as one's own. Beside them `pieces.json` keeps a digest of every piece as it was made:
of a file, its content; of a saved folder, its description, which has the checksums of all else.

A piece that has no entry yet gets one when it is first used, if the directory can be written to.
Whoever makes a piece anew removes its entry first: a process killed in between leaves a piece
without an entry, never one with a wrong entry.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers.storage.run_paths import (
    CHECKPOINTS,
    CONFIG,
    CURVES_PICTURE,
    FORK,
    FORMATS,
    HELDOUT,
    HELDOUT_TOKENS,
    METRICS,
    MODEL,
    REPORT,
    REPORT_PAGE,
    SAMPLES_PICTURE,
    SECONDS,
    TENSORBOARD,
    TOKENIZERS,
    TOKENS,
)
from tokenizers.storage.unfinished import write_file

RECORD = "pieces.json"
DESCRIPTION = "description.json"
FILES = (CONFIG, FORMATS, FORK, SECONDS, REPORT)
FOLDERS = (TOKENIZERS, HELDOUT)
"""Their folders are a piece each."""
OTHER_FILES = (METRICS, REPORT_PAGE, SAMPLES_PICTURE, CURVES_PICTURE, RECORD)
OTHER_FOLDERS = (TOKENS, HELDOUT_TOKENS, CHECKPOINTS, TENSORBOARD, *FOLDERS)


def pieces_of(run: Path) -> list[str]:
    """Returns the names of all pieces that a run directory has, as paths within it."""
    run = Path(run)
    folders = [
        f"{folder}/{path.name}"
        for folder in FOLDERS
        if (run / folder).is_dir()
        for path in sorted((run / folder).iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]
    # The log of training is complete when its model is there.
    metrics = (METRICS,) if (run / MODEL).is_dir() else ()
    names = (*FILES, *folders, MODEL, *metrics)
    return [name for name in names if digest_of(run / name) is not None]


def check_pieces(run: Path, names: Iterable[str] | None = None) -> None:
    """Compares pieces with what the run directory knows of them; nothing is written.

    Args:
        run: A run directory, of whatever age.
        names: Of the pieces that are about to be used; all by default. Those that are not there,
            or have no entry yet, are passed over.

    Raises:
        ValueError: In one sentence, which names the piece that is not the run's own, or is a file
            where a folder belongs, or the other way round.
    """
    run = Path(run)
    names = None if names is None else list(names)
    _check_kinds(run, (*FILES, *OTHER_FILES, MODEL, *OTHER_FOLDERS) if names is None else names)
    recorded = _read(run)
    for name in pieces_of(run) if names is None else names:
        if _is_other(run, name, recorded) and _is_other(run, name, _read(run)):  # Not just made.
            raise ValueError(
                f"{run / name} is not the one that this run was made with: it belongs to another "
                f"run, or was changed; put the right one back, or delete {run / RECORD} if it is "
                "meant to be used."
            )


def record_pieces(run: Path, names: Iterable[str] | None = None) -> None:
    """Gives the pieces that have no entry yet one, where the run directory can be written to.

    Raises:
        ValueError: As `check_pieces` does.
    """
    run = Path(run)
    names = pieces_of(run) if names is None else list(names)
    check_pieces(run, names)
    recorded = _read(run)
    digests = {name: digest_of(run / name) for name in names if name not in recorded}
    new = {name: digest for name, digest in digests.items() if digest is not None}
    if new:
        with contextlib.suppress(OSError):
            _write(run, recorded | new)


def forget_pieces(run: Path, *names: str) -> None:
    """Removes the entries of pieces that are about to be made anew."""
    if not (Path(run) / RECORD).is_file():
        return
    recorded = _read(Path(run))
    left = {name: digest for name, digest in recorded.items() if name not in names}
    if left != recorded:
        _write(Path(run), left)


def has_entry(run: Path, name: str) -> bool:
    """True if a run directory has or had a piece of that name."""
    return name in _read(Path(run))


def check_folder(folder: Path) -> None:
    """Compares a folder with what the run that it lies in knows of it, if it lies in one.

    Raises:
        ValueError: In one sentence, if it belongs to another run, or was changed.
    """
    folder = Path(folder)
    check_pieces(folder.parent.parent, [f"{folder.parent.name}/{folder.name}"])


def forget_folder(folder: Path) -> None:
    """Removes the entry of a folder that is about to be made anew, if it is a run's."""
    folder = Path(folder)
    forget_pieces(folder.parent, folder.name)
    forget_pieces(folder.parent.parent, f"{folder.parent.name}/{folder.name}")


def write_piece(run: Path, name: str, content: bytes) -> None:
    """Writes a file of a run directory, whole or not at all; `record_pieces` gives it its entry.

    Raises:
        OSError: If the system refuses.
    """
    file = Path(run) / name
    if not (file.is_file() and file.read_bytes() == content):
        forget_pieces(run, name)
        write_file(file, content)


def digest_of(path: Path) -> str | None:
    """Returns the digest of a piece, None if there is none of that name."""
    file = path / DESCRIPTION if path.is_dir() else path
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_other(run: Path, name: str, recorded: dict[str, str]) -> bool:
    digest = digest_of(run / name)
    return digest is not None and recorded.get(name, digest) != digest


def _check_kinds(run: Path, names: Iterable[str]) -> None:
    for name in names:
        is_file = name in (*FILES, *OTHER_FILES)
        if (run / name).is_dir() if is_file else (run / name).is_file():
            here, there = ("folder", "file") if is_file else ("file", "folder")
            raise ValueError(
                f"{run / name} is a {here}, where a run directory has a {there} of that name; move "
                "it away, or put the right one back."
            )


def _read(run: Path) -> dict[str, str]:
    """Returns the entries, none if there is no record."""
    file = run / RECORD
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        recorded = dict(content["pieces"])
        is_intact = content["sha256"] == _checksum(recorded)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_intact = False
    if not is_intact:
        raise ValueError(
            f"{file}, which says what belongs to the run, is damaged; put it back, or delete it if "
            "all that is there belongs together: it is made anew."
        )
    return recorded


def _write(run: Path, recorded: dict[str, str]) -> None:
    content = {"pieces": recorded, "sha256": _checksum(recorded)}
    write_file(run / RECORD, (json.dumps(content, indent=1) + "\n").encode())


def _checksum(recorded: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()

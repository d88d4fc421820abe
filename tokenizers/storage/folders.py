"""How a tokenizer lies on disk: one folder, complete or absent, without pickle."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tokenizers.settings.own_code import CodeNeeded, file_of
from tokenizers.settings.plain import from_plain
from tokenizers.storage.pieces import DESCRIPTION, forget_folder
from tokenizers.storage.unfinished import naming, new_folder

ARRAYS = "arrays.npz"


def save_folder(
    folder: Path,
    description: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Writes `folder` whole: a description, named arrays and further files.

    Everything is written beside `folder` and then renamed into place, so that a process killed
    midway leaves the earlier state. Checksums in the description let `load_folder` notice damage.

    Args:
        folder: Where to write. An existing folder is replaced.
        description: What JSON can hold: strings, finite numbers, lists, dicts with string keys.
            Under "tokenizer" may be a class of the user's own, which is named with its file.
        arrays: Numeric, boolean or string arrays, of any shape. Names may contain slashes.
        files: Contents by plain file name.

    Raises:
        ValueError: If an array's dtype, a file's name or a description cannot be stored.
    """
    folder = Path(folder)
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "biufcSU":
            raise ValueError(
                f"Array {name!r} has dtype {np.asarray(array).dtype}, which cannot be stored "
                "without pickle; convert it to a plain numeric dtype first."
            )
    for name in files:
        _check_plain(name, folder)
    kind = description.get("tokenizer")
    if isinstance(kind, type):
        description = {**description, "tokenizer": kind.__name__, "from": file_of(kind)}
    json.dumps(description, allow_nan=False)  # Refuses what JSON cannot hold before writing.

    with new_folder(folder) as partial:
        with naming(folder):
            _fill(partial, description, arrays, files)
        forget_folder(folder)


def _fill(
    partial: Path,
    description: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    files: Mapping[str, bytes],
) -> None:
    # Not np.savez: it takes array names as keyword arguments, so `file` could not be one.
    with zipfile.ZipFile(partial / ARRAYS, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    for name, content in files.items():
        (partial / name).write_bytes(content)
    checksums = {name: _checksum(partial / name) for name in (ARRAYS, *files)}
    record = {"description": description, "sha256": checksums}
    text = json.dumps(record, indent=2, allow_nan=False)
    (partial / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def copy_folder(source: Path, folder: Path) -> None:
    """Copies what `save_folder` wrote to another place, file by file, whole or not at all."""
    with new_folder(folder) as partial:
        for path in sorted(source.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, partial / path.name)
        forget_folder(folder)


def load_folder(
    folder: Path, tokenizer: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, bytes]]:
    """Returns the description, arrays and files that `save_folder` wrote.

    Args:
        folder: What was saved.
        tokenizer: What `description["tokenizer"]` must say, where the caller knows one kind only.

    Raises:
        ValueError: One sentence, if the folder is absent, incomplete, damaged or of another kind.
    """
    folder = Path(folder)
    description, checksums = _read_record(folder)
    if tokenizer not in (None, description.get("tokenizer")):
        raise ValueError(
            f"{folder} holds a tokenizer of kind {description.get('tokenizer')!r}, "
            f"not {tokenizer!r}; give the folder of that modality, or delete it and make it again."
        )
    if ARRAYS not in checksums:
        raise _damaged(folder, f"{DESCRIPTION} does not name {ARRAYS}")
    for name, checksum in checksums.items():
        if name != ARRAYS:
            _check_plain(name, folder)
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
        if _checksum(folder / name) != checksum:
            raise _damaged(folder, f"{name} is not what was written")
    with np.load(folder / ARRAYS, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    files = {name: (folder / name).read_bytes() for name in checksums if name != ARRAYS}
    return description, arrays, files


def read_description(folder: Path) -> dict[str, Any]:
    """Returns the description alone, without a look at what it describes.

    Raises:
        ValueError: One sentence, if there is none or it is damaged.
    """
    return _read_record(Path(folder))[0]


def fingerprint_files(folder: Path) -> str:
    """Returns a hash of a saved folder, such as a tokenizer's: names and contents of its files.

    Of what `save_folder` wrote, files that the description names count, and strays do not; of any
    other folder, all files count that are not hidden.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in _named_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()} {_checksum(path)}\n".encode())
    return digest.hexdigest()


def fingerprint_together(folder: Path, names: Iterable[str]) -> str:
    """Returns a few digits by which weights know the tokenizers of their run, in their order."""
    made_by = [fingerprint_files(Path(folder) / name) for name in names]
    return hashlib.sha256(" ".join(made_by).encode()).hexdigest()[:16]


def check_made_with(folder: Path, tokenizers: Path) -> None:
    """Checks that tokenizers are those that a saved model was trained with.

    Models that were saved before fingerprints were written down are passed over.

    Args:
        folder: Of the model.
        tokenizers: The folder that has each of its tokenizers, by its name.

    Raises:
        ValueError: One sentence, which names the tokenizer that is another.
    """
    made_with = read_description(folder).get("tokenizers")
    for name, fingerprint in dict(made_with or {}).items():
        saved = Path(tokenizers) / name
        if saved.is_dir() and fingerprint_files(saved) != fingerprint:
            raise ValueError(
                f"The tokenizer {saved} is not the one that the model was trained with, {folder}: "
                "one of the two belongs to another run, or was changed; put the right one back, or "
                "train again."
            )


def check_finite(arrays: Mapping[str, np.ndarray], where: Path | str) -> None:
    """Raises ValueError if a weight is NaN or infinite, and names the arrays that have such.

    One such weight spoils all that a model says, silently: the likeliest of ids that are all NaN
    is the first.

    Args:
        arrays: Weights by name, of any dtype; those that are no floats are finite.
        where: They come from, such as a folder or a file.
    """
    wrong = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuSU":
            count = array.size - int(np.isfinite(array).sum())
            if count:
                wrong[name] = f"{name} ({count} of {array.size})"
    if wrong:
        shown = ", ".join([*wrong.values()][:5])
        more = f" and {len(wrong) - 5} more arrays" if len(wrong) > 5 else ""
        raise ValueError(
            f"The weights in {where} are not all finite; NaN or infinite numbers are in {shown}"
            f"{more}. Restore the file, or train or download it again."
        )


def _named_files(folder: Path) -> list[Path]:
    if (folder / DESCRIPTION).exists():
        named = [folder / name for name in (DESCRIPTION, *_read_record(folder)[1])]
    else:
        named = [
            path
            for path in folder.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
    return sorted(path for path in named if path.is_file())


def _read_record(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns description and checksums."""
    if not (folder / DESCRIPTION).is_file():
        raise ValueError(
            f"Nothing saved in {folder}: it has no {DESCRIPTION}; give the folder that was saved, "
            "or delete it and make it again."
        )
    try:
        record = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return dict(record["description"]), dict(record["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{DESCRIPTION} cannot be read") from error


def _check_plain(name: str, folder: Path) -> None:
    if Path(name).name != name or name in (DESCRIPTION, ARRAYS, "", ".", ".."):
        raise ValueError(
            f"File name {name!r} in {folder} is not allowed: use a plain name without folders, "
            f"other than {DESCRIPTION} and {ARRAYS}."
        )


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"Damaged folder {folder}: {what}; delete it and make it again.")


def read_part(description: Mapping[str, Any], name: str, kind: Any, folder: Path) -> Any:
    """Returns a part of a folder's description, such as its values, as the type that it has.

    Raises:
        ValueError: One sentence, if it is missing, or this version does not allow it, or a file of
            the user's own has to be handed over first.
    """
    try:
        return from_plain(description[name], kind)
    except CodeNeeded:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        what = "it is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(
            f"This version can't use {name!r} in {folder / DESCRIPTION} ({what}); put that file "
            "back, or make the folder again."
        ) from error

"""Where the file of a key is: in a folder of files, or inside tar shards.

Both layouts of 4M data are the same to the reader: a key, a file, an offset and a size. Tar
archives are indexed once and then read in place. Nothing is ever extracted, so a path stored in
an archive is only ever a key.
"""

import os
import re
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_pipeline.sources.files.formats import READABLE

BLOCK = 512
"""Tar archives consist of blocks of this many bytes."""


class Location(NamedTuple):
    """The bytes of one file."""

    file: str
    offset: int
    size: int
    member: str
    """Path inside a tar archive; empty for a file of its own."""
    extension: str
    """Lower case, without the dot."""

    def __str__(self) -> str:
        return f"{self.member} in {self.file}" if self.member else self.file


def find_files(folder: Path, extension: str = "") -> dict[str, Location]:
    """Returns where each key's file is.

    If `folder` holds tar files, their members are the files; otherwise all files below it are.
    A key is the path below the folder or in the archive, without extension and without a
    leading "all/", the class folder of data without classes.

    Args:
        folder: Folder of one modality.
        extension: Take only files with this extension and skip all others. If empty, take
            all, and every file must be one that can be read. Hidden files never count.

    Raises:
        ValueError: If there is no readable file, a file of unknown kind, two files of one key,
            or an archive that is damaged or compressed.
    """
    shards = sorted(folder.glob("*.tar"), key=lambda path: natural_order(path.name))
    compressed = next(iter(sorted([*folder.glob("*.tar.*"), *folder.glob("*.tgz")])), None)
    if compressed is not None:
        raise ValueError(
            f"{compressed} is compressed, so its members can't be read in any order; "
            "unpack it to a plain .tar."
        )
    found: dict[str, Location] = {}
    for name, location in (
        [pair for shard in shards for pair in _tar_members(shard)]
        if shards
        else _plain_files(folder)
    ):
        if any(part.startswith(".") for part in name.split("/")):
            continue
        stem, dot, ending = name.rpartition(".")
        if extension and ending.lower() != extension.lower().lstrip("."):
            continue
        if not dot or ending.lower() not in READABLE:
            raise ValueError(
                f"{location} is not of a kind that can be read ({', '.join(READABLE)}); remove "
                "it, or set the modality's `extension` so that other files are skipped."
            )
        key = stem.removeprefix("all/")
        if key in found:
            raise ValueError(
                f"{found[key]} and {location} have the same key {key!r}; remove one, or set the "
                "modality's `extension` if they are of different kinds."
            )
        found[key] = location
    if not found:
        wanted = f".{extension.lstrip('.')} file" if extension else "file"
        raise ValueError(f"{folder} holds no {wanted}, neither as such nor in .tar shards.")
    return found


def read_bytes(location: Location) -> bytes:
    """Returns the content of a file.

    Raises:
        ValueError: If it is no longer there, or shorter than when it was found.
    """
    try:
        with open(location.file, "rb") as file:
            file.seek(location.offset)
            data = file.read(location.size)
    except OSError as error:
        raise ValueError(f"{location} can't be read: {error.strerror}.") from error
    if len(data) != location.size:
        raise ValueError(f"{location} has changed or was cut short since it was first listed.")
    return data


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Returns a sort key that puts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _plain_files(folder: Path) -> list[tuple[str, Location]]:
    found = []
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(directory, name)
            inner = path.relative_to(folder).as_posix()
            extension = path.suffix[1:].lower()
            try:
                size = path.stat().st_size
            except OSError as error:
                raise ValueError(f"{path} can't be read: {error.strerror}.") from error
            found.append((inner, Location(str(path), 0, size, "", extension)))
    return found


def _tar_members(shard: Path) -> list[tuple[str, Location]]:
    state = shard.stat()
    return _index_tar(str(shard), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)  # The splits of a data set often share their shards.
def _index_tar(file: str, size: int, changed: int) -> list[tuple[str, Location]]:
    found = []
    end = 0
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                blocks = -(-member.size // BLOCK) if member.isreg() else 0
                end = member.offset_data + blocks * BLOCK
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(
                        f"{member.name} in {file} is a link or a special file; tar shards "
                        "may hold plain files only."
                    )
                name = member.name.removeprefix("./")
                extension = name.rpartition(".")[2].lower()
                found.append(
                    (name, Location(file, member.offset_data, member.size, name, extension))
                )
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"{file} is damaged or not a tar archive ({error}); fetch it again."
        ) from error
    # tarfile takes a damaged header for the end of the archive and says nothing, so look whether
    # the end mark, a block of zeros, is where it should be.
    with open(file, "rb") as raw:
        raw.seek(end)
        mark = raw.read(BLOCK)
    if mark != bytes(BLOCK):
        raise ValueError(
            f"{file} is damaged or cut short after {len(found)} members "
            f"({size} bytes long); fetch it again."
        )
    return found

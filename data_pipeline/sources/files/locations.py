"""Where a file's bytes are and how they are read, and whether keys meet."""

import os
import re
import zlib
from collections.abc import Collection, Mapping
from itertools import islice
from typing import BinaryIO, NamedTuple

from data_pipeline.sources.files.packed_members import Packing, read_packed
from tokenizers.content.limits import MOST_UNPACKED
from tokenizers.formats.file_names import printable

LOOKED_AT = 2000
"""Keys that are compared in search of the reason why they do not meet."""
GZIP = b"\x1f\x8b"


class Location(NamedTuple):
    """The bytes of one file, of one member of an archive, or of one cell of a table."""

    file: str
    offset: int
    size: int
    member: str
    """Path inside an archive, or row and column of a table; empty for a file of its own."""
    extension: str
    """Lower case, without the dot; of a file that ends in .json.gz it is json, of .cls txt."""
    changed: int = 0
    """When the file was last changed, in nanoseconds."""
    archive: str = ""
    """The compressed archive whose unpacked copy `file` is; empty if `file` is what was given."""
    content: bytes | None = None
    """The bytes themselves, if they are a cell of a table."""
    packing: Packing | None = None
    """If it is a member of a zip archive, whose header `offset` is then the place of."""

    def __str__(self) -> str:
        file = self.archive or self.file
        shown = printable(f"{self.member} in {file}" if self.member else file)
        # A message is one line, even if a damaged name has several.
        return shown if shown.isprintable() else re.sub(r"[^ -~\w]", "?", shown)

    @property
    def state(self) -> str:
        """A text that is another one if the bytes have changed; nothing is read."""
        if self.content is not None:
            return f"{zlib.crc32(self.content):08x}"
        return f"{self.size}+{self.offset}@{self.changed}"


class Remark(NamedTuple):
    """What is to be said of a file that is not, or not whole, among those that are read."""

    kind: str
    """"ignored", "cut", or "unreadable"."""
    file: str
    reason: str


class Listing(NamedTuple):
    """The files of a folder or of an archive.

    Attributes:
        files: Name below the folder, or in the archive, and where it is; names are in order.
        remarks: On files that are left out, and on archives that are damaged.
    """

    files: list[tuple[str, Location]]
    remarks: list[Remark]


def read_bytes(location: Location) -> bytes:
    """Returns the content of a file, unpacked if it is a gzip file.

    Raises:
        ValueError: If it is no longer there, or shorter than when it was found.
    """
    if location.content is not None:
        return location.content
    try:
        with open_file(location.file) as file:
            if location.packing:
                data = _read_packed(file, location)
            else:
                file.seek(location.offset)
                data = file.read(location.size)
    except OSError as error:
        raise ValueError(f"{location} can't be read: {error.strerror}.") from error
    if len(data) != location.size:
        raise ValueError(f"{location} has changed or was cut short since it was first listed.")
    return _unpacked(data, location) if data[:2] == GZIP else data


def open_file(file: str) -> BinaryIO:
    """Returns a file open for reading at any place."""
    return open(file, "rb")


def _read_packed(file: BinaryIO, location: Location) -> bytes:
    if location.size > MOST_UNPACKED:
        raise ValueError(f"{location} unpacks to more than {MOST_UNPACKED >> 20} MiB; unpack it.")
    assert location.packing is not None
    try:
        return read_packed(file, location.offset, location.size, location.packing)
    except ValueError as error:
        raise ValueError(f"{location} {error}.") from error


def inner_name(name: str, file: str) -> str:
    """Returns the name of an archive's member, which must be one inside the archive.

    Raises:
        ValueError: If it leads out of it.
    """
    inner = name.replace("\\", "/")
    while inner.startswith("./"):
        inner = inner[2:]
    parts = inner.split("/")
    if inner.startswith("/") or inner[1:3] == ":/" or ".." in parts or not parts[-1]:
        raise ValueError(
            f"{printable(name)!r} in {file} leads out of the archive; its names must be relative "
            "and without '..'."
        )
    return inner


def check_keys_meet(keys: Mapping[str, Collection[str]]) -> None:
    """Checks that every modality has a sample in common with another one.

    Args:
        keys: By modality.

    Raises:
        ValueError: If one has none; the sentence gives the likeliest reason.
    """
    for name, own in keys.items():
        others = {other: each for other, each in keys.items() if other != name}
        if not others or any(not set(own).isdisjoint(each) for each in others.values()):
            continue
        reasons = {other: why_apart(own, each) for other, each in others.items()}
        other = next((each for each in others if reasons[each]), next(iter(others)))
        reason = f": {reasons[other]}" if reasons[other] else ""
        raise ValueError(
            f"The modality {name} shares no sample with any other: its keys look like "
            f"{next(iter(own))!r}, those of {other} like {next(iter(others[other]))!r}{reason}. "
            f"Rename the files, or set data.modalities.{name}.pattern or .extension."
        )


def why_apart(own: Collection[str], others: Collection[str]) -> str:
    """Returns why keys that should be the same are not; empty if there is no telling.

    Example:
        >>> why_apart(["1_depth", "2_depth"], ["1", "2"])
        "the first end in '_depth'"
    """
    own = list(islice(own, LOOKED_AT))
    others = list(islice(others, LOOKED_AT))
    there = set(others)
    changes = {
        "they differ in upper and lower case": str.casefold,
        "they differ in leading zeros": _without_zeros,
        "they differ in the extension": lambda key: os.path.splitext(key)[0],
        "they differ in the folders before the name": os.path.basename,
    }
    for reason, change in changes.items():
        if {change(key) for key in own} & {change(key) for key in others}:
            return reason
    for which, some, rest in (("first", own, there), ("others", others, set(own))):
        if reason := _what_is_added(some[0], rest):
            at_end, added = reason
            return f"the {which} {'end in' if at_end else 'begin with'} {added!r}"
    tails = _ending(own), _ending(others)
    if all(tails) and {key[: -len(tails[0])] for key in own} & {
        key[: -len(tails[1])] for key in others
    }:
        return f"the first end in {tails[0]!r}, the others in {tails[1]!r}"
    return ""


def _unpacked(data: bytes, location: Location) -> bytes:
    unpacked = b""
    try:
        while data:  # A gzip file may be several in a row.
            machine = zlib.decompressobj(wbits=31)
            unpacked += machine.decompress(data, MOST_UNPACKED + 1 - len(unpacked))
            if len(unpacked) > MOST_UNPACKED:
                raise ValueError(
                    f"{location} unpacks to more than {MOST_UNPACKED >> 20} MiB; unpack it."
                )
            if not machine.eof:
                raise ValueError(f"{location} is a gzip file that is cut short.")
            data = machine.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise ValueError(f"{location} is a damaged gzip file ({error}).") from error
    return unpacked


def _what_is_added(key: str, others: Collection[str]) -> tuple[bool, str] | None:
    """Returns what a key has more than one of the others: whether at its end, and what."""
    inside = [other for other in others if len(other) < len(key)]
    if longest := max((o for o in inside if key.startswith(o)), key=len, default=""):
        return True, key[len(longest) :]
    if longest := max((o for o in inside if key.endswith(o)), key=len, default=""):
        return False, key[: -len(longest)]
    return None


def _ending(keys: list[str]) -> str:
    """Returns what all keys end in, from a separator on."""
    common = keys[0]
    while common and not all(key.endswith(common) for key in keys):
        common = common[1:]
    starts = [index for index, letter in enumerate(common) if letter in "_-. "]
    return common[starts[0] :] if starts and len(keys) > 1 else ""


def _without_zeros(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.lstrip('0') or '0'}"

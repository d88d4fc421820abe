"""Archives, indexed once and then read in place: tar, whichever way it is packed, and zip.

Nothing is ever extracted, so a path stored in an archive is only ever a name. A compressed tar
can't be read at any place: it is unpacked once, as a whole, into the user's cache folder.
"""

import bz2
import contextlib
import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.sources.files.locations import (
    Listing,
    Location,
    Remark,
    inner_name,
    open_file,
)
from data_pipeline.sources.files.zips import STARTS, index_zip
from tokenizers.formats.file_names import kind_of, printable
from tokenizers.process.compile_cache import user_cache
from tokenizers.storage.unfinished import partial_name

BLOCK = 512
"""Tar archives consist of blocks of this many bytes."""
BEFORE_A_MEMBER = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Types of headers that say something of the member after them, such as its long name."""
MOST_OF_A_HEADER = 2**20
"""Bytes of such a header, at most."""
CHUNK = 2**20
STEP = 2**12
"""Packed bytes that are unpacked at a time; where one is damaged, the others are lost with it."""
PACKINGS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": partial(zlib.decompressobj, wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lzma.LZMADecompressor,
    b"(\xb5/\xfd": lambda: None,
}
"""First bytes of compressed files, and what unpacks them; None for zstd, see `_zstd_chunks`."""
NO_TAR = {
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"<": "a page of HTML or XML",
}
"""First bytes of what is called a tar archive by mistake, or can't be read as one."""
CUT = ".cut.tar"
"""Ending of the unpacked copy of an archive that could not be unpacked to its end."""
MOST_TIMES = 200
MOST_MORE = 2**30
"""An archive of n bytes may unpack to `MOST_TIMES * n + MOST_MORE`."""


def index_archive(file: str) -> Listing:
    """Returns the members of a tar or zip archive, also of one that is damaged or cut short.

    Of a damaged archive, these are the members before the damage, and a remark says so. Of several
    archives in one file, as `cat` makes of them, they are those of all.

    Raises:
        ValueError: If it can't be opened or unpacked, or holds a link, a device or a path that
            leads out of it.
    """
    try:
        state = os.stat(file)
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}.") from error
    return _index(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)  # The splits of a data set often share their shards.
def _index(file: str, size: int, changed: int) -> Listing:
    try:
        with open_file(file) as raw:
            head = raw.read(8)
        if head.startswith(STARTS):
            with open_file(file) as raw:
                return index_zip(raw, Location(file, 0, 0, "", "", changed))
        packing = next((each for mark, each in PACKINGS.items() if head.startswith(mark)), None)
        plain = _unpacked_copy(file, size, changed, packing) if packing else file
        with open_file(plain) as raw:
            return _members(raw, Location(plain, 0, 0, "", "", changed, file if packing else ""))
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror or error}.") from error


def _members(raw: BinaryIO, archive: Location) -> Listing:
    """Returns the members of one or several tar archives in a row."""
    length = raw.seek(0, os.SEEK_END)
    shown = archive.archive or archive.file
    listing = Listing([], [])
    start = 0
    while True:
        raw.seek(start)
        head = raw.read(8)
        reason, end = _add_members(raw, start, length, archive, listing)
        if reason and end == start:  # Not even the first header is one.
            kind = next((each for mark, each in NO_TAR.items() if head.startswith(mark)), "")
            reason = f"not a tar archive but {kind}" if kind else f"not a tar archive ({reason})"
            if start == 0:
                listing.remarks.append(Remark("unreadable", shown, f"is damaged or {reason}"))
            else:
                told = f"has {length - start} bytes after its end mark that are {reason}"
                listing.remarks.append(Remark("cut", shown, told))
            return listing
        if reason:
            told = f"is damaged or cut short after {len(listing.files)} members ({reason})"
            listing.remarks.append(Remark("cut", shown, told))
            return listing
        start = _next_content(raw, end)
        if start >= length:
            if archive.file.endswith(CUT):
                listing.remarks.append(Remark("cut", shown, "could not be unpacked to its end"))
            return listing


def _add_members(
    raw: BinaryIO, start: int, length: int, archive: Location, listing: Listing
) -> tuple[str, int]:
    """Adds the members of the archive that begins at `start`.

    Returns:
        reason: What is wrong with its end; empty if nothing.
        end: Where it ends, or where what is wrong begins.
    """
    position = start
    name, size = "", -1  # What a header of its own says of the next member.
    while True:
        raw.seek(position)
        block = raw.read(BLOCK)
        if not block.strip(b"\0") and len(block) == BLOCK:
            return "", position
        if len(block) < BLOCK:
            return "it has no end mark", position
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            return str(error), position
        if member.size < 0:
            return "a header is damaged", position
        offset = position + BLOCK
        if member.type in BEFORE_A_MEMBER:
            if member.size > MOST_OF_A_HEADER or offset + member.size > length:
                return "a header is damaged", position
            raw.seek(offset)
            data = raw.read(member.size)
            if member.type == tarfile.GNUTYPE_LONGNAME:
                name = os.fsdecode(data.rstrip(b"\0"))
            elif member.type != tarfile.GNUTYPE_LONGLINK:
                try:
                    fields = _extended_fields(data)
                    own_size = int(fields.get("size", size))
                except ValueError:
                    return "a header is damaged", position
                if member.type != tarfile.XGLTYPE:
                    name, size = fields.get("path", name), own_size
                if any(field.startswith("GNU.sparse") for field in fields):
                    member.type = tarfile.GNUTYPE_SPARSE
                    _check_member(member, name, archive)
            position = offset + _padded(member.size)
            continue
        member.name, name = name or member.name, ""
        member.size, size = size if size >= 0 else member.size, -1
        if offset + member.size > length:
            return f"{printable(member.name)} is not whole", position
        if not member.isdir():
            inner = _check_member(member, member.name, archive)
            extension = kind_of(inner)
            location = Location(
                *(archive.file, offset, member.size, inner, extension),
                changed=archive.changed,
                archive=archive.archive,
            )
            listing.files.append((inner, location))
        position = offset + (_padded(member.size) if member.isreg() else 0)


def _check_member(member: tarfile.TarInfo, name: str, archive: Location) -> str:
    """Returns a member's name, which must be that of a plain file inside the archive."""
    file = archive.archive or archive.file
    if not member.isreg() or member.type == tarfile.GNUTYPE_SPARSE:
        raise ValueError(
            f"{printable(name)} in {file} is a link or a special file; archives may hold plain "
            "files only."
        )
    return inner_name(name, file)


def _extended_fields(data: bytes) -> dict[str, str]:
    """Returns what an extended header says: lines "LENGTH NAME=VALUE" (POSIX, pax)."""
    fields = {}
    position = 0
    while position < len(data) and data[position]:
        space = data.index(b" ", position, position + 20)
        end = position + int(data[position:space])
        if end <= space or end > len(data):
            raise ValueError("An extended header has a line of a wrong length.")
        field, _, value = data[space + 1 : end - 1].partition(b"=")
        fields[os.fsdecode(field)] = os.fsdecode(value)
        position = end
    return fields


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _next_content(raw: BinaryIO, start: int) -> int:
    """Returns the first block from `start` on that is not all zeros; the file's length if none."""
    raw.seek(start)
    while chunk := raw.read(CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            return start + (len(chunk) - len(rest)) // BLOCK * BLOCK
        start += len(chunk)
    return start


def _unpacked_copy(file: str, size: int, changed: int, packing: Callable[[], Any]) -> str:
    """Returns the unpacked copy of a compressed archive, which is made if it is not there.

    Copies are named after the archive's path, size and time; one of an earlier state goes.
    """
    try:
        folder = user_cache() / "fourm" / "archives"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = hashlib.sha256(os.path.realpath(file).encode("utf-8", "replace")).hexdigest()[:24]
        whole = folder / f"{owner}-{size:x}-{changed:x}.tar"
        cut = whole.with_suffix(CUT)
        for copy in (whole, cut):
            if copy.is_file():
                return str(copy)
        unfinished = partial_name(whole)
        try:
            is_whole = _unpack(file, unfinished, packing, MOST_TIMES * size + MOST_MORE)
            copy = whole if is_whole else cut
            os.replace(unfinished, copy)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{file} is compressed and can't be unpacked into the cache folder ({reason}); set "
            "XDG_CACHE_HOME to a folder with enough room, or unpack it to a plain .tar."
        ) from error
    for other in folder.glob(f"{owner}-*"):
        if other != copy:
            with contextlib.suppress(OSError):
                other.unlink()
    return str(copy)


def _unpack(file: str, target: Path, packing: Callable[[], Any], most: int) -> bool:
    """Writes a file's unpacked bytes as far as they go; returns whether they are all."""
    written = 0
    with open_file(file) as packed, open(target, "wb") as output:
        try:
            for chunk in _unpacked_chunks(packed, packing):
                written += len(chunk)
                if written > most:
                    raise ValueError(
                        f"{file} unpacks to more than {MOST_TIMES} times its size; unpack it to a "
                        "plain .tar if that is right."
                    )
                output.write(chunk)
        except (EOFError, zlib.error, lzma.LZMAError):
            return False
        except OSError as error:  # Which bz2 raises for damage; the system's have a number.
            if error.errno is None:
                return False
            raise
    return True


def _unpacked_chunks(packed: BinaryIO, packing: Callable[[], Any]) -> Iterator[bytes]:
    """Yields a file's unpacked bytes, of which there may be several packed ones in a row.

    Raises:
        EOFError: If it is cut short; whatever is before the cut has been yielded.
        zlib.error, lzma.LZMAError, OSError: If it is damaged; what is up to `STEP` before that has.
    """
    machine, data = packing(), packed.read(STEP)
    if machine is None:
        packed.seek(0)
        yield from _zstd_chunks(packed)
        return
    while data:
        yield machine.decompress(data, CHUNK)
        data = getattr(machine, "unconsumed_tail", b"")
        while not (machine.eof or data or getattr(machine, "needs_input", True)):
            yield machine.decompress(b"", CHUNK)
        if machine.eof:
            data = machine.unused_data.lstrip(b"\0") or packed.read(STEP).lstrip(b"\0")
            if data:
                machine = packing()
        else:
            data = data or packed.read(STEP)
    if not machine.eof:
        raise EOFError


def _zstd_chunks(packed: BinaryIO) -> Iterator[bytes]:
    """Yields what zstd compressed; raises OSError without a number where it is damaged or cut."""
    try:
        import pyarrow  # Takes long to import, and few archives need it.
    except ImportError as error:
        raise ValueError("Unpacking zstd archives needs `pip install pyarrow`.") from error
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, "r"), "zstd")
    while chunk := stream.read(CHUNK):
        yield chunk

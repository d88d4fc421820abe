"""Zip archives, indexed once and then read in place: every member is packed by itself.

Nothing is ever extracted, so a path stored in an archive is only ever a name.
"""

import stat
import zipfile
from typing import BinaryIO

from data_pipeline.sources.files.locations import (
    Listing,
    Location,
    Remark,
    inner_name,
)
from data_pipeline.sources.files.packed_members import HEADER, METHODS, START, Packing
from tokenizers.formats.file_names import kind_of, printable

STARTS = (START, b"PK\x05\x06")
"""First bytes of an archive, the latter of one without members."""
ENCRYPTED = 1


def index_zip(raw: BinaryIO, archive: Location) -> Listing:
    """Returns the members of a zip archive; of one that was cut short, those before the cut.

    Args:
        raw: The archive.
        archive: Where it is, and when it was changed.

    Raises:
        ValueError: If it holds a link, or a path that leads out of it.
    """
    listing = Listing([], [])
    try:
        with zipfile.ZipFile(raw) as opened:
            members = opened.infolist()
    except Exception as error:  # Whatever comes up in damaged files.
        reason = str(error) or type(error).__name__
        _add_before_cut(raw, archive, listing)
        how = f"after {len(listing.files)} members " if listing.files else ""
        told = f"is damaged or cut short {how}(a zip archive: {reason})"
        kind = "cut" if listing.files else "unreadable"
        listing.remarks.append(Remark(kind, archive.file, told))
        return listing
    for member in members:
        if member.is_dir():
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(
                f"{printable(member.filename)} in {archive.file} is a link; archives may hold "
                "plain files only."
            )
        packing = Packing(member.compress_type, member.compress_size, member.CRC)
        place = archive._replace(offset=member.header_offset, size=member.file_size)
        _add(listing, place, member.filename, packing, bool(member.flag_bits & ENCRYPTED))
    return listing


def _add(
    listing: Listing, place: Location, name: str, packing: Packing, is_encrypted: bool
) -> None:
    inner = inner_name(name, place.file)
    location = place._replace(member=inner, extension=kind_of(inner), packing=packing)
    reason = ""
    if is_encrypted:
        reason = "is encrypted; unpack the archive"
    elif packing.method not in METHODS:
        allowed = ", ".join(METHODS.values())
        reason = f"is packed by method {packing.method} of zip; {allowed} can be read"
    if reason:
        listing.remarks.append(Remark("unreadable", str(location), reason))
    else:
        listing.files.append((inner, location))


def _add_before_cut(raw: BinaryIO, archive: Location, listing: Listing) -> None:
    """Adds members by the headers in front of them, where the table at the end is missing."""
    length, place = raw.seek(0, 2), 0
    while True:
        raw.seek(place)
        header = raw.read(HEADER)
        if len(header) < HEADER or not header.startswith(START):
            return
        flags, method = (int.from_bytes(header[at : at + 2], "little") for at in (6, 8))
        crc, packed, size = (int.from_bytes(header[at : at + 4], "little") for at in (14, 18, 22))
        name_length, more = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        name = raw.read(name_length).decode("utf-8" if flags & 0x800 else "cp437", "replace")
        end = place + HEADER + name_length + more + packed
        # Sizes that stand behind a member, or elsewhere, are those of files written into a pipe.
        if not name or end > length or 0xFFFFFFFF in (packed, size) or (flags & 8 and not packed):
            return
        if not name.endswith("/"):
            member = archive._replace(offset=place, size=size)
            _add(listing, member, name, Packing(method, packed, crc), bool(flags & ENCRYPTED))
        place = end

"""Members of zip archives, unpacked one by one and never further than they say."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

START = b"PK\x03\x04"
"""First bytes of the header in front of a member."""
HEADER = 30
"""Bytes of it, but for the member's name and what else follows."""
METHODS = {0: "none", 8: "deflate", 12: "bzip2", 14: "LZMA"}
"""Ways of packing a member that are read, by their number in the format (APPNOTE 4.4.5)."""


class Packing(NamedTuple):
    """How a member is packed."""

    method: int
    """One of `METHODS`."""
    size: int
    """Bytes in the archive."""
    crc: int
    """Checksum of the content."""


def read_packed(file: BinaryIO, offset: int, size: int, packing: Packing) -> bytes:
    """Returns the content of a member.

    Args:
        file: The archive.
        offset: Of the header in front of the member.
        size: Of the content, which is not unpacked further.
        packing: How it is packed.

    Raises:
        ValueError: In half a sentence, if it is damaged or is not of this size.
    """
    file.seek(offset)
    header = file.read(HEADER)
    if len(header) < HEADER or not header.startswith(START):
        raise ValueError("is damaged (in front of it is no header of a zip archive)")
    name_length, more = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    file.seek(name_length + more, 1)
    packed = file.read(packing.size)
    try:
        data = _unpack(packing.method, packed, size)
    except Exception as error:  # Of each of the libraries.
        raise ValueError(f"is damaged ({error})") from error
    if len(data) != size or zlib.crc32(data) != packing.crc:
        raise ValueError("is damaged (a checksum is wrong)")
    return data


def _unpack(method: int, packed: bytes, size: int) -> bytes:
    """Returns a member's content, of which no more than it says is unpacked."""
    machines: dict[int, Callable[[], Any]] = {
        8: lambda: zlib.decompressobj(-15),
        12: bz2.BZ2Decompressor,
        14: lambda: _lzma_machine(packed),
    }
    if method == 0:
        return packed
    start = 4 + int.from_bytes(packed[2:4], "little") if method == 14 else 0
    return machines[method]().decompress(packed[start:], size + 1)


def _lzma_machine(packed: bytes) -> lzma.LZMADecompressor:
    """Returns what unpacks a member whose first bytes are LZMA's own settings (APPNOTE 5.8.8)."""
    settings = packed[4 : 4 + int.from_bytes(packed[2:4], "little")]
    first, literal = divmod(settings[0], 9)
    position, high = divmod(first, 5)
    filters = {"id": lzma.FILTER_LZMA1, "lc": literal, "lp": high, "pb": position}
    filters["dict_size"] = min(int.from_bytes(settings[1:5], "little"), 1 << 28)
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters])

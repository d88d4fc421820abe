"""Rows of different lengths in HDF5: texts, and the bytes of files.

They lie in heaps somewhere in the file, which HDF5's own library reads without end where they are
damaged; here they are read by what the format says of them (HDF5 File Format Specification, version
3, section III.E).
"""

import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

ELEMENT = struct.Struct("<IQI")
"""What stands for a row: its length, and where it is: a heap, and its number there."""
HEAP = b"GCOL\x01"
OBJECT = struct.Struct("<HHIQ")
"""What stands before a row in a heap: its number, users, nothing, its bytes."""
MOST_HEAP = 2**28


def read_lengths(dataset: Any, file: BinaryIO, start: int, stop: int) -> np.ndarray:
    """Returns rows of an array as an array of objects: bytes of texts, or arrays of numbers.

    Args:
        dataset: Of h5py; with one axis, and of rows of different lengths.
        file: The same file, as bytes.
        start: First row.
        stop: Row after the last one.

    Raises:
        ValueError: If it is damaged, or packed in a way that can't be read here.
    """
    base = dataset.dtype.metadata["vlen"]
    kind = None if base in (str, bytes) else np.dtype(base)
    rows = np.empty(stop - start, object)
    heaps: dict[int, dict[int, bytes]] = {}
    for place, (length, address, number) in enumerate(_elements(dataset, file, start, stop)):
        content = b""
        if length and address not in (0, 2**64 - 1):
            if address not in heaps:
                heaps[address] = _read_heap(file, address)
            content = heaps[address].get(number, b"")
            wanted = length * (kind.itemsize if kind else 1)
            if len(content) < wanted:
                raise ValueError("a row is damaged")
            content = content[:wanted]
        rows[place] = content if kind is None else np.frombuffer(content, kind)
    return rows


def _elements(dataset: Any, file: BinaryIO, start: int, stop: int) -> list[tuple[int, int, int]]:
    size = ELEMENT.size
    if dataset.file.id.get_create_plist().get_sizes()[0] != 8 or dataset.file.userblock_size:
        raise ValueError("rows are addressed in another way than in files of 64 bits")
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset is None:  # Nothing was ever written.
            return [(0, 0, 0)] * (stop - start)
        file.seek(offset + start * size)
        return _parsed(file.read((stop - start) * size), stop - start)
    rows = dataset.chunks[0]
    found: list[tuple[int, int, int]] = []
    for first in range(start // rows * rows, stop, rows):
        elements = _parsed(_chunk(dataset, first, rows * size), rows)
        found += elements[max(start - first, 0) : stop - first]
    return found


def _chunk(dataset: Any, first: int, size: int) -> bytes:
    """Returns a chunk, unpacked."""
    known = {"gzip": dataset.compression == "gzip", "shuffle": bool(dataset.shuffle)}
    if dataset.id.get_create_plist().get_nfilters() != sum(known.values()):
        raise ValueError("rows of different lengths are read if packed by gzip or not at all")
    if dataset.id.get_num_chunks() == 0:
        return bytes(size)
    mask, content = dataset.id.read_direct_chunk((first,))
    if mask:
        raise ValueError("a chunk is packed otherwise than the others")
    if known["gzip"]:
        content = zlib.decompressobj().decompress(content, size + 1)
    if known["shuffle"]:
        columns = np.frombuffer(content, np.uint8).reshape(ELEMENT.size, -1)
        content = columns.T.tobytes()
    return content


def _parsed(content: bytes, count: int) -> list[tuple[int, int, int]]:
    if len(content) != count * ELEMENT.size:
        raise ValueError("the file is cut short")
    return list(ELEMENT.iter_unpack(content))


def _read_heap(file: BinaryIO, address: int) -> dict[int, bytes]:
    """Returns the rows in a heap by number."""
    if address >= 2**62:
        raise ValueError("a row is damaged")
    file.seek(address)
    head = file.read(16)
    size = int.from_bytes(head[8:16], "little")
    if not head.startswith(HEAP) or not 16 <= size <= MOST_HEAP:
        raise ValueError("a row is damaged")
    content = file.read(size - 16)
    found: dict[int, bytes] = {}
    place = 0
    while place + OBJECT.size <= len(content):
        number, _, _, length = OBJECT.unpack_from(content, place)
        place += OBJECT.size
        if number == 0 or length > len(content) - place:  # What follows is free.
            break
        found[number] = content[place : place + length]
        place += -(-length // 8) * 8
    return found

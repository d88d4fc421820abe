"""JPEG pictures of which data are missing, which decoders complete with grey and say nothing."""

import re
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

MARKER = re.compile(rb"\xff+([^\x00\xff])")
"""What ends a piece of compressed data, in which 255 is always followed by 0 (JPEG, B.1.1.5)."""
START_OF_SCAN, END, RESTARTS = 0xDA, 0xD9, range(0xD0, 0xD8)
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
RESTART_INTERVAL = 0xDD
GREY = 128
"""What decoders make of blocks without data."""
PADDING = bytes(np.random.default_rng(0).integers(0, 255, 256, np.uint8))
"""Compressed data of nothing in particular; no byte of it is 255."""


def check_scans(data: bytes, picture: Image.Image, decode: Callable[[bytes], Image.Image]) -> None:
    """Raises ValueError if a decoder needed more data than there are between two markers.

    It then completes them with zeros, which look grey, and only warns, which Pillow keeps to
    itself. If other data are put in behind those that are there, the picture changes if, and only
    if, some are missing. To decode it twice is dear: that is done only if there are grey blocks
    where missing data would make some, or if the picture is progressive, where they need not.

    Args:
        data: The file, which has been decoded.
        picture: What was decoded.
        decode: Decodes another file.
    """
    kinds = _kinds_of_segments(data)
    if not kinds & {*PROGRESSIVE, RESTART_INTERVAL}:
        # All that follows a gap is missing.
        corner = tuple((length - 1) // 8 * 8 for length in picture.size)
        if not _grey_blocks(np.asarray(picture.crop((*corner, *picture.size)))).any():
            return
    longer, is_in_order = _with_padding(data)
    if is_in_order and not kinds & set(PROGRESSIVE) and not _grey_blocks(np.asarray(picture)).any():
        return
    if not (is_in_order and np.array_equal(np.asarray(decode(longer)), np.asarray(picture))):
        raise ValueError("is damaged (a JPEG picture of which data are missing)")


def _grey_blocks(numbers: Shaped[np.ndarray, "y x *channels"]) -> Bool[np.ndarray, "rows columns"]:
    """Returns which blocks of 8 by 8 pixels are as grey as those without data."""
    if numbers.ndim == 3 and numbers.shape[2] == 3:
        # Colours are coarser, and those of neighbours spread into a block.
        light = numbers.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    else:
        light = numbers.reshape(*numbers.shape[:2], -1).max(axis=2).astype(np.float32)
    other = abs(light - GREY) > 1
    rows = np.logical_or.reduceat(other, range(0, len(other), 8), axis=0)
    return ~np.logical_or.reduceat(rows, range(0, other.shape[1], 8), axis=1)


def _kinds_of_segments(data: bytes) -> set[int]:
    """Returns the kinds of the segments up to the first scan."""
    kinds = set()
    for kind, _, _ in _segments(data, 2):
        kinds.add(kind)
        if kind == START_OF_SCAN:
            break
    return kinds


def _segments(data: bytes, place: int) -> Iterator[tuple[int, int, int]]:
    """Yields the kind of every segment, where it starts, and where it ends."""
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != END:
        if data[place + 1] == 0xFF:  # Markers may be preceded by any number of these.
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        yield data[place + 1], place, end
        place = end


def _with_padding(data: bytes) -> tuple[bytes, bool]:
    """Returns a file with more data in each piece of every scan, and whether none is left out.

    Restart markers count through from 0 to 7, again and again.
    """
    is_in_order = True
    longer, place = bytearray(data[:2]), 2
    while (segment := next(_segments(data, place), None)) is not None:
        kind, _, end = segment
        longer += data[place:end]
        place, restarts = end, 0
        while kind == START_OF_SCAN and (found := MARKER.search(data, place)):
            is_restart = found[1][0] in RESTARTS
            stop = found.end() if is_restart else found.start()
            longer += data[place : found.start()] + PADDING + data[found.start() : stop]
            place = stop
            if not is_restart:
                break
            is_in_order = is_in_order and found[1][0] - RESTARTS[0] == restarts % 8
            restarts += 1
    return bytes(longer) + data[place:], is_in_order

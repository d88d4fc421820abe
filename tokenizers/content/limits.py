"""How much memory the content of a file may take: what is small on disk may unpack to anything."""

import gzip
import io

MAX_PIXELS = 89_478_485
"""Pixels that a picture may have unless more are allowed; Pillow warns of larger ones, too."""
BYTES_PER_PIXEL = 8
"""Memory that a pixel may take in a file that has as many as are allowed."""
MAX_UNPACKED = 1 << 25
"""Bytes that a compressed text may have: as lists and numbers they take about 20 times as much."""
MOST_UNPACKED = 256 * 2**20
"""Most bytes of any single gzip file, unpacked: a few kilobytes may unpack to gigabytes."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ValueError for a picture of too many pixels, before it takes memory."""
    if width * height > max_pixels:
        raise ValueError(
            f"is a picture of {width} by {height} pixels, and {max_pixels} are allowed; raise "
            "max_pixels (--data.max-pixels) if it is meant to be that large"
        )


def check_memory(num_bytes: int, max_pixels: int) -> None:
    """Raises ValueError for an array of too many bytes, before it takes memory."""
    allowed = max_pixels * BYTES_PER_PIXEL
    if num_bytes > allowed:
        raise ValueError(
            f"would take {num_bytes / 2**20:.0f} MiB of memory, and {allowed / 2**20:.0f} are "
            "allowed; raise max_pixels (--data.max-pixels) if it is meant to be that large"
        )


def unpack_gzip(data: bytes, most: int = MAX_UNPACKED) -> bytes:
    """Returns what gzip compressed, or data as they are.

    Raises:
        ValueError: If they are damaged, or unpack to more than `most` bytes.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            unpacked = packed.read(most + 1)
    except Exception as error:  # What is raised differs from version to version.
        raise ValueError(f"is damaged (gzip can't unpack it: {error})") from error
    if len(unpacked) > most:
        raise ValueError(f"unpacks to more than {most >> 20} MiB, which is refused")
    return unpacked

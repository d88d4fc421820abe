"""Sounds in WAV files, and columns of numbers in texts."""

import csv
import io
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from tokenizers.content.kinds import describe, read_text

COLUMNS = ("csv", "tsv")


class Sound(NamedTuple):
    """What a sound file holds.

    Attributes:
        waves: float32 [time, channels], from -1 to 1 where whole numbers are stored.
        rate: Steps per second.
    """

    waves: Float32[np.ndarray, "time channels"]
    rate: int


def read_sound(data: bytes) -> Sound:
    """Returns what a WAV file holds: whole numbers of 8 to 32 bits, or floating-point numbers.

    Raises:
        ValueError: If it is none, or cut off.
    """
    from scipy.io import wavfile  # Takes long to import, and few have sounds.

    if data[:4] not in (b"RIFF", b"RIFX", b"RF64") or data[8:12] != b"WAVE":
        raise ValueError(f"is {describe(data)}, and no WAV sound")
    promised = int.from_bytes(data[4:8], "big" if data[:4] == b"RIFX" else "little")
    # Programs that write into a pipe leave the size open.
    if promised not in (0, 2**32 - 1) and promised + 8 > len(data):
        raise ValueError(f"is cut off: it has {len(data)} bytes of {promised + 8}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of notes on the song, which are skipped.
            rate, waves = wavfile.read(io.BytesIO(data))
    except Exception as error:  # It raises whatever it likes on damaged files.
        raise ValueError(f"can't be read as a WAV file ({error})") from error
    if not waves.size:
        raise ValueError("holds no sound")
    waves = waves.reshape(len(waves), -1)
    match waves.dtype.kind:
        case "u":
            waves = (waves.astype(np.float32) - 128) / 128
        case "i":  # Those of 24 bits fill the upper part of 32.
            waves = waves.astype(np.float32) / -float(np.iinfo(waves.dtype).min)
    return Sound(np.ascontiguousarray(waves, np.float32), int(rate))


def read_columns(data: bytes) -> Float[np.ndarray, "time columns"]:
    """Returns columns of numbers, divided by commas, semicolons or tabs; NaN for empty cells.

    A first line without any number is a heading.

    Raises:
        ValueError: If a cell is no number, or lines differ in length.
    """
    text = read_text(data)
    head = text.partition("\n")[0]
    divider = next((mark for mark in "\t;," if mark in head), ",")
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=divider) if "".join(line)]
    if lines and not any(_is_number(cell) for cell in lines[0]):
        lines = lines[1:]
    if not lines:
        raise ValueError("holds no line of numbers")
    rows = []
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise ValueError(
                f"has {len(line)} cells in line {number} of its numbers and {len(lines[0])} in the "
                "first"
            )
        wrong = [cell for cell in line if cell.strip() and not _is_number(cell)]
        if wrong:
            raise ValueError(f"has {wrong[0][:40]!r} in line {number} of its numbers")
        rows.append([float(cell) if cell.strip() else np.nan for cell in line])
    return np.array(rows, np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

"""Class maps as their makers number and colour them, as class indices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from tokenizers.content.colors import Color

NONE = 255
"""The number that stands for no class nearly everywhere."""
MOST_NUMBERS = 1 << 20
"""How far the numbers of a class map may lie apart."""


def renumber(
    stored: Shaped[np.ndarray, "..."], values: Mapping[int, int], other: int | None
) -> Int32[np.ndarray, "..."]:
    """Returns indices in place of stored numbers.

    Args:
        stored: Whole numbers; what is masked stays so.
        values: Index by stored number.
        other: Index of all numbers that `values` does not name. If None, they stay as they are.

    Raises:
        ValueError: If a number would stay as it is and be mistaken for one that another becomes.
    """
    if stored.dtype.kind not in "biu":
        raise ValueError(f"holds {stored.dtype}; `values` is for whole numbers")
    is_masked, places = np.ma.is_masked(stored), np.asarray(stored)
    known = np.ma.compressed(stored) if is_masked else places.ravel()
    if not known.size:
        return stored.astype(np.int32)
    low, high = int(known.min()), int(known.max())
    if high - low > MOST_NUMBERS:
        raise ValueError(
            f"holds numbers from {low} to {high}; `values` is for those of classes, which lie at "
            f"most {MOST_NUMBERS} apart"
        )
    places = places.astype(np.int64)
    places -= low
    if is_masked:
        places = places.clip(0, high - low)
    counts = np.bincount((places[~np.ma.getmaskarray(stored)] if is_masked else places).ravel())
    table = np.zeros(high - low + 1, np.int32)
    taken = set(values.values()) - {NONE}
    for number in (low + np.flatnonzero(counts)).tolist():
        if number not in values and other is None and number in taken:
            raise ValueError(
                f"holds the number {number}, which `values` does not name, but gives to another; "
                "name it, too, or set `other` to the index of all that are not named"
            )
        table[number - low] = values.get(number, number if other is None else other)
    indices = table[places]
    if is_masked:
        return np.ma.MaskedArray(indices, np.ma.getmaskarray(stored))
    return indices


def indices_of_colors(
    colors: UInt8[np.ndarray, "y x 3"],
    table: Mapping[Color, int],
    other: int | None,
    nearest: bool = False,
) -> Int32[np.ndarray, "y x"]:
    """Returns the index of every pixel's colour.

    Args:
        colors: As stored; a format that loses nothing, as colours must be exact.
        table: Index by red, green and blue.
        other: Index of all colours that the table does not have; an error if None.
        nearest: Whether such a colour is taken for the nearest one that the table has.

    Raises:
        ValueError: If there is such a colour.
    """
    codes = _code_of(*np.moveaxis(colors.astype(np.int32), -1, 0))
    listed = {int(_code_of(*color)): index for color, index in table.items()}
    keys = np.array(sorted(listed), np.int32)
    places = np.searchsorted(keys, codes).clip(max=len(keys) - 1)
    indices = np.array([listed[int(key)] for key in keys], np.int32)[places]
    unlisted = keys[places] != codes
    if not unlisted.any():
        return indices
    if nearest:
        # Compression makes few colours out of one: each is looked up once.
        found, which = np.unique(codes[unlisted], return_inverse=True)
        shades = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
        indices[unlisted] = _nearest(shades, table)[which]
        return indices
    if other is None:
        color = tuple(colors[unlisted][0].tolist())
        raise ValueError(
            f"has the colour {color}, which `colors` does not name; name it, or set `other` to the "
            "index of all that are not named"
        )
    return np.where(unlisted, np.int32(other), indices)


def _nearest(
    shades: Int32[np.ndarray, "colors 3"], table: Mapping[Color, int]
) -> Int32[np.ndarray, "colors"]:
    """Returns the index of the colour of a table that differs least from each; of two, the first.

    One colour of the table after the other, so that memory does not grow with both numbers.
    """
    best = np.full(len(shades), np.iinfo(np.int32).max, np.int32)
    indices = np.zeros(len(shades), np.int32)
    for color, index in table.items():
        distance = np.square(shades - np.array(color, np.int32)).sum(axis=1, dtype=np.int32)
        indices[distance < best] = index
        best = np.minimum(best, distance)
    return indices


def _code_of(red: Any, green: Any, blue: Any) -> Any:
    return (red << 16) + (green << 8) + blue

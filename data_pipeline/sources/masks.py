"""Regions of pictures by their outlines or runs of pixels, as COCO's annotations have them.

Source: https://github.com/cocodataset/cocoapi, common/maskApi.c, for the compressed runs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tokenizers.content.limits import MAX_PIXELS

MAX_CROSSINGS = 20_000_000
"""Most rows that all edges of an outline may cross together."""


def region(stored: Any, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Returns which pixels a `segmentation` covers.

    Args:
        stored: A list of outlines [x, y, x, y, ...] in pixels; or {"size": [height, width],
            "counts": ...} with runs in columns, as a list of lengths or as a string of them.
        height: Of the picture, in pixels.
        width: Of the picture.

    Raises:
        ValueError: If it is neither, or of another size.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"has a region in a picture of {height} x {width} pixels")
    if isinstance(stored, dict):
        if list(stored.get("size", ())) != [height, width]:
            raise ValueError(
                f"has runs of pixels for a picture of {stored.get('size')}, not {[height, width]}"
            )
        return _from_runs(_run_lengths(stored.get("counts")), height, width)
    if not isinstance(stored, list):
        raise ValueError("has a region that is neither outlines nor runs of pixels")
    covered = np.zeros((height, width), bool)
    for outline in stored:
        points = np.asarray(outline, float)
        if points.ndim != 1 or len(points) % 2 or len(points) < 6:
            raise ValueError("has an outline that is not [x, y, x, y, x, y, ...]")
        _fill(covered, points.reshape(-1, 2))
    return covered


def _run_lengths(counts: Any) -> Int[np.ndarray, "runs"]:
    if isinstance(counts, str):
        return np.array(_decompressed(counts), np.int64)
    lengths = np.asarray(counts)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise ValueError("has runs of pixels that are neither whole numbers nor a string")
    return lengths.astype(np.int64)


def _decompressed(text: str) -> list[int]:
    """Returns lengths of runs: 5 bits a letter, the lowest first, from the third on differences."""
    lengths: list[int] = []
    value, bits = 0, 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or bits > 50:
            raise ValueError("has a damaged string of runs of pixels")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (1 << bits) if code & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value, bits = 0, 0
    return lengths


def _from_runs(
    lengths: Int[np.ndarray, "runs"], height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"has runs of pixels that do not add up to {height} x {width}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _fill(covered: Bool[np.ndarray, "height width"], points: Float[np.ndarray, "points 2"]) -> None:
    """Covers the pixels whose centre is inside of an outline."""
    if not np.isfinite(points).all():
        raise ValueError("has an outline with a corner that is no number")
    height, width = covered.shape
    x, y = points.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    # Rows whose centre line an edge crosses; half open, so that a corner counts once.
    first = np.ceil(np.minimum(y, next_y) - 0.5).clip(0, height).astype(int)
    last = np.ceil(np.maximum(y, next_y) - 0.5).clip(0, height).astype(int)
    if (last - first).sum() > MAX_CROSSINGS:
        raise ValueError(f"has an outline of {len(points)} corners, which is too many")
    edge = np.repeat(np.arange(len(points)), last - first)
    if not len(edge):
        return
    row = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    share = (row + 0.5 - y[edge]) / (next_y - y)[edge]
    column = np.ceil(x[edge] + share * (next_x - x)[edge] - 0.5).clip(0, width).astype(int)
    top, bottom = int(row.min()), int(row.max()) + 1
    crossings = np.zeros((bottom - top, width + 1), np.int32)
    np.add.at(crossings, (row - top, column), 1)
    covered[top:bottom] |= crossings.cumsum(axis=1)[:, :width] % 2 == 1


def class_map(
    regions: Sequence[tuple[int, Any]], height: int, width: int
) -> Int[np.ndarray, "height width"]:
    """Returns the class of every pixel: 0 where none is, else 1 and more.

    Args:
        regions: Index of the class, and the region; smaller ones lie on top of larger ones.
        height: Of the picture, in pixels.
        width: Of the picture.

    Raises:
        ValueError: As `region`.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"has a class map of {height} x {width} pixels")
    drawn = [(index, region(stored, height, width)) for index, stored in regions]
    classes = np.zeros((height, width), np.int32)
    for index, covered in sorted(drawn, key=lambda each: -int(each[1].sum())):
        classes[covered] = index + 1
    return classes

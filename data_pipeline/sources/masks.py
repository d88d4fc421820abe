"""Regions of pictures by their outlines or runs of pixels, as COCO's annotations have them.

Source: https://github.com/cocodataset/cocoapi, common/maskApi.c, for the compressed runs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tokenizers.content.limits import MAX_PIXELS
from tokenizers.shapes.outlines import fill


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
        fill(covered, _corners_of(outline))
    return covered


def outlines_of(stored: Any) -> list[Float[np.ndarray, "_ 2"]]:
    """Returns the outlines of a `segmentation`, in pixels.

    Raises:
        ValueError: If it has none, as runs of pixels do, or one of them can't be read.
    """
    if not isinstance(stored, list) or not stored:
        raise ValueError("has an annotation without outlines, such as one by runs of pixels")
    return [_corners_of(outline) for outline in stored]


def _corners_of(outline: Any) -> Float[np.ndarray, "corners 2"]:
    corners = np.asarray(outline, float)
    if corners.ndim != 1 or len(corners) % 2 or len(corners) < 6:
        raise ValueError("has an outline that is not [x, y, x, y, x, y, ...]")
    return corners.reshape(-1, 2)


def keypoints_of(stored: Any) -> Float[np.ndarray, "points 2"] | None:
    """Returns `keypoints` [x, y, v, x, y, v, ...] in pixels, NaN where v is 0; None if all are.

    Raises:
        ValueError: If they are no such list.
    """
    if stored is None:
        return None
    numbers = np.asarray(stored, float)
    if numbers.ndim != 1 or len(numbers) % 3 or not len(numbers):
        raise ValueError("has `keypoints` that are not [x, y, v, x, y, v, ...]")
    x, y, visible = numbers.reshape(-1, 3).T
    if not (visible > 0).any():
        return None
    return np.where(visible[:, None] > 0, np.stack([x, y], axis=1), np.nan)


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

"""Regions of pictures: which tokens they mean, and what of a picture they leave as it was."""

import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key, Shaped
from PIL import Image

from fourm.inputs.samples import WHOLE
from fourm.token_space import TokenRange
from tokenizers.base import Crop
from tokenizers.content.pictures import read_picture

ALLOWED = (
    "give a mask [y, x] of booleans or a picture of one, a box (x_min, y_min, x_max, y_max) in "
    "fractions of width and height, or a share of tokens"
)


def redone_tokens(
    region: Any, entry: TokenRange, keys: Key[Array, "batch"], crops: Sequence[Crop] = ()
) -> Bool[np.ndarray, "batch tokens"]:
    """Returns which tokens of a grid lie in a region, whole or in part.

    Args:
        region: One for all samples, or a list or array of one for each: a mask [y, x] of any size,
            true where the picture is to be made anew, or a picture of one, white there; a box
            (x_min, y_min, x_max, y_max) in fractions of width and height; or a share of all tokens,
            which are then random ones.
        entry: The grid.
        keys: One per sample; of random tokens.
        crops: Of each sample, which part of the picture that the region is of the grid shows; all
            of it if none is given.

    Raises:
        ValueError: If it is none of these.
    """
    batch = len(keys)
    if isinstance(region, np.ndarray) and region.dtype == bool and region.ndim == 3:
        regions: Sequence[Any] = list(region)
    elif isinstance(region, list):
        regions = _one_each(region, batch)
    else:
        regions = [_opened(region)] * batch
    if len(regions) != batch:
        raise ValueError(
            f"There are {len(regions)} regions for {batch} samples; give one, or one each."
        )
    shown = list(crops) or [WHOLE] * batch
    return np.stack(
        [
            _redone_of_one(_opened(each), entry, key, crop)
            for each, key, crop in zip(regions, keys, shown, strict=True)
        ]
    )


def _one_each(region: list[Any], batch: int) -> list[Any]:
    """Returns a list of regions, unless it may as well be one box."""
    is_four = len(region) == 4 and all(_is_number(each) for each in region)
    if is_four and (batch != 4 or (region[0] < region[2] and region[1] < region[3])):
        raise ValueError(
            f"A region is the list {region}; write a box as a tuple, ({', '.join(map(str, region))}"
            "): a list has a region for each sample."
        )
    return region


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)


def _opened(region: Any) -> Any:
    """Returns a mask that is a picture, or the path of one, as booleans; else what is given."""
    if isinstance(region, str | Path):
        return read_mask(region)
    if isinstance(region, Image.Image):
        return _as_mask(np.asarray(region.convert("RGB")), "The mask")
    return region


def read_mask(file: str | Path) -> Bool[np.ndarray, "y x"]:
    """Returns where the picture in a file is white: at least half as bright as its brightest.

    Raises:
        ValueError: If there is no such picture, or it is black all over.
    """
    path = Path(file).expanduser()
    try:
        picture = read_picture(path.read_bytes())
    except OSError as error:
        raise ValueError(f"The mask {file} can't be read ({error.strerror}); {ALLOWED}.") from error
    except ValueError as error:
        raise ValueError(f"The mask {path} {error}; {ALLOWED}.") from error
    look = getattr(picture, "colors", None)
    return _as_mask(np.asarray(picture if look is None else look()), f"The mask {path}")


def _as_mask(picture: np.ndarray, told: str) -> Bool[np.ndarray, "y x"]:
    brightness = picture.astype(np.float64).reshape(*picture.shape[:2], -1)[..., :3].mean(-1)
    if not brightness.max() > 0:
        raise ValueError(f"{told} is black all over, which marks nothing; mark a region in white.")
    return brightness >= brightness.max() / 2


def _redone_of_one(
    region: Any, entry: TokenRange, key: Key[Array, ""], crop: Crop
) -> Bool[np.ndarray, "_"]:
    tokens = entry.num_tokens
    if _is_number(region):
        if not 0 <= region <= 1:
            raise ValueError(f"The share of tokens to redo is {region}; 0 to 1 is allowed.")
        rank = np.asarray(jax.random.permutation(jax.random.fold_in(key, entry.index), tokens))
        return rank < round(float(region) * tokens)
    if len(entry.token_shape) != 2:
        raise ValueError(
            f"{entry.name} has no height and width; of it a share of tokens can be made anew."
        )
    if isinstance(region, np.ndarray) and region.dtype == bool and region.ndim == 2:
        return cover(_cut_mask(region, crop, entry), entry.token_shape).ravel()
    corners = np.asarray(region, np.float64) if _are_corners(region) else None
    if corners is None or not (corners >= 0).all() or not (corners <= 1).all():
        raise ValueError(f"A region is {str(region)[:80]!r}; {ALLOWED}.")
    x_min, y_min, x_max, y_max = corners
    if not (x_min < x_max and y_min < y_max):
        told = tuple(corners.tolist())
        raise ValueError(f"The box {told} is empty; give the least x and y first.")
    left, right = ((x - crop.left) / crop.width for x in (x_min, x_max))
    top, bottom = ((y - crop.top) / crop.height for y in (y_min, y_max))
    height, width = entry.token_shape
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    inside_y = (y < bottom * height) & (y + 1 > top * height)
    inside_x = (x < right * width) & (x + 1 > left * width)
    return (inside_y & inside_x).ravel()


def _are_corners(region: Any) -> bool:
    is_sequence = isinstance(region, tuple) or (
        isinstance(region, np.ndarray) and region.ndim == 1 and region.dtype.kind in "iuf"
    )
    return is_sequence and len(region) == 4 and all(_is_number(each) for each in region)


def _cut_mask(
    mask: Bool[np.ndarray, "y x"], crop: Crop, entry: TokenRange
) -> Bool[np.ndarray, "_ _"]:
    """Returns the part of a mask that a crop shows; every pixel that it shows a part of."""
    if crop[:4] == WHOLE[:4]:
        return mask
    (height, width), cells = mask.shape, entry.token_shape
    # What is cut to the grid's aspect ratio has one of its own.
    aspect = cells[1] / cells[0] * crop.height / crop.width
    if abs(width - aspect * height) > max(1.0, aspect):
        raise ValueError(
            f"The mask is {height}x{width} and does not have the aspect ratio of its picture of "
            f"{entry.name}; a mask is of the whole picture, of which the model sees the middle."
        )
    top, left = math.floor(crop.top * height + 1e-6), math.floor(crop.left * width + 1e-6)
    bottom = math.ceil((crop.top + crop.height) * height - 1e-6)
    right = math.ceil((crop.left + crop.width) * width - 1e-6)
    return mask[top : max(bottom, top + 1), left : max(right, left + 1)]


def cover(
    mask: Bool[np.ndarray, "y x"], shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Returns which cells of a coarser or finer grid a mask touches."""
    found = mask
    for axis, cells in enumerate(shape):
        size = mask.shape[axis]
        starts = [cell * size // cells for cell in range(cells)]
        ends = [max(-(-(cell + 1) * size // cells), start + 1) for cell, start in enumerate(starts)]
        parts = [found.take(range(a, b), axis).any(axis) for a, b in zip(starts, ends, strict=True)]
        found = np.stack(parts, axis)
    return found


def per_pixel(
    cells: Shaped[np.ndarray, "batch y x"], size: tuple[int, int]
) -> Shaped[np.ndarray, "batch height width"]:
    """Returns, for every pixel, what its cell of a grid has."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, cells.shape[1:], strict=True))
    return cells[:, rows][:, :, columns]


def paste(
    original: Shaped[np.ndarray, "batch y x ..."],
    made: Shaped[np.ndarray, "batch y x ..."],
    redone: Bool[np.ndarray, "batch tokens"],
    entry: TokenRange,
) -> Shaped[np.ndarray, "batch y x ..."]:
    """Returns the original, with what was made in the place of the tokens that were redone."""
    where = per_pixel(redone.reshape(-1, *entry.token_shape), original.shape[1:3])
    where = where.reshape(*where.shape, *[1] * (original.ndim - 3))
    return np.where(where, made, original)


def region_of_classes(
    class_map: Int[np.ndarray, "batch y x"], names: Sequence[str], known: Sequence[str]
) -> Bool[np.ndarray, "batch y x"]:
    """Returns where a class map has one of some classes.

    Raises:
        ValueError: If there is no class of a name.
    """
    unknown = [str(name) for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"There is no class {', '.join(unknown) or 'given'}; there are {', '.join(known)}."
        )
    return np.isin(class_map, [list(known).index(name) for name in names])


def pad_picture(
    picture: Shaped[np.ndarray, "y x ..."], margins: tuple[float, float, float, float]
) -> tuple[Shaped[np.ndarray, "height width ..."], Bool[np.ndarray, "height width"]]:
    """Returns a picture on a larger canvas, and where it is not, which is to be painted.

    The margins repeat the picture's edge, which is what its own outer tokens then show least amiss.

    Args:
        picture: Of any dense kind.
        margins: On the left, above, on the right and below, in fractions of its width and height.

    Raises:
        ValueError: If a margin is negative or too large, or there is none.
    """
    if not all(_is_number(each) and 0 <= each <= 4 for each in margins) or not any(margins):
        raise ValueError(
            f"The margins are {margins}; give fractions of width and height from 0 to 4, on the "
            "left, above, on the right and below, one of them above 0."
        )
    height, width = picture.shape[:2]
    left, top, right, bottom = (
        round(share * size) for share, size in zip(margins, (width, height) * 2, strict=True)
    )
    sides = (top, bottom), (left, right)
    padded = np.pad(picture, (*sides, *[(0, 0)] * (picture.ndim - 2)), mode="edge")
    return padded, np.pad(np.zeros((height, width), bool), sides, constant_values=True)


def as_margins(given: Any) -> tuple[float, float, float, float]:
    """Returns margins of all four sides; one number is all of them.

    Raises:
        ValueError: If it is neither one number nor four.
    """
    if _is_number(given):
        return (float(given),) * 4
    if _are_corners(given):
        left, top, right, bottom = (float(each) for each in given)
        return left, top, right, bottom
    raise ValueError(
        f"The margin is {given!r}; give a fraction of width and height, or four of them: on the "
        "left, above, on the right and below."
    )

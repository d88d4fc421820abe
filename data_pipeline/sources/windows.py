"""Windows of pictures: of one aspect ratio, and those that were chosen beforehand.

These are the crop settings of 4M, by which tokens were made. The first window of a sample is the
largest square in the middle, not mirrored; the others are random. Source:
https://github.com/apple/ml-4m, save_vq_tokens.py.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from tokenizers.base import Crop
from tokenizers.content.arrays import read_npy
from tokenizers.content.kinds import describe, kind_of


def read_windows(data: bytes) -> Float[np.ndarray, "views 5"]:
    """Returns top, left, height and width in pixels of the original, and 1 where it is mirrored.

    Raises:
        ValueError: If a file holds anything else.
    """
    if kind_of(data) != "npy":
        raise ValueError(f"is {describe(data)}; crop settings are read from npy")
    stored = read_npy(data).astype(np.float64)
    if stored.ndim == 1:
        stored = stored[None]
    if stored.ndim != 2 or stored.shape[1] not in (4, 5) or not len(stored):
        raise ValueError(
            f"holds an array of shape {stored.shape}; crop settings are [views, 5]: top, left, "
            "height, width, flip"
        )
    if stored.shape[1] == 4:
        stored = np.pad(stored, ((0, 0), (0, 1)))
    is_wrong = (stored[:, :2] < 0).any() or (stored[:, 2:4] <= 0).any()
    if not np.isfinite(stored).all() or is_wrong or not np.isin(stored[:, 4], (0, 1)).all():
        raise ValueError("holds crop settings that are no windows of a picture")
    return stored


def crops_of(
    windows: Float[np.ndarray, "views 5"], shape: tuple[int, int] | None
) -> tuple[Crop, ...]:
    """Returns windows as shares of a picture.

    Args:
        windows: See `read_windows`.
        shape: Height and width of the original; None if it is not there. It then follows from the
            first window, which is the middle of it, to a pixel.

    Raises:
        ValueError: If a window is not inside of the picture.
    """
    top, left, height, width = windows[0, :4].tolist()
    whole = shape or (height + 2 * top, width + 2 * left)
    crops = []
    for top, left, height, width, flip in windows.tolist():
        # Half of an odd number of pixels is rounded.
        if top + height > whole[0] + 1 or left + width > whole[1] + 1:
            raise ValueError(
                f"has the crop settings {top:g}, {left:g}, {height:g}, {width:g} of a picture of "
                f"{whole[0]:g} x {whole[1]:g} pixels; they are of another one, or of another size"
            )
        at = min(top / whole[0], 1.0), min(left / whole[1], 1.0)
        size = min(height / whole[0], 1 - at[0]), min(width / whole[1], 1 - at[1])
        crops.append(Crop(*at, *size, flip=bool(flip)))
    return tuple(crops)


def aspect_of(sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Returns the aspect ratio of the largest size in lowest terms, (1, 1) for squares.

    Raises:
        ValueError: If sizes differ in it, by more than the rounding to whole pixels.
    """
    if not sizes:
        return 1, 1
    largest = max(sizes, key=lambda name: math.prod(sizes[name]))
    height, width = sizes[largest]
    for name, (own_height, own_width) in sizes.items():
        if 2 * abs(own_height * width - own_width * height) > max(height, width):
            raise ValueError(
                f"Pictures of {name} are to be {own_height}x{own_width} and those of {largest} "
                f"{height}x{width}; modalities may differ in resolution but must be of one aspect "
                "ratio: see --crops.size, --crops.width and those of --modalities."
            )
    common = math.gcd(height, width)
    return height // common, width // common

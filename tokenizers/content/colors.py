"""What stored numbers look like: palettes, inks, transparency and many bits as sRGB colours."""

import numpy as np
from jaxtyping import Shaped, UInt8

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)

MOST_OUTSIDE = 0.5
"""Share of numbers that may be cut where the number is given that is white."""

# From XYZ under the D50 white of CIE L*a*b* to linear sRGB, by Bradford's adaptation (ICC.1).
_XYZ_TO_RGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_D50 = np.array([0.9642, 1.0, 0.8249])


def to_8_bits(numbers: Shaped[np.ndarray, "..."], bits: int) -> UInt8[np.ndarray, "..."]:
    """Returns numbers of 0 to 2**bits - 1 as 0 to 255, rounded."""
    if bits == 8:
        return np.asarray(numbers, np.uint8)
    share = np.asarray(numbers, np.float32) / np.float32(2**bits - 1)
    return (share * 255).round().astype(np.uint8)


def with_white_at(
    white: float | int, numbers: Shaped[np.ndarray, "y x *channels"], background: Color
) -> UInt8[np.ndarray, "y x *channels"]:
    """Returns numbers from 0 to `white` as 0 to 255, and `background` where they are unknown.

    Raises:
        ValueError: If most of them are brighter or darker, so that `white` can't be right.
    """
    unknown = np.ma.getmaskarray(numbers)
    share = np.asarray(numbers).astype(np.float32) / np.float32(white)
    unknown = unknown | ~np.isfinite(share)
    outside = ((share < 0) | (share > 1)) & ~unknown
    if outside.sum() > MOST_OUTSIDE * max(1, (~unknown).sum()):
        known = np.asarray(numbers)[~unknown]
        raise ValueError(
            f"holds numbers from {known.min():g} to {known.max():g}, most of which are outside of "
            f"0 to {white:g}; set white to the one that is white"
        )
    shade = background if numbers.ndim == 3 and numbers.shape[2] == 3 else background[0]
    bright = np.where(unknown, np.float32(0), share.clip(0, 1) * 255).round()
    return np.where(unknown, np.array(shade), bright).astype(np.uint8)


def from_grey(grey: UInt8[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Returns grey as red, green and blue."""
    return np.repeat(grey[..., None], 3, axis=-1)


def lay_over(
    colors: UInt8[np.ndarray, "y x 3"],
    alpha: UInt8[np.ndarray, "y x"],
    background: Color,
    is_premultiplied: bool = False,
) -> UInt8[np.ndarray, "y x 3"]:
    """Returns colours, transparent where `alpha` is below 255, over a background."""
    share = alpha[..., None].astype(np.float32) / 255
    front = colors.astype(np.float32) * (1 if is_premultiplied else share)
    whole = front + np.array(background, np.float32) * (1 - share)
    return whole.round().clip(0, 255).astype(np.uint8)


def from_palette(
    numbers: Shaped[np.ndarray, "y x"], palette: UInt8[np.ndarray, "count channels"]
) -> UInt8[np.ndarray, "y x channels"]:
    """Returns the palette's colour of every number.

    Raises:
        ValueError: If a number is none of the palette's.
    """
    largest = int(numbers.max())
    if largest >= len(palette):
        raise ValueError(
            f"holds the palette number {largest}, but its palette has {len(palette)} colours"
        )
    return palette[numbers]


def from_cmyk(inks: UInt8[np.ndarray, "y x 4"]) -> UInt8[np.ndarray, "y x 3"]:
    """Returns what cyan, magenta, yellow and black inks leave of white."""
    left = 255 - inks.astype(np.float32)
    return (left[..., :3] * left[..., 3:] / 255).round().astype(np.uint8)


def from_lab(lab: UInt8[np.ndarray, "y x 3"], is_signed: bool) -> UInt8[np.ndarray, "y x 3"]:
    """Returns CIE L*a*b* of 8 bits under D50 as sRGB; what lies outside of it is cut.

    Args:
        lab: L* of 0 to 100 as 0 to 255, and a* and b* of -128 to 127.
        is_signed: Whether a* and b* are stored as signed bytes; else 128 is added to them.
    """
    lightness = lab[..., 0].astype(np.float64) * 100 / 255
    shifted = (lab[..., 1:] ^ 128 if is_signed else lab[..., 1:]).astype(np.float64) - 128
    middle = (lightness + 16) / 116
    roots = np.stack([middle + shifted[..., 0] / 500, middle, middle - shifted[..., 1] / 200], -1)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * _D50
    linear = (xyz @ _XYZ_TO_RGB.T).clip(0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (gamma * 255).round().astype(np.uint8)


def turn_upright(
    numbers: Shaped[np.ndarray, "_ _ *channels"], orientation: int
) -> Shaped[np.ndarray, "_ _ *channels"]:
    """Returns a picture as it is to be seen, given the orientation in its EXIF data or TIFF tag.

    Orientations are 1 to 8 (EXIF 2.32, section 4.6.4); 1, and whatever is none, changes nothing.
    """
    match orientation:
        case 2:
            return numbers[:, ::-1]
        case 3:
            return numbers[::-1, ::-1]
        case 4:
            return numbers[::-1]
        case 5:
            return numbers.swapaxes(0, 1)
        case 6:
            return numbers.swapaxes(0, 1)[:, ::-1]
        case 7:
            return numbers[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return numbers.swapaxes(0, 1)[::-1]
    return numbers

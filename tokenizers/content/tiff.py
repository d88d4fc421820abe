"""TIFF files: any number of bands of any type, with what the file says of them."""

import io
import json
import logging
import math
import re
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from tokenizers.base import Picture, Stored
from tokenizers.content.colors import (
    Color,
    from_cmyk,
    from_grey,
    from_lab,
    from_palette,
    lay_over,
    to_8_bits,
    turn_upright,
)
from tokenizers.content.limits import check_memory, check_size

Pages = Literal["", "bands", "first"]
"""What several pages of a TIFF are: bands of one picture, or pictures of which the first counts; if
empty, what the file says, and a file that does not say it is refused."""

# Decoders that are made for untrusted data. TIFF 6.0 and its supplements; GDAL's for the others.
COMPRESSIONS = {
    **{1: "none", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 7: "JPEG", 8: "deflate"},
    **{32773: "PackBits", 32946: "deflate", 34887: "LERC", 34925: "LZMA", 50000: "zstd"},
    **{50001: "WebP"},
}
MAX_PAGES = 4096
HUGE = 1e30
"""From here on, numbers are limits of types, which programs write with as many digits as they like.
"""
RGB, CMYK, CIELAB, ICCLAB = 2, 5, 8, 9
"""Photometric interpretations of more than one band (TIFF 6.0, tag 262); 0, 1 and 3 have one."""
NO_DATA, ORIENTATION, GDAL_METADATA = 42113, 274, 42112
JPEG, WEBP = 7, 50001
ITEM = re.compile(r"<Item\b([^<>]*)>([^<>]*)</Item>")
ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*["']([^"']*)["']""")
REDUCED, MASK = 1, 4
"""Bits of NewSubfileType: an overview, and a mask of what is known."""


def read_tiff(
    data: bytes, max_pixels: int, background: Color, pages: Pages = ""
) -> Shaped[np.ndarray, "y x *bands"]:
    """Returns the numbers of a TIFF as stored; see `tokenizers.content.pictures.read_picture`.

    Bands may lie in planes, pixel by pixel or, if the file says so or `pages` does, in a page each.
    Pixels that have the file's own "no data" number (GDAL's tag 42113), or that its mask leaves
    out, are unknown: NaN in real numbers, masked in integers. Overviews are passed over. A scale
    that GDAL noted stands beside the numbers, in `Picture.stored`.

    Raises:
        ValueError: If it is damaged, or of a kind that would be read wrongly.
    """
    tifffile = _tifffile()
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return _read(file, data, max_pixels, background, pages)
    except Exception as error:  # tifffile raises whatever comes up in damaged files.
        if type(error) is ValueError:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"is damaged (a TIFF picture: {reason})") from error


@lru_cache(maxsize=1)
def _tifffile() -> Any:
    import tifffile  # Takes long to import, and few data sets need it.

    # What it would only log is checked here, and refused.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def _read(file: Any, data: bytes, max_pixels: int, background: Color, pages: Pages) -> np.ndarray:
    if len(file.pages) > MAX_PAGES:
        raise ValueError(f"holds {len(file.pages)} pages; at most {MAX_PAGES} are allowed")
    every = list(file.pages)
    masks = [page for page in every if page.subfiletype & MASK and not page.subfiletype & REDUCED]
    whole = [page for page in every if not page.subfiletype & (MASK | REDUCED)]
    if not whole:
        raise ValueError("is a TIFF of previews only, such as a camera's raw picture; develop it")
    first = whole[0]
    whole = whole[:1] if pages == "first" else whole
    check_size(first.imagewidth, first.imagelength, max_pixels)
    check_memory(first.nbytes * len(whole), max_pixels)
    axis = _axis_of_pages(file, whole, pages) if len(whole) > 1 else -1
    planes = [_decode(page, len(data)) for page in whole]
    numbers = planes[0] if len(planes) == 1 else np.stack(planes, axis)
    unknown = _unknown(first, numbers)
    if len(masks) == 1 and len(whole) == 1:
        known = _decode(masks[0], len(data)).astype(bool)
        if known.shape != numbers.shape[:2]:
            raise ValueError(f"has a mask of shape {known.shape} over pixels of {numbers.shape}")
        unknown |= ~known if numbers.ndim == 2 else ~known[..., None]
    orientation = first.tags.valueof(ORIENTATION, 1)
    orientation = orientation if isinstance(orientation, int) else 1
    numbers = np.ascontiguousarray(turn_upright(numbers, orientation))
    if unknown.any():
        unknown = np.ascontiguousarray(turn_upright(unknown, orientation))
        if numbers.dtype.kind == "f":
            numbers = np.where(unknown, numbers.dtype.type(np.nan), numbers)
        else:
            numbers = np.ma.MaskedArray(numbers, unknown)
    look = _look_of(first)
    has_look = len(planes) == 1 and look.says_more_than(numbers)
    stored = Stored(
        _is_lossy(first, data),
        has_look and look.photometric in (3, CMYK, CIELAB, ICCLAB),
        _scaling(first, numbers.shape[2] if numbers.ndim == 3 else 1),
    )
    if not has_look and stored == Stored():
        return numbers
    colors = partial(_colors_of, np.asarray(numbers), look, background) if has_look else None
    return Picture.of(numbers, colors, stored)


def is_lossy_webp(data: bytes) -> bool:
    """Returns whether a WebP picture holds a frame of VP8, the one of its two that loses numbers.

    Source: the WebP container specification; in extended files other chunks come first.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    place = 12
    while place + 8 <= len(data) and data[place : place + 4] not in (b"VP8 ", b"VP8L"):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return data[place : place + 4] == b"VP8 "


def _is_lossy(page: Any, data: bytes) -> bool:
    part = data[page.dataoffsets[0] :] if page.compression == WEBP else b""
    return page.compression == JPEG or is_lossy_webp(part)


def _scaling(page: Any, bands: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the scale and the offset of every band that GDAL notes; None if as stored.

    Raises:
        ValueError: If a number there is none.
    """
    numbers = {"scale": np.ones(bands), "offset": np.zeros(bands)}
    for attributes, text in ITEM.findall(str(page.tags.valueof(GDAL_METADATA) or "")):
        about = dict(ATTRIBUTE.findall(attributes))
        role, band = about.get("role", ""), about.get("sample", "0")
        if role not in numbers or not band.isdecimal() or int(band) >= bands:
            continue
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (role == "scale" and number == 0):
            raise ValueError(
                f"says that {text[:40]!r} is the {role} of its band {band}; set own_scale to False "
                "to have numbers as they are stored"
            )
        numbers[role][int(band)] = number
    is_plain = (numbers["scale"] == 1).all() and not numbers["offset"].any()
    return None if is_plain else (numbers["scale"], numbers["offset"])


def _axis_of_pages(file: Any, whole: list[Any], pages: Pages) -> int:
    """Returns along which axis several pages are put together, so that bands are the last one.

    Raises:
        ValueError: If they are, or may be, several pictures.
    """
    alike = len({(page.shape, page.dtype) for page in whole}) == 1 and len(whole[0].shape) == 2
    if pages == "bands" and not alike:
        raise ValueError(
            f"holds {len(whole)} pages that are no bands of one picture, as they differ or have "
            'several bands each; pages="first" takes the first'
        )
    if alike and (pages == "bands" or _are_channels(file, len(whole))):
        return -1
    shape = _noted_shape(file)
    count, width = shape[0], shape[2]
    if alike and shape == (len(whole), *whole[0].shape) and count != width:
        # An array that was written as it is: its shortest axis, before or behind, is of bands.
        return -1 if count < width else 0
    raise ValueError(
        f"holds {len(whole)} pages, and does not say what they are; set pages to "
        '"bands" if they are bands of one picture, or to "first" if the first is the sample'
    )


def _are_channels(file: Any, count: int) -> bool:
    """True if ImageJ wrote the pages as channels, and not as places or times."""
    return bool(file.is_imagej) and (file.imagej_metadata or {}).get("channels", 1) == count


def _noted_shape(file: Any) -> tuple[int, int, int]:
    """Returns the shape of the array that tifffile notes where it wrote one; zeros if none."""
    try:
        facts = json.loads(file.pages[0].description) if file.is_shaped else {}
    except ValueError:
        facts = {}
    shape = facts.get("shape") if isinstance(facts, dict) else None
    is_stack = isinstance(facts, dict) and facts.get("axes", "CYX") in ("CYX", "QYX", "YXC", "YXS")
    if not is_stack or not isinstance(shape, list) or len(shape) != 3:
        return 0, 0, 0
    return shape[0], shape[1], shape[2]


def _decode(page: Any, file_size: int) -> Shaped[np.ndarray, "y x *bands"]:
    """Returns the numbers of one page, of which nothing may be missing or made up."""
    if page.compression not in COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        allowed = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise ValueError(f"is a TIFF compressed by {name}; {allowed} can be read")
    if page.dtype is None or page.dtype.kind not in "biuf":
        raise ValueError(
            f"is a TIFF of {page.dtype or 'numbers of an unknown type'}; whole and real numbers "
            "can be read"
        )
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ValueError(f"is a TIFF with the axes {page.axes}; height, width and bands are read")
    # tifffile fills what is missing with zeros.
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(parts) != math.prod(page.chunked) or not all(count > 0 for _, count in parts):
        raise ValueError("is a TIFF in which parts of the picture were never written")
    if max(offset + count for offset, count in parts) > file_size:
        raise ValueError("is damaged (a TIFF picture that was cut short)")
    # Data workers run side by side already.
    array = page.asarray(maxworkers=1)
    if array.shape != page.shape or array.dtype != page.dtype:
        raise ValueError(
            f"is a TIFF of {page.dtype} in the shape {page.shape}, of which {array.dtype} in the "
            f"shape {array.shape} was decoded"
        )
    array = np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _unknown(page: Any, numbers: np.ndarray) -> Bool[np.ndarray, "..."]:
    stored = page.tags.valueof(NO_DATA)
    try:
        # Written by programs of many countries; an empty one says nothing.
        text = str("" if stored is None else stored).strip("\0 ").replace(",", ".")
        number = float(text) if text else None
    except ValueError as error:
        raise ValueError(f"says that {stored!r} means no data, which is no number") from error
    if number is None:
        return np.zeros(numbers.shape, bool)
    if math.isnan(number):
        return np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(numbers.shape, bool)
    if numbers.dtype.kind != "f":
        return numbers == number
    # Written with fewer or more digits than the type has.
    with np.errstate(over="ignore"):
        unknown = numbers == numbers.dtype.type(number)
        if abs(number) < HUGE or unknown.any():
            return unknown
        return abs(numbers.astype(np.float64) - number) <= _last_digit(text) / 2


def _last_digit(text: str) -> float:
    """Returns what a decimal number's last digit counts: 1e34 in -3.4028e+38."""
    mantissa, _, power = text.lower().partition("e")
    return 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))


class _Look(NamedTuple):
    """What the colours of a page depend on."""

    photometric: int
    bits: int
    extra: tuple[int, ...]
    """Meanings of the bands that follow the colours: 1 and 2 are transparency."""
    palette: np.ndarray | None

    @property
    def num_colors(self) -> int:
        return {RGB: 3, CMYK: 4, CIELAB: 3, ICCLAB: 3}.get(self.photometric, 1)

    def says_more_than(self, numbers: np.ndarray) -> bool:
        """True if numbers are not grey or colours as they stand, but look like some."""
        bands = numbers.shape[2] if numbers.ndim == 3 else 1
        if bands != self.num_colors + len(self.extra[:1]) or self.extra[:1] not in ((), (1,), (2,)):
            return False
        is_plain = self.bits == 8 and not self.extra
        match self.photometric:
            case 0:
                return numbers.dtype.kind in "bu"
            case 1 | 2:
                return numbers.dtype.kind in "bu" and not is_plain
            case 3:
                is_index = numbers.ndim == 2 and numbers.dtype.kind in "bu"
                return is_index and self.palette is not None and self.palette.ndim == 2
            case 5 | 8 | 9:
                return is_plain and numbers.dtype.kind in "iu"
        return False  # YCbCr is decoded to RGB; others have no colours.


def _look_of(page: Any) -> _Look:
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8
    extra = tuple(int(each) for each in page.extrasamples)
    return _Look(int(page.photometric), bits, extra, page.colormap)


def _colors_of(numbers: np.ndarray, look: _Look, background: Color) -> UInt8[np.ndarray, "y x 3"]:
    stored = numbers if numbers.ndim == 3 else numbers[..., None]
    match look.photometric:
        case 3:
            palette = np.asarray(look.palette).T
            # Of 16 bits, though some programs write 8, and some 256 times them.
            shades = palette if palette.max() < 256 else palette >> 8
            return from_palette(numbers.astype(np.uint16), shades.astype(np.uint8))
        case 5:
            return from_cmyk(stored.view(np.uint8))
        case 8 | 9:
            return from_lab(stored.view(np.uint8), is_signed=look.photometric == CIELAB)
        case 2:
            colors = to_8_bits(stored[..., :3], look.bits)
        case _:
            grey = to_8_bits(stored[..., 0], look.bits)
            colors = from_grey(255 - grey if look.photometric == 0 else grey)
    if not look.extra:
        return colors
    alpha = to_8_bits(stored[..., look.num_colors], look.bits)
    return lay_over(colors, alpha, background, is_premultiplied=look.extra[0] == 1)

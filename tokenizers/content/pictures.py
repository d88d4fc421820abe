"""Picture files: every number as it is stored, and what it looks like where that differs."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from tokenizers.base import Picture, Stored
from tokenizers.content.colors import (
    WHITE,
    Color,
    from_grey,
    from_palette,
    lay_over,
    to_8_bits,
    turn_upright,
)
from tokenizers.content.jpeg import check_scans
from tokenizers.content.kinds import PICTURE_KINDS, describe, kind_of
from tokenizers.content.limits import MAX_PIXELS, check_size
from tokenizers.content.tiff import Pages, is_lossy_webp, read_tiff

PILLOW_LIMIT = Image.MAX_IMAGE_PIXELS
ORIENTATION = 0x0112
USUAL_PACKING = 100
"""Times that pixels in a PNG unpack to more bytes than their file has, at most, as a rule."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_picture(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    background: Color = WHITE,
    pages: Pages = "",
) -> Shaped[np.ndarray, "y x *channels"]:
    """Returns the numbers that a picture file stores, turned as its EXIF orientation says.

    PNG of up to 16 bits, JPEG, WebP, BMP, a GIF of one picture, and TIFF of any number of bands.

    Args:
        data: The file; its kind is told by its first bytes.
        max_pixels: Pixels that it may have.
        background: What is seen through transparent pixels.
        pages: What a TIFF of several pages holds, see `read_tiff`.

    Returns:
        A plain array of the stored type if its numbers are grey or colours of 8 bits, or bands of a
        TIFF; a masked one if some are unknown; else a `Picture`, which knows its colours, and that
        its numbers are not those that were written, where its compression loses some.

    Raises:
        ValueError: In half a sentence that follows the file's name: "is ...", "holds ...".
    """
    kind = kind_of(data)
    if kind not in PICTURE_KINDS:
        raise ValueError(f"is {describe(data)}, and no picture that can be read")
    if kind == "tiff":
        return read_tiff(data, max_pixels, background, pages)
    try:
        if kind == "png":
            _check_chunks(data, max_pixels)
        picture = _open(data)
        check_size(*picture.size, max_pixels)
        if getattr(picture, "is_animated", False) and picture.format != "MPO":
            raise ValueError(
                f"holds {picture.n_frames} pictures, one after the other, of which a sample can "
                "have one; store each as a file"
            )
        if kind == "png" and data[24] == 16 and data[25] != 0:
            return _read_16_bit_colors(data, _orientation(picture), background)
        picture.load()
        if kind == "jpeg":
            check_scans(data, picture, _open)
    except Exception as error:  # Decoders raise whatever they like on damaged files.
        if type(error) is ValueError:
            raise
        raise ValueError(f"is damaged ({describe(data)}: {_reason(error)})") from error
    upright = picture.transpose(method) if (method := _method(picture)) is not None else picture
    return _numbers_of(upright, data, background)


def _open(data: bytes) -> Image.Image:
    # Pillow's own limit is not a knob of ours; it holds wherever others open pictures.
    Image.MAX_IMAGE_PIXELS = None
    try:
        # A few formats: Pillow's rarer readers see no untrusted data.
        return Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP", "BMP", "GIF"])
    finally:
        Image.MAX_IMAGE_PIXELS = PILLOW_LIMIT


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its header makes no sense"
    return str(error) or type(error).__name__


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF data that can't be read say nothing.
        return 1


def _method(picture: Image.Image) -> Image.Transpose | None:
    return {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(_orientation(picture))


def _numbers_of(picture: Image.Image, data: bytes, background: Color) -> np.ndarray:
    """Returns what Pillow decoded, with the bits and bands that the header promises."""
    numbers = np.array(picture)
    stored = Stored(_is_lossy(data), picture.mode in ("P", "PA", "CMYK"))
    is_keyed = "transparency" in picture.info
    if picture.mode == "RGB" or (picture.mode == "L" and _stored_bits(data) == 8):
        if not is_keyed:
            return Picture.of(numbers, None, stored) if stored.is_lossy else numbers
    elif picture.mode == "L":
        # Pillow spreads grey of 2 and 4 bits over 0 to 255.
        numbers = numbers // np.uint8(255 // (2 ** _stored_bits(data) - 1))
    elif picture.mode == "I;16":
        return Picture.of(numbers, partial(_grey_of, numbers, 16))
    elif picture.mode not in ("1", "P", "LA", "PA", "RGBA", "CMYK"):
        raise ValueError(f"is {describe(data)} of the mode {picture.mode}, which can't be read")
    if picture.mode == "P":
        count = len(picture.getpalette("RGB") or ()) // 3
        look = partial(_palette_colors, picture, count, background)
        return Picture.of(numbers, look, stored)
    return Picture.of(numbers, partial(_colors_of, picture, background), stored)


def _is_lossy(data: bytes) -> bool:
    """Returns whether a picture's compression changes numbers: JPEG's, and one of WebP's two."""
    return kind_of(data) == "jpeg" or is_lossy_webp(data)


def _stored_bits(data: bytes) -> int:
    """Returns the bits per number of a PNG; other formats have 8 where they are grey."""
    return data[24] if data.startswith(PNG_SIGNATURE) else 8


def _palette_colors(
    picture: Image.Image, count: int, background: Color
) -> UInt8[np.ndarray, "y x 3"]:
    from_palette(np.asarray(picture), np.zeros((count, 3), np.uint8))  # Checks the numbers.
    return _colors_of(picture, background)


def _colors_of(picture: Image.Image, background: Color) -> UInt8[np.ndarray, "y x 3"]:
    has_alpha = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if not has_alpha:
        return np.asarray(picture.convert("RGB"))
    layers = np.asarray(picture.convert("RGBA"))
    return lay_over(layers[..., :3], layers[..., 3], background)


def _grey_of(numbers: np.ndarray, bits: int) -> UInt8[np.ndarray, "y x 3"]:
    return from_grey(to_8_bits(numbers, bits))


def _read_16_bit_colors(data: bytes, orientation: int, background: Color) -> np.ndarray:
    """Returns a PNG of 16 bits per channel, of which Pillow would hand over the upper 8."""
    import imagecodecs  # Takes long to import, and few pictures need it.

    bands = {2: 3, 4: 2, 6: 4}[data[25]]
    numbers = imagecodecs.png_decode(data)
    if numbers.dtype != np.uint16 or numbers.shape[2:] != (bands,):
        raise ValueError(
            f"is a PNG picture of 16 bits and {bands} channels, of which {numbers.dtype} numbers "
            f"of shape {numbers.shape} were decoded; store it as TIFF or npy"
        )
    numbers = np.ascontiguousarray(turn_upright(numbers, orientation))
    look: Callable[[], np.ndarray] = partial(_deep_colors_of, numbers, background)
    return Picture.of(numbers, look)


def _deep_colors_of(numbers: np.ndarray, background: Color) -> UInt8[np.ndarray, "y x 3"]:
    small = to_8_bits(numbers, 16)
    alpha = small[..., -1] if small.shape[-1] in (2, 4) else None
    colors = small[..., :3] if small.shape[-1] >= 3 else from_grey(small[..., 0])
    return colors if alpha is None else lay_over(colors, alpha, background)


def _check_chunks(data: bytes, max_pixels: int) -> None:
    """Raises ValueError unless all parts of a PNG are there, and as they were written.

    Pillow overlooks damage in places. The checksums are in the PNG specification, section 5.3.
    """
    place, pixels = len(PNG_SIGNATURE), []
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        end = place + 12 + length
        name = data[place + 4 : place + 8]
        if end > len(data):
            break
        # Lower case marks what a reader may skip.
        if name[:1].isupper() and zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end]
        ):
            raise ValueError("is damaged (a PNG picture: a checksum is wrong)")
        if name == b"IDAT":
            pixels.append(data[place + 8 : end - 4])
        if name == b"IEND":
            return _check_rows(data, pixels, max_pixels)
        place = end
    raise ValueError("is damaged (a PNG picture that was cut short)")


def _check_rows(data: bytes, pixels: list[bytes], max_pixels: int) -> None:
    """Raises ValueError if a PNG's header promises many more rows than its data unpack to.

    Pillow fills them up with zeros. What is packed as usual is not unpacked twice for that.
    """
    width, height = struct.unpack(">II", data[16:24])
    check_size(width, height, max_pixels)
    promised = height * width * data[24] // 8
    if promised < USUAL_PACKING * len(data):
        return
    unpacker, rest, found = zlib.decompressobj(), b"".join(pixels), 0
    while rest and found < promised:
        found += len(unpacker.decompress(rest, 1 << 20))
        rest = unpacker.unconsumed_tail
    if found < promised:
        raise ValueError("is damaged (a PNG picture with fewer pixels than its header promises)")

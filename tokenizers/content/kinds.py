"""What a file is, told by its first bytes: names lie."""

import unicodedata

SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png", "a PNG picture"),
    (0, b"\xff\xd8\xff", "jpeg", "a JPEG picture"),
    (0, b"GIF87a", "gif", "a GIF picture"),
    (0, b"GIF89a", "gif", "a GIF picture"),
    (8, b"WEBP", "webp", "a WebP picture"),
    (0, b"II*\0", "tiff", "a TIFF picture"),
    (0, b"MM\0*", "tiff", "a TIFF picture"),
    (0, b"II+\0", "tiff", "a TIFF picture"),
    (0, b"MM\0+", "tiff", "a TIFF picture"),
    (0, b"\x93NUMPY", "npy", "a NumPy array"),
    (0, b"PK\x03\x04", "zip", "a zip archive"),
    (0, b"PK\x05\x06", "zip", "an empty zip archive"),
    (0, b"\x1f\x8b", "gzip", "data compressed by gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "data compressed by zstd"),
    (0, b"BZh", "bzip2", "data compressed by bzip2"),
    (0, b"\xfd7zXZ\0", "xz", "data compressed by xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive"),
    (257, b"ustar", "tar", "a tar archive"),
    (0, b"%PDF-", "pdf", "a PDF document"),
    (8, b"WAVE", "wav", "a WAV sound"),
    (0, b"ID3", "mp3", "an MP3 sound"),
    (0, b"fLaC", "flac", "a FLAC sound"),
    (0, b"OggS", "ogg", "an Ogg sound or film"),
    (8, b"AVI ", "avi", "an AVI film"),
    (4, b"ftypavif", "avif", "an AVIF picture"),
    (4, b"ftypheic", "heic", "a HEIC picture"),
    (4, b"ftypmif1", "heic", "a HEIF picture"),
    (4, b"ftyp", "mp4", "an MP4 film or sound"),
    (0, b"\x1aE\xdf\xa3", "mkv", "a Matroska or WebM film"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jp2", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "jp2", "a JPEG 2000 picture"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "jxl", "a JPEG XL picture"),
    (0, b"\xff\x0a", "jxl", "a JPEG XL picture"),
    (0, b"v/1\x01", "exr", "an OpenEXR picture"),
    (0, b"8BPS", "psd", "a Photoshop picture"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file"),
    (0, b"CDF\x01", "netcdf", "a NetCDF file"),
    (0, b"CDF\x02", "netcdf", "a NetCDF file"),
    (0, b"PAR1", "parquet", "a Parquet table"),
    (0, b"ARROW1", "arrow", "an Arrow table"),
    (0, b"SQLite format 3\0", "sqlite", "an SQLite data base"),
    (0, b"\x80\x02", "pickle", "a Python pickle"),
    (0, b"\x80\x03", "pickle", "a Python pickle"),
    (0, b"\x80\x04", "pickle", "a Python pickle"),
    (0, b"\x80\x05", "pickle", "a Python pickle"),
    (0, b"version https://git-lfs", "lfs", "a pointer of Git LFS that was never fetched"),
    (0, b"\0\x05\x16\x07", "appledouble", "a resource file of macOS (._NAME)"),
)
"""Where some bytes stand, what they are, and how a kind is called."""

PICTURE_KINDS = ("png", "jpeg", "gif", "webp", "tiff", "bmp")
"""Kinds of pictures that can be read."""


def kind_of(data: bytes) -> str:
    """Returns what a file is: one of the kinds in `SIGNATURES`, or bmp, html, xml, text, binary.

    Example:
        >>> kind_of(b"<!DOCTYPE html><html>Not found</html>"), kind_of(b"a chair")
        ('html', 'text')
    """
    return _recognise(data)[0]


def describe(data: bytes) -> str:
    """Returns what a file is, in words.

    Example:
        >>> describe(b"ID3\\x04")
        'an MP3 sound'
    """
    return _recognise(data)[1]


def _recognise(data: bytes) -> tuple[str, str]:
    if not data:
        return "empty", "an empty file"
    for offset, mark, kind, words in SIGNATURES:
        if data.startswith(mark, offset) and (offset != 8 or data.startswith(b"RIFF")):
            return kind, words
    # Two letters are too few to go by: the size of the header tells a bitmap from a text.
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return "bmp", "a BMP picture"
    if data[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa"):
        return "mp3", "an MP3 sound"
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "html", "an HTML page"
    if b"<svg" in start:
        return "svg", "an SVG drawing"
    if start.startswith(b"<?xml"):
        return "xml", "an XML document"
    if not data.strip(b"\0"):
        return "zeros", "nothing but zero bytes"
    if b"\0" not in data[:1024] and _is_utf8(data[:1024]):
        return "text", "a text"
    return "binary", "of no kind that is known here"


_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}


def _is_utf8(start: bytes) -> bool:
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4 > 0  # A letter may be cut in two.
    return True


def is_blank(text: str) -> bool:
    """True for a text that shows nothing, of which no character is any to be seen.

    Example:
        >>> is_blank(" \\u200b\\ufeff"), is_blank("a")
        (True, False)
    """
    return all(unicodedata.category(letter)[0] in "CZ" for letter in text)


def read_text(data: bytes) -> str:
    """Returns what a text file says: UTF-8, or UTF-16 that begins with its mark.

    Raises:
        ValueError: If it is no text, or of another encoding.
    """
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        kind = kind_of(data)
        if kind not in ("binary", "text"):
            raise ValueError(f"is {describe(data)}, and no text") from error
        raise ValueError(
            f"is no UTF-8 text, from byte {error.start} on; save it as UTF-8"
        ) from error
    if "\0" in text or kind_of(data) in ("html", "lfs"):
        raise ValueError(f"is {describe(data)}, and no text")
    return text

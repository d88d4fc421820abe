"""Files with random damage: a value, or one sentence."""

import gzip
import io
import json
import resource
import struct
import time
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tokenizers.base import Picture
from tokenizers.content.pictures import PNG_SIGNATURE
from tokenizers.formats.formats import (
    ArrayFile,
    BoxesFile,
    CodesFile,
    FileFormat,
    NumberFile,
    TextFile,
)

RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (12, 16, 3), np.uint8)
DEEP = RANDOM.integers(0, 65536, (12, 16, 3)).astype(np.uint16)
BANDS = RANDOM.random((12, 16, 5)).astype(np.float32)
MUTATIONS = 40


def picture(kind: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLORS).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def tiff(array: np.ndarray = BANDS, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "minisblack", **options})
    return stream.getvalue()


def stored(save, **arrays) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


CAPTIONS = json.dumps([{"caption": "a chair"}, {"caption": "ein Stuhl, größer"}]).encode()
INSTANCES = {"boxes": [0, 0.1, 0.5, 0.7], "class_name": "a", "score": 0.5}
VOC = b"""<annotation><size><width>100</width><height>80</height></size><object><name>a</name>
<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object></annotation>"""
FILES: dict[str, tuple[FileFormat, str, bytes]] = {
    "png": (ArrayFile(as_rgb=True), "png", picture("png")),
    "palette png": (ArrayFile(values={0: 255, 1: 0}, offset=1), "png", picture("png", "P")),
    "png of 16 bits": (ArrayFile(), "png", imagecodecs.png_encode(DEEP)),
    "jpeg": (ArrayFile(), "jpg", picture("jpeg")),
    "cmyk jpeg": (ArrayFile(), "jpg", picture("jpeg", "CMYK")),
    "webp": (ArrayFile(), "webp", picture("webp")),
    "bmp": (ArrayFile(colors={(0, 0, 0): 1}, other=0), "bmp", picture("bmp")),
    "gif": (ArrayFile(), "gif", picture("gif")),
    "tiff": (ArrayFile(), "tif", tiff(extratags=[(42113, 2, 0, "-9999", True)])),
    "lzw tiff": (ArrayFile(), "tif", tiff(compression="lzw", planarconfig="contig")),
    "tiled tiff": (ArrayFile(), "tif", tiff(compression="zlib", predictor=True, tile=(16, 16))),
    "zstd tiff": (ArrayFile(), "tif", tiff(compression="zstd", byteorder=">")),
    "jpeg tiff": (ArrayFile(), "tif", tiff(COLORS, compression="jpeg", photometric="rgb")),
    "tiff of pages": (ArrayFile(), "tif", tiff(np.moveaxis(BANDS, -1, 0))),
    "npy": (ArrayFile(missing=0.0), "npy", stored(np.save, arr=BANDS)),
    "npz": (ArrayFile(), "npz", stored(np.savez_compressed, a=BANDS)),
    "array in json": (ArrayFile(), "json", json.dumps(BANDS[0].tolist()).encode()),
    "text": (TextFile(lines=True), "txt", "a chair\nein Stuhl, größer".encode()),
    "captions": (TextFile(), "json", CAPTIONS),
    "packed captions": (TextFile(), "json", gzip.compress(CAPTIONS)),
    "number": (NumberFile(), "txt", b"-12.5\n"),
    "ids": (CodesFile(shape=(2, 3)), "npy", stored(np.save, arr=np.arange(12).reshape(2, 6))),
    "boxes": (
        BoxesFile(class_names=("a",)),
        "json",
        json.dumps({"instances": [INSTANCES]}).encode(),
    ),
    "yolo": (BoxesFile(), "txt", b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1 0.2 0.2\n"),
    "voc": (BoxesFile(class_names=("a",)), "xml", VOC),
}


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Returns data with a few other bytes, most of them near the start, or cut short."""
    changed = bytearray(data)
    reach = min(len(data), 300) if random.random() < 0.6 else len(data)
    for place in random.integers(0, reach, random.integers(1, 8)):
        changed[place] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
    return bytes(changed[: random.integers(len(data))] if random.random() < 0.1 else changed)


def with_checksums(data: bytes) -> bytes:
    """Returns a PNG whose checksums are right, so that damage gets past them."""
    fixed, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        part = data[place + 4 : end - 4]
        fixed += data[place : place + 4] + part + struct.pack(">I", zlib.crc32(part))
        place = end
    return bytes(fixed)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_a_value_or_one_sentence(name):
    file_format, extension, data = FILES[name]
    random = np.random.default_rng(1)
    assert file_format.read(data, extension) is not None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(MUTATIONS):
        damaged = mutated(data, random)
        if data.startswith(PNG_SIGNATURE):
            damaged = with_checksums(damaged)
        start = time.perf_counter()
        try:
            value = file_format.read(damaged, extension)
            if isinstance(value, Picture) and value.colors is not None:
                value.colors()
        except ValueError as error:
            assert type(error) is ValueError and str(error) and "\n" not in str(error)
        assert time.perf_counter() - start < 5
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 1024

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.files.formats import ArrayFile, BoxesFile, NumberFile, TextFile


def picture_bytes(array: np.ndarray, kind: str = "png", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(stream, kind)
    return stream.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp"])
def test_colour_pictures_come_back_exactly(kind, random):
    array = random.integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(ArrayFile().read(picture_bytes(array, kind), kind), array)


def test_jpeg_comes_back_nearly():
    array = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    read = ArrayFile().read(picture_bytes(array, "jpeg"), "jpg")
    assert np.abs(read.astype(int) - array).max() < 4


def test_16_bit_png_keeps_all_bits_and_scales(random):
    millimetres = random.integers(0, 65536, (5, 7), np.uint16)
    read = ArrayFile().read(picture_bytes(millimetres), "png")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, millimetres)
    metres = ArrayFile(scale=0.001).read(picture_bytes(millimetres), "png")
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres, millimetres / 1000, rtol=1e-6)


def test_16_bit_colour_png_is_refused_rather_than_cut_to_8_bits():
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(7)))
    with pytest.raises(ValueError, match=r"16 bits per channel.*store it as npy"):
        ArrayFile().read(png + chunk(b"IEND", b""), "png")


def test_palette_pictures_are_class_numbers_unless_colours_are_wanted():
    classes = np.array([[0, 1], [2, 1]], np.uint8)
    picture = Image.fromarray(classes, "L")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    stream = io.BytesIO()
    picture.save(stream, "png")
    np.testing.assert_array_equal(ArrayFile().read(stream.getvalue(), "png"), classes)
    colours = ArrayFile(as_rgb=True).read(stream.getvalue(), "png")
    assert colours[0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("mode", "kind"), [("L", "jpeg"), ("CMYK", "jpeg"), ("RGBA", "png")])
def test_as_rgb_gives_three_channels_whatever_is_stored(mode, kind, random):
    data = picture_bytes(random.integers(0, 256, (4, 4, 3), np.uint8), kind, mode)
    assert ArrayFile(as_rgb=True).read(data, "jpg").shape == (4, 4, 3)


def test_channels_first_is_turned_around(random):
    bands = random.integers(-5, 5, (12, 4, 6)).astype(np.int16)
    read = ArrayFile(channels_first=True).read(npy_bytes(bands), "npy")
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, np.moveaxis(bands, 0, -1))
    with pytest.raises(ValueError, match=r"shape \(4, 6\).*channels_first"):
        ArrayFile(channels_first=True).read(npy_bytes(bands[0]), "npy")


def test_missing_is_a_stored_number_and_becomes_nan():
    stored = np.array([[-9999, 0], [10, 20]], np.int16)
    read = ArrayFile(scale=0.5, offset=1.0, missing=-9999.0).read(npy_bytes(stored), "npy")
    np.testing.assert_array_equal(read, np.array([[np.nan, 1], [6, 11]], np.float32))


def test_npz_takes_its_only_array_or_the_one_named(random):
    one, other = random.random(3), random.random(4)
    np.testing.assert_array_equal(ArrayFile().read(npz_bytes(one=one), "npz"), one)
    both = npz_bytes(one=one, other=other)
    np.testing.assert_array_equal(ArrayFile(field="other").read(both, "npz"), other)
    with pytest.raises(ValueError, match="one, other; set `field`"):
        ArrayFile().read(both, "npz")


def test_pickled_arrays_are_refused():
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        ArrayFile().read(stream.getvalue(), "npy")


def test_arrays_can_be_json():
    data = json.dumps({"vector": [1, 2.5]}).encode()
    assert ArrayFile(field="vector").read(data, "json").tolist() == [1, 2.5]
    with pytest.raises(ValueError, match="array of numbers"):
        ArrayFile().read(b'["a"]', "json")


def test_text_is_txt_or_json():
    assert TextFile().read("\ufeffein Stuhl, größer\n".encode(), "txt") == "ein Stuhl, größer"
    assert TextFile().read(b'"a chair"', "json") == "a chair"
    assert TextFile().read(b'["a chair", "a seat"]', "json") == "a chair"
    assert TextFile(field="caption").read(b'{"caption": "a chair"}', "json") == "a chair"
    with pytest.raises(ValueError, match="has the entries text, not 'caption'"):
        TextFile(field="caption").read(b'{"text": "a chair"}', "json")
    with pytest.raises(ValueError, match="does not hold a string"):
        TextFile().read(b"[]", "json")
    with pytest.raises(ValueError, match="readable are txt, json"):
        TextFile().read(b"", "png")


def test_numbers_are_txt_json_or_npy():
    assert NumberFile().read(b" 2.5\n", "txt") == 2.5
    assert NumberFile(field="count").read(b'{"count": 3}', "json") == 3.0
    assert NumberFile().read(npy_bytes(np.array([7], np.int16)), "npy") == 7.0
    with pytest.raises(ValueError, match="not one number"):
        NumberFile().read(npy_bytes(np.zeros(2)), "npy")
    with pytest.raises(ValueError, match="does not hold a number"):
        NumberFile().read(b'"3"', "json")


def boxes_bytes(*instances: dict) -> bytes:
    return json.dumps({"instances": instances}).encode()


def test_boxes_are_read_by_class_name_or_number():
    data = boxes_bytes(
        {"boxes": [0, 0.25, 0.5, 1], "class_name": "chair", "class_id": 4, "score": 0.9},
        {"boxes": [0.5, 0.5, 1, 1], "class_name": "wall", "class_id": 0, "score": 0.2},
    )
    boxes = BoxesFile(class_names=("wall", "chair")).read(data, "json")
    assert boxes.classes.tolist() == [1, 0]
    np.testing.assert_allclose(boxes.corners, [[0, 0.25, 0.5, 1], [0.5, 0.5, 1, 1]])
    assert BoxesFile().read(data, "json").classes.tolist() == [4, 0]
    assert BoxesFile(minimum_score=0.5).read(data, "json").classes.tolist() == [4]


def test_a_picture_without_boxes_has_empty_arrays():
    boxes = BoxesFile().read(boxes_bytes(), "json")
    assert boxes.corners.shape == (0, 4) and boxes.corners.dtype == np.float32
    assert boxes.classes.shape == (0,) and boxes.classes.dtype == np.int32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (boxes_bytes({"boxes": [0, 0, 64, 64], "class_id": 1}), "fractions"),
        (boxes_bytes({"boxes": [0.5, 0, 0.2, 1], "class_id": 1}), "fractions"),
        (boxes_bytes({"boxes": [0, 0, 1, 1]}), "has the entries boxes, not 'class_id'"),
        (b'{"instances": 3}', "no list of `instances`"),
        (b"[]", "no object with an entry 'instances'"),
    ],
)
def test_wrong_boxes_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        BoxesFile().read(data, "json")


def test_a_class_without_a_name_in_the_config_is_refused():
    data = boxes_bytes({"boxes": [0, 0, 1, 1], "class_name": "dragon"})
    with pytest.raises(ValueError, match="class 'dragon', which class_names does not name"):
        BoxesFile(class_names=("wall",)).read(data, "json")

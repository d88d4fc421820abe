import gzip
import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from tokenizers.base import Choices
from tokenizers.codes import Codes
from tokenizers.formats.formats import (
    ArrayFile,
    CodesFile,
    FileFormat,
    NumberFile,
    TextFile,
)
from tokenizers.values import Classes, Colors, Distances, Reals


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


def test_missing_is_a_stored_number_and_becomes_unknown():
    stored = np.array([[-9999, 0], [10, 20]], np.int16)
    read = ArrayFile(scale=0.5, offset=1.0, missing=-9999.0).read(npy_bytes(stored), "npy")
    np.testing.assert_array_equal(read, np.array([[np.nan, 1], [6, 11]], np.float32))
    reals = stored.astype(np.float64)
    read = ArrayFile(missing=-9999.0).read(npy_bytes(reals), "npy")
    assert read.dtype == np.float64 and np.isnan(read[0, 0]) and read[1, 1] == 20


def test_missing_and_offset_change_neither_type_nor_unit():
    millimetres = picture_bytes(np.array([[1000, 65535], [2500, 0]], np.uint16))
    read = ArrayFile(missing=65535).read(millimetres, "png")
    assert read.dtype == np.uint16
    np.testing.assert_allclose(Distances().check(read, "depth"), [[1, 0], [2.5, 0]])
    shifted = ArrayFile(missing=65535, offset=500).read(millimetres, "png")
    np.testing.assert_allclose(Distances().check(shifted, "depth"), [[1.5, 0], [3, 0.5]])
    reals = Reals().check(read, "elevation")[..., 0]
    np.testing.assert_array_equal(reals, [[1000, np.nan], [2500, 0]])
    # A number that no pixel has changes nothing at all.
    assert type(ArrayFile(missing=7).read(npy_bytes(np.ones((2, 2), np.int8)), "npy")) is np.ndarray


def test_class_maps_from_one_are_shifted_and_stay_whole():
    read = ArrayFile(offset=-1, missing=0).read(npy_bytes(np.array([[0, 1, 2]], np.uint8)), "npy")
    assert Classes(("a", "b")).check(read, "map").tolist() == [[255, 0, 1]]


def test_class_maps_are_renumbered():
    stored = picture_bytes(np.array([[0, 1, 2, 250, 254]], np.uint8))
    full = ArrayFile(values={0: 255, 1: 0, 2: 1, 250: 255, 254: 255})
    assert full.read(stored, "png").tolist() == [[255, 0, 1, 255, 255]]
    some = ArrayFile(values={250: 255, 254: 255}).read(stored, "png")
    assert some.tolist() == [[0, 1, 2, 255, 255]]
    others = ArrayFile(values={1: 0, 2: 1}, other=255).read(stored, "png")
    assert others.tolist() == [[255, 0, 1, 255, 255]]
    with pytest.raises(ValueError, match="the number 1, which `values` does not name, but gives"):
        ArrayFile(values={0: 255, 2: 1}).read(stored, "png")
    signed = npy_bytes(np.array([[-1, 7, 70_000]], np.int32))
    assert ArrayFile(values={-1: 255, 7: 0, 70_000: 1}).read(signed, "npy").tolist() == [
        [255, 0, 1]
    ]
    with pytest.raises(ValueError, match="holds float64; `values` is for whole numbers"):
        ArrayFile(values={0: 1}).read(npy_bytes(np.zeros((2, 2))), "npy")


def test_what_is_unknown_stays_so_where_class_maps_are_renumbered():
    stored = npy_bytes(np.array([[9, 1, 2]], np.uint8))
    read = ArrayFile(values={1: 0, 2: 1}, missing=9).read(stored, "npy")
    assert Classes(("a", "b"), ignore=7).check(read, "map").tolist() == [[7, 0, 1]]


def test_class_maps_in_colours_are_read_by_a_table():
    colors = np.array([[[0, 0, 0], [128, 64, 128], [0, 0, 142]]], np.uint8)
    table = {(0, 0, 0): 255, (128, 64, 128): 0, (0, 0, 142): 1}
    assert ArrayFile(colors=table).read(picture_bytes(colors), "png").tolist() == [[255, 0, 1]]
    in_order = ArrayFile(colors=((0, 0, 0), (128, 64, 128)), other=255)
    assert in_order.read(picture_bytes(colors), "png").tolist() == [[0, 1, 255]]
    with pytest.raises(ValueError, match=r"the colour \(0, 0, 142\), which `colors` does not name"):
        ArrayFile(colors=((0, 0, 0), (128, 64, 128))).read(picture_bytes(colors), "png")
    palette = Image.fromarray(colors).quantize(3)
    stream = io.BytesIO()
    palette.save(stream, "png")
    assert ArrayFile(colors=table).read(stream.getvalue(), "png").tolist() == [[255, 0, 1]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"colors": {(0, 0, 256): 1}}, "ArrayFile.colors and .* have a shade outside"),
        ({"background": (-1, 0, 0)}, "outside of 0 to 255"),
        ({"colors": {(0, 0, 0): 1}, "values": {0: 1}}, "are both given"),
        (
            {"colors": {(0, 0, 0): 1}, "bands": (0,)},
            "colors and bands are both given; colours are looked",
        ),
        ({"bands": (0, -2)}, r"ArrayFile.bands are \(0, -2\); 0 or more is allowed, and -1"),
        ({"bands": (-1, -1)}, r"ArrayFile.bands are \(-1, -1\)"),
        ({"scale": 0.0}, "ArrayFile.scale is 0 and ArrayFile.offset 0; both must be finite"),
        ({"offset": float("nan")}, "ArrayFile.offset nan"),
        ({"values": {0: 1}, "scale": 0.5}, "class indices, .* can't be scaled"),
        ({"nearest_color": True}, "ArrayFile.nearest_color is for class maps in `colors`"),
        ({"nearest_color": True, "colors": {(0, 0, 0): 1}, "other": 0}, "nothing to `other`"),
        ({"white": 0}, "ArrayFile.white is 0; it must be above 0"),
        ({"white": 1, "scale": 0.5}, "makes colours, which have no scale"),
        ({"max_pixels": 0}, "ArrayFile.max_pixels is 0; at least 1"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        ArrayFile(**knobs)


@pytest.mark.parametrize("scale", [1, 0.5])
def test_a_band_that_files_lack_is_unknown(random, scale):
    stored = random.integers(0, 255, (4, 5, 2)).astype(np.uint8)
    read = ArrayFile(bands=(1, -1, 0), scale=scale).read(npy_bytes(stored), "npy")
    found = Reals(channels=3).check(read, "bands")
    np.testing.assert_array_equal(found[..., 0], scale * stored[..., 1])
    np.testing.assert_array_equal(found[..., 2], scale * stored[..., 0])
    assert np.isnan(found[..., 1]).all()
    with pytest.raises(ValueError, match="are of pictures with more channels"):
        ArrayFile(bands=(2, -1)).read(npy_bytes(stored), "npy")


def test_bands_are_chosen_in_an_order(random):
    bands = random.integers(0, 255, (4, 5, 6), np.uint8)
    read = ArrayFile(bands=(3, 2, 1)).read(npy_bytes(bands), "npy")
    np.testing.assert_array_equal(read, bands[..., [3, 2, 1]])
    rgba = picture_bytes(random.integers(0, 256, (4, 5, 4), np.uint8))
    assert type(ArrayFile(bands=(0, 1, 2)).read(rgba, "png")) is np.ndarray
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6\); `bands` \(6,\)"):
        ArrayFile(bands=(6,)).read(npy_bytes(bands), "npy")


def test_a_picture_becomes_colours_without_a_knob():
    palette = Image.frombytes("P", (2, 1), bytes([0, 1]))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    stream = io.BytesIO()
    palette.save(stream, "png")
    read = ArrayFile().read(stream.getvalue(), "png")
    assert Colors().check(read, "rgb").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert Classes(("a", "b")).check(read, "map").tolist() == [[0, 1]]
    some = ArrayFile(missing=0).read(stream.getvalue(), "png")
    assert Classes(("a", "b")).check(some, "map").tolist() == [[255, 1]]
    assert Colors().check(some, "rgb").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_empty_arrays_are_refused():
    with pytest.raises(ValueError, match=r"holds an empty array, of shape \(0, 4\)"):
        ArrayFile().read(npy_bytes(np.zeros((0, 4))), "npy")


@pytest.mark.parametrize("shape", [(196,), (1, 196), (14, 14), (1, 14, 14)])
def test_ids_of_one_view_are_a_grid(shape):
    ids = np.arange(196, dtype=np.int16)
    grid = ids.reshape(14, 14)
    data = npy_bytes(ids.reshape(shape))
    np.testing.assert_array_equal(CodesFile(shape=(14, 14)).read(data, "npy"), grid)
    # Whoever reads them as an array has them in order, too.
    checked = Codes(200, (14, 14)).check(ArrayFile().read(data, "npy"), "tok")
    np.testing.assert_array_equal(checked, grid)


def test_ids_of_several_views_are_choices():
    ids = np.arange(10 * 196, dtype=np.int16).reshape(10, 196)
    for stored in (ids, ids.reshape(10, 14, 14)):
        read = CodesFile(shape=(14, 14)).read(npy_bytes(stored), "npy")
        assert isinstance(read, Choices) and len(read) == 10
        np.testing.assert_array_equal(np.stack(read), ids.reshape(10, 14, 14))
    with pytest.raises(ValueError, match=r"shape \(10, 195\); \(14, 14\) or \(196,\) is allowed"):
        CodesFile(shape=(14, 14)).read(npy_bytes(ids[:, 1:]), "npy")
    with pytest.raises(ValueError, match="holds float64; ids are whole"):
        CodesFile(shape=(2,)).read(npy_bytes(np.zeros(2)), "npy")
    with pytest.raises(ValueError, match=r"CodesFile\.shape is"):
        CodesFile()
    with pytest.raises(ValueError, match="several views are read by CodesFile"):
        Codes(2000, (14, 14)).check(ids, "tok")


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
    assert TextFile().read(b'["a chair"]', "json") == "a chair"
    assert TextFile(field="caption").read(b'{"caption": "a chair"}', "json") == "a chair"
    with pytest.raises(ValueError, match="has the entries text, not 'caption'"):
        TextFile(field="caption").read(b'{"text": "a chair"}', "json")
    with pytest.raises(ValueError, match="does not hold a string"):
        TextFile().read(b"[]", "json")
    with pytest.raises(ValueError, match="is a PNG picture, and no text"):
        TextFile().read(picture_bytes(np.zeros((2, 2), np.uint8)), "txt")


def test_several_captions_are_choices_and_empty_ones_do_not_count():
    two = Choices(("a chair", "a seat"))
    objects = json.dumps([{"caption": "a chair"}, {"caption": ""}, {"caption": "a seat"}]).encode()
    for data, extension in (
        (b'["a chair", " ", "a seat\\n"]', "json"),
        (objects, "json"),
        (gzip.compress(objects, mtime=0), "json.gz"),
        (b'{"caption": ["a chair", "a seat"], "width": 3}', "json"),
    ):
        read = TextFile().read(data, extension)
        assert read == two and isinstance(read, Choices)
    assert TextFile(field="text").read(b'[{"text": "a"}, {"text": "b"}]', "json") == ("a", "b")
    text = b"a chair\n\na seat\n"
    assert TextFile(lines=True).read(text, "txt") == two
    assert TextFile().read(text, "txt") == "a chair\n\na seat"
    for empty, extension in ((b" \n", "txt"), (b'["", " "]', "json"), (b'""', "json")):
        with pytest.raises(ValueError, match="holds no caption, as it is empty"):
            TextFile(lines=True).read(empty, extension)


def test_a_text_that_unpacks_to_too_much_is_refused():
    with pytest.raises(ValueError, match="unpacks to more than 32 MiB"):
        TextFile().read(gzip.compress(bytes(1 << 26)), "json.gz")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ArrayFile(), "is an HTML page, and no array"),
        (TextFile(), "is an HTML page, and no text"),
        (TextFile(field="a"), "is an HTML page, and no text"),
        (NumberFile(), "is an HTML page, and no text"),
        (CodesFile(shape=(2, 2)), "is an HTML page; ids are read from npy"),
    ],
)
@pytest.mark.parametrize("extension", ["jpg", "npy", "json", "txt"])
def test_a_file_is_told_by_its_first_bytes_and_not_by_its_name(
    given: FileFormat, message, extension
):
    with pytest.raises(ValueError, match=message):
        given.read(b"<!DOCTYPE html><html>Not found</html>", extension)
    array = np.arange(6).reshape(2, 3).astype(np.uint8)
    for data in (npy_bytes(array), picture_bytes(array), npz_bytes(a=array)):
        np.testing.assert_array_equal(ArrayFile().read(data, extension), array)


def test_numbers_are_txt_json_or_npy():
    assert NumberFile().read(b" 2.5\n", "txt") == 2.5
    assert NumberFile(field="count").read(b'{"count": 3}', "json") == 3.0
    assert NumberFile().read(npy_bytes(np.array([7], np.int16)), "npy") == 7.0
    with pytest.raises(ValueError, match="not one number"):
        NumberFile().read(npy_bytes(np.zeros(2)), "npy")
    with pytest.raises(ValueError, match="does not hold a number"):
        NumberFile().read(b'"3"', "json")


def lossy(array: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    if kind == "tiff":
        photometric = "minisblack" if array.ndim == 2 else "rgb"
        tifffile.imwrite(stream, array, compression="jpeg", photometric=photometric)
    else:
        Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_class_numbers_from_pictures_that_lost_some_are_refused(kind):
    classes = np.zeros((16, 16), np.uint8)
    classes[:, 9:] = 5
    data = lossy(classes, kind)
    for read in (ArrayFile(), ArrayFile(offset=1), ArrayFile(missing=3)):
        with pytest.raises(ValueError, match=r"compression loses some.*nearest_color to True"):
            Classes(tuple("abcdefghij")).check(read.read(data, "jpg"), "map")
    with pytest.raises(ValueError, match="compression loses some"):
        ArrayFile(values={0: 255, 5: 0}, other=1).read(data, "jpg")
    # Whoever wants other numbers is not concerned, and exact pictures are none of these.
    assert Reals().check(ArrayFile().read(data, "jpg"), "grey").shape == (16, 16, 1)
    Classes(tuple("abcdef")).check(ArrayFile().read(picture_bytes(classes), "png"), "map")
    assert type(ArrayFile().read(lossy(classes, "webp", lossless=True), "webp")) is np.ndarray


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "webp"])
def test_colours_that_compression_made_up_are_those_of_the_nearest_class(kind):
    table = {(0, 0, 0): 255, (200, 30, 30): 0, (30, 30, 200): 1}
    colors = np.zeros((32, 32, 3), np.uint8)
    colors[:16, 16:], colors[16:, :16] = (200, 30, 30), (30, 30, 200)
    data = lossy(colors, kind)
    with pytest.raises(ValueError, match=r"compression loses some.*nearest_color to True"):
        ArrayFile(colors=table, other=255).read(data, "jpg")
    read = ArrayFile(colors=table, nearest_color=True).read(data, "jpg")
    assert (
        (read[:12, 20:] == 0).all() and (read[20:, :12] == 1).all() and (read[:8, :8] == 255).all()
    )
    exact = ArrayFile(colors=table, nearest_color=True).read(picture_bytes(colors), "png")
    np.testing.assert_array_equal(exact, ArrayFile(colors=table).read(picture_bytes(colors), "png"))


@pytest.mark.parametrize(
    "stored",
    [
        np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3),
        np.linspace(0, 4095, 48).reshape(4, 4, 3).astype(np.uint16),
        np.linspace(0, 1, 16).reshape(4, 4),
    ],
)
def test_colours_of_other_types_are_told_by_the_number_that_is_white(stored):
    white = 4095 if stored.dtype == np.uint16 else 1.0
    with pytest.raises(ValueError, match="set the format's white to the number that is white"):
        Colors().check(ArrayFile().read(npy_bytes(stored), "npy"), "rgb")
    for as_rgb in (False, True):
        read = ArrayFile(white=white, as_rgb=as_rgb).read(npy_bytes(stored), "npy")
        shown = Colors().check(read, "rgb")
        assert shown[0, 0, 0] == 0 and 120 < shown.mean() < 135 and shown[-1, -1, -1] == 255
    with pytest.raises(ValueError, match=r"most of which are outside of 0 to 0.01; set white"):
        ArrayFile(white=0.01).read(npy_bytes(stored), "npy")
    planes = ArrayFile().read(npy_bytes(np.zeros((3, 8, 9), np.uint8)), "npy")
    with pytest.raises(ValueError, match=r"shape \(3, 8, 9\); .* set channels_first to True"):
        Colors().check(planes, "rgb")


def test_bands_are_not_chosen_among_palette_numbers():
    palette = picture_bytes(
        np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8), "png", "P"
    )
    with pytest.raises(ValueError, match=r"palette numbers, inks .* set as_rgb to True"):
        ArrayFile(bands=(0,)).read(palette, "png")
    colors = ArrayFile(as_rgb=True).read(palette, "png")
    chosen = ArrayFile(as_rgb=True, bands=(2, 1, 0)).read(palette, "png")
    np.testing.assert_array_equal(chosen, colors[..., ::-1])


def test_files_of_no_readable_kind_can_be_left_out():
    with pytest.raises(ValueError, match=r"is a FLAC sound, and no array.*by setting extension"):
        ArrayFile().read(b"fLaC" + bytes(40), "flac")


def test_a_caption_that_shows_nothing_is_empty():
    with pytest.raises(ValueError, match="holds no caption, as it is empty"):
        TextFile().read("\u200b\ufeff \u00a0".encode(), "txt")
    assert TextFile().read('["\u200b", "a\u200bb"]'.encode(), "json") == "a\u200bb"


def test_null_in_an_array_of_json_is_unknown():
    read = ArrayFile().read(b"[[1, null], [NaN, 2]]", "json")
    np.testing.assert_array_equal(read, [[1, np.nan], [np.nan, 2]])
    for wrong in (b'[["a", null]]', b"[[1, null], [2]]", b'[{"a": 1}]'):
        with pytest.raises(ValueError, match="does not hold an array of numbers"):
            ArrayFile().read(wrong, "json")


def test_values_of_too_many_channels_are_told_how_to_take_one():
    colors = np.zeros((6, 8, 3), np.uint8)
    for values in (Distances(), Classes(("a", "b"))):
        with pytest.raises(ValueError, match="set the format's bands to one of them"):
            values.check(colors, "x")
    with pytest.raises(ValueError, match=r"set the format's bands .* such as \(0, 1, 2\)"):
        Colors().check(np.zeros((6, 8, 4), np.uint8), "x")

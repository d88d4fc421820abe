"""Samples as users have them: paths, images, arrays of any size, one or many."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fourm.inputs.samples import prepare
from tests.fourm.inputs.test_files import COLORS, KINDS, SHORT, SIZE, npy, picture, reader_of
from tests.fourm.tiny_run import make_pictures, make_run
from tokenizers.base import Boxes, Crop, centre_crop
from tokenizers.formats.formats import ArrayFile
from tokenizers.labels import Label
from tokenizers.scalars import Scalar
from tokenizers.signals.values import Signal
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Colors, Distances, Reals

VALUES = {
    "rgb": Colors(),
    "depth": Distances(),
    "caption": Text(),
    "label": Label(("cat", "dog")),
    "count": Scalar(),
    "ecg": Signal(16, 1),
    "boxes": KINDS,
    "bands": Reals(3),
}
FORMATS = {"depth": ArrayFile(scale=0.002)}
SMALL = COLORS[:8, :8]


def given(**inputs):
    return prepare(inputs, reader_of(VALUES, FORMATS)).values


def test_a_path_a_text_that_names_a_file_and_an_image_are_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(SHORT))
    (tmp_path / "b").write_bytes(picture(SHORT))
    image = Image.open(io.BytesIO(picture(SHORT)))
    found = given(depth=[tmp_path / "a.png", str(tmp_path / "a.png"), image])["depth"]
    crop = centre_crop(SHORT.shape, SIZE)
    expected = Distances().crop(SHORT.astype(np.float32) * np.float32(0.002), crop, SIZE)
    for each in (*found, given(depth=str(tmp_path / "b"))["depth"][0]):
        assert np.array_equal(each, expected)


def test_an_image_is_turned_as_its_file_would_be(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    (tmp_path / "a.png").write_bytes(picture(COLORS, exif=exif))
    one, two = given(rgb=[tmp_path / "a.png", Image.open(tmp_path / "a.png")])["rgb"]
    assert np.array_equal(one, two)
    assert np.array_equal(one, given(rgb=[np.rot90(COLORS)])["rgb"][0])


@pytest.mark.parametrize(
    "picture_of",
    [
        lambda: SMALL,
        lambda: SMALL[None],
        lambda: [SMALL],
        lambda: (SMALL / 255).astype(np.float32),
        lambda: (SMALL / 255)[None],
        lambda: [SMALL / 255],
        lambda: Image.fromarray(SMALL),
    ],
    ids=["one", "batch", "list", "float32", "float64 batch", "list of floats", "image"],
)
def test_one_picture_however_it_is_given(picture_of):
    found = given(rgb=picture_of())["rgb"]
    assert len(found) == 1 and np.array_equal(found[0], SMALL) and found[0].dtype == np.uint8


def test_arrays_are_in_the_modality_s_units_and_of_any_size():
    metres = np.linspace(1, 5, 12 * 20, dtype=np.float64).reshape(12, 20)
    found = given(depth=metres)["depth"]
    expected = Distances().crop(metres.astype(np.float32), centre_crop((12, 20), SIZE), SIZE)
    assert np.array_equal(found[0], expected)
    both = given(depth=np.stack([metres, metres + 1]))["depth"]
    assert len(both) == 2 and np.array_equal(both[0], expected)


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("caption", "red", 1),
        ("caption", ["red", "blue"], 2),
        ("label", "dog", 1),
        ("label", np.array([0, 1, 1]), 3),
        ("count", 2.5, 1),
        ("count", np.float32(2.5), 1),
        ("count", np.array([1.0, 2.0]), 2),
        ("ecg", np.zeros((16, 1)), 1),
        ("ecg", np.zeros((3, 16)), 3),
        ("bands", np.zeros((8, 8, 3), np.float32), 1),
        ("bands", np.zeros((5, 8, 8, 3), np.float32), 5),
        ("depth", np.ones((8, 8)), 1),
        ("depth", np.ones((3, 8, 8)), 3),
        ("boxes", Boxes(np.zeros((0, 4)), np.zeros(0, int)), 1),
    ],
)
def test_one_sample_and_several_are_told_apart(name, value, count):
    assert len(given(**{name: value})[name]) == count


def test_unknown_numbers_stay_unknown():
    masked = np.ma.MaskedArray(np.full((3, 12, 20), 2000, np.uint16), False)
    masked[1] = np.ma.masked
    found = given(depth=masked)["depth"]
    assert [each.max() for each in found] == [2, 0, 2]


def test_what_is_told_of_a_picture_is_cut_with_it():
    boxes = Boxes(np.array([[0.0, 0.0, 0.5, 1.0]], np.float32), np.array([0]))
    found = given(rgb=[COLORS, None], boxes=[boxes, boxes], caption=["a", "b"])
    crop = centre_crop((12, 20), SIZE)
    assert crop == Crop(0.0, 0.2, 1.0, 0.6, False)
    assert np.allclose(found["boxes"][0].corners, [[0, 0, 0.5, 1]])
    assert np.array_equal(found["boxes"][1].corners, boxes.corners)
    assert found["rgb"][1] is None and found["caption"] == ["a", "b"]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"rgb": np.full((8, 8, 3), 200.0)}, "rgb is float64 from 200 to 200; colours are uint8"),
        ({"rgb": np.full((8, 8, 3), np.nan)}, "rgb is float64 from nan to nan; colours are"),
        ({"rgb": [np.full((8, 8, 3), -0.1)]}, "rgb is float64 from -0.1 to -0.1; colours are"),
        ({"rgb": ["photo"]}, "rgb is 'photo', and there is no such file; give the path of one"),
        ({"rgb": "~nobody/x"}, "rgb is '~nobody/x', and there is no such file"),
        ({"rgb": "photo.jpg"}, r"There is no file photo\.jpg; give one that exists"),
        ({"rgb": "x" * 5000}, "rgb is 'x+', and there is no such file"),
        ({"rgb": Image.new("CMYK", (8, 8))}, "an image of the mode CMYK; 1, L, LA, P, RGB"),
        ({"label": ["cow"]}, "label is 'cow'; allowed are cat, dog"),
        ({"caption": ["", "a"]}, "caption is an empty text"),
        ({"caption": {"a", "b"}}, "caption is a set; give a list or an array"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_said_in_one_sentence(inputs, told):
    with pytest.raises(ValueError, match=told):
        given(**inputs)


@pytest.mark.slow
def test_a_run_takes_all_of_it(tmp_path):
    run = make_run()
    wide = make_pictures(2)[:, [*range(8), *range(8)]].swapaxes(1, 2)
    Image.fromarray(wide[0]).save(tmp_path / "a.png")
    made = run.generate({"rgb": str(tmp_path / "a.png"), "caption": "a red cube"}, "depth")
    same = run.generate({"rgb": wide[0] / 255, "caption": ["a red cube"]}, ["depth"])
    assert np.array_equal(made.ids["depth"], same.ids["depth"]) and len(made.ids["depth"]) == 1
    assert run.embed({"rgb": [tmp_path / "a.png", wide[1]]}).shape[0] == 2
    (tmp_path / "d.npy").write_bytes(npy(made.values["depth"][0]))
    formats = {"depth": ArrayFile(scale=0.5)}
    scaled, plain = replace(run, formats=formats), made.values["depth"][0]
    for inputs_are, value in (("values", plain), ("stored", plain * np.float32(0.5))):
        read = scaled.generate({"depth": tmp_path / "d.npy"}, "count", inputs_are=inputs_are)
        assert np.array_equal(
            read.ids["count"], run.generate({"depth": value}, "count").ids["count"]
        )
    with pytest.raises(ValueError, match="inputs_are is 'value'; auto, stored, values are allowed"):
        run.generate({"caption": "a"}, "count", inputs_are="value")
    tokens = run.tokenize({"depth": tmp_path / "d.npy"})["depth"]
    assert np.array_equal(tokens, run.tokenize({"depth": made.values["depth"]})["depth"])

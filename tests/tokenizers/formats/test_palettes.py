"""Files of palettes."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tokenizers.formats.formats import format_for
from tokenizers.formats.palettes import PaletteFile
from tokenizers.palettes import Palette

TWO = [[255, 0, 0, 0.75], [0, 0, 255, 0.25]]


def test_lists_arrays_and_pictures_are_palettes():
    values = Palette()
    stored = io.BytesIO()
    np.save(stored, np.array(TWO))
    for data, extension in ((json.dumps(TWO).encode(), "json"), (stored.getvalue(), "npy")):
        found = values.check(PaletteFile().read(data, extension), "palette")
        np.testing.assert_array_equal(found, np.float32(TWO))
    picture = io.BytesIO()
    pixels = np.full((4, 8, 3), (255, 0, 0), np.uint8)
    pixels[:, 6:] = 0, 0, 255
    Image.fromarray(pixels).save(picture, "png")
    found = values.of(values.check(PaletteFile().read(picture.getvalue(), "png"), "palette"))
    np.testing.assert_allclose(found, TWO, atol=1e-4)


def test_palettes_by_their_number_of_colours_are_read():
    by_number = [{str(n): np.arange(3 * n).reshape(n, 3).tolist() for n in range(1, 8)}]
    found = PaletteFile(colors=2).read(json.dumps(by_number).encode(), "json")
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match=r"has the entries 1, 2, .*, not '9'"):
        PaletteFile(colors=9).read(json.dumps(by_number).encode(), "json")
    with pytest.raises(ValueError, match="does not hold a list of colours"):
        PaletteFile().read(b'{"a": 3}', "json")


def test_they_are_where_their_pictures_are():
    assert format_for("hues", Palette(colors=3)) == PaletteFile("hues", colors=3)
    assert format_for("hues", Palette(computed_from="rgb")) == PaletteFile("rgb")

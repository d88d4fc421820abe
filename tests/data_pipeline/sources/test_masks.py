"""Regions of pictures, against slow versions of themselves."""

import numpy as np
import pytest

from data_pipeline.sources.masks import class_map, region


def lengths_of(mask: np.ndarray) -> list[int]:
    """Returns the lengths of runs in columns, the first of pixels outside."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    return np.diff([0, *changes, len(flat)]).tolist()


def compressed(lengths: list[int]) -> str:
    """Returns lengths as maskApi.c, rleToString, writes them."""
    text = ""
    for place, length in enumerate(lengths):
        value, more = length - (lengths[place - 2] if place > 2 else 0), True
        while more:
            code = value & 31
            value >>= 5
            more = value != -1 if code & 16 else value != 0
            text += chr((code | 32 if more else code) + 48)
    return text


def test_runs_are_read_as_numbers_and_as_strings():
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(1, 90, 2).tolist()
        mask = random.random((height, width)) < random.random()
        mask[: height // 2] = random.random() < 0.5
        lengths = lengths_of(mask)
        for counts in (lengths, compressed(lengths)):
            read = region({"size": [height, width], "counts": counts}, height, width)
            np.testing.assert_array_equal(read, mask)


def test_an_outline_covers_the_pixels_whose_centre_is_inside():
    random = np.random.default_rng(1)
    for _ in range(10):
        height, width = random.integers(5, 30, 2).tolist()
        points = random.uniform(-3, 33, (random.integers(3, 9), 2))
        read = region([points.ravel().tolist()], height, width)
        for row in range(height):
            for column in range(width):
                x, y = column + 0.5, row + 0.5
                inside = False
                for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
                    if (ay > y) != (by > y) and x >= ax + (y - ay) * (bx - ax) / (by - ay):
                        inside = not inside
                assert read[row, column] == inside


def test_outlines_add_up_and_whole_pixels_are_exact():
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(region([square], 5, 6), expected)
    np.testing.assert_array_equal(region([square, square], 5, 6), expected)
    expected[4, 5] = True
    np.testing.assert_array_equal(region([square, [5, 4, 6, 4, 6, 5, 5, 5]], 5, 6), expected)
    assert not region([[7, 7, 9, 7, 9, 9]], 5, 6).any()


def test_small_regions_lie_on_large_ones():
    small, large = [[1, 1, 2, 1, 2, 2, 1, 2]], [[0, 0, 3, 0, 3, 3, 0, 3]]
    for regions in ([(0, small), (1, large)], [(1, large), (0, small)]):
        classes = class_map(regions, 3, 4)
        assert classes.tolist() == [[2, 2, 2, 0], [2, 1, 2, 0], [2, 2, 2, 0]]
    assert not class_map([], 3, 4).any()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"size": [3, 2], "counts": [6]}, r"runs of pixels for a picture of \[3, 2\], not"),
        ({"size": [2, 3], "counts": [5]}, "do not add up to 2 x 3"),
        ({"size": [2, 3], "counts": [7, -1]}, "do not add up to 2 x 3"),
        ({"size": [2, 3], "counts": "é"}, "damaged string"),
        ({"size": [2, 3], "counts": "o" * 40}, "damaged string"),
        ({"size": [2, 3], "counts": None}, "neither whole numbers nor a string"),
        ([[1, 2, 3, 4]], r"is not \[x, y"),
        ([[1, 2, 3, 4, float("nan"), 5]], "no number"),
        ("square", "neither outlines nor runs"),
    ],
)
def test_what_is_no_region_is_refused(stored, message):
    with pytest.raises(ValueError, match=message):
        region(stored, 2, 3)


def test_pictures_without_end_are_not_drawn():
    with pytest.raises(ValueError, match="picture of 1000000 x 1000000 pixels"):
        region([], 10**6, 10**6)

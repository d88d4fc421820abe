"""Files of points and polygons."""

import json

import numpy as np
import pytest

from tokenizers.base import Instances, Mended
from tokenizers.formats.formats import format_for
from tokenizers.formats.instances import InstancesFile
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons

NAMES = ("cat", "dog")
OUTLINES = InstancesFile(class_names=NAMES)
CLICKS = InstancesFile(class_names=NAMES, outlines=False)
TRIANGLE = [[0.25, 0.5], [0.75, 0.5], [0.25, 1.0]]


def read(file: InstancesFile, content, extension: str = "json") -> Instances | Mended:
    text = content if isinstance(content, str) else json.dumps(content)
    return file.read(text.encode(), extension)


@pytest.mark.parametrize(
    ("content", "extension"),
    [
        ({"instances": [{"points": TRIANGLE, "class_name": "dog"}]}, "json"),
        ({"instances": [{"points": TRIANGLE, "class_id": 1}]}, "json"),
        ("1 0.25 0.5 0.75 0.5 0.25 1.0\n\n", "txt"),
        (
            {
                "shapes": [
                    {"label": "dog", "shape_type": "polygon", "points": [[1, 4], [3, 4], [1, 8]]}
                ],
                "imageWidth": 4,
                "imageHeight": 8,
            },
            "json",
        ),
    ],
)
def test_outlines_are_read_from_three_layouts(content, extension):
    found = read(OUTLINES, content, extension)
    assert isinstance(found, Instances)
    np.testing.assert_allclose(found.points, TRIANGLE)
    assert found.classes.tolist() == [1] and found.lengths.tolist() == [3]


def test_rectangles_have_four_corners_and_points_one():
    box = {"label": "cat", "shape_type": "rectangle", "points": [[2, 6], [1, 2]]}
    click = {"label": "dog", "shape_type": "point", "points": [[2, 4]]}
    sizes = {"imageWidth": 4, "imageHeight": 8}
    found = read(OUTLINES, {"shapes": [box]} | sizes)
    assert found.points.min(0).tolist() == [0.25, 0.25] and found.lengths.tolist() == [4]
    found = read(CLICKS, {"shapes": [click]} | sizes)
    assert found.points.tolist() == [[0.5, 0.5]] and found.classes.tolist() == [1]


def test_nothing_is_an_empty_list():
    assert read(OUTLINES, {"instances": []}).parts() == []
    assert read(OUTLINES, "", "txt").parts() == []


def test_what_lies_outside_is_cut_off_or_unknown_and_told():
    over = [[0.5, 0.5], [1.05, 0.5], [0.5, 1.0]]
    found = read(OUTLINES, {"instances": [{"points": over, "class_id": 0}]})
    assert found.how == "outlines cut at the picture's edge" and found.value.points.max() == 1
    points = [{"points": [[0.5, 1.2], [0.1, 0.1], None], "class_id": 0}]
    found = read(CLICKS, {"instances": points})
    assert found.how == "points outside left out"
    assert np.isnan(found.value.points[[0, 2]]).all()
    found = read(CLICKS, {"instances": [{"points": [None], "class_id": 0}]})
    assert found.how == "things without a point left out" and not len(found.value.classes)
    flat = {"instances": [{"points": [[0, 0], [0, 0.5], [0, 1]], "class_id": 0}]}
    assert read(OUTLINES, flat).how == "outlines without area left out"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"instances": [{"points": [[100, 200], [1, 1], [2, 3]], "class_id": 0}]}, r"set unit"),
        ({"instances": [{"points": TRIANGLE, "class_name": "cow"}]}, "has the class 'cow'"),
        ({"instances": [{"points": [[1, 2, 3]], "class_id": 0}]}, "no pairs of finite numbers"),
        ({"instances": [{"points": [["a", 2]], "class_id": 0}]}, "no pairs of numbers"),
        ({"instances": [{"points": [], "class_id": 0}]}, "without a list of `points`"),
        ({"instances": 3}, "has no list of `instances`"),
        ({"shapes": [{"label": "cat", "shape_type": "circle", "points": [[1, 2]]}]}, "'circle'"),
        (
            {"shapes": [{"label": "cat", "shape_type": "polygon", "points": [[1, 2]]}]},
            "not the size of the picture, such as image_width",
        ),
        ("1 0.5 0.5 0.1", "has the line 1 '1 0.5 0.5 0.1'; CLASS X Y X Y"),
        ("1 0.5 0.5 0.1 0.2", "has 2 corners in line 1; at least 3 are an outline"),
    ],
)
def test_what_can_not_be_read_gets_one_sentence(content, message):
    with pytest.raises(ValueError, match=message):
        read(OUTLINES, content, "txt" if isinstance(content, str) else "json")


def test_kinds_are_read_as_they_are():
    assert format_for("parts", Polygons(NAMES)) == InstancesFile("parts", class_names=NAMES)
    assert format_for("clicks", Points()) == InstancesFile(
        "clicks", class_names=("point",), outlines=False
    )


def test_lines_that_may_be_boxes_with_keypoints_are_refused_without_a_word_of_the_user():
    pose = "0 0.5 0.5 0.4 0.4 0.5 0.4 0.6 0.5\n"
    with pytest.raises(ValueError, match=r"8 numbers .* set long_lines to \"polygons\""):
        read(OUTLINES, pose, "txt")
    known = InstancesFile(class_names=NAMES, long_lines="polygons")
    assert read(known, pose, "txt").lengths.tolist() == [4]

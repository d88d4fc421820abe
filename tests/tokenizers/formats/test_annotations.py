import json

import numpy as np
import pytest

from tokenizers.base import Boxes, Mended
from tokenizers.formats.formats import BoxesFile


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
        (
            boxes_bytes({"boxes": [0, 0, 64, 64], "class_id": 1}),
            r"\[0, 0, 64, 64\].*xyxy in fractions",
        ),
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


def corners_of(read: Boxes | Mended) -> np.ndarray:
    assert isinstance(read, Boxes)
    return read.corners


@pytest.mark.parametrize(
    ("corners", "numbers"),
    [
        ("xyxy", [10, 20, 50, 60]),
        ("xywh", [10, 20, 40, 40]),
        ("cxcywh", [30, 40, 40, 40]),
    ],
)
def test_boxes_in_pixels_become_fractions(corners, numbers):
    content = {"image_width": 100, "image_height": 80, "instances": [{"bbox": numbers}]}
    content["instances"][0]["class_id"] = 0
    pixels = BoxesFile(unit="pixels", corners=corners)
    read = corners_of(pixels.read(json.dumps(content).encode(), "json"))
    np.testing.assert_allclose(read, [[0.1, 0.25, 0.5, 0.75]])
    del content["image_width"]
    with pytest.raises(ValueError, match="boxes in pixels and not the size of the picture"):
        pixels.read(json.dumps(content).encode(), "json")


def test_boxes_slightly_outside_are_cut_and_said():
    data = boxes_bytes({"boxes": [-0.02, 0.5, 0.5, 1.05], "class_id": 0})
    read = BoxesFile().read(data, "json")
    assert isinstance(read, Mended) and read.how == "boxes cut at the picture's edge"
    np.testing.assert_allclose(read.value.corners, [[0, 0.5, 0.5, 1]])
    rounded = boxes_bytes({"boxes": [-0.0001, 0.5, 0.5, 1.0002], "class_id": 0})
    np.testing.assert_allclose(corners_of(BoxesFile().read(rounded, "json")), [[0, 0.5, 0.5, 1]])
    with pytest.raises(ValueError, match="lies outside of the picture"):
        BoxesFile().read(boxes_bytes({"boxes": [1.02, 0, 1.08, 1], "class_id": 0}), "json")


def test_yolo_lines_are_centres_and_sizes():
    data = b"1 0.5 0.5 0.2 0.4\n\n0 0.25 0.25 0.5 0.5 0.9\n"
    boxes = BoxesFile(class_names=("wall", "chair")).read(data, "txt")
    np.testing.assert_allclose(corners_of(boxes), [[0.4, 0.3, 0.6, 0.7], [0, 0, 0.5, 0.5]])
    assert boxes.classes.tolist() == [1, 0]
    assert len(BoxesFile(minimum_score=0.95).read(data, "txt").classes) == 1
    polygon = b"0 0.1 0.2 0.5 0.2 0.3 0.6"
    np.testing.assert_allclose(corners_of(BoxesFile().read(polygon, "txt")), [[0.1, 0.2, 0.5, 0.6]])
    assert len(BoxesFile().read(b"", "txt").classes) == 0


VOC = """<?xml version="1.0"?>
<annotation><size><width>100</width><height>80</height><depth>3</depth></size>
<object><name>chair</name><bndbox><xmin>{xmin}</xmin><ymin>20</ymin><xmax>50</xmax>
<ymax>60</ymax></bndbox></object></annotation>"""


def test_voc_boxes_are_pixels():
    names = BoxesFile(class_names=("wall", "chair"))
    boxes = names.read(VOC.format(xmin=10).encode(), "xml")
    np.testing.assert_allclose(corners_of(boxes), [[0.1, 0.25, 0.5, 0.75]])
    assert boxes.classes.tolist() == [1]
    original = BoxesFile(class_names=("wall", "chair"), first_pixel=1)
    read = corners_of(original.read(VOC.format(xmin=11).encode(), "xml"))
    np.testing.assert_allclose(read, [[0.1, 19 / 80, 0.5, 0.75]])
    assert isinstance(names.read(VOC.format(xmin=-2).encode(), "xml"), Mended)
    none = b"<annotation><size><width>9</width><height>9</height></size></annotation>"
    assert len(names.read(none, "xml").classes) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"-1 0.5 0.5 0.2 0.4", "class number -1; 0 to 1 are allowed"),
        (b"2 0.5 0.5 0.2 0.4", "class number 2; 0 to 1 are allowed"),
        (b"0 0.5 0.5 0.2", "3 numbers behind the class in line 1"),
        (b"chair 0.5 0.5 0.2 0.1", "the line 1 'chair 0.5"),
        (b"0 0.5 nan 0.2 0.1", "not finite"),
        (b"0 0.5 0.5 -0.2 0.1", r"\[0.5, 0.5, -0.2, 0.1\], which is not cxcywh"),
        (VOC.format(xmin="x").encode(), "an <object> without <name>, or without <bndbox>"),
        (VOC.replace("chair", "cow").format(xmin=1).encode(), "class 'cow', which class_names"),
        (VOC.replace("100", "0").format(xmin=1).encode(), "not the size of the picture"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", "declares a document type"),
        (b"<annotation>", "is no XML"),
        (b"<svg></svg>", "root <svg>, and no <annotation>"),
        (boxes_bytes({"boxes": [0, 0, 1, 1], "class_id": -1}), "class number -1"),
        (boxes_bytes({"boxes": [0, 0, 1, 1], "class_id": 0.5}), "a number whole"),
        (boxes_bytes({"boxes": [0, 0, 1], "class_id": 0}), "four numbers are a box"),
        (boxes_bytes({"boxes": "abcd", "class_id": 0}), "four numbers are a box"),
        (boxes_bytes({"boxes": [0, 0, 1, 1], "class_id": 0, "score": "high"}), "is no number"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        BoxesFile(class_names=("wall", "chair")).read(data, "txt")


POSE = "0 0.5 0.5 0.4 0.6 0.45 0.4 2 0.55 0.4 1 0 0 0 0.5 0.6 2\n"
FLAT_POSE = "0 0.5 0.5 0.4 0.6 0.45 0.4 0.55 0.4 0.72 0.6\n"


@pytest.mark.parametrize("data", [POSE, POSE * 2, FLAT_POSE])
def test_keypoints_behind_a_box_are_no_polygon(data):
    with pytest.raises(ValueError, match="may be polygons, or boxes with keypoints; set long_lin"):
        BoxesFile().read(data.encode(), "txt")
    boxes = BoxesFile(long_lines="keypoints").read(data.encode(), "txt")
    np.testing.assert_allclose(corners_of(boxes)[0], [0.3, 0.2, 0.7, 0.8], atol=1e-6)


def test_lines_that_can_be_nothing_but_polygons_are_boxed():
    far = b"0 0.1 0.2 0.5 0.2 0.3 0.6 0.9 0.9"
    np.testing.assert_allclose(corners_of(BoxesFile().read(far, "txt")), [[0.1, 0.2, 0.9, 0.9]])
    # Keypoints are the same number in every line.
    several = FLAT_POSE.encode() + b"0 0.5 0.5 0.6 0.5 0.5 0.6\n"
    assert len(corners_of(BoxesFile().read(several, "txt"))) == 2
    said = BoxesFile(long_lines="polygons").read(FLAT_POSE.encode(), "txt")
    np.testing.assert_allclose(corners_of(said), [[0.4, 0.4, 0.72, 0.6]])


def test_xml_is_read_in_the_encoding_that_it_declares():
    text = VOC.replace("chair", "Bürostuhl").format(xmin=10)
    names = BoxesFile(class_names=("Bürostuhl",))
    for encoding in ("iso-8859-1", "windows-1252", "utf-8", "utf-16"):
        stored = text.replace('"1.0"?', f'"1.0" encoding="{encoding}"?').encode(encoding)
        assert len(corners_of(names.read(stored, "xml"))) == 1
    with pytest.raises(ValueError, match="is XML of another encoding than UTF-8"):
        names.read(text.encode("latin-1"), "xml")


def test_fractions_that_are_said_to_be_pixels_are_refused():
    names = BoxesFile(class_names=("chair",))
    text = VOC.format(xmin=0.1).replace("20", "0.2").replace("50", "0.5").replace("60", "0.7")
    with pytest.raises(ValueError, match="no box of more than a pixel; if these are fractions"):
        names.read(text.encode(), "xml")


def test_scores_that_are_no_shares_are_refused_where_they_count():
    data = b"0 0.5 0.5 0.2 0.4 17\n"  # The number of a track, say.
    assert len(corners_of(BoxesFile().read(data, "txt"))) == 1
    with pytest.raises(ValueError, match="score 17, and minimum_score is of those from 0 to 1"):
        BoxesFile(minimum_score=0.5).read(data, "txt")

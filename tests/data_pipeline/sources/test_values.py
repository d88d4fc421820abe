"""Values as features and columns hold them."""

import numpy as np
import pytest

from data_pipeline.sources.source import METADATA, NOTES
from data_pipeline.sources.values import boxes_of, class_number, class_text, plain_value, put
from tokenizers.base import Boxes, Choices, Mended
from tokenizers.formats.formats import BoxesFile


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (b"caf\xc3\xa9", "café"),
        (np.int64(3), 3),
        (np.array(b"x", object), "x"),
        ([], None),
        ([None, None], None),
        (np.zeros(0, np.float32), None),
        (["one"], "one"),
        (["", " "], ""),
    ],
)
def test_values_are_plain_ones(given, value):
    assert plain_value(given) == value


def test_several_texts_are_choices_and_several_numbers_an_array():
    texts = plain_value(np.array([b"a dog", b"a puppy"], object))
    assert isinstance(texts, Choices) and texts == ("a dog", "a puppy")
    assert plain_value([[1, 2], [3, 4]]).shape == (2, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", 1], "texts and other things"),
        ([{"a": 1}], "neither texts nor numbers"),
        ([[1], [2, 3]], "rows have different lengths"),
        ({"a": 1}, "is a dict; texts, numbers"),
    ],
)
def test_what_is_no_value_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        plain_value(given)


def test_no_number_becomes_a_class_that_it_does_not_name():
    assert class_number(-1, "ab") is None and class_number(None, "ab") is None
    assert class_text([-1], "ab") is None
    for wrong in (-2, 2):
        with pytest.raises(ValueError, match=f"class number {wrong}; 0 to 1 are classes"):
            class_number(wrong, "ab")


def test_boxes_are_cut_at_the_edge_and_those_of_no_class_left_out():
    corners = [[-0.02, 0.1, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]]
    mended = boxes_of(corners, [0, -1], None, BoxesFile())
    assert isinstance(mended, Mended)
    assert mended.how == "boxes cut at the picture's edge, boxes of no class left out"
    np.testing.assert_allclose(mended.value.corners, [[0, 0.1, 0.5, 0.5]])
    assert isinstance(boxes_of(corners[1:], ["b"], None, BoxesFile(class_names=("a", "b"))), Boxes)
    assert isinstance(boxes_of([], [], None, BoxesFile()), Boxes)


@pytest.mark.parametrize(
    ("numbers", "labels", "message"),
    [
        ([[0.0, 0.0, 9.0, 9.0]], [], "has 1 boxes and 0 classes"),
        ([[0.1, 0.1, 0.5, 0.5]], [0], "no box of more than a pixel; if these are fractions"),
        ([[5.0, 5.0, 400.0, 9.0]], [0], "which is not xyxy in pixels within the picture"),
        ([[9.0, 5.0, 4.0, 9.0]], [0], "which is not xyxy in pixels within the picture"),
        ([[9.0, float("nan"), 4.0, 9.0]], [0], "four numbers are a box"),
    ],
)
def test_boxes_that_can_not_be_meant_are_refused(numbers, labels, message):
    with pytest.raises(ValueError, match=message):
        boxes_of(numbers, labels, (50, 100), BoxesFile(corners="xyxy", unit="pixels"))


def test_what_can_not_be_read_is_noted():
    sample = {}
    put(sample, "caption", lambda: b"\xff".decode(), "7", "a.parquet")
    put(sample, "label", lambda: class_number(5, "ab"), "7", fact=True)
    put(sample, "count", lambda: None, "7")
    put(sample, "place", lambda: 3, "7", fact=True)
    assert set(sample) == {NOTES, METADATA} and sample[METADATA] == {"place": 3}
    first, second = sample[NOTES]
    assert (first.kind, first.modality, first.key, first.file) == (
        *("unreadable", "caption", "7"),
        "a.parquet",
    )
    assert "utf-8" in first.reason and second.reason.startswith("label is the class")
    assert first.leaves_out and not second.leaves_out

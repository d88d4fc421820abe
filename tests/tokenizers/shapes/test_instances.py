"""Points and polygons: what they mean, and how they become tokens."""

from dataclasses import replace

import numpy as np
import pytest

from tokenizers.base import PADDING, Crop, Instances
from tokenizers.modality import load_tokenizer, tokenizer_for
from tokenizers.shapes.instance_tokenizer import InstanceTokenizerConfig
from tokenizers.shapes.outlines import area_of
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons

CELLS = Points(class_names=("red", "white"), max_instances=4)
POSE = Points(("person",), names=("nose", "left_eye", "right_eye"), skeleton=((0, 1), (0, 2)))
ROOMS = Polygons(("house", "garden"), max_instances=3, max_corners=6)
SQUARE = np.array([[0.2, 0.2], [0.6, 0.2], [0.6, 0.6], [0.2, 0.6]])
NONE = Instances.of([], [])


def cells(seed: int, count: int = 3) -> Instances:
    rng = np.random.default_rng(seed)
    return Instances.of(rng.uniform(0.1, 0.9, (count, 1, 2)), rng.integers(0, 2, count))


def rooms(seed: int, count: int = 2) -> Instances:
    rng = np.random.default_rng(seed)
    corners = SQUARE + rng.uniform(-0.2, 0.4, (count, 1, 2))
    return Instances.of(corners, rng.integers(0, 2, count))


def pose(*points) -> Instances:
    return Instances.of([points], [0])


def test_things_are_lists_of_points_with_a_class():
    checked = CELLS.check(cells(0), "cells")
    assert checked.points.dtype == np.float32 and checked.lengths.tolist() == [1, 1, 1]
    assert [len(part) for part in checked.parts()] == [1, 1, 1]
    mapping = {"points": [[0.1, 0.2], [None, None], [0.3, 0.4]], "lengths": [3], "classes": [0]}
    found = POSE.check(mapping, "pose")
    assert np.isnan(found.points[1]).all() and found.points[2].tolist() == pytest.approx([0.3, 0.4])
    assert CELLS.check(NONE, "cells").parts() == []


@pytest.mark.parametrize(
    ("values", "value", "message"),
    [
        (CELLS, 3, r"x is a int; Instances\(points, lengths, classes\) is allowed"),
        (CELLS, Instances.of([[0.1, 1.2]], [0]), "x has points between 0.1 and 1.2; fractions"),
        (CELLS, Instances.of([[0.1, 0.2]], [2]), r"classes between 2 and 2; 0 to 1 is .*\(Points"),
        (CELLS, Instances.of([SQUARE], [0]), r"a thing of 4 points; 1 are allowed .*number 0"),
        (POSE, Instances.of([np.full((3, 2), np.nan)], [0]), "a thing of which no point is known"),
        (ROOMS, Instances.of([SQUARE[:2]], [0]), "an outline of 2 corners; at least 3 are allowed"),
        (ROOMS, Instances.of([SQUARE * np.nan], [0]), "a corner that is not known"),
        (CELLS, Instances(np.ones((3, 2)), np.array([1, 1]), np.array([0, 0])), "add up to 2"),
        (CELLS, Instances(np.ones((2, 3)), np.array([1, 1]), np.array([0, 0])), r"\(2, 3\)"),
        (CELLS, Instances(np.ones((1, 2)), np.ones(1), np.array([0])), "of dtype float64"),
    ],
)
def test_what_are_no_such_things_gets_one_sentence(values, value, message):
    with pytest.raises(ValueError, match=message):
        values.check(value, "x")


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_points_follow_a_picture(flip, turns):
    picture = np.zeros((40, 40), int)
    picture[12, 27], picture[30, 5] = 1, 2
    value = Instances.of([[(27.5 / 40, 12.5 / 40)], [(5.5 / 40, 30.5 / 40)]], [0, 1])
    crop = Crop(0.25, 0.5, 0.5, 0.5, flip=flip, quarter_turns=turns)
    seen = picture[10:30, 20:40]
    seen = np.rot90(seen[:, ::-1] if flip else seen, turns)
    found = CELLS.crop(value, crop, (20, 20))
    assert found.classes.tolist() == [0], "the other one is not in the window"
    (y,), (x,) = np.nonzero(seen)
    np.testing.assert_allclose(found.points[0] * 20, [x + 0.5, y + 0.5], atol=1e-4)


def test_a_mirror_swaps_left_and_right_and_what_leaves_is_unknown():
    value = pose((0.5, 0.5), (0.4, 0.4), (0.9, 0.4))
    seen = POSE.crop(value, Crop(0.0, 0.0, 1.0, 0.8, flip=True), (8, 8))
    np.testing.assert_allclose(seen.points, [[0.375, 0.5], [np.nan, np.nan], [0.5, 0.4]], atol=1e-6)
    assert POSE.crop(value, Crop(0.9, 0.9, 0.1, 0.1, flip=False), (8, 8)).parts() == []


def test_polygons_are_cut_at_the_edge_or_left_out():
    value = Instances.of([SQUARE, SQUARE + 0.35], [0, 1])
    seen = ROOMS.crop(value, Crop(0.0, 0.0, 0.5, 0.5, flip=True), (8, 8))
    assert seen.classes.tolist() == [0], "of the other one too little is left"
    assert area_of(seen.points) == pytest.approx(0.36)
    np.testing.assert_allclose(
        [seen.points.min(0), seen.points.max(0)], [[0, 0.4], [0.6, 1]], atol=1e-6
    )


@pytest.mark.parametrize(("values", "make"), [(CELLS, cells), (ROOMS, rooms)])
def test_the_truth_scores_best_and_a_constant_list_is_the_floor(values, make):
    truth, training = [make(seed) for seed in range(8)], [make(seed) for seed in range(20, 50)]
    best, floor = values.score(truth, truth), values.floor(training, truth)
    nothing = values.score([NONE] * 8, truth)
    for name, better in values.metrics.items():
        sign = 1 if better == "higher" else -1
        assert sign * nothing[name] <= sign * floor[name] < sign * best[name]
    assert values.score([NONE], [NONE]) == values.score(truth, truth)


def test_distances_are_those_of_the_best_pairs_of_a_class():
    truth = Instances.of([[(0.1, 0.1)], [(0.5, 0.5)]], [0, 0])
    found = Instances.of([[(0.5, 0.54)], [(0.2, 0.1)], [(0.1, 0.1)]], [0, 0, 1])
    # 0.04 and 0.1, and one of another class, which has no partner: far.
    scores = CELLS.score([found], [truth])
    assert scores["distance"] == pytest.approx((0.04 + 0.1 + 0.25) / 3)
    assert scores["f1_near"] == pytest.approx(2 * 1 / 5)
    unsaid = pose((0.5, 0.5), (np.nan, np.nan), (0.9, 0.4))
    known = pose((0.5, 0.5), (0.4, 0.4), (np.nan, np.nan))
    assert POSE.score([unsaid], [known])["distance"] == pytest.approx(0.25 / 2)


def test_regions_are_compared_by_their_pixels():
    half = SQUARE * [1, 0.5] + [0, 0.1]
    scores = ROOMS.score([Instances.of([half], [0])], [Instances.of([SQUARE], [0])])
    assert scores["mask_iou"] == pytest.approx(0.5, abs=0.03)
    scores = ROOMS.score([Instances.of([SQUARE, SQUARE], [0, 1])], [Instances.of([SQUARE], [0])])
    assert scores == {"mask_iou": 0.5, "f1_iou": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("values", "value"),
    [
        *((CELLS, cells(0)), (ROOMS, rooms(0)), (CELLS, NONE)),
        (POSE, pose((0.5, 0.5), (np.nan, np.nan), (0.9, 0.4))),
    ],
)
def test_things_become_a_sequence_and_come_back(values, value, tmp_path):
    tokenizer = InstanceTokenizerConfig(num_bins=201, num_sentinels=4).fit(values, [value])
    ids = tokenizer.encode([value, NONE])
    assert ids.shape == (2, *tokenizer.token_shape) and ids.max() < tokenizer.vocab_size
    assert ids[1].tolist() == [0] + [PADDING] * (len(ids[1]) - 1)
    back, nothing = tokenizer.decode(ids)
    assert back.classes.tolist() == value.classes.tolist() and nothing.parts() == []
    np.testing.assert_allclose(
        np.sort(back.points, axis=0), np.sort(value.points, axis=0), atol=0.5 / 200 + 1e-6
    )
    assert (
        values.score([values.check(back, "x")], [value])[
            "f1_near" if values is not ROOMS else "f1_iou"
        ]
        == 1
    )
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.values == values
    np.testing.assert_array_equal(again.encode([value, NONE]), ids)


def test_an_unknown_point_is_one_id_and_an_outline_has_as_many_corners_as_fit():
    tokenizer = tokenizer_for(POSE).fit(POSE, [])
    ids = tokenizer.encode([pose((0.5, 0.5), (np.nan, np.nan), (0.9, 0.4))])[0]
    assert (ids > 0).sum() == 2 + 1 + 2 + 1
    circle = np.stack([np.cos(np.arange(50) / 8), np.sin(np.arange(50) / 8)], axis=1) / 3 + 0.5
    tokenizer = tokenizer_for(ROOMS).fit(ROOMS, [])
    value = Instances.of([circle], [1])
    ids = tokenizer.encode([value])
    assert (ids[0] > 0).sum() == 2 * ROOMS.max_corners + 1
    ceiling = ROOMS.score(tokenizer.decode(ids), [value])["mask_iou"]
    finer = replace(ROOMS, max_corners=16)
    tokenizer = tokenizer_for(finer).fit(finer, [])
    assert (
        0.7
        < ceiling
        < finer.score(tokenizer.decode(tokenizer.encode([value])), [value])["mask_iou"]
    )


def test_too_many_things_lose_their_last_ones_with_a_word():
    with pytest.warns(UserWarning, match=r"100\.0% of the training samples have more than 4 inst"):
        tokenizer = InstanceTokenizerConfig().fit(CELLS, [cells(0, 6)])
    assert len(tokenizer.decode(tokenizer.encode([cells(0, 6)]))[0].classes) == 4


def test_nonsense_is_skipped():
    tokenizer = InstanceTokenizerConfig(num_bins=10, num_sentinels=2).fit(CELLS, [])
    # end 0, sentinels 1 and 2, unknown 3, x 4 to 13, y 14 to 23, classes 24 and 25
    for ids, count in [
        *(([4, 14, 24], 1), ([14, 4, 24], 0), ([4, 24, 5, 15, 25], 1), ([3, 24], 0)),
        *(([4, 14, 15, 24], 0), ([4, 5, 14, 24], 0), ([24, 25], 0), ([4, 14], 0), ([4, 3, 24], 0)),
        *(([4, 14, 5, 15, 24], 0), ([4, 1, 14, 24], 1), ([0, 4, 14, 24], 0), ([], 0)),
    ]:
        row = np.full((1, tokenizer.token_shape[0]), PADDING)
        row[0, : len(ids)] = ids
        (found,) = tokenizer.decode(row)
        assert len(found.classes) == count, ids
        CELLS.check(found, "found")
    rng = np.random.default_rng(0)
    for found in tokenizer.decode(rng.integers(0, tokenizer.vocab_size, (500, 37))):
        CELLS.check(found, "found")
    with pytest.raises(ValueError, match="out of range"):
        tokenizer.decode(np.full((1, 37), 26))


@pytest.mark.parametrize(
    ("values", "value"),
    [(CELLS, cells(0)), (ROOMS, rooms(0)), (POSE, pose((0.5, 0.5), (0.1, 0.2), (0.9, 0.4)))],
)
def test_things_are_drawn_and_have_vectors(values, value):
    drawn = values.draw(value, (40, 60))
    assert drawn.shape == (40, 60, 3) and drawn.std() > 0
    assert values.draw(NONE, (40, 60)).min() == 255
    vectors = values.vectors([value, NONE])
    assert vectors[0, ::5].sum() == len(value.classes) and not vectors[1].any()

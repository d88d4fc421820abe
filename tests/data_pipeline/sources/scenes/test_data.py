import colorsys
import re
from collections import Counter

import numpy as np
import pytest

from data_pipeline.sources.scenes.data import SEMSEG_CLASSES, ScenesData, SceneSource
from data_pipeline.sources.scenes.language import SIDE_MARGIN, VISIBLE_PIXELS
from data_pipeline.sources.scenes.sampler import COLOR_NAMES, COLORS, SHAPES, UNSEEN_PAIRS
from data_pipeline.sources.source import Sample

pytestmark = pytest.mark.slow

NUM_SCENES = 192
PHRASE = re.compile(r"a (large|small) (shiny )?(\w+) (\w+)")
RELATION = re.compile(r"the (\w+ \w+) is (left of|right of|in front of|behind) the (\w+ \w+)\.$")


@pytest.fixture(scope="module")
def train() -> SceneSource:
    return ScenesData().open("train")


@pytest.fixture(scope="module")
def samples(train) -> list[Sample]:
    return train.__getitems__(range(NUM_SCENES))


@pytest.fixture(scope="module")
def unseen() -> list[Sample]:
    return ScenesData().open("test_unseen_pairs").__getitems__(range(NUM_SCENES))


def listed(sample: Sample) -> list[tuple[str, str]]:
    """Returns the (colour, shape) pairs that the caption lists."""
    return [(color, shape) for _, _, color, shape in PHRASE.findall(sample["caption"])]


def masks(sample: Sample) -> list[np.ndarray]:
    """Returns the visible solids' masks from left to right."""
    found = [sample["instances"] == i for i in range(1, sample["instances"].max() + 1)]
    found = [mask for mask in found if mask.sum() >= VISIBLE_PIXELS * mask.size]
    return sorted(found, key=middle)


def middle(mask: np.ndarray) -> float:
    columns = np.nonzero(mask.any(0))[0]
    return (columns[0] + columns[-1] + 1) / 2 / mask.shape[1]


def assert_same_bits(first: Sample, second: Sample) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name == "boxes":
            np.testing.assert_array_equal(value.corners, second[name].corners)
            np.testing.assert_array_equal(value.classes, second[name].classes)
        else:
            np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_modalities_have_the_promised_types_and_shapes(samples):
    sample = samples[0]
    expected = {
        "rgb": ("uint8", (64, 64, 3)),
        "depth": ("float32", (64, 64)),
        "normals": ("float32", (64, 64, 3)),
        "semseg": ("uint8", (64, 64)),
        "instances": ("uint8", (64, 64)),
    }
    assert {n: (str(sample[n].dtype), sample[n].shape) for n in expected} == expected
    assert sample.keys() == {*expected, "caption", "boxes", "distance", "metadata"}
    assert isinstance(sample["caption"], str) and type(sample["distance"]) is float
    assert sample["boxes"].corners.dtype == np.float32
    assert sample["boxes"].classes.dtype == np.int32


def test_a_scene_has_the_same_bits_alone_and_in_any_batch(train, samples):
    for index in (0, 33, 190):
        assert_same_bits(train[index], samples[index])
    order = np.random.default_rng(0).permutation(NUM_SCENES)[:45]
    for index, sample in zip(order, train.__getitems__(order.tolist()), strict=True):
        assert_same_bits(sample, samples[index])


def test_scenes_do_not_depend_on_the_length_of_the_split(samples):
    assert_same_bits(ScenesData(num_train=8).open("train")[7], samples[7])


def test_splits_and_seeds_never_share_a_scene(samples):
    others = [ScenesData().open(split).__getitems__(range(32)) for split in ("validation", "test")]
    others.append(ScenesData(seed=1).open("train").__getitems__(range(32)))
    pictures = [s["depth"].tobytes() for s in samples] + [
        s["depth"].tobytes() for o in others for s in o
    ]
    assert len(set(pictures)) == len(pictures)


def test_ordinary_splits_never_show_an_unseen_pair(samples):
    shown = Counter(pair for sample in samples for pair in listed(sample))
    assert not set(shown) & set(UNSEEN_PAIRS)
    assert len(shown) == len(COLORS) * len(SHAPES) - len(UNSEEN_PAIRS)


def test_every_scene_of_the_unseen_split_shows_an_unseen_pair(unseen):
    assert all(set(listed(sample)) & set(UNSEEN_PAIRS) for sample in unseen)
    assert {pair for sample in unseen for pair in listed(sample)} >= set(UNSEEN_PAIRS)


def test_unseen_pairs_leave_each_color_and_shape_common():
    assert len({color for color, _ in UNSEEN_PAIRS}) == len({s for _, s in UNSEEN_PAIRS}) == 4


def test_every_scene_shows_something_and_numbers_are_about_even(samples, unseen):
    counts = Counter(sample["metadata"]["object_count"] for sample in samples + unseen)
    assert sorted(counts) == [1, 2, 3, 4]
    assert min(counts.values()) > 0.15 * 2 * NUM_SCENES


def test_caption_lists_the_visible_solids_from_left_to_right(samples):
    for sample in samples:
        shapes = [SEMSEG_CLASSES[int(np.unique(sample["semseg"][m])[0])] for m in masks(sample)]
        assert [shape for _, shape in listed(sample)] == shapes
        assert sample["metadata"]["object_count"] == len(shapes)


def test_caption_names_the_color_seen_in_the_picture(samples):
    hues = {name: colorsys.rgb_to_hsv(*color)[0] for name, color in COLORS.items()}
    right = []
    for sample in samples:
        for (color, _), mask in zip(listed(sample), masks(sample), strict=True):
            hue = colorsys.rgb_to_hsv(*np.median(sample["rgb"][mask] / 255.0, axis=0))[0]
            away = {name: abs((hue - own + 0.5) % 1.0 - 0.5) for name, own in hues.items()}
            right.append(min(away, key=away.get) == color)
    assert np.mean(right) > 0.98


def test_relation_is_true_in_the_picture_and_names_one_solid_each(samples):
    told = Counter()
    for sample in samples:
        match = RELATION.search(sample["caption"])
        assert sample["metadata"]["relation"] == (match[2] if match else "")
        if match is None:
            continue
        names = [" ".join(pair) for pair in listed(sample)]
        assert names.count(match[1]) == names.count(match[3]) == 1
        subject, other = (masks(sample)[names.index(match[i])] for i in (1, 3))
        rightwards = middle(other) - middle(subject)
        backwards = np.median(sample["depth"][other]) - np.median(sample["depth"][subject])
        told[match[2]] += 1
        assert {
            "left of": rightwards >= SIDE_MARGIN,
            "right of": -rightwards >= SIDE_MARGIN,
            "in front of": backwards > 0.3,
            "behind": -backwards > 0.3,
        }[match[2]], sample["caption"]
    assert len(told) == 4 and sum(told.values()) > 0.6 * NUM_SCENES


def test_boxes_are_tight_around_the_visible_solids(samples):
    for sample in samples:
        expected = []
        for mask in masks(sample):
            rows, columns = np.nonzero(mask)
            expected.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(sample["boxes"].corners, np.array(expected) / 64)
        shapes = [SHAPES[c] for c in sample["boxes"].classes]
        assert shapes == [shape for _, shape in listed(sample)]


def test_distance_is_that_of_the_nearest_solid(samples):
    for sample in samples:
        nearest = min(sample["depth"][mask].min() for mask in masks(sample))
        # Measured along the ray, at most 1 / cos(half the diagonal view) longer than depth.
        assert nearest <= sample["distance"] < 1.25 * nearest


def test_metadata_agrees_with_the_picture(samples):
    for sample in samples:
        facts, pairs = sample["metadata"], listed(sample)
        biggest = int(np.argmax([mask.sum() for mask in masks(sample)]))
        assert COLOR_NAMES[facts["dominant_color"]] == pairs[biggest][0]
        assert SHAPES[facts["dominant_shape"]] == pairs[biggest][1]
        for shape in SHAPES:
            assert facts[f"has_{shape}"] == (shape in {s for _, s in pairs})
        assert facts["has_shiny"] == ("shiny" in sample["caption"])


def test_labels_depth_and_normals_agree_on_where_something_is(samples):
    for sample in samples:
        is_sky = sample["semseg"] == 0
        np.testing.assert_array_equal(sample["depth"] == 0, is_sky)
        np.testing.assert_array_equal((sample["normals"] == 0).all(-1), is_sky)
        np.testing.assert_array_equal(sample["instances"] > 0, sample["semseg"] >= 2)
        assert sample["depth"][~is_sky].min() > 2 and sample["depth"].max() < 15


@pytest.mark.slow
def test_other_sizes_show_the_same_kind_of_scenes():
    config = ScenesData(num_validation=20, image_size=24, image_width=40, max_objects=2)
    found = config.open("validation").__getitems__(range(20))
    for sample in found:
        assert sample["rgb"].shape == (24, 40, 3) and sample["depth"].shape == (24, 40)
        assert 1 <= sample["metadata"]["object_count"] <= 2
        shown = masks(sample)
        assert len(shown) == len(listed(sample)) == len(sample["boxes"].classes)
        for mask, corners in zip(shown, sample["boxes"].corners, strict=True):
            rows, columns = np.nonzero(mask)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(corners * [40, 24, 40, 24], edges, atol=1e-4)


def test_a_split_has_the_length_asked_for():
    config = ScenesData(num_train=2_000_000_000, num_validation=0, num_test=3)
    assert [len(config.open(split)) for split in config.splits] == [2_000_000_000, 0, 3, 3]
    assert config.open("train")[1_999_999_999]["caption"]
    assert config.open("validation").__getitems__([]) == []


def test_samples_can_be_changed_without_changing_others(train):
    first, second = train.__getitems__([0, 0])
    first["rgb"][:] = 0
    assert second["rgb"].any()


def test_an_unknown_split_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="'valid'; choose one of train, validation, test, test_un"):
        ScenesData().open("valid")


@pytest.mark.parametrize("index", [-1, 8])
def test_an_index_outside_the_split_says_its_length(index):
    with pytest.raises(IndexError, match=f"Scene {index} was asked of a split of 8"):
        ScenesData(num_train=8).open("train")[index]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_train", -1, "0 to"),
        ("seed", -1, "0 to"),
        ("image_size", 8, "16 to 512"),
        ("image_width", 200, "32 to 128 pixels beside a height of 64"),
        ("max_objects", 5, "1 to 4"),
    ],
)
def test_settings_outside_their_range_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be {allowed}"):
        ScenesData(**{field: value})

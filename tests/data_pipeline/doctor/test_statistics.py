import numpy as np
import pytest

from data_pipeline.doctor.statistics import Findings, describe
from tokenizers.base import Boxes, Choices, Instances
from tokenizers.boxes import BoxList
from tokenizers.scalars import Scalar
from tokenizers.shapes.points import Points
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Classes, Colors, Distances, Reals

RANDOM = np.random.default_rng(0)


def described(values, checked, raw=None, settings=None) -> Findings:
    return describe("it", values, checked if raw is None else raw, checked, settings)


def test_numbers_have_a_range_a_type_and_a_share_that_is_unknown():
    maps = [RANDOM.normal(5, 1, (4, 6, 1)).astype(np.float32) for _ in range(10)]
    for each in maps:
        each[0] = np.nan
    raw = [each.astype(np.float64) for each in maps]
    found = described(Reals(), maps, raw)
    assert found.facts["type"] == "float64" and found.facts["shape"] == "4x6x1"
    assert found.facts["unknown"] == "25.0%"
    assert found.facts["range"].endswith(f"median {np.nanmedian(maps):.4g}")
    assert found.histogram is not None and found.histogram.counts.sum() > 150
    assert not found.warnings


def test_a_far_number_that_recurs_may_mean_not_measured():
    maps = [RANDOM.normal(5, 1, (16, 16, 1)).astype(np.float32) for _ in range(8)]
    maps[3][:8, :8] = -9999
    (warning,) = described(Reals(), maps).warnings
    assert "3.1% of the numbers are -9999" in warning
    assert "data.modalities.it.missing" in warning


def test_pictures_that_touch_black_and_white_are_no_reason_to_warn():
    pictures = [RANDOM.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(8)]
    assert not described(Colors(), pictures).warnings


def test_values_that_are_all_the_same_teach_nothing():
    maps = [np.full((4, 4, 1), 7, np.float32)] * 5
    assert "All 5 values are the same" in described(Reals(), maps).warnings[-1]
    assert "All 3 values are the same" in described(Text(), ["a cat"] * 3).warnings[-1]


def test_classes_that_are_rare_or_never_occur_are_named():
    maps = [np.zeros((64, 64), np.uint8) for _ in range(4)]
    maps[0][0, 0] = 1
    maps[1][:8] = 255
    found = described(Classes(("ground", "water", "trees")), maps)
    assert found.facts["classes"] == "2 of 3 occur" and "unknown" in found.facts
    assert list(found.shares) == ["ground", "water"]
    assert found.warnings == ("No value is trees.", "Below 0.1% each: water.")


def test_texts_have_lengths_a_vocabulary_and_may_be_too_long():
    texts = ["a red cube", "a blue cube", "one two three four five six"]
    found = described(Text(), [*texts, texts[0]], settings=TextTokenizerConfig(max_tokens=6))
    assert found.facts["words"] == "3 to 6, median 3"
    assert found.facts["vocabulary"] == "10 different words"
    assert found.facts["different texts"] == "3 of 4"
    assert "1 of 4 texts are longer than the tokenizer's max_tokens, 6" in found.warnings[0]
    assert next(iter(found.shares)) in ("a", "cube")


def test_several_values_of_a_sample_are_all_looked_at():
    found = described(Text(), [Choices(["one", "two"]), Choices(["three"])])
    assert found.facts["values a sample"] == "1 to 2"
    assert found.facts["different texts"] == "3 of 3"


def test_boxes_are_counted_by_sample_and_class():
    one = Boxes(np.array([[0, 0, 1, 1]], np.float32), np.array([1], np.int32))
    three = Boxes(np.tile(one.corners, (3, 1)), np.array([1, 1, 0], np.int32))
    found = described(BoxList(("cat", "dog"), max_boxes=2), [one, three])
    assert found.facts["boxes a sample"].startswith("1 to 3")
    assert found.shares == {"dog": 0.75, "cat": 0.25}
    assert "1 of 2 samples have more than 2 boxes" in found.warnings[0]


def test_points_are_counted_by_sample_and_class_and_may_be_unknown():
    one = Instances.of([[(0.5, np.nan)]], [0])
    two = Instances.of([[(0.5, 0.5)], [(0.1, 0.1)]], [1, 0])
    found = described(Points(("cat", "dog"), max_instances=1), [one, two])
    assert found.facts["instances a sample"].startswith("1 to 2")
    assert "more than 1 instances and lose the last ones; raise max_instances" in found.warnings[0]
    same = described(Points(("cat", "dog")), [one, one])
    assert "All 2 values are the same" in same.warnings[-1]


def test_channels_that_are_missing_within_samples_are_told():
    bands = RANDOM.normal(size=(3, 4, 4, 2)).astype(np.float32)
    bands[:2, ..., 1] = np.nan
    (told,) = described(Reals(channels=2), list(bands)).warnings
    assert "2 of 3 samples lack whole channels" in told and "Reals.by_channel to True" in told
    assert not described(Reals(channels=2, by_channel=True), list(bands)).warnings


def test_single_numbers_and_outliers():
    numbers = [float(n) for n in RANDOM.normal(0, 1, 1998)] + [1e6, 2e6]
    found = described(Scalar(), numbers)
    assert found.facts["outliers"] == "0.10% beyond 20 interquartile ranges"
    assert not found.warnings and "shape" not in found.facts


def test_what_nobody_has_is_said():
    assert described(Text(), []).warnings == (
        "None of the samples that were read has a usable value.",
    )


def test_depth_of_8_bits_is_hardly_in_millimetres():
    maps = [RANDOM.integers(1, 255, (8, 8)).astype(np.uint8) for _ in range(3)]
    metres = [Distances().check(each, "it") for each in maps]
    (warning,) = described(Distances(), metres, maps).warnings
    assert "nothing is farther than 0.255 m" in warning and "integer_unit" in warning
    with pytest.raises(ValueError, match="has dtype bool, which measures nothing"):
        Distances().check(maps[0] > 9, "it")

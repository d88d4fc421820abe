"""Draws are combined as their kind allows, and their spread is what they differ by."""

import numpy as np
import pytest

from fourm.inference.settings import GenerationConfig
from fourm.requests.ensembles import (
    as_drawn,
    check_combine,
    check_draws,
    combine,
    is_settled,
    token_spread,
)
from tests.fourm.fakes import COLORS
from tokenizers.base import PADDING, Boxes
from tokenizers.boxes import BoxList
from tokenizers.scalars import Scalar
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Directions, Distances


def test_numbers_have_a_mean_and_a_deviation_where_they_are_known():
    draws = np.array([[[[1.0, 2.0]]], [[[3.0, np.nan]]], [[[8.0, np.nan]]]], np.float32)
    draws = np.concatenate([draws, np.full_like(draws[:, :, :, :1], np.nan)], axis=-1)
    found = combine(Distances(), list(draws), "auto", "depth")
    assert found.values.dtype == np.float32 and found.values.shape == (1, 1, 3)
    np.testing.assert_allclose(found.values[0, 0], [4.0, 2.0, np.nan])
    np.testing.assert_allclose(found.spread[0, 0], [np.std([1, 3, 8]), 0.0, np.nan])
    np.testing.assert_allclose(found.per_sample, [np.std([1, 3, 8]) / 2])
    np.testing.assert_allclose(
        combine(Distances(), list(draws), "median", "depth").values[0, 0, 0], 3.0
    )


def test_colours_are_rounded_and_their_spread_is_one_number_a_pixel():
    draws = np.zeros((2, 1, 1, 2, 3), np.uint8)
    draws[1, 0, 0, 0] = [3, 4, 0]
    found = combine(Colors(), list(draws), "mean", "rgb")
    assert found.values.dtype == np.uint8 and found.values[0, 0, 0].tolist() == [2, 2, 0]
    np.testing.assert_allclose(found.spread[0, 0], [np.sqrt((1.5**2 + 2**2) / 3), 0.0])


def test_single_numbers_are_averaged():
    found = combine(Scalar(), [[1.0, 5.0], [2.0, 5.0]], "auto", "count")
    np.testing.assert_allclose(found.values, [1.5, 5.0])
    np.testing.assert_allclose(found.per_sample, [0.5, 0.0])


def test_classes_are_voted_on_and_of_equals_the_first_wins():
    draws = np.array([[[[2, 1]]], [[[0, 1]]], [[[0, 1]]], [[[2, 3]]]], np.uint8)
    found = combine(Classes(("a", "b", "c", "d")), list(draws), "auto", "semseg")
    assert found.values[0, 0].tolist() == [2, 1] and found.values.dtype == np.uint8
    np.testing.assert_allclose(found.spread[0, 0], [0.5, 0.25])


def test_directions_have_a_mean_of_length_1():
    x, y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    nan = [np.nan] * 3
    draws = np.array([[[[x, x, nan]]], [[[y, nan, nan]]]], np.float32)
    found = combine(Directions(), list(draws), "auto", "normals")
    np.testing.assert_allclose(found.values[0, 0, 0], [0.5**0.5, 0.5**0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(found.values[0, 0, 1], x)
    np.testing.assert_allclose(found.spread[0, 0], [45.0, 0.0, np.nan], atol=1e-4)


@pytest.mark.parametrize("how", ["mean", "median"])
def test_distances_that_a_draw_does_not_know_have_no_part(how):
    """They are 0, and unknown is what most draws call so."""
    draws = np.array([[[[4.0, 0.0, 0.0]]], [[[0.0, 0.0, 3.0]]], [[[4.0, 6.0, 5.0]]]], np.float32)
    found = combine(Distances(), list(draws), how, "depth")
    np.testing.assert_array_equal(found.values[0, 0], np.array([4, 0, 4], np.float32))
    np.testing.assert_array_equal(found.spread[0, 0], [0, np.nan, 1])


def test_directions_that_a_draw_does_not_know_have_no_part():
    x, zero = [1.0, 0.0, 0.0], [0.0] * 3
    draws = np.array([[[[x, zero]]], [[[zero, zero]]], [[[x, x]]]], np.float32)
    found = combine(Directions(), list(draws), "auto", "normals")
    np.testing.assert_allclose(found.values[0, 0], [x, zero])
    np.testing.assert_allclose(found.spread[0, 0], [0, np.nan], atol=1e-6)


def test_of_texts_that_one_is_taken_which_the_others_are_most_like():
    values = Text(attributes={"color": COLORS})
    draws = [["red"], ["red red"], ["blue"], ["red"]]
    found = combine(values, draws, "auto", "caption")
    assert found.values == ["red"]
    # Six of twelve pairs name the same colour.
    assert found.spread.shape == (1,) and found.spread[0] == pytest.approx(0.5)
    assert combine(values, [["red"]] * 3, "medoid", "caption").spread[0] == 0
    assert combine(values, [["red"]], "auto", "caption").spread[0] == 0


def test_boxes_are_taken_whole():
    def one(x):
        return Boxes(np.array([[x, 0.1, x + 0.3, 0.6]], np.float32), np.array([0], np.int32))

    found = combine(BoxList(("thing",)), [[one(0.1)], [one(0.6)], [one(0.12)]], "auto", "boxes")
    assert found.values[0].corners[0, 0] < 0.2 and found.spread[0] > 0


def test_tokens_differ_by_the_share_of_pairs_with_other_ids():
    draws = np.array([[1, 2, PADDING], [1, 3, PADDING], [1, 4, PADDING], [1, 4, PADDING]])
    np.testing.assert_allclose(token_spread(draws, 4), [[0.0, 1 - 2 / 12, np.nan]])
    np.testing.assert_allclose(token_spread(draws, 2), [[0, 1, np.nan], [0, 0, np.nan]])


def test_draws_that_would_all_be_equal_are_refused():
    greedy = GenerationConfig(temperature=0.0)
    expected = GenerationConfig(num_steps=1, decode="expected")
    drawn = GenerationConfig()
    assert is_settled(greedy) and is_settled(expected) and not is_settled(drawn)
    assert not is_settled(GenerationConfig(temperature=0.0, scheme="halton"))
    assert not is_settled(GenerationConfig(temperature=0.0, choice_noise=1.0))
    # A single pass has no order, a sequence has one of its own, and the likeliest of one is it.
    assert is_settled(GenerationConfig(temperature=0.0, scheme="halton", num_steps=1))
    assert is_settled(GenerationConfig(temperature=0.0, scheme="halton"), "sequence")
    assert is_settled(GenerationConfig(top_k=1))
    assert not is_settled(expected, "sequence")
    kinds = dict.fromkeys("abc", "grid")

    def check(num_draws, settings, targets="abc"):
        check_draws(num_draws, "auto", settings, [t for t in targets if t in settings], kinds)

    with pytest.raises(ValueError, match="all draws of a, b would be equal"):
        check(2, {"a": greedy, "b": expected})
    with pytest.raises(ValueError, match="all draws of a would be equal"):
        check(2, {"a": greedy, "b": drawn})
    check(1, {"a": greedy})
    check(2, {"a": drawn, "b": greedy})  # It follows from what is drawn.
    check(2, {"a": greedy, "b": drawn}, targets="b")  # On the way.
    assert as_drawn(drawn) is drawn
    for config in (greedy, expected):
        assert not is_settled(as_drawn(config)) and as_drawn(config).num_steps == 8


def test_many_draws_need_no_array_of_all_pairs():
    """Votes and pairs are counted draw by draw: 400 draws would take gigabytes otherwise."""
    random = np.random.default_rng(0)
    draws = random.integers(0, 3, (400, 1, 64, 64)).astype(np.uint8)
    found = combine(Classes(("a", "b", "c")), list(draws), "vote", "semseg")
    counts = np.stack([(draws == number).sum(0) for number in range(3)])
    assert (counts.max(0) == (draws == found.values).sum(0)).all()
    np.testing.assert_allclose(found.spread, 1 - counts.max(0) / 400)
    ids = draws.reshape(400, -1).astype(np.int32)
    counts = counts.reshape(3, 1, -1).astype(float)
    same = (counts * (counts - 1)).sum(0) / (400 * 399)
    np.testing.assert_allclose(token_spread(ids, 400), 1 - same)


def test_ways_that_a_kind_has_not_are_one_sentence():
    with pytest.raises(ValueError, match="semseg can't be combined by 'mean'; auto, vote, medoid"):
        combine(Classes(("a", "b")), list(np.zeros((2, 1, 2, 2), np.uint8)), "mean", "semseg")
    with pytest.raises(ValueError, match="caption can't be combined by 'vote'; auto, medoid, none"):
        combine(Text(), [["a"], ["b"]], "vote", "caption")
    with pytest.raises(ValueError, match="combine is 'average'; auto, mean"):
        check_combine("average")

"""Errors in the unit of their spread, ranks and bins: against what they are by definition."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from fourm.evaluation.metrics.spreads import curve, errors_of, rank_correlation, some_places
from tokenizers.scalars import Scalar
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Directions, Distances, Reals


def test_errors_of_pixels_are_in_the_unit_of_the_spread():
    depth = np.array([[[1.0, 0.0], [4.0, 2.0]]], np.float32)  # 0 is unknown.
    found = errors_of(Distances(), np.full((1, 2, 2), 3, np.float32), depth)
    np.testing.assert_array_equal(found, [[2, np.nan, 1, 1]])
    labels = np.array([[[0, 1, 255]]], np.uint8)
    found = errors_of(Classes(("a", "b")), np.array([[[0, 0, 0]]], np.uint8), labels)
    np.testing.assert_array_equal(found, [[0, 1, np.nan]])
    turned = errors_of(
        Directions(),
        np.array([[[[2, 0, 0], [0, 0, 1]]]], np.float32),
        np.array([[[[0, 1, 0], [0, 0, 1]]]], np.float32),
    )
    np.testing.assert_allclose(turned, [[90, 0]], atol=1e-6)
    grey, white = np.zeros((1, 1, 1, 3), np.uint8), np.full((1, 1, 1, 3), 255, np.uint8)
    assert errors_of(Colors(), grey, white).tolist() == [[255]]
    bands = np.array([[[[3.0, np.nan]]]], np.float32)
    values = Reals(channels=2, by_channel=True)
    assert errors_of(values, np.zeros((1, 1, 1, 2), np.float32), bands).tolist() == [[3]]


def test_what_has_no_pixels_is_as_wrong_as_its_score():
    assert errors_of(Scalar(), [1.0, 5.0], [2.0, 2.0]).tolist() == [[1], [3]]
    texts = errors_of(Text(), ["a b", "c d"], ["a b", "a b"])
    assert texts.tolist() == [[0], [1]]


def test_ranks_are_those_of_spearman():
    random = np.random.default_rng(0)
    first = random.integers(0, 6, 50).astype(float)
    second = first + random.normal(0, 2, 50)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0])
    holed = np.append(first, [np.nan, 3])
    assert rank_correlation(holed, np.append(second, [1, np.nan])) == pytest.approx(
        spearmanr(first, second)[0]
    )
    assert np.isnan(rank_correlation(np.ones(5), first[:5]))
    assert np.isnan(rank_correlation(np.full(3, np.nan), first[:3]))


def test_bins_have_equally_many_places_in_the_order_of_their_spread():
    spread = np.array([4.0, 1.0, 3.0, 2.0, np.nan])
    error = np.array([8.0, 0.0, 6.0, 2.0, 1.0])
    found = curve(spread, error, 2)
    assert found.count == 2
    np.testing.assert_allclose(found.spread, [np.sqrt(2.5), np.sqrt(12.5)])
    np.testing.assert_allclose(found.error, [np.sqrt(2), np.sqrt(50)])
    assert len(curve(spread, error, 10).spread) == 4
    assert curve(np.full(2, np.nan), np.ones(2), 2) is None


def test_of_large_pictures_the_same_places_of_all_are_looked_at():
    array = np.arange(3 * 5000.0).reshape(3, 5000)
    found = some_places(array)
    assert found.shape == (3, 1024)
    np.testing.assert_array_equal(found[1] - found[0], 5000)

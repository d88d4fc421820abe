"""CIDEr-D has the numbers of its authors' code."""

import numpy as np
import pytest

from fourm.evaluation.metrics.captions import CaptionMetrics, count_ngrams
from tokenizers.base import Choices

REFERENCES = [
    ["a red cube left of a blue sphere", "there is a red cube and a sphere"],
    ["two green cones behind a large cube"],
    ["a red sphere", "a small red sphere on the floor", "one sphere"],
    ["a blue cone in front of a green cylinder", "a cone and a cylinder"],
]
PREDICTED = [
    "a red cube left of a green sphere",
    "a large cube a large cube a large cube",
    "a red sphere",
    "nothing at all",
]
# What pycocoevalcap 1.2 says of these.
RECORDED = [4.40366558, 1.08365564, 3.22597208, 0.0]


def make_metrics():
    return CaptionMetrics([Choices(texts) if len(texts) > 1 else texts[0] for texts in REFERENCES])


def test_the_numbers_are_those_of_the_authors_code():
    metrics = make_metrics()
    assert metrics.of_each(PREDICTED) == pytest.approx(RECORDED, abs=1e-7)
    assert metrics.score(PREDICTED) == {"cider_d": pytest.approx(np.mean(RECORDED), abs=1e-7)}


def test_one_n_gram_by_hand():
    """Of two samples, one word each: weights log 2, so that an equal text has 1 / 4 of 10."""
    metrics = CaptionMetrics(["cube", "sphere"])
    assert metrics.of_each(["Cube!", "cube"]).tolist() == pytest.approx([2.5, 0.0])
    # Twice the word counts once, and is a word longer.
    longer = 2.5 * 1 / 2 * np.exp(-1 / 72)
    assert metrics.of_each(["cube cube", ""]).tolist() == pytest.approx([longer, 0.0])


def test_some_samples_are_scored_by_how_rare_words_are_among_all():
    found = make_metrics().score([PREDICTED[2], PREDICTED[0]], np.array([2, 0]))
    assert found["cider_d"] == pytest.approx((RECORDED[2] + RECORDED[0]) / 2, abs=1e-7)
    assert np.isnan(CaptionMetrics([]).score([])["cider_d"])


def test_n_grams_are_counted():
    counts = count_ngrams("A cube, a cube.")
    assert counts["a", "cube"] == 2 and counts["a", "cube", "a", "cube"] == 1
    assert sum(counts.values()) == 4 + 3 + 2 + 1

import numpy as np
import pytest

from fourm.evaluation.intervals import difference, interval_of, resampled_scores
from tests.fourm.fakes import COLORS
from tokenizers.scalars import Scalar
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Distances


def test_intervals_cover_the_true_score_as_often_as_they_say():
    """Errors of 1 in three of ten samples: the mean absolute error is 0.3."""
    random = np.random.default_rng(0)
    metric = next(iter(Scalar().metrics))
    covered = 0
    for seed in range(100):
        truth = random.normal(size=60).tolist()
        predicted = [t + float(random.random() < 0.3) for t in truth]
        scores = resampled_scores(Scalar(), predicted, truth, metric, seed=seed, num_resamples=100)
        interval = interval_of(scores)
        covered += interval.low <= 0.3 <= interval.high
    assert metric == "mae" and 85 <= covered <= 100


def test_a_perfect_prediction_has_no_width():
    texts = ["a red thing", "a blue thing"]
    values = Text(attributes={"color": COLORS})
    found = interval_of(resampled_scores(values, texts, texts, "f1_color"))
    assert found == (1.0, 1.0)


def test_regions_go_with_their_samples():
    truth = np.ones((8, 2, 2), np.float32)
    predicted = truth.copy()
    predicted[:, 0] = 2
    where = np.zeros((8, 2, 2), bool)
    where[:, 1] = True
    for region, expected in ((where, 0.0), (~where, 1.0)):
        scores = resampled_scores(Distances(), predicted, truth, "abs_rel", region)
        assert interval_of(scores) == pytest.approx((expected, expected))


def test_the_same_draws_compare_two_predictions_pair_by_pair():
    random = np.random.default_rng(1)
    truth = random.normal(size=50)
    noise = random.normal(size=50)
    first = resampled_scores(Scalar(), (truth + noise).tolist(), truth.tolist(), "mae")
    second = resampled_scores(Scalar(), (truth + 0.9 * noise).tolist(), truth.tolist(), "mae")
    # Each interval holds the other's score, and yet one is better in every draw.
    assert interval_of(first).low < second.mean() < interval_of(first).high
    (low, high), p = difference(first, second)
    assert low < high < 0 and p < 0.02
    assert difference(first, first)[1] == 1.0
    assert difference(first, np.full_like(first, np.nan)) is None
    assert interval_of(np.array([np.nan, np.inf])) is None

import numpy as np
import pytest

from fourm.evaluation.intervals import (
    difference,
    interval_of,
    interval_of_mean,
    resampled_scores,
)
from tests.fourm.fakes import COLORS
from tokenizers.scalars import Scalar
from tokenizers.spread import take_rows
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Directions, Distances, Reals


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


def make_pair(values):
    random = np.random.default_rng(3)
    shape = (9, 4, 5, *([] if isinstance(values, Distances | Classes) else [3]))
    if isinstance(values, Classes):
        return random.integers(0, 3, (2, *shape)).astype(np.uint8)
    if isinstance(values, Colors):
        return random.integers(0, 256, (2, *shape)).astype(np.uint8)
    numbers = random.uniform(0.5, 5, (2, *shape)).astype(np.float32)
    numbers[1, 2] = 0 if isinstance(values, Distances) else np.nan
    return numbers


@pytest.mark.parametrize(
    "values",
    [Distances(), Directions(), Colors(), Reals(channels=3), Classes(("a", "b", "c"))],
    ids=lambda values: type(values).__name__,
)
@pytest.mark.parametrize("is_region", [False, True])
def test_pixels_that_are_looked_at_once_give_the_scores_of_all_draws(values, is_region):
    predicted, truth = make_pair(values)
    where = np.random.default_rng(4).random(truth.shape[:3]) < 0.5 if is_region else None
    for metric in values.metrics:
        found = resampled_scores(values, predicted, truth, metric, where, num_resamples=5)
        random = np.random.default_rng(0)
        for score in found:
            rows = random.integers(0, 9, 9)
            region = None if where is None else where[rows]
            own = values.score(take_rows(predicted, rows), take_rows(truth, rows), region)
            assert score == pytest.approx(own[metric], rel=1e-9)


def test_pixels_are_looked_at_once():
    values, looked = Distances(), []

    class Counting(Distances):
        def sums(self, predicted, truth, where):
            looked.append(len(truth))
            return values.sums(predicted, truth, where)

    resampled_scores(Counting(), *make_pair(values), "abs_rel")
    assert sum(looked) == 9


def test_the_interval_of_a_mean_is_that_of_the_binomial_law():
    is_right = np.arange(400) % 4 > 0
    low, high = interval_of_mean(is_right, num_resamples=2000)
    spread = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    np.testing.assert_allclose([low, high], [0.75 - spread, 0.75 + spread], atol=0.008)

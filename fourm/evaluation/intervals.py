"""How sure a score is: percentile bootstrap over samples (Efron and Tibshirani 1993, section 13.3).

A score of many samples, such as an F1 or a mean intersection over union, is no mean of scores of
single samples, so it is computed anew from samples drawn with replacement.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tokenizers.base import RawBatch, Values
from tokenizers.spread import take_rows
from tokenizers.values import DenseValues

NUM_RESAMPLES = 200
"""Draws of a bootstrap: enough for the ends of a 95 % interval."""
LEVEL = 0.95


class Interval(NamedTuple):
    """Where a score lies with a probability of 95 %.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


def resampled_scores(
    values: Values,
    predicted: RawBatch,
    truth: RawBatch,
    metric: str,
    where: Bool[np.ndarray, "rows y x"] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Float[np.ndarray, "resamples"]:
    """Returns the score of samples drawn with replacement, again and again.

    With the same seed and number of samples the same ones are drawn, so that two predictions of
    the same samples can be compared draw by draw.

    Args:
        values: What the numbers mean, and how they are scored.
        predicted: One per sample.
        truth: Likewise.
        metric: Which score.
        where: Pixels to be scored; all if None.
        seed: Of the draws.
        num_resamples: How many.
    """
    if isinstance(values, DenseValues):
        score = _score_of_sums(values, predicted, truth, metric, where)
    else:

        def score(rows: Int[np.ndarray, "rows"]) -> float:
            return values.score(take_rows(predicted, rows), take_rows(truth, rows))[metric]

    return bootstrap(score, len(truth), seed, num_resamples)


def bootstrap(
    score: Callable[[Int[np.ndarray, "rows"]], float],
    count: int,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> Float[np.ndarray, "resamples"]:
    """Returns what a score is of samples drawn with replacement, again and again.

    Args:
        score: Of some rows, of which one may occur several times.
        count: How many rows there are.
        seed: Of the draws.
        num_resamples: How many.
    """
    random = np.random.default_rng(seed)
    draws = (random.integers(0, count, count) for _ in range(num_resamples))
    return np.array([score(rows) for rows in draws], np.float64)


def _score_of_sums(
    values: DenseValues,
    predicted: RawBatch,
    truth: RawBatch,
    metric: str,
    where: Bool[np.ndarray, "rows y x"] | None,
) -> Callable[[Int[np.ndarray, "rows"]], float]:
    """Returns what scores some rows as `values.score` does, but looks at every pixel only once."""
    answers, truths = np.asarray(predicted), np.asarray(truth)
    region = np.ones(truths.shape[:3], bool) if where is None else where
    each = [slice(row, row + 1) for row in range(len(truths))]
    parts = [values.sums(answers[row], truths[row], region[row]) for row in each]
    sums = {name: np.stack([np.asarray(part[name]) for part in parts]) for name in parts[0]}

    def score(rows: Int[np.ndarray, "rows"]) -> float:
        added = {name: array[rows].sum(axis=0) for name, array in sums.items()}
        return values.scores_of(added)[metric]

    return score


def interval_of_mean(
    scores: Shaped[np.ndarray, "samples"], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Returns the 95 % interval of a score that is a mean over samples, such as an accuracy."""
    rows = np.random.default_rng(seed).integers(0, len(scores), (num_resamples, len(scores)))
    low, high = np.quantile(scores[rows].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def interval_of(resampled: Float[np.ndarray, "resamples"]) -> Interval | None:
    """Returns the 95 % interval of resampled scores; None if none of them is a number."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def difference(
    first: Float[np.ndarray, "resamples"], second: Float[np.ndarray, "resamples"]
) -> tuple[Interval, float] | None:
    """Returns the interval of `second - first`, and the two-sided p-value of no difference.

    Both were drawn from the same samples with the same seed. The p-value is twice the share of
    draws on the rarer side of 0, at least twice one in the number of draws and one.
    """
    both = np.isfinite(first) & np.isfinite(second)
    apart = (second - first)[both]
    interval = interval_of(apart)
    if interval is None:
        return None
    rarer = min((apart <= 0).sum(), (apart >= 0).sum())
    return interval, float(min(2 * (rarer + 1) / (len(apart) + 1), 1.0))

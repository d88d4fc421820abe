"""How sure a score is: percentile bootstrap over samples (Efron and Tibshirani 1993, section 13.3).

A score of many samples, such as an F1 or a mean intersection over union, is no mean of scores of
single samples, so it is computed anew from samples drawn with replacement.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from tokenizers.base import RawBatch, Values
from tokenizers.spread import take_rows

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
    random = np.random.default_rng(seed)
    found = []
    for _ in range(num_resamples):
        rows = random.integers(0, len(truth), len(truth))
        region = None if where is None else where[rows]
        scores = values.score(take_rows(predicted, rows), take_rows(truth, rows), region)
        found.append(scores[metric])
    return np.array(found, np.float64)


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

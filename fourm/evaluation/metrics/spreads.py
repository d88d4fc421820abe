"""Whether the spread of several draws tells how wrong their combination is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from tokenizers.base import RawBatch, Values, main_metric
from tokenizers.spread import evenly_spread
from tokenizers.values import Classes, DenseValues, Directions

MOST_PLACES = 1024
"""Pixels of a sample that are looked at, evenly spread."""


class Curve(NamedTuple):
    """Places in the order of their spread, in bins of equally many.

    Attributes:
        spread: Root of the mean square in each bin.
        error: Likewise.
        count: Places in each.
    """

    spread: Float[np.ndarray, "bins"]
    error: Float[np.ndarray, "bins"]
    count: int


def errors_of(values: Values, predicted: RawBatch, truth: RawBatch) -> Float[np.ndarray, "batch n"]:
    """Returns how wrong predictions are, in the unit of their spread; NaN where that is unknown.

    Of pixels the distance to the truth (of several channels the root of the mean square), the
    angle in degrees, or 1 where the class is another one; of what has no pixels one number a
    sample: by how much its score is worse than that of the truth itself.
    """
    if not isinstance(values, DenseValues):
        metric, better = main_metric(values)
        sign = 1.0 if better == "lower" else -1.0
        pairs = zip(predicted, truth, strict=True)
        scores = [
            (values.score([p], [t])[metric], values.score([t], [t])[metric]) for p, t in pairs
        ]
        return np.array([[sign * (found - best)] for found, best in scores], np.float64)
    answers, true = np.asarray(predicted), np.asarray(truth)
    if isinstance(values, Classes):
        error = (answers != true).astype(np.float64)
    elif isinstance(values, Directions):
        a, t = answers.astype(np.float64), true.astype(np.float64)
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(t, axis=-1)
        cosine = (a * t).sum(axis=-1) / np.maximum(lengths, 1e-9)
        error = np.degrees(np.arccos(cosine.clip(-1, 1)))
    else:
        square = (answers.astype(np.float64) - true) ** 2
        if square.ndim > 3:
            known = ~np.isnan(square)
            square = np.where(known, square, 0).sum(-1) / np.maximum(known.sum(-1), 1)
        error = np.sqrt(square)
    is_known: Bool[np.ndarray, "batch y x"] = np.asarray(values.is_valid(true))
    return np.where(is_known, error, np.nan).reshape(len(true), -1)


def some_places(array: Float[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch some"]:
    """Returns at most some places of every sample, the same of all."""
    return array[:, evenly_spread(array.shape[1], MOST_PLACES)]


def rank_correlation(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> float:
    """Returns Spearman's correlation, equals sharing their mean rank; NaN if all of one are equal.

    Pairs of which one is NaN are left out.
    """
    known = ~(np.isnan(first) | np.isnan(second))
    a, b = rankdata(first[known]), rankdata(second[known])
    if not len(a) or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def curve(
    spread: Float[np.ndarray, "n"], error: Float[np.ndarray, "n"], num_bins: int
) -> Curve | None:
    """Returns error against spread, in bins; None if nothing is known.

    Args:
        spread: Of each place.
        error: Likewise; pairs of which one is NaN are left out.
        num_bins: At most; as many as there are places, if these are fewer.
    """
    known = ~(np.isnan(spread) | np.isnan(error))
    if not known.any():
        return None
    order = np.argsort(spread[known], kind="stable")
    parts = np.array_split(order, min(num_bins, len(order)))
    mean = [
        [np.sqrt(np.mean(values[known][part] ** 2)) for part in parts] for values in (spread, error)
    ]
    return Curve(np.array(mean[0]), np.array(mean[1]), len(parts[0]))

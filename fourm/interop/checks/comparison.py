"""Arrays that we compute against arrays that were recorded."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

RELATIVE_TOLERANCE = 1e-4
"""Largest norm of the difference over the norm of what was recorded, unless said otherwise."""

TIE = 1e-4
"""Scores closer than this may be decided either way."""


class Comparison(NamedTuple):
    """What came of comparing one array.

    Attributes:
        name: Of the array, its folder's name first where several are compared.
        error: Relative error, or the share of entries that differ.
        tolerance: The largest error allowed.
    """

    name: str
    error: float
    tolerance: float

    @property
    def is_equal(self) -> bool:
        # A NaN is no number that a tolerance allows.
        return bool(self.error <= self.tolerance)


def compare(
    name: str,
    ours: Shaped[np.ndarray, "..."],
    recorded: Shaped[np.ndarray, "..."],
    is_valid: Bool[np.ndarray, "..."] | None = None,
    tolerance: float = RELATIVE_TOLERANCE,
) -> Comparison:
    """Compares numbers: the norm of the difference over the norm of what was recorded.

    Args:
        name: Of the array.
        ours: What we compute.
        recorded: What it should be. Where it is infinite or NaN, ours must be so too.
        is_valid: Which leading entries count, such as rows that are no padding; None for all.
        tolerance: The largest relative error allowed.
    """
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if ours.shape != recorded.shape:
        return Comparison(name, float("inf"), tolerance)
    if is_valid is not None:
        ours, recorded = ours[is_valid], recorded[is_valid]
    is_finite = np.isfinite(recorded)
    # NaN equals NaN here, and each infinity itself.
    if not np.array_equal(ours[~is_finite], recorded[~is_finite], equal_nan=True):
        return Comparison(name, float("inf"), tolerance)
    difference = np.linalg.norm(ours[is_finite] - recorded[is_finite])
    scale = np.linalg.norm(recorded[is_finite])
    # Of what is all zero, the difference itself.
    return Comparison(name, float(difference / scale if scale else difference), tolerance)


def compare_exactly(
    name: str,
    ours: Shaped[np.ndarray, "..."],
    recorded: Shaped[np.ndarray, "..."],
    may_differ: Bool[np.ndarray, "..."] | None = None,
) -> Comparison:
    """Compares ids, masks and counts: the share of entries that differ, of which none may.

    Args:
        name: Of the array.
        ours: What we compute.
        recorded: What it should be.
        may_differ: Entries that don't count, because the scores that decide are nearer to each
            other than `TIE`.
    """
    ours, recorded = np.asarray(ours), np.asarray(recorded)
    if ours.shape != recorded.shape:
        return Comparison(name, 1.0, 0.0)
    differs = ours != recorded
    if may_differ is not None:
        differs = differs & ~may_differ
    return Comparison(name, float(differs.mean()) if differs.size else 0.0, 0.0)

"""Whether generated values are distributed as true ones: distances of their features.

Features are those of the run's own encoder, or of any function that a caller gives. Numbers of
different features, of different numbers of samples, or of another library can't be compared.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from tokenizers.base import RawBatch

NEIGHBOURS = 3
"""Of precision and recall, as in their paper."""


class Distribution(NamedTuple):
    """How near generated features are to true ones.

    Attributes:
        frechet: Fréchet distance of two normal distributions (Heusel et al. 2017), lower is better.
        precision: Share of generated samples that lie among true ones, higher is better.
        recall: Share of true samples that lie among generated ones, higher is better.
    """

    frechet: float
    precision: float
    recall: float


def measure(
    target: str,
    embed: Callable[[RawBatch], Float[np.ndarray, "batch dim"]],
    predicted: RawBatch,
    truth: RawBatch,
    round_trip: RawBatch,
    chance: RawBatch,
) -> list[dict[str, Any]]:
    """Returns a row for each number of `Distribution`, without its direction.

    The floor is what tokens drawn at random make (one true picture for all would have the highest
    precision); the ceiling the tokenizer's round trip of the truth.

    Args:
        target: What was generated.
        embed: Returns features of raw values.
        predicted: Generated values.
        truth: True ones.
        round_trip: True ones after their tokenizer's round trip.
        chance: What tokens drawn at random are decoded to.
    """
    true = embed(truth)
    found, floor, ceiling = (compare(embed(each), true) for each in (predicted, chance, round_trip))
    return [
        {
            "target": target,
            "metric": name,
            "better": "lower" if name == "frechet" else "higher",
            "floor": getattr(floor, name),
            "value": getattr(found, name),
            "ceiling": getattr(ceiling, name),
        }
        for name in Distribution._fields
    ]


def compare(
    generated: Float[np.ndarray, "n dim"], true: Float[np.ndarray, "m dim"]
) -> Distribution:
    """Compares features of generated samples with those of true ones.

    Raises:
        ValueError: If there are fewer than five of either, or a feature is not finite.
    """
    for name, features in (("generated", generated), ("true", true)):
        if len(features) <= NEIGHBOURS + 1:
            raise ValueError(
                f"There are {len(features)} {name} samples; {NEIGHBOURS + 2} are needed at least."
            )
        if not np.isfinite(features).all():
            raise ValueError(f"A feature of a {name} sample is not finite.")
    return Distribution(
        frechet_distance(generated, true),
        share_among(generated, true),
        share_among(true, generated),
    )


def frechet_distance(
    first: Float[np.ndarray, "n dim"], second: Float[np.ndarray, "m dim"]
) -> float:
    """Returns |a - b|² + tr(A + B - 2 (A B)^½) of means a, b and covariances A, B, in float64.

    The trace of the root is the sum of the singular values of A^½ B^½, so that no root of a matrix
    that is not symmetric is needed, and fewer samples than dimensions do no harm.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    apart = a.mean(axis=0) - b.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (a, b)]
    roots = [_root(each) for each in covariances]
    nuclear = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    total = apart @ apart + sum(np.trace(each) for each in covariances) - 2 * nuclear
    return float(max(total, 0.0))


def _root(covariance: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    values, vectors = eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def share_among(
    samples: Float[np.ndarray, "n dim"],
    others: Float[np.ndarray, "m dim"],
    neighbours: int = NEIGHBOURS,
) -> float:
    """Returns which share of samples is nearer to some other than its k-th neighbour is.

    Of generated among true samples that is precision, of true among generated ones recall
    (Kynkäänniemi et al. 2019, section 2).
    """
    first, second = samples.astype(np.float64), others.astype(np.float64)
    radii = np.sort(cdist(second, second), axis=1)[:, neighbours]  # The first is itself.
    return float((cdist(first, second) <= radii[None]).any(axis=1).mean())

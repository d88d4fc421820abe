"""Answers of the most similar training samples, each by its similarity: DINO's weighted kNN."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from fourm.evaluation.probing.linear import Kind, agreement

NUMBERS = (10, 20, 100, 200)
"""How many neighbours, as DINO tries them."""
TEMPERATURE = 0.07
"""A neighbour's weight is exp(cosine similarity / 0.07)."""
AT_ONCE = 512
"""Samples whose similarities to all training samples are in memory at once."""


class Neighbours(NamedTuple):
    """The nearest training samples of some samples, the nearest first.

    Attributes:
        index: int [rows, k].
        weight: float64 [rows, k], see `TEMPERATURE`.
    """

    index: Int[np.ndarray, "rows k"]
    weight: Float[np.ndarray, "rows k"]


def unit_length(features: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
    """Returns vectors of length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)


def find_neighbours(
    training: Float[np.ndarray, "train features"],
    asked: Float[np.ndarray, "rows features"],
    k: int,
    leave_out_self: bool = False,
) -> Neighbours:
    """Returns the `k` training samples of the highest cosine similarity.

    Args:
        training: Features of training samples.
        asked: Features of the samples whose neighbours are asked.
        k: At most as many as there are training samples.
        leave_out_self: Whether row i of both is the same sample, which is no neighbour of its own.
    """
    known, asked = unit_length(training), unit_length(asked)
    indices, weights = [], []
    for start in range(0, len(asked), AT_ONCE):
        similar = asked[start : start + AT_ONCE] @ known.T
        if leave_out_self:
            rows = np.arange(len(similar))
            similar[rows, start + rows] = -np.inf
        # Sorted by place first, so that of equally similar ones the earlier comes first.
        nearest = np.sort(np.argpartition(-similar, k - 1, axis=1)[:, :k], axis=1)
        chosen = np.take_along_axis(similar, nearest, axis=1)
        order = np.argsort(-chosen, axis=1, kind="stable")
        indices.append(np.take_along_axis(nearest, order, axis=1))
        chosen = np.take_along_axis(chosen, order, axis=1).astype(np.float64)
        weights.append(np.exp(chosen / TEMPERATURE))
    return Neighbours(np.concatenate(indices), np.concatenate(weights))


def vote(
    neighbours: Neighbours, labels: Shaped[np.ndarray, "train ..."], kind: Kind, k: int
) -> np.ndarray:
    """Returns what the first `k` neighbours answer together, each by its weight.

    The class with the most weight; of several labels those with at least half of it; of numbers
    the mean.
    """
    index, weight = neighbours.index[:, :k], neighbours.weight[:, :k]
    weight = weight / weight.sum(axis=1, keepdims=True)
    match kind:
        case "class":
            classes, places = np.unique(labels, return_inverse=True)
            shares = np.zeros((len(index), len(classes)))
            rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
            np.add.at(shares, (rows, places[index]), weight)
            return classes[shares.argmax(axis=1)]
        case "several":
            return np.einsum("rk,rkn->rn", weight, labels[index]) >= 0.5
        case "number":
            return (weight * labels[index]).sum(axis=1)


class NeighbourProbe(NamedTuple):
    """What neighbours answer.

    Attributes:
        by_k: Answers [rows, ...] by number of neighbours.
        k: The number that answers best for training samples, each by the others.
    """

    by_k: dict[int, np.ndarray]
    k: int


def ask_neighbours(
    training: Float[np.ndarray, "train features"],
    labels: Shaped[np.ndarray, "train ..."],
    asked: Float[np.ndarray, "rows features"],
    kind: Kind,
    numbers: Sequence[int] = NUMBERS,
) -> NeighbourProbe:
    """Answers for samples by weighted kNN (Caron et al. 2021, section 4.1 and appendix F).

    Args:
        training: Features of training samples; at least 2.
        labels: Of these, as in `fit_linear`.
        asked: Features of the samples that are to be answered for.
        kind: What the labels are.
        numbers: How many neighbours to try; at most all of them answer.
    """
    ks = sorted({min(k, len(training) - 1) for k in numbers})
    own = find_neighbours(training, training, ks[-1], leave_out_self=True)
    reached = {k: agreement(vote(own, labels, kind, k), labels, kind) for k in ks}
    nearest = find_neighbours(training, asked, ks[-1])
    best = max(ks, key=lambda k: (reached[k], -k))
    return NeighbourProbe({k: vote(nearest, labels, kind, k) for k in ks}, best)

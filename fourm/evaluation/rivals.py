"""Simple methods for the same task: what a model has to beat to be worth its training.

From the same inputs and the same training samples, in seconds: a random forest on small windows of
pixels where pictures are predicted from pictures, ridge regression where a number is predicted, and
the answer of the most similar training sample everywhere else.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import Boxes, RawBatch, Values
from tokenizers.scalars import Scalar
from tokenizers.spread import evenly_spread, take_rows
from tokenizers.values import Classes, Colors, DenseValues, Directions

SCORED = 64
"""Held-out samples, evenly spread over those predicted, on which simple methods are scored."""
FOREST_SAMPLES, FOREST_PIXELS = 128, 12_000
"""Training samples that a forest sees, and pixels of theirs."""
TREES, DEPTH = 24, 16
"""Of a forest."""
WINDOWS = (3, 5)
"""Sides of the windows around a pixel whose means a forest sees beside the pixel itself."""
VECTOR_SAMPLES = 2048
"""Training samples for ridge regression and for the most similar one."""
CELLS = 8
"""Cells along each side of a picture whose means stand for it in a vector."""
WORDS = 512
"""Words that are counted, the commonest of the training texts."""
STRENGTHS = tuple(10.0**power for power in range(-1, 6))
"""Regularisations of ridge regression, of which cross-validation chooses."""


class SimpleAnswer(NamedTuple):
    """What a simple method answers.

    Attributes:
        method: "forest", "ridge" or "nearest".
        predicted: Raw values of the target.
    """

    method: str
    predicted: RawBatch


def answer_simply(
    shown: Mapping[str, RawBatch], target: str, training: SampleSet, values: Mapping[str, Values]
) -> SimpleAnswer | None:
    """Predicts a modality from others by the simple method that fits it.

    Args:
        shown: Raw values of the inputs by modality, equally many of each.
        target: What is predicted.
        training: Samples to learn from.
        values: What the raw numbers of each modality mean.

    Returns:
        The answers; None if no training sample has all the modalities, or one of the inputs is of
        a kind that the simple methods don't read.
    """
    # They take a second to import.
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import pairwise_distances_argmin
    from sklearn.preprocessing import StandardScaler

    rows = training.rows([*shown, target])
    if not len(rows):
        return None
    if isinstance(values[target], DenseValues) and all(
        isinstance(values[name], DenseValues) for name in shown
    ):
        rows = rows[evenly_spread(len(rows), FOREST_SAMPLES)]
        seen = {name: training.take(name, rows) for name in shown}
        known = training.take(target, rows)
        return SimpleAnswer("forest", _grow_forest(shown, seen, known, values, target))
    rows = rows[evenly_spread(len(rows), VECTOR_SAMPLES)]
    seen = {name: training.take(name, rows) for name in shown}
    known = training.take(target, rows)
    vectors = [_vectors(seen[name], shown[name], values[name]) for name in shown]
    if any(pair is None for pair in vectors):
        return None
    scaler = StandardScaler()
    train, test = (np.concatenate(parts, axis=1) for parts in zip(*vectors, strict=True))
    train, test = scaler.fit_transform(train), scaler.transform(test)
    if isinstance(values[target], Scalar):
        ridge = RidgeCV(STRENGTHS).fit(train, np.asarray(known, np.float64))
        return SimpleAnswer("ridge", [float(number) for number in ridge.predict(test)])
    return SimpleAnswer("nearest", take_rows(known, pairwise_distances_argmin(test, train)))


def _grow_forest(
    shown: Mapping[str, np.ndarray],
    seen: Mapping[str, np.ndarray],
    known: np.ndarray,
    values: Mapping[str, Values],
    target: str,
) -> np.ndarray:
    """Returns what a forest says of every pixel."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    size = known.shape[1:3]
    settings: dict[str, Any] = {
        "n_estimators": TREES,
        "max_depth": DEPTH,
        "min_samples_leaf": 8,
        "max_features": 0.5,
        "n_jobs": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "random_state": 0,
    }
    kind = values[target]
    valid = np.asarray(kind.is_valid(known)).reshape(-1)
    pixels = np.flatnonzero(valid)
    pixels = np.random.default_rng(0).permutation(pixels)[:FOREST_PIXELS]
    if not len(pixels):
        raise ValueError(f"no training sample that was kept has a known pixel of {target}")
    inputs = _windows(seen, values, size).reshape(len(valid), -1)[pixels]
    answers = known.reshape(len(valid), -1)[pixels]
    if answers.dtype.kind == "f":
        # A channel may be unknown where others are known; the mean is no harm to its trees.
        there = np.isfinite(answers)
        sums = np.where(there, answers, 0).sum(axis=0, dtype=np.float64)
        answers = np.where(there, answers, sums / np.maximum(there.sum(axis=0), 1))
    is_classes = isinstance(kind, Classes)
    forest = (RandomForestClassifier if is_classes else RandomForestRegressor)(**settings)
    forest.fit(inputs, answers[:, 0] if answers.shape[1] == 1 else answers)
    found = []
    for row in range(len(next(iter(shown.values())))):  # One by one, for the memory.
        one = {name: raw[row : row + 1] for name, raw in shown.items()}
        found.append(forest.predict(_windows(one, values, size).reshape(size[0] * size[1], -1)))
    predicted = np.stack(found).reshape(-1, *known.shape[1:])
    if isinstance(kind, Directions):
        lengths = np.linalg.norm(predicted, axis=-1, keepdims=True)
        predicted = predicted / np.maximum(lengths, 1e-6)
    if isinstance(kind, Colors):
        predicted = np.clip(np.round(predicted), 0, 255)
    return predicted.astype(known.dtype)


def _windows(
    raw: Mapping[str, np.ndarray], values: Mapping[str, Values], size: tuple[int, int]
) -> Float[np.ndarray, "batch y x features"]:
    """Returns what a forest sees of every pixel: it, means around it, and where it is."""
    from scipy.ndimage import uniform_filter

    planes = []
    for name, given in raw.items():
        pictures = _channels(given, values[name])
        own_size = pictures.shape[1:3]
        down, across = (np.arange(n) * m // n for n, m in zip(size, own_size, strict=True))
        around = [uniform_filter(pictures, (0, side, side, 0), mode="nearest") for side in WINDOWS]
        planes += [plane[:, down][:, :, across] for plane in (pictures, *around)]
    batch = len(planes[0])
    where = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    where = np.broadcast_to(where.astype(np.float32), (batch, *where.shape))
    return np.concatenate([*planes, where], axis=-1)


def _channels(raw: np.ndarray, values: Values) -> Float[np.ndarray, "batch y x c"]:
    """Returns pictures as numbers: classes apart, zero where nothing is known."""
    raw = np.asarray(raw)
    if isinstance(values, Classes):
        return (raw[..., None] == np.arange(len(values.names))).astype(np.float32)
    pictures = raw.astype(np.float32).reshape(*raw.shape[:3], -1)
    return np.nan_to_num(pictures, nan=0.0, posinf=0.0, neginf=0.0)


def _vectors(
    seen: RawBatch, shown: RawBatch, values: Values
) -> tuple[Float[np.ndarray, "train n"], Float[np.ndarray, "test n"]] | None:
    """Returns a vector of each value of two sets; None if they are of a kind without one."""
    first = seen[0]
    as_vectors = getattr(values, "vectors", None)
    if as_vectors is not None:
        return as_vectors(seen), as_vectors(shown)
    if isinstance(values, DenseValues):
        return _cells(_channels(seen, values)), _cells(_channels(shown, values))
    if isinstance(first, str):
        words = _commonest_words(seen)
        return _count_words(seen, words), _count_words(shown, words)
    if isinstance(first, Boxes):
        most = 1 + max((int(each.classes.max(initial=0)) for each in seen), default=0)
        return _count_boxes(seen, most), _count_boxes(shown, most)
    if isinstance(values, Scalar):
        return tuple(np.asarray(each, np.float64).reshape(-1, 1) for each in (seen, shown))
    return None


def _cells(pictures: Float[np.ndarray, "batch y x c"]) -> Float[np.ndarray, "batch n"]:
    """Returns the means of a picture's cells."""
    for axis in (1, 2):
        length = pictures.shape[axis]
        edges = np.unique(np.arange(min(CELLS, length)) * length // min(CELLS, length))
        widths = np.diff([*edges, length]).reshape([-1 if i == axis else 1 for i in range(4)])
        pictures = np.add.reduceat(pictures, edges, axis=axis) / widths
    return pictures.reshape(len(pictures), -1).astype(np.float64)


def _commonest_words(texts: Sequence[str]) -> dict[str, int]:
    """Returns the words that are counted, with their places in a vector."""
    words, counts = np.unique(
        [word for text in texts for word in text.lower().split()] or [""], return_counts=True
    )
    chosen = words[np.argsort(-counts, kind="stable")][:WORDS]
    return {str(word): place for place, word in enumerate(chosen)}


def _count_words(texts: Sequence[str], words: Mapping[str, int]) -> Float[np.ndarray, "batch n"]:
    counts = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            if word in words:
                counts[row, words[word]] += 1
    return counts


def _count_boxes(lists: Sequence[Boxes], classes: int) -> Float[np.ndarray, "batch n"]:
    """Returns, per class, how many boxes there are, and their summed corners."""
    found = np.zeros((len(lists), classes, 5))
    for row, boxes in enumerate(lists):
        known = np.asarray(boxes.classes) < classes
        corners = np.asarray(boxes.corners, np.float64).reshape(-1, 4)[known]
        numbers = np.concatenate([np.ones((len(corners), 1)), corners], axis=1)
        np.add.at(found[row], np.asarray(boxes.classes)[known], numbers)
    return found.reshape(len(lists), -1)

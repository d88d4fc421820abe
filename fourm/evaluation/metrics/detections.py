"""Average precision of boxes, as COCO defines it (Lin et al. 2014; pycocotools' COCOeval).

Boxes of a class are taken from all samples in the order of their confidence. Each is right if it
overlaps a box of its class that is still free, of which it takes the one that it overlaps most.
Precision, made to fall with recall, is averaged over 101 levels of recall, then over classes that
occur, and over thresholds of overlap from 0.5 to 0.95. The numbers are those of COCOeval for all
areas, of at most 100 boxes of a class and sample.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from tokenizers.base import Better, Boxes

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Intersection over union from which on a box is right."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Levels at which precision is read off."""
MOST_BOXES = 100
"""Of a class and sample that count, the surest ones."""

Confidence = Sequence[Float[np.ndarray, "_"]]
"""How sure every box of every sample is; only the order matters."""


class DetectionMetrics:
    """Average precision against the boxes of some samples."""

    metrics: ClassVar[dict[str, Better]] = dict.fromkeys(("ap", "ap50", "ap75"), "higher")

    def __init__(self, truth: Sequence[Boxes]):
        """Args:
        truth: Of every sample.
        """
        self.truth = truth

    def score(
        self,
        predicted: Sequence[Boxes],
        rows: Int[np.ndarray, "rows"] | None = None,
        confidence: Confidence | None = None,
    ) -> dict[str, float]:
        """Returns the mean over all thresholds, and those at 0.5 and 0.75; NaN without true boxes.

        Args:
            predicted: Boxes of each sample.
            rows: Which samples these are; all if None.
            confidence: Of each box; by default the sooner it stands in its list, the surer it is.
        """
        truth = self.truth if rows is None else [self.truth[int(row)] for row in rows]
        if confidence is None:
            confidence = [1.0 / (1 + np.arange(len(boxes.classes))) for boxes in predicted]
        true_classes = np.concatenate([boxes.classes for boxes in truth])
        if not len(true_classes):
            return dict.fromkeys(self.metrics, float("nan"))
        of_classes = [
            _average_precision(predicted, truth, confidence, int(index))
            for index in np.unique(true_classes)
        ]
        by_threshold = np.mean(of_classes, axis=0)
        fifty, seventy_five = (by_threshold[np.isclose(THRESHOLDS, t)].item() for t in (0.5, 0.75))
        return {"ap": float(by_threshold.mean()), "ap50": fifty, "ap75": seventy_five}


def _average_precision(
    predicted: Sequence[Boxes], truth: Sequence[Boxes], confidence: Confidence, index: int
) -> Float[np.ndarray, "levels"]:
    """Returns the average precision of one class at each threshold."""
    scores, hits, count = [np.zeros(0)], [np.zeros((len(THRESHOLDS), 0), bool)], 0
    for found, true, sure in zip(predicted, truth, confidence, strict=True):
        own, sought = found.classes == index, true.corners[true.classes == index]
        count += len(sought)
        if not own.any():
            continue
        order = np.argsort(-sure[own], kind="stable")[:MOST_BOXES]
        scores.append(sure[own][order])
        hits.append(_match(overlaps(found.corners[own][order], sought)))
    # Of equally sure boxes those of the first samples come first, as in COCOeval.
    order = np.argsort(-np.concatenate(scores), kind="stable")
    is_right = np.concatenate(hits, axis=1)[:, order]
    if not is_right.shape[1]:
        return np.zeros(len(THRESHOLDS))
    right = np.cumsum(is_right, axis=1)
    precision = right / np.arange(1, is_right.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    areas = []
    for levels, heights in zip(right / count, precision, strict=True):
        # Beyond the highest recall there is no precision.
        areas.append(np.append(heights, 0.0)[np.searchsorted(levels, RECALLS)].mean())
    return np.array(areas)


def _match(overlap: Float[np.ndarray, "found true"]) -> Bool[np.ndarray, "thresholds found"]:
    """Returns at each threshold which boxes, the surest first, are right."""
    is_right = np.zeros((len(THRESHOLDS), len(overlap)), bool)
    if not overlap.size:
        return is_right
    for level, threshold in enumerate(THRESHOLDS):
        left = overlap.copy()
        for number, row in enumerate(left):
            best = len(row) - 1 - int(row[::-1].argmax())  # The last of equals, as in COCOeval.
            if row[best] >= threshold - 1e-10:
                is_right[level, number] = True
                left[:, best] = -1.0
    return is_right


def overlaps(
    first: Float[np.ndarray, "m 4"], second: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "m n"]:
    """Returns the intersection over union of all pairs of boxes, in float64."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.maximum(sides, 0).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (a, b)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-12)

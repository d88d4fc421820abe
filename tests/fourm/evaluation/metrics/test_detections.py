"""Average precision has the numbers of COCO's own code."""

import numpy as np
import pytest

from fourm.evaluation.metrics.detections import DetectionMetrics, overlaps
from tokenizers.base import Boxes

# What pycocotools 2.0.11 says of `make_detections`, without and with equal confidences.
RECORDED = {
    False: (0.24582724534594644, 0.4400915767252401, 0.21352093451103357),
    True: (0.30460856326950786, 0.5117011532726875, 0.33966100731258886),
}
NONE = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))


def make_detections(has_ties):
    random = np.random.default_rng(int(has_ties))
    predicted, truth, sure = [], [], []
    for _ in range(40):
        count = random.integers(0, 6)
        first = random.uniform(0, 0.7, (count, 2))
        corners = np.concatenate([first, first + random.uniform(0.05, 0.3, (count, 2))], 1)
        classes = random.integers(0, 3, count)
        kept = random.random(count) < 0.8
        moved = corners[kept] + random.normal(0, 0.012, (kept.sum(), 4))
        named = np.where(random.random(kept.sum()) < 0.9, classes[kept], 3)
        wrong = np.tile([0.3, 0.3, 0.6, 0.6], (random.integers(0, 3), 1))
        found = np.clip(np.concatenate([moved, wrong]), 0, 1)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
        labels = np.concatenate([named, random.integers(0, 3, len(wrong))])
        truth.append(Boxes(corners.astype(np.float32), classes.astype(np.int32)))
        predicted.append(Boxes(found.astype(np.float32), labels.astype(np.int32)))
        sure.append(random.random(len(found)).round(1 if has_ties else 9))
    return predicted, truth, sure


@pytest.mark.parametrize("has_ties", [False, True])
def test_the_numbers_are_those_of_coco(has_ties):
    predicted, truth, sure = make_detections(has_ties)
    found = DetectionMetrics(truth).score(predicted, confidence=sure)
    assert tuple(found.values()) == pytest.approx(RECORDED[has_ties], abs=1e-12)
    assert list(found) == list(DetectionMetrics.metrics) == ["ap", "ap50", "ap75"]


def test_confidence_decides_which_boxes_come_first():
    right = Boxes(np.array([[0.1, 0.1, 0.5, 0.5]], np.float32), np.array([0], np.int32))
    wrong = Boxes(np.array([[0.6, 0.6, 0.9, 0.9]], np.float32), np.array([0], np.int32))
    both = Boxes(*(np.concatenate(parts) for parts in zip(wrong, right, strict=True)))
    metrics = DetectionMetrics([right])
    assert metrics.score([right]) == pytest.approx(dict.fromkeys(metrics.metrics, 1.0))
    assert metrics.score([both])["ap50"] == pytest.approx(0.5)  # As they stand.
    sure = metrics.score([both], confidence=[np.array([0.1, 0.9])])
    assert sure["ap50"] == pytest.approx(1.0)


def test_some_samples_are_scored_as_if_they_were_all():
    predicted, truth, sure = make_detections(False)
    rows = np.array([3, 5, 30])
    some = DetectionMetrics(truth).score(
        [predicted[row] for row in rows], rows, [sure[row] for row in rows]
    )
    alone = DetectionMetrics([truth[row] for row in rows])
    assert some == alone.score([predicted[r] for r in rows], None, [sure[r] for r in rows])


def test_nothing_found_is_0_and_nothing_to_find_has_no_score():
    _, truth, _ = make_detections(False)
    assert set(DetectionMetrics(truth).score([NONE] * 40).values()) == {0.0}
    assert np.isnan(list(DetectionMetrics([NONE]).score(truth[:1]).values())).all()


def test_boxes_without_area_overlap_nothing():
    flat = np.array([[0.2, 0.2, 0.2, 0.6]], np.float32)
    assert overlaps(flat, flat).tolist() == [[0.0]]

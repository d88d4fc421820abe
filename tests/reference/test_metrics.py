"""Every metric is that of its definition, sample by sample and pixel by pixel in float64."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from fourm.inference.schedules import temperatures_per_step, tokens_per_step
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.features import Vectors
from tokenizers.scalars import Scalar
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

COUNT = 150
"""Samples: more than are scored at once, and no multiple of it."""
rng = np.random.default_rng(0)


def pixels(predicted, truth, where):
    """Yields the pairs of values in the region, in float64."""
    for answer, true, region in zip(predicted, truth, where, strict=True):
        for row, column in np.argwhere(region):
            yield np.float64(answer[row, column]), np.float64(true[row, column])


def mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def score_distances(pairs):
    known = [(a, t) for a, t in pairs if 0.1 <= t <= 100]
    return {
        "abs_rel": mean(abs(a - t) / t for a, t in known),
        "delta1": mean(a > 0 and max(a / t, t / a) < 1.25 for a, t in known),
        "rmse": math.sqrt(mean((a - t) ** 2 for a, t in known)),
    }


def score_directions(pairs):
    angles = []
    for a, t in pairs:
        if np.linalg.norm(t) > 0.5:
            lengths = np.linalg.norm(a) * np.linalg.norm(t)
            cosine = float(a @ t) / lengths if lengths else 0.0
            angles.append(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
    return {"mean_angle": mean(angles), "within_11": mean(angle < 11.25 for angle in angles)}


def score_colors(pairs):
    square = mean(float(((a - t) ** 2).mean()) for a, t in pairs)
    return {"psnr": 10 * math.log10(255**2 / square)}


def score_classes(pairs):
    known = [(int(a), int(t)) for a, t in pairs if t != 255]
    overlaps = []
    for label in {t for _, t in known}:
        both = sum(a == t == label for a, t in known)
        overlaps.append(both / sum(label in pair for pair in known))
    return {"miou": mean(overlaps), "pixel_accuracy": mean(a == t for a, t in known)}


def score_reals(pairs):
    pairs = list(pairs)
    explained, errors = [], []
    for channel in range(2):
        # An answer that is unknown where the truth is known is as one of 0.
        known = [(0.0 if math.isnan(a[channel]) else a[channel], t[channel]) for a, t in pairs]
        known = [(a, t) for a, t in known if math.isfinite(t)]
        middle, square = mean(t for _, t in known), mean((a - t) ** 2 for a, t in known)
        errors.append(math.sqrt(square))
        if variance := mean((t - middle) ** 2 for _, t in known):
            explained.append(1 - square / variance)
    return {"r2": mean(explained), "rmse": mean(errors)}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def make_distances():
    truth = rng.uniform(0.2, 50, (COUNT, 3, 4)).astype(np.float32)
    predicted = (truth * rng.uniform(0.6, 1.6, truth.shape)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = 0
    predicted[rng.random(truth.shape) < 0.1] = 0
    return predicted, truth


def make_directions():
    truth = unit(rng.normal(size=(COUNT, 3, 4, 3)))
    predicted = unit(truth + 0.3 * rng.normal(size=truth.shape))
    truth[rng.random(truth.shape[:3]) < 0.2] = 0
    predicted[rng.random(truth.shape[:3]) < 0.1] = 0
    return predicted, truth


def make_colors():
    truth = rng.integers(0, 256, (COUNT, 3, 4, 3)).astype(np.uint8)
    return (truth // 2 + 40).astype(np.uint8), truth


def make_classes():
    truth = rng.choice([0, 1, 2, 255], (COUNT, 3, 4), p=[0.6, 0.3, 0.05, 0.05]).astype(np.uint8)
    truth[100, 0, 0] = 3  # Once in the whole set.
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 5, truth.shape))
    return np.where(predicted == 255, 0, predicted).astype(np.uint8), truth


def make_reals():
    truth = rng.normal(size=(COUNT, 3, 4, 2)).astype(np.float32) * [1, 50] + [300, -4]
    predicted = (truth + rng.normal(size=truth.shape)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    return predicted, truth.astype(np.float32)


DENSE = {
    "distances": (Distances(), make_distances, score_distances),
    "directions": (Directions(), make_directions, score_directions),
    "colors": (Colors(), make_colors, score_colors),
    "classes": (Classes(names=("a", "b", "c", "d", "e")), make_classes, score_classes),
    "reals": (Reals(channels=2), make_reals, score_reals),
}


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("region", ["everywhere", "somewhere", "in a few samples"])
def test_metrics_of_pixels_are_pooled_over_all_pixels_of_the_set(kind, region):
    values, make, judge = DENSE[kind]
    predicted, truth = make()
    where = np.ones(truth.shape[:3], bool)
    if region != "everywhere":
        where &= rng.random(where.shape) < 0.4
    if region == "in a few samples":
        where[5:-3] = False
    right = judge(pixels(predicted, truth, where))
    assert right.keys() == values.metrics.keys()
    found = values.score(predicted, truth, None if region == "everywhere" else where)
    assert found == pytest.approx(right, rel=1e-6)


def f1(found, true) -> float:
    """Of sets of findings, sample by sample."""
    both = sum(len(a & b) for a, b in zip(found, true, strict=True))
    total = sum(map(len, found)) + sum(map(len, true))
    return 2 * both / total if total else 1.0


def test_metrics_of_texts():
    colors, shapes = ("red", "green", "blue"), ("cube", "sphere")
    values = Text(attributes={"color": colors, "shape": shapes}, pairs=(("color", "shape"),))
    words = (*colors, *shapes, "a", "the")
    texts = [" ".join(rng.choice(words, rng.integers(1, 7))) for _ in range(2 * COUNT)]
    predicted, truth = texts[:COUNT], [*texts[COUNT:-20], *texts[COUNT - 20 : COUNT]]

    def findings(text):
        parts = text.split()
        bag = {(word, n) for word, count in Counter(parts).items() for n in range(count)}
        together = {(a, b) for a, b in itertools.pairwise(parts) if a in colors and b in shapes}
        return {
            "f1_color_shape": together,
            "f1_color": set(parts) & set(colors),
            "f1_shape": set(parts) & set(shapes),
            "f1_words": bag,
        }

    found, true = [list(map(findings, batch)) for batch in (predicted, truth)]
    right = {name: f1([f[name] for f in found], [t[name] for t in true]) for name in found[0]}
    right["exact"] = mean(a == b for a, b in zip(predicted, truth, strict=True))
    assert values.score(predicted, truth) == pytest.approx(right, rel=1e-9)
    assert 0 < right["exact"] < 1


def overlap(a, b) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    both = max(across, 0.0) * max(down, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def most_matches(found: Boxes, true: Boxes, by_class: bool) -> int:
    """Tries all ways to give boxes to boxes."""
    fits = [
        [
            overlap(np.float64(a), np.float64(b)) >= 0.5 and (not by_class or x == y)
            for b, y in zip(true.corners, true.classes, strict=True)
        ]
        for a, x in zip(found.corners, found.classes, strict=True)
    ]
    few, many = len(fits), len(true.classes)
    if few > many:
        fits, few, many = [list(row) for row in zip(*fits, strict=True)] or [], many, few
    ways = itertools.permutations(range(many), few)
    return max((sum(fits[i][j] for i, j in enumerate(way)) for way in ways), default=0)


def test_metrics_of_boxes():
    values = BoxList(class_names=("a", "b"))
    predicted, truth = [], []
    for _ in range(60):
        count = int(rng.integers(0, 4))
        low = rng.uniform(0, 0.5, (count, 2))
        corners = np.concatenate([low, low + rng.uniform(0.2, 0.5, (count, 2))], 1)
        classes = rng.integers(0, 2, count).astype(np.int32)
        truth.append(Boxes(corners.astype(np.float32), classes))
        kept = rng.random(count) < 0.8
        moved = (corners + rng.uniform(-0.05, 0.05, corners.shape)).clip(0, 1).astype(np.float32)
        predicted.append(Boxes(moved[kept], classes[kept] ^ (rng.random(kept.sum()) < 0.2)))
    total = sum(len(boxes.classes) for boxes in (*predicted, *truth))
    right = {
        name: 2
        * sum(most_matches(a, b, is_by) for a, b in zip(predicted, truth, strict=True))
        / total
        for name, is_by in (("f1_iou50", True), ("f1_any_class", False))
    }
    assert values.score(predicted, truth) == pytest.approx(right, rel=1e-9)
    assert 0 < right["f1_iou50"] < right["f1_any_class"] < 1


def test_metrics_of_numbers_ids_and_vectors():
    truth = rng.normal(300, 2, COUNT)
    predicted = truth + rng.normal(size=COUNT)
    middle = mean(truth)
    residual = math.fsum((p - t) ** 2 for p, t in zip(predicted, truth, strict=True))
    right = {
        "mae": mean(abs(p - t) for p, t in zip(predicted, truth, strict=True)),
        "r2": 1 - residual / math.fsum((t - middle) ** 2 for t in truth),
    }
    assert Scalar().score(predicted, truth) == pytest.approx(right, rel=1e-9)

    lengths = rng.integers(1, 6, COUNT)
    ids = [rng.integers(0, 3, length) for length in lengths]
    guessed = [rng.integers(0, 3, rng.integers(1, 6)) for _ in lengths]
    hits = [
        sum(a == b for a, b in zip(guess, own, strict=False))
        for guess, own in zip(guessed, ids, strict=True)
    ]
    found = Codes(3, (5,), is_sequence=True).score(guessed, ids)
    assert found == pytest.approx({"accuracy": sum(hits) / sum(lengths)}, rel=1e-9)

    vectors, guesses = rng.normal(size=(2, COUNT, 4, 7))
    cosines = [
        float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for a, b in zip(guesses.reshape(-1, 7), vectors.reshape(-1, 7), strict=True)
    ]
    assert Vectors(4, 7).score(guesses, vectors) == pytest.approx({"cosine": mean(cosines)})


def test_tokens_and_temperatures_of_every_pass():
    for steps, tokens in ((1, 1), (3, 9), (8, 196), (8, 64), (16, 196), (5, 4), (40, 6)):
        cosine, linear = [], []
        for step in range(steps):
            share = (math.cos(math.pi * step / steps) - math.cos(math.pi * (step + 1) / steps)) / 2
            cosine.append(round(tokens * share))
            linear.append(tokens * (step + 1) // steps - tokens * step // steps)
        counts, left = [], tokens
        for step in range(steps):
            reached = min(tokens, sum(cosine[: step + 1]))
            wanted = max(reached - (tokens - left), min(1, left))
            counts.append(left if step == steps - 1 else min(wanted, left))
            left -= counts[-1]
        assert tokens_per_step("cosine", steps, tokens).tolist() == counts
        assert tokens_per_step("linear", steps, tokens).tolist() == sorted(linear, reverse=True)
        falling = [2.5 * (tokens - sum(counts[:step])) / tokens for step in range(steps)]
        found = temperatures_per_step("linear", 2.5, np.array(counts))
        np.testing.assert_allclose(found, np.maximum(falling, 1e-9), rtol=1e-9, atol=1e-12)

"""What lists of things in a picture share, whether they are points or outlines."""

import colorsys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from tokenizers.base import Better, Crop, Instances, RawBatch, choose_constants
from tokenizers.settings.checked import Checked
from tokenizers.spread import evenly_spread

ROUNDING = 1e-3
"""How far a point may lie outside of the picture without a word."""
CONSTANTS, JUDGES = 24, 96
"""Training lists that may be the best constant, and training samples that decide."""


class InstanceValues(Checked, ABC):
    """Base of the kinds whose values are `Instances`: any number of things, none included.

    A kind says how a thing follows a crop, how close two things are, from 0 to 1, and how close
    they have to be for one to count as found. Things are paired so that they are closest together.
    """

    class_names: tuple[str, ...]
    max_instances: int
    metrics: ClassVar[dict[str, Better]]
    is_picture: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True

    @property
    @abstractmethod
    def most_points(self) -> int:
        """Most points of a thing that a tokenizer keeps."""

    @property
    @abstractmethod
    def is_near(self) -> float:
        """How close a thing has to be to a true one to be right."""

    @abstractmethod
    def is_whole(self, points: Float[np.ndarray, "points 2"]) -> bool:
        """True for the points of one thing, as they may be."""

    @abstractmethod
    def move(
        self, points: Float[np.ndarray, "points 2"], crop: Crop
    ) -> Float[np.ndarray, "seen 2"] | None:
        """Returns one thing as seen through a crop, None if it has left it.

        Args:
            points: In the coordinates of the window, neither mirrored nor turned yet.
            crop: What is to be done beside.
        """

    @abstractmethod
    def keep(self, points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "kept 2"]:
        """Returns one thing as a tokenizer writes it: at most `most_points` in the usual order."""

    @abstractmethod
    def describe(self, value: Instances) -> Any:
        """Returns what `closeness` compares."""

    @abstractmethod
    def closeness(self, found: Any, true: Any) -> Float[np.ndarray, "found true"]:
        """Returns how close things are, from 0 to 1, whatever their class."""

    @abstractmethod
    def scores_of(self, mean_closeness: float, f1: float) -> dict[str, float]:
        """Returns every metric.

        Args:
            mean_closeness: Of all pairs; a thing without a partner counts as 0.
            f1: Of things that are right.
        """

    @abstractmethod
    def paint(self, canvas: Any, points: Float[np.ndarray, "points 2"], color: Any) -> None:
        """Draws one thing, whose points are in pixels."""

    def check(self, value: Any, name: str) -> Instances:
        """Returns the things as `Instances`; a mapping by the names of their parts is one, too.

        Raises:
            ValueError: If parts have wrong shapes or lie out of range.
        """
        points, lengths, classes = _arrays_of(value, name)
        if points.size == lengths.size == classes.size == 0:
            return Instances.of([], [])
        if points.ndim != 2 or points.shape[1] != 2 or lengths.shape != classes.shape:
            raise ValueError(
                f"{name} has points of shape {points.shape}, lengths of shape {lengths.shape} and "
                f"classes of shape {classes.shape}; [points, 2] and twice [instances] are allowed."
            )
        if lengths.dtype.kind not in "iu" or classes.dtype.kind not in "iu":
            raise ValueError(
                f"{name} has lengths of dtype {lengths.dtype} and classes of dtype "
                f"{classes.dtype}; integers are allowed."
            )
        if lengths.sum() != len(points) or (lengths < 1).any():
            raise ValueError(
                f"{name} has {len(points)} points, and lengths that add up to {lengths.sum()}; "
                "they must be as many, and at least one of each thing."
            )
        if classes.min() < 0 or classes.max() >= len(self.class_names):
            raise ValueError(
                f"{name} has classes between {classes.min()} and {classes.max()}; 0 to "
                f"{len(self.class_names) - 1} is allowed ({type(self).__name__}.class_names)."
            )
        known = points[~np.isnan(points).any(axis=1)]
        if not ((known >= -ROUNDING) & (known <= 1 + ROUNDING)).all():
            raise ValueError(
                f"{name} has points between {known.min():g} and {known.max():g}; fractions of "
                "width and height in [0, 1] are allowed."
            )
        checked = Instances(
            points.clip(0, 1).astype(np.float32), lengths.astype(np.int32), classes.astype(np.int32)
        )
        for number, part in enumerate(checked.parts()):
            if not self.is_whole(part):
                raise ValueError(f"{name} has {self.what_is_wrong(part)} (number {number}).")
        return checked

    @abstractmethod
    def what_is_wrong(self, points: Float[np.ndarray, "points 2"]) -> str:
        """Returns in a phrase why points are no thing of this kind."""

    def crop(self, value: Instances, crop: Crop, size: tuple[int, int]) -> Instances:
        """Returns the things in the window's coordinates, without those that left it."""
        offset, extent = (crop.left, crop.top), (crop.width, crop.height)
        parts, classes = [], []
        for points, index in zip(value.parts(), value.classes, strict=True):
            seen = self.move((points - np.array(offset)) / np.array(extent), crop)
            if seen is not None:
                parts.append(_turned(seen, crop))
                classes.append(index)
        return Instances.of(parts, classes)

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` does not apply and is ignored.

        Both are the best if there is nothing to find and nothing was found.
        """
        pairs = [
            self._compare(self._prepared(found), self._prepared(true))
            for found, true in zip(predicted, truth, strict=True)
        ]
        return self._scores_of_sums(np.sum(pairs, axis=0) if pairs else np.zeros(4))

    def _scores_of_sums(self, sums: Float[np.ndarray, "4"]) -> dict[str, float]:
        close, right, larger, both = sums.tolist()
        mean = close / larger if larger else 1.0
        return self.scores_of(mean, 2 * right / both if both else 1.0)

    def _prepared(self, value: Instances) -> tuple[Any, np.ndarray]:
        return self.describe(value), np.asarray(value.classes)

    def _compare(
        self, found: tuple[Any, np.ndarray], true: tuple[Any, np.ndarray]
    ) -> Float[np.ndarray, "4"]:
        """Returns summed closeness, right things, the larger number of things and both numbers."""
        # Takes long to import, and only those who measure need it.
        from scipy.optimize import linear_sum_assignment

        counts = len(found[1]), len(true[1])
        if not min(counts):
            return np.array([0.0, 0.0, max(counts), sum(counts)])
        same = found[1][:, None] == true[1][None]
        near = np.where(same, self.closeness(found[0], true[0]), 0.0)
        # What is right counts under the pairing that makes most things right.
        right = near >= self.is_near - 1e-9
        sums = [
            matrix[linear_sum_assignment(matrix, maximize=True)].sum() for matrix in (near, right)
        ]
        return np.array([*sums, max(counts), sum(counts)], np.float64)

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns, per metric, what the best constant list scores on `truth`.

        It is chosen, by (at most 96) training samples, of 24 lists of theirs, of the first thing
        of each alone, and of none at all.
        """
        judges = [
            self._prepared(training[i]) for i in evenly_spread(len(training), JUDGES).tolist()
        ]
        candidates = [Instances.of([], [])]
        for index in evenly_spread(len(training), CONSTANTS).tolist():
            whole = training[index]
            candidates += [whole, Instances.of(whole.parts()[:1], whole.classes[:1])]

        def judge(candidate: Instances) -> dict[str, float]:
            prepared = self._prepared(candidate)
            return self._scores_of_sums(
                np.sum([self._compare(prepared, each) for each in judges], axis=0)
            )

        best = choose_constants(candidates, judge, self.metrics)
        return {name: self.score([each] * len(truth), truth)[name] for name, each in best.items()}

    def draw(self, value: Instances, size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
        """Returns the things on white, a colour and a name per class."""
        height, width = size
        image = Image.new("RGB", (width, height), "white")
        canvas = ImageDraw.Draw(image)
        for points, index in zip(value.parts(), value.classes, strict=True):
            # Hues a golden ratio apart stay distinct however many classes there are.
            hue = colorsys.hsv_to_rgb((int(index) * 0.618034) % 1, 1, 0.8)
            color = tuple(round(255 * part) for part in hue)
            pixels = points.astype(float) * [width - 1, height - 1]
            self.paint(canvas, pixels, color)
            known = pixels[~np.isnan(pixels).any(axis=1)]
            if len(self.class_names) > 1 and len(known):
                x, y = known.min(axis=0)
                canvas.text((x + 2, y + 1), self.class_names[index], fill=color)
        return np.asarray(image)

    def vectors(self, values: RawBatch) -> Float[np.ndarray, "batch n"]:
        """Returns, per class, how many things there are, and their summed middles and extents."""
        rows = np.zeros((len(values), len(self.class_names), 5))
        for row, value in zip(rows, values, strict=True):
            for points, index in zip(value.parts(), value.classes, strict=True):
                known = points[~np.isnan(points).any(axis=1)].astype(np.float64)
                if len(known):
                    row[index] += [1, *known.mean(axis=0), *np.ptp(known, axis=0)]
        return rows.reshape(len(values), -1)


def _arrays_of(value: Any, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns points, lengths and classes as arrays; None is no number."""
    try:
        if isinstance(value, Mapping):
            value = tuple(value[part] for part in Instances._fields)
        points, lengths, classes = value
        return np.asarray(points, np.float64), np.asarray(lengths), np.asarray(classes)
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(
            f"{name} is a {type(value).__name__}; Instances(points, lengths, classes) is allowed."
        ) from error


def _turned(points: Float[np.ndarray, "points 2"], crop: Crop) -> Float[np.ndarray, "points 2"]:
    """Returns points of a window after it was mirrored and turned."""
    x, y = points.T
    x = 1 - x if crop.flip else x
    for _ in range(crop.quarter_turns):
        x, y = y, 1 - x
    return np.stack([x, y], axis=1)


def inside(points: Float[np.ndarray, "points 2"]) -> Bool[np.ndarray, "points"]:
    """Returns which points are known and lie in the unit square."""
    return ((points >= 0) & (points <= 1)).all(axis=1)

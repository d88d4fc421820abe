"""Points of a picture: single ones, such as clicks or cells, or the keypoints of a pose."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from tokenizers.base import Better, Crop, Instances
from tokenizers.settings.checked import name_knob
from tokenizers.shapes.instances import InstanceValues, inside

SIDES = ("left", "right")
"""Words of keypoints' names that change places in a mirror."""


@dataclass(frozen=True)
class Points(InstanceValues):
    """`Instances` with the same points each, `names`, any of which may be unknown.

    By default a thing is one point. A point that leaves the picture is unknown, a thing without a
    known point is left out. In a mirror, points change places whose names differ in "left" and
    "right".
    """

    class_names: tuple[str, ...] = ("point",)
    """Names in the order of the class indices."""
    names: tuple[str, ...] = ("point",)
    """Names of the points of a thing, in order, such as those of COCO's persons."""
    max_instances: int = 16
    """Longest list that the tokenizer keeps. Of longer ones the first are kept."""
    far: float = 0.25
    """Distance, as a share of width and height, from which on a point is not found at all."""
    near: float = 0.05
    """Mean distance of a thing's points up to which it is right."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Which points are joined by lines in pictures, by their numbers."""

    metrics: ClassVar[dict[str, Better]] = {"distance": "lower", "f1_near": "higher"}
    """The mean distance, cut off at `far`, which a thing without a partner of its class has, too
    (OSPA, Schuhmacher et al. 2008, of order 1, over all samples together); and F1 of things that
    are `near`."""

    def check_knobs(self, knob: str) -> None:
        for field, names in (("class_names", self.class_names), ("names", self.names)):
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{name_knob(knob, field)} must be different names, at least one.")
        if self.max_instances < 1 or not 0 < self.near < self.far <= 2:
            raise ValueError(
                f"{name_knob(knob, 'max_instances')} is {self.max_instances}, near {self.near} and "
                f"far {self.far}; at least 1, and 0 < near < far <= 2 are allowed."
            )
        wrong = [
            pair for pair in self.skeleton if not 0 <= min(pair) <= max(pair) < len(self.names)
        ]
        if wrong:
            raise ValueError(
                f"{name_knob(knob, 'skeleton')} joins {wrong[0]}; points are 0 to "
                f"{len(self.names) - 1}."
            )

    @property
    def most_points(self) -> int:
        return len(self.names)

    @property
    def is_near(self) -> float:
        return 1 - self.near / self.far

    def is_whole(self, points: Float[np.ndarray, "points 2"]) -> bool:
        return len(points) == len(self.names) and bool(inside(points).any())

    def what_is_wrong(self, points: Float[np.ndarray, "points 2"]) -> str:
        if len(points) != len(self.names):
            return f"a thing of {len(points)} points; {len(self.names)} are allowed (Points.names)"
        return "a thing of which no point is known"

    def move(
        self, points: Float[np.ndarray, "points 2"], crop: Crop
    ) -> Float[np.ndarray, "points 2"] | None:
        seen = np.where(inside(points)[:, None], points, np.nan)
        if np.isnan(seen).all():
            return None
        return seen[self._mirrored] if crop.flip else seen

    @property
    def _mirrored(self) -> list[int]:
        """Which point each is in a mirror."""
        left, right = SIDES
        swapped = [
            name.replace(left, "\n").replace(right, left).replace("\n", right)
            for name in self.names
        ]
        return [
            self.names.index(other) if other in self.names else place
            for place, other in enumerate(swapped)
        ]

    def keep(self, points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
        return points

    def describe(self, value: Instances) -> Float[np.ndarray, "instances points 2"]:
        return np.asarray(value.points, np.float64).reshape(-1, len(self.names), 2)

    def closeness(
        self,
        found: Float[np.ndarray, "found points 2"],
        true: Float[np.ndarray, "true points 2"],
    ) -> Float[np.ndarray, "found true"]:
        """Returns 1 - distance / far, of the points that are known of the truth."""
        known = ~np.isnan(true).any(axis=-1)[None]
        distances = np.linalg.norm(found[:, None] - true[None], axis=-1)
        # A point that is known and was not said is far.
        cut = np.minimum(np.where(np.isnan(distances), self.far, distances), self.far)
        mean = np.where(known, cut, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
        return 1 - mean / self.far

    def scores_of(self, mean_closeness: float, f1: float) -> dict[str, float]:
        return {"distance": self.far * (1 - mean_closeness), "f1_near": f1}

    def paint(self, canvas: Any, points: Float[np.ndarray, "points 2"], color: Any) -> None:
        radius = 1 + max(canvas.im.size) / 100
        known = ~np.isnan(points).any(axis=1)
        for first, second in self.skeleton:
            if known[first] and known[second]:
                canvas.line([tuple(points[first]), tuple(points[second])], fill=color)
        for x, y in points[known]:
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

"""Polygons: the outlines of things, one by one, with their classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from tokenizers.base import Better, Crop, Instances
from tokenizers.settings.checked import name_knob
from tokenizers.shapes.instances import InstanceValues
from tokenizers.shapes.outlines import area_of, cut_at_edges, fill, in_usual_order, simplify

RASTER = 64
"""Pixels along each side of the picture in which regions are compared."""


@dataclass(frozen=True)
class Polygons(InstanceValues):
    """`Instances` with three corners or more each: any number of outlines, none included.

    They are cut at the picture's edge. A thing in several parts is an outline for each.
    """

    class_names: tuple[str, ...]
    """Names in the order of the class indices."""
    max_instances: int = 8
    """Longest list that the tokenizer keeps. Of longer ones the first are kept."""
    max_corners: int = 12
    """Corners that the tokenizer keeps; those that change the area least go first."""
    min_visible: float = 0.25
    """Share of its area that an outline must keep to survive a crop."""
    iou_threshold: float = 0.5
    """Intersection over union from which on a polygon is right."""

    metrics: ClassVar[dict[str, Better]] = {"mask_iou": "higher", "f1_iou": "higher"}
    """Mean intersection over union of paired things, over all samples together, where a thing
    without a partner of its class counts as 0; and F1 of those above `iou_threshold`."""

    def check_knobs(self, knob: str) -> None:
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(
                f"{name_knob(knob, 'class_names')} must be different names, at least one."
            )
        if self.max_instances < 1 or self.max_corners < 3:
            raise ValueError(
                f"{name_knob(knob, 'max_instances')} is {self.max_instances} and "
                f"{name_knob(knob, 'max_corners')} {self.max_corners}; at least 1 and 3 are "
                "allowed."
            )
        if not 0 < self.iou_threshold <= 1 or not 0 < self.min_visible <= 1:
            raise ValueError(
                f"{name_knob(knob, 'iou_threshold')} is {self.iou_threshold} and "
                f"{name_knob(knob, 'min_visible')} {self.min_visible}; more than 0 and at most 1 "
                "is allowed."
            )

    @property
    def most_points(self) -> int:
        return self.max_corners

    @property
    def is_near(self) -> float:
        return self.iou_threshold

    def is_whole(self, points: Float[np.ndarray, "corners 2"]) -> bool:
        return len(points) >= 3 and bool(np.isfinite(points).all())

    def what_is_wrong(self, points: Float[np.ndarray, "corners 2"]) -> str:
        if len(points) < 3:
            return f"an outline of {len(points)} corners; at least 3 are allowed"
        return "an outline with a corner that is not known"

    def move(
        self, points: Float[np.ndarray, "corners 2"], crop: Crop
    ) -> Float[np.ndarray, "seen 2"] | None:
        seen = cut_at_edges(points)
        least = max(self.min_visible * area_of(points), 1e-9)
        return seen if len(seen) >= 3 and area_of(seen) >= least else None

    def keep(self, points: Float[np.ndarray, "corners 2"]) -> Float[np.ndarray, "kept 2"]:
        return in_usual_order(simplify(points, self.max_corners))

    def describe(self, value: Instances) -> Float[np.ndarray, "instances pixels"]:
        """Returns which pixels each covers."""
        masks = np.zeros((len(value.classes), RASTER, RASTER), bool)
        for mask, points in zip(masks, value.parts(), strict=True):
            fill(mask, RASTER * points.astype(np.float64))
        return masks.reshape(len(masks), RASTER * RASTER).astype(np.float32)

    def closeness(
        self, found: Float[np.ndarray, "found pixels"], true: Float[np.ndarray, "true pixels"]
    ) -> Float[np.ndarray, "found true"]:
        """Returns intersections over unions."""
        both = found @ true.T
        either = found.sum(axis=1)[:, None] + true.sum(axis=1)[None] - both
        return both / np.maximum(either, 1)

    def scores_of(self, mean_closeness: float, f1: float) -> dict[str, float]:
        return {"mask_iou": mean_closeness, "f1_iou": f1}

    def paint(self, canvas: Any, points: Float[np.ndarray, "corners 2"], color: Any) -> None:
        corners = [(float(x), float(y)) for x, y in points]
        pale = tuple(255 - (255 - shade) // 3 for shade in color)
        canvas.polygon(corners, fill=pale, outline=color, width=1 + max(canvas.im.size) // 128)

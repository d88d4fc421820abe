"""Points and polygons in files: a list in JSON, LabelMe's JSON, YOLO's txt of outlines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from tokenizers.base import Instances, Mended
from tokenizers.content.kinds import read_text
from tokenizers.content.limits import unpack_gzip
from tokenizers.formats.annotations import (
    HEIGHTS,
    ROUNDING,
    SLIGHTLY,
    WIDTHS,
    class_number,
    may_be_keypoints,
)
from tokenizers.formats.file_format import FileFormat, field_of, parse_json
from tokenizers.shapes.outlines import area_of, cut_at_edges

SHAPES = ("polygon", "point", "rectangle")
"""Kinds of shapes in LabelMe's files that can be read."""


@dataclass(frozen=True)
class InstancesFile(FileFormat):
    """Points or polygons with classes, in one of three layouts, told apart by what they hold.

    - JSON: an object with a list `instances`, each with `points`, a list of [x, y], null where one
      is unknown, and `class_name` or `class_id`; fractions unless `unit` says otherwise.
    - LabelMe: JSON with `shapes` of a `label` and `points` in pixels: polygons, points and
      rectangles.
    - YOLO: a txt with a line `CLASS X Y X Y X Y ...` per outline, in fractions.

    What lies outside of the picture is cut off, or unknown, which is counted.
    """

    class_names: tuple[str, ...] = ()
    """Names in the order of their class numbers. If empty, the file's class_id is the number."""
    outlines: bool = True
    """Whether points are the corners of an outline, which is cut at the picture's edge."""
    long_lines: Literal["", "polygons"] = ""
    """What YOLO's lines are. If empty, polygons, and lines that may also be boxes with keypoints
    are refused."""
    unit: Literal["", "fractions", "pixels"] = ""
    """Fractions of width and height, or pixels, for which the file must have the picture's size. As
    is usual for the kind of file if empty."""

    def read(self, data: bytes, extension: str) -> Instances | Mended:
        text = read_text(unpack_gzip(data))
        if text.lstrip()[:1] in ("{", "[") or extension.startswith("json"):
            content = parse_json(data)
            is_labelme = isinstance(content, dict) and "shapes" in content
            parts, classes = self._of_labelme(content) if is_labelme else self._of_list(content)
            unit = self.unit or ("pixels" if is_labelme else "fractions")
            size = _size_of(content)
        else:
            parts, classes = self._of_yolo(text)
            unit, size = self.unit or "fractions", None
        if unit == "pixels" and parts:
            if size is None or min(size) <= 0:
                raise ValueError(
                    f"has points in pixels and not the size of the picture, such as {WIDTHS[0]} "
                    f"and {HEIGHTS[0]}; add it, or convert the points to fractions"
                )
            parts = [part / np.array([size[1], size[0]]) for part in parts]
        return fit_into_picture(parts, classes, self.outlines)

    def _of_list(self, content: Any) -> tuple[list[np.ndarray], list[int]]:
        parts, classes = [], []
        stored = field_of(content, "instances")
        if not isinstance(stored, list):
            raise ValueError("has no list of `instances`")
        for each in stored:
            parts.append(_points_of(field_of(each, "points")))
            name = each.get("class_name")
            number = each.get("class_id") if name is not None else each.get("class_id", 0)
            if not isinstance(name, str | None) or type(number) not in (int, type(None)):
                raise ValueError("has an instance whose class is neither a text nor a whole number")
            classes.append(class_number(name, number, self.class_names))
        return parts, classes

    def _of_labelme(self, content: Any) -> tuple[list[np.ndarray], list[int]]:
        parts, classes = [], []
        stored = field_of(content, "shapes")
        for each in stored if isinstance(stored, list) else [stored]:
            kind, points = field_of(each, "shape_type"), _points_of(field_of(each, "points"))
            if kind not in SHAPES:
                raise ValueError(f"has a shape {str(kind)[:40]!r}; {', '.join(SHAPES)} can be read")
            if kind == "rectangle":
                (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
                points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            parts.append(points)
            classes.append(class_number(str(field_of(each, "label")), None, self.class_names))
        return parts, classes

    def _of_yolo(self, text: str) -> tuple[list[np.ndarray], list[int]]:
        parts, classes, lengths = [], [], set()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                first, *rest = line.split()
                label, numbers = int(first), np.array(rest, np.float64)
                points = numbers.reshape(-1, 2)
            except ValueError as error:
                raise ValueError(
                    f"has the line {number} {line[:60]!r}; CLASS X Y X Y ... is allowed"
                ) from error
            if self.outlines and len(points) < 3:
                raise ValueError(
                    f"has {len(points)} corners in line {number}; at least 3 are an outline"
                )
            parts.append(points)
            classes.append(class_number(None, label, self.class_names))
            lengths.add(len(rest))
        is_unclear = self.outlines and not self.long_lines and len(lengths) == 1
        if is_unclear and all(may_be_keypoints(part.ravel().tolist()) for part in parts):
            raise ValueError(
                f"has lines of {max(lengths)} numbers behind the class, which may be boxes with "
                'keypoints; set long_lines to "polygons" if they are outlines'
            )
        return parts, classes


def fit_into_picture(
    parts: Sequence[Float[np.ndarray, "_ 2"]], classes: Sequence[int], outlines: bool
) -> Instances | Mended:
    """Returns things given in fractions, without what lies outside of the picture.

    Args:
        parts: The points of each, NaN where one is unknown.
        classes: Of each.
        outlines: Whether points are corners.

    Raises:
        ValueError: If points lie too far outside to be in this unit.
    """
    kept, kept_classes, how = [], [], ""
    for points, index in zip(parts, classes, strict=True):
        known = points[~np.isnan(points).any(axis=1)]
        beyond = max(float(-known.min()), float(known.max() - 1)) if known.size else 0.0
        if beyond > (SLIGHTLY if outlines else 1.0):
            x, y = known[np.abs(known - 0.5).max(axis=1).argmax()]
            raise ValueError(
                f"has the point ({x:g}, {y:g}), in fractions, which is no place in the picture; "
                "set unit (fractions, pixels) to what the files hold"
            )
        if beyond > ROUNDING:
            how = "outlines cut at the picture's edge" if outlines else "points outside left out"
        if outlines:
            points = cut_at_edges(points)
            if len(points) < 3 or area_of(points) <= 0:
                how = how or "outlines without area left out"
                continue
        else:
            is_out = ((points < -ROUNDING) | (points > 1 + ROUNDING)).any(axis=1)
            points = np.where(is_out[:, None], np.nan, points.clip(0, 1))
            if np.isnan(points).any(axis=1).all():
                how = how or "things without a point left out"
                continue
        kept.append(points)
        kept_classes.append(index)
    found = Instances.of(kept, kept_classes)
    return Mended(found, how) if how else found


def _points_of(stored: Any) -> Float[np.ndarray, "points 2"]:
    """Returns points of a list of [x, y], NaN for null."""
    if not isinstance(stored, list) or not stored:
        raise ValueError("has an instance without a list of `points`")
    try:
        rows = [(np.nan, np.nan) if each is None else each for each in stored]
        points = np.array(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("has `points` that are no pairs of numbers") from error
    if points.ndim != 2 or points.shape[1] != 2 or np.isinf(points).any():
        raise ValueError("has `points` that are no pairs of finite numbers")
    return points


def _size_of(content: Any) -> tuple[float, float] | None:
    """Returns height and width of the picture that an object names; None if it doesn't."""
    if not isinstance(content, dict):
        return None
    found = [
        next((content[name] for name in names if name in content), None)
        for names in (HEIGHTS, WIDTHS)
    ]
    if not all(type(each) in (int, float) for each in found):
        return None
    return float(found[0]), float(found[1])

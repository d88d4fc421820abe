"""Boxes in the files of annotation programs: JSON as in 4M, YOLO's txt, Pascal VOC's XML."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from tokenizers.base import Boxes, Mended
from tokenizers.content.kinds import kind_of, read_text
from tokenizers.content.limits import unpack_gzip
from tokenizers.formats.file_format import FileFormat, field_of, parse_json
from tokenizers.settings.checked import name_knob

ROUNDING = 1e-3
"""How far a box may lie outside of its picture without a word, as a share of height and width."""
SLIGHTLY = 0.1
"""How far it may, to be cut at the edge. What lies further out is in another unit, or wrong."""
LEAST_IN_PIXELS = 8
"""Sides of a picture from which on boxes that end at 1 are taken for fractions, not for pixels."""
MOST_CLASSES = 1 << 20
WIDTHS = ("image_width", "width", "imageWidth")
HEIGHTS = ("image_height", "height", "imageHeight")


class _Box(NamedTuple):
    """A box as a file has it."""

    name: str | None
    number: int | None
    """Of its class; at least one of both is there."""
    numbers: Sequence[float | int]
    score: float | int = 1.0


class _Annotation(NamedTuple):
    """What a file says, and how files of its kind usually mean it."""

    boxes: list[_Box]
    size: tuple[float | int, float | int] | None
    """Width and height of the picture in pixels."""
    corners: str
    unit: str


@dataclass(frozen=True)
class BoxesFile(FileFormat):
    """Boxes with classes, in one of three layouts, told apart by what they hold.

    - JSON as in 4M: an object with a list `instances`, each with `boxes` (or `bbox`) of four
      numbers, and `class_name` or `class_id`; fractions unless `unit` says otherwise.
    - YOLO: a txt with a line `CLASS X Y WIDTH HEIGHT` per box, of its centre, in fractions; a
      polygon in place of a box is boxed, and keypoints behind a box are passed over. An empty file
      has no boxes.
    - Pascal VOC: XML with `size`, and `object`s of a `name` and a `bndbox` in pixels.

    Boxes that lie slightly outside of the picture are cut at its edge, which is counted.
    """

    class_names: tuple[str, ...] = ()
    """Names in the order of their class numbers. If empty, the file's class_id is the number."""
    minimum_score: float = 0.0
    """Leave out instances that their detector gave a lower score than this."""
    corners: Literal["", "xyxy", "xywh", "cxcywh"] = ""
    """What the four numbers are: two corners, a corner and a size, or a centre and a size. As is
    usual for the kind of file if empty."""
    unit: Literal["", "fractions", "pixels"] = ""
    """Fractions of width and height, or pixels, for which the file must have the picture's size. As
    is usual for the kind of file if empty."""
    long_lines: Literal["", "polygons", "keypoints"] = ""
    """What YOLO's lines of more than a box are: the corners of a polygon, or a box and keypoints.
    If empty, polygons, and lines that may be either are refused."""
    first_pixel: int = 0
    """Number of the first pixel: 1 for the original Pascal VOC, whose boxes include their last."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if self.first_pixel not in (0, 1):
            raise ValueError(
                f"{name_knob(knob, 'first_pixel')} is {self.first_pixel}; 0 or 1 is allowed."
            )

    def read(self, data: bytes, extension: str) -> Boxes | Mended:
        text = _read_declared(unpack_gzip(data))
        match text.lstrip()[:1]:
            case "{" | "[":
                stored = _read_instances(parse_json(data))
            case "<":
                stored = _read_voc(text)
            case _ if extension.startswith("json"):
                stored = _read_instances(parse_json(data))
            case _:
                stored = _read_yolo(text, self.long_lines)
        wrong = next((each.score for each in stored.boxes if not 0 <= each.score <= 1), None)
        if self.minimum_score and wrong is not None:
            raise ValueError(
                f"has a box of the score {wrong:g}, and minimum_score is of those from 0 to 1; set "
                "it to 0 to take all boxes"
            )
        kept = [each for each in stored.boxes if each.score >= self.minimum_score]
        numbers = [class_number(each.name, each.number, self.class_names) for each in kept]
        classes = np.array(numbers, np.int32)
        corners = self._corners_of(stored, kept)
        if len(corners) and max(-corners.min(), corners.max() - 1) > ROUNDING:
            cut = corners.clip(0, 1)
            if ((cut[:, :2] == cut[:, 2:]) & (corners[:, :2] < corners[:, 2:])).any():
                raise ValueError("has a box that lies outside of the picture")
            return Mended(Boxes(cut, classes), "boxes cut at the picture's edge")
        return Boxes(corners.clip(0, 1), classes)

    def _corners_of(self, stored: _Annotation, kept: list[_Box]) -> Float[np.ndarray, "boxes 4"]:
        """Returns x_min, y_min, x_max and y_max as fractions, at most slightly out of range."""
        numbers = np.array([each.numbers for each in kept], np.float64).reshape(-1, 4)
        if not np.isfinite(numbers).all():
            raise ValueError("has a box with a number that is not finite")
        corners = numbers.copy()
        kind, unit = self.corners or stored.corners, self.unit or stored.unit
        if kind == "cxcywh":
            corners[:, :2] -= corners[:, 2:] / 2
        if kind != "xyxy":
            corners[:, 2:] += corners[:, :2]
        if unit == "pixels":
            if stored.size is None or min(stored.size) <= 0:
                raise ValueError(
                    "has boxes in pixels and not the size of the picture, such as "
                    f"{WIDTHS[0]} and {HEIGHTS[0]}; add it, or convert the boxes to fractions"
                )
            if corners.size and corners.max() <= 1 and min(stored.size) > LEAST_IN_PIXELS:
                raise ValueError(
                    "has no box of more than a pixel; if these are fractions, set `unit` of the "
                    "modality's format"
                )
            corners[:, :2] -= self.first_pixel
            corners[:, 2:] -= 0 if kind == "xyxy" else self.first_pixel
            corners /= np.array([*stored.size, *stored.size])
        outside = ((corners < -SLIGHTLY) | (corners > 1 + SLIGHTLY)).any(axis=1)
        wrong = np.flatnonzero(outside | (corners[:, :2] > corners[:, 2:]).any(axis=1))
        if wrong.size:
            shown = ", ".join(f"{number:g}" for number in numbers[wrong[0]])
            raise ValueError(
                f"has the box [{shown}], which is not {kind} in {unit} within the picture; set "
                "unit (fractions, pixels) and corners (xyxy, xywh, cxcywh) to what the files hold"
            )
        return corners.astype(np.float32)


def class_number(name: str | None, number: int | None, class_names: Sequence[str]) -> int:
    """Returns the index of a class that a file names, numbers, or both.

    Args:
        name: As the file has it, or None.
        number: The same.
        class_names: In the order of their numbers; if there are none, the file's number counts.

    Raises:
        ValueError: If there is no such class.
    """
    if name is not None and (class_names or number is None):
        if name not in class_names:
            raise ValueError(f"has the class {name[:60]!r}, which class_names does not name")
        return class_names.index(name)
    found = -1 if number is None else number
    if found < 0 or found >= (len(class_names) or MOST_CLASSES):
        allowed = f"0 to {len(class_names) - 1} are" if class_names else "0 or more is"
        raise ValueError(f"has a box of the class number {found}; {allowed} allowed")
    return found


def _read_instances(content: Any) -> _Annotation:
    instances = field_of(content, "instances")
    if not isinstance(instances, list):
        raise ValueError("has no list of `instances`")
    boxes = [_instance(each) for each in instances]
    width = next((content[name] for name in WIDTHS if name in content), None)
    height = next((content[name] for name in HEIGHTS if name in content), None)
    has_size = _is_number(width) and _is_number(height)
    return _Annotation(boxes, (width, height) if has_size else None, "xyxy", "fractions")


def _instance(stored: Any) -> _Box:
    has_bbox = isinstance(stored, dict) and "bbox" in stored
    numbers = field_of(stored, "bbox" if has_bbox else "boxes")
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_number, numbers)):
        raise ValueError(f"has the box {str(numbers)[:60]}; four numbers are a box")
    score = stored.get("score", 1.0)
    if not _is_number(score):
        raise ValueError(f"has a box of the score {str(score)[:60]!r}, which is no number")
    name = stored.get("class_name")
    number = stored.get("class_id") if name is not None else field_of(stored, "class_id")
    if not isinstance(name, str | None) or type(number) not in (int, type(None)):
        raise ValueError(
            f"has a box of the class {str(name)[:60]!r}, {str(number)[:60]}; a name is a text, and "
            "a number whole"
        )
    return _Box(name, number, numbers, score)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
ENCODINGS = ("iso-8859-1", "latin-1", "latin1", "iso-8859-15", "windows-1252", "cp1252", "us-ascii")
"""Those that XML may declare, beside UTF-8 and UTF-16, in which every byte is a letter."""


def _read_declared(data: bytes) -> str:
    """Returns what a text says, which as XML may declare of which encoding it is."""
    declared = DECLARED.match(data)
    if declared and (name := declared[1].decode().lower()) in ENCODINGS:
        return data.decode(name, "replace")
    try:
        return read_text(data)
    except ValueError as error:
        if data.lstrip()[:1] != b"<" or kind_of(data) == "html":
            raise
        raise ValueError(
            "is XML of another encoding than UTF-8; save it as UTF-8, or have it say which: "
            '<?xml version="1.0" encoding="iso-8859-1"?>'
        ) from error


def _read_yolo(text: str, long_lines: str) -> _Annotation:
    boxes: list[_Box] = []
    lengths: set[int] = set()
    are_keypoints = True
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            first, *rest = line.split()
            label, numbers = int(first), [float(each) for each in rest]
        except ValueError as error:
            raise ValueError(
                f"has the line {number} {line[:60]!r}; CLASS X Y WIDTH HEIGHT is allowed"
            ) from error
        score = numbers.pop() if len(numbers) == 5 else 1.0
        if len(numbers) >= 6 and long_lines == "keypoints":
            numbers = numbers[:4]
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:  # The corners of a polygon.
            are_keypoints = are_keypoints and may_be_keypoints(numbers)
            low, high = np.reshape(numbers, (-1, 2)).min(0), np.reshape(numbers, (-1, 2)).max(0)
            numbers = [*((low + high) / 2).tolist(), *(high - low).tolist()]
        if len(numbers) != 4:
            raise ValueError(
                f"has {len(numbers)} numbers behind the class in line {number}; CLASS X Y WIDTH "
                "HEIGHT is allowed; set long_lines to keypoints if such follow it"
            )
        lengths.add(len(rest))
        boxes.append(_Box(None, label, numbers, score))
    if not long_lines and are_keypoints and len(lengths) == 1 and max(lengths) >= 6:
        raise ValueError(
            f"has lines of {max(lengths)} numbers behind the class, which may be polygons, or "
            'boxes with keypoints; set long_lines to "polygons" or "keypoints"'
        )
    return _Annotation(boxes, None, "cxcywh", "fractions")


def may_be_keypoints(numbers: list[float]) -> bool:
    """Returns whether four numbers may be a box, and those behind them points inside of it.

    Points have two numbers, or three with a 0, 1 or 2 that says whether they are seen. Those at
    0, 0 are not there.
    """
    center, size = np.array(numbers[:2]), np.array(numbers[2:4])
    low, high = center - size / 2, center + size / 2
    if size.min() <= 0 or low.min() < -10 * ROUNDING or high.max() > 1 + 10 * ROUNDING:
        return False
    rest = np.array(numbers[4:])
    for width in (2, 3):
        if len(rest) % width == 0:
            rows = rest.reshape(-1, width)
            points = rows[rows[:, :2].any(axis=1), :2]
            is_seen = np.isin(rows[:, 2:], (0, 1, 2)).all()
            # Points may lie a little outside of the box around what is seen.
            if is_seen and ((points > low - SLIGHTLY) & (points < high + SLIGHTLY)).all():
                return True
    return False


class _WithoutEntities(ElementTree.TreeBuilder):
    """Refuses what XML may hide: files that it draws in, and entities that multiply."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("declares a document type, which may hide anything; remove <!DOCTYPE ...>")


def _read_voc(text: str) -> _Annotation:
    # Python's own message names no file of ours, and the text is no longer in its encoding.
    start = text.find("?>") + 2 if text.lstrip().startswith("<?xml") else 0
    parser = ElementTree.XMLParser(target=_WithoutEntities())
    try:
        parser.feed(text[start:].strip())
        root = parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"is no XML ({error})") from error
    boxes = []
    for each in root.findall("object"):
        name = (each.findtext("name") or "").strip()
        numbers = [_number_in(each, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        if not name or None in numbers:
            raise ValueError(
                "has an <object> without <name>, or without <bndbox> of xmin, ymin, xmax, ymax"
            )
        boxes.append(_Box(name, None, [number for number in numbers if number is not None]))
    if root.find("object") is None and root.tag != "annotation":
        raise ValueError(f"is XML with the root <{root.tag[:40]}>, and no <annotation> of boxes")
    width, height = _number_in(root, "size/width"), _number_in(root, "size/height")
    size = None if width is None or height is None else (width, height)
    return _Annotation(boxes, size, "xyxy", "pixels")


def _number_in(element: ElementTree.Element, path: str) -> float | None:
    try:
        return float(element.findtext(path) or "")
    except ValueError:
        return None

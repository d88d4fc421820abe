"""Values as data sets hold them, in features and columns, as those that a sample has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from data_pipeline.sources.source import METADATA, NOTES, Note, Sample
from tokenizers.base import Boxes, Choices, Mended
from tokenizers.settings.checked import Checked

NO_CLASS = -1
"""The number that stands for no class in data sets without another way to say so."""
FACT_LEFT_OUT = "fact left out"
"""The kind of a note on a fact that can't be read."""
ROUNDING = 1e-3
"""How far a box may reach over its picture's edge without having been cut, as a fraction."""


@dataclass(frozen=True)
class BoxLayout(Checked):
    """How the four numbers of a box are stored."""

    order: Literal["xywh", "corners"] = "xywh"
    """xywh: left, top, width, height; corners: left, top, right, bottom."""
    unit: Literal["pixels", "fractions"] = "pixels"
    """Pixels, or fractions of the picture's width and height."""

    def read(
        self,
        rows: Float[np.ndarray, "boxes 4"],
        classes: Int[np.ndarray, "boxes"],
        size: Sequence[int] | None,
    ) -> Boxes | Mended:
        """Returns boxes as they are used, see `usable_boxes`.

        Args:
            rows: As stored.
            classes: Index of each box's class.
            size: Height and width of the picture in pixels, where it is known.

        Raises:
            ValueError: If the size is needed and not known, or a box can't be used.
        """
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
        corners = corners if self.order == "xywh" else rows
        if self.unit == "pixels" and len(rows):
            if size is None or len(size) != 2 or not all(side and side > 0 for side in size):
                raise ValueError("has boxes in pixels, and the picture's size is not known")
            corners = corners / np.array([size[1], size[0]] * 2, float)
        return usable_boxes(corners, classes)


def picture_size(sample: Sample) -> tuple[int, int] | None:
    """Returns height and width of the first picture of a sample; None if it has none."""
    for name, value in sample.items():
        if name not in (METADATA, NOTES):
            value = value.value if isinstance(value, Mended) else value
            if isinstance(value, np.ndarray) and value.ndim >= 2:
                return value.shape[0], value.shape[1]
    return None


def put(
    sample: Sample, name: str, read: Callable[[], Any], key: str, file: str = "", fact: bool = False
) -> None:
    """Puts what `read` returns into a sample: nothing for None, a note if it can't be read.

    Args:
        sample: Gets the value.
        name: Of the modality, or of the fact.
        read: Returns the value; raises what it likes, as decoders do on damaged data.
        key: Of the sample.
        file: That the value is stored in.
        fact: Whether the value goes into the sample's metadata.
    """
    try:
        value = read()
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error) if type(error) is ValueError else f"is damaged ({error})"
        # A fact is no modality, so no sample is less of use without it.
        kind = (FACT_LEFT_OUT, "", f"{name} {reason}") if fact else ("unreadable", name, reason)
        sample.setdefault(NOTES, []).append(Note(kind[0], kind[1], key, file, kind[2]))
        return
    if value is None:
        return
    if fact:
        sample.setdefault(METADATA, {})[name] = value
    else:
        sample[name] = value


def plain_value(value: Any) -> Any:
    """Returns text as `str`, several texts as `Choices`, lists of numbers as an array.

    A single number is a plain one. None, and a list without any entry that is not None, are None:
    the sample has no such value.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> plain_value(["a dog", "", None, b"a puppy"])
        ('a dog', 'a puppy')
        >>> plain_value([None]), plain_value(np.float32(0.5))
        (None, 0.5)
    """
    if isinstance(value, np.ndarray):
        if value.ndim == 0 or value.size == 0:
            return plain_value(value.item()) if value.size else None
        if value.dtype.kind in "biuf":
            return value
        value = value.tolist()
    if isinstance(value, np.generic):
        return plain_value(value.item())
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return _several([each for each in value if each is not None])
    raise ValueError(f"is a {type(value).__name__}; texts, numbers and lists of them can be read")


def class_number(value: Any, names: Sequence[str]) -> int | None:
    """Returns a class label as its number, or None where there is none.

    Raises:
        ValueError: If no class has this number.
    """
    if value is None or int(value) == NO_CLASS:
        return None
    number = int(value)
    if not 0 <= number < len(names):
        raise ValueError(
            f"is the class number {number}; 0 to {len(names) - 1} are classes, {NO_CLASS} is none"
        )
    return number


def class_text(value: Any, names: Sequence[str]) -> str | None:
    """Returns the name of a class label, or the names of several, as a text; None without any.

    Raises:
        ValueError: If no class has such a number.

    Example:
        >>> class_text([1, -1, 0], ["night_stand", "sofa"])
        'sofa, night stand'
    """
    given = np.ravel(value).tolist() if np.ndim(value) else [value]
    numbers = [class_number(each, names) for each in given]
    words = [names[number].replace("_", " ") for number in numbers if number is not None]
    return ", ".join(words) or None


def usable_boxes(
    corners: Float[np.ndarray, "boxes 4"], classes: Int[np.ndarray, "boxes"]
) -> Boxes | Mended:
    """Returns boxes that lie in their picture: cut at its edge, without those of no class.

    Args:
        corners: x_min, y_min, x_max, y_max as fractions of width and height.
        classes: Index of each box's class, or `NO_CLASS`.

    Raises:
        ValueError: If a corner is no number, or a box ends before it begins.
    """
    if not np.isfinite(corners).all():
        raise ValueError("has a box with a corner that is no number")
    if (corners[:, :2] > corners[:, 2:]).any():
        raise ValueError("has a box that ends before it begins")
    inside = corners.clip(0, 1)
    is_outside = ((corners[:, :2] >= 1) | (corners[:, 2:] <= 0)).any(axis=1)
    has_class = classes != NO_CLASS
    kept = has_class & ~is_outside
    done = {
        "boxes cut at the picture's edge": np.abs(inside - corners)[kept].max(initial=0) > ROUNDING,
        "boxes outside the picture left out": is_outside.any(),
        "boxes of no class left out": not has_class.all(),
    }
    boxes = Boxes(inside[kept].astype(np.float32), classes[kept].astype(np.int32))
    how = [what for what, was_done in done.items() if was_done]
    return Mended(boxes, ", ".join(how)) if how else boxes


def _several(values: list[Any]) -> Any:
    """Returns several texts or numbers as one value; None if there are none."""
    if not values:
        return None
    if isinstance(values[0], str | bytes):
        texts = [plain_value(each) for each in values]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("is a list of texts and other things")
        told = [text for text in texts if text.strip()] or texts[:1]
        return told[0] if len(told) == 1 else Choices(told)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError("is a list whose rows have different lengths") from error
    if array.dtype.kind not in "biuf":
        raise ValueError("is a list of neither texts nor numbers")
    return array

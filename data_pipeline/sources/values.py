"""Values as data sets hold them, in features and columns, as those that a sample has."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipeline.sources.source import METADATA, NOTES, Note, Sample
from tokenizers.base import Boxes, Choices, Mended
from tokenizers.formats.formats import BoxesFile

NO_CLASS = -1
"""The number that stands for no class in data sets without another way to say so."""
FACT_LEFT_OUT = "fact left out"
"""The kind of a note on a fact that can't be read."""


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


def boxes_of(
    numbers: Sequence[Sequence[float | int]],
    labels: Sequence[int | str | None],
    size: tuple[int, int] | None,
    file_format: BoxesFile,
) -> Boxes | Mended:
    """Returns boxes as a file of them would give them; those of no class are left out.

    Args:
        numbers: Four of every box, as stored.
        labels: Class of each: its number or name; None and `NO_CLASS` are none.
        size: Height and width of the picture in pixels, if it is known.
        file_format: What the numbers are.

    Raises:
        ValueError: If a box can't be used.
    """
    if len(numbers) != len(labels):
        raise ValueError(f"has {len(numbers)} boxes and {len(labels)} classes")
    if size and file_format.unit == "pixels" and len(numbers):
        largest = max(float(each) for box in numbers for each in box)
        if largest <= 1 and min(size) > 8:
            raise ValueError(
                "has no box of more than a pixel; if these are fractions, set `unit` of the "
                "modality's format"
            )
    kept = [
        {
            "bbox": [float(each) for each in box],
            "class_name" if isinstance(label, str) else "class_id": label,
        }
        for box, label in zip(numbers, labels, strict=True)
        if label not in (None, NO_CLASS)
    ]
    content: dict[str, Any] = {"instances": kept}
    if size:
        content |= {"height": size[0], "width": size[1]}
    boxes = file_format.read(json.dumps(content).encode(), "json")
    if len(kept) == len(labels):
        return boxes
    done = "boxes of no class left out"
    if isinstance(boxes, Mended):
        return Mended(boxes.value, f"{boxes.how}, {done}")
    return Mended(boxes, done)


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

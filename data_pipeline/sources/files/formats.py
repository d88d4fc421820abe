"""What the files of one modality hold, and how their bytes become raw values.

A class per kind of content. Each knows where its files are, how a file format stores numbers
(scale, channel order, the value for "not measured") and nothing of what the numbers mean.
"""

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from tokenizers.base import Boxes, Values
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.scalars import Scalar
from tokenizers.settings.checked import Checked
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Colors

PICTURES = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp")
ARRAYS = ("npy", "npz")
TEXTS = ("txt", "json")
READABLE = PICTURES + ARRAYS + TEXTS


@dataclass(frozen=True)
class FileFormat(Checked, ABC):
    """Files of one modality: where they are."""

    folder: str = ""
    """Folder of this modality below the split's folder; the modality's own name if empty."""
    extension: str = ""
    """Read only files with this extension, such as jpg, or one of several, "jpg, png", and skip all
    others; any if empty. Where several modalities lie together it may be longer: rgb.jpg."""
    pattern: str = field(default="", kw_only=True)
    """Names of this modality's files, in place of the data's `pattern`."""

    @abstractmethod
    def read(self, data: bytes, extension: str) -> Any:
        """Returns the raw value that a file with these bytes and this extension holds.

        Raises:
            ValueError: What is wrong with the content. The caller adds which file it was.
        """


@dataclass(frozen=True)
class ArrayFile(FileFormat):
    """Pictures, maps and vectors: PNG (8 or 16 bits), JPEG, WebP, TIFF, npy, npz, JSON lists.

    The value is `stored * scale + offset`; as stored, dtype included, if these are 1 and 0.
    """

    scale: float = 1.0
    """What stored numbers are multiplied by: 0.001 for millimetres that are wanted in metres."""
    offset: float = 0.0
    """What is added after scaling."""
    missing: float | None = None
    """The stored number that means "not measured", which becomes NaN; none if None."""
    channels_first: bool = False
    """Whether arrays are stored [channels, height, width], as satellite bands often are."""
    as_rgb: bool = False
    """Turn grey, palette, transparent and CMYK pictures into red, green and blue. Leave it off
    for class maps, whose palette numbers are the classes."""
    field: str = ""
    """Entry to take from an npz or a JSON object; an npz with one array needs none."""

    def read(self, data: bytes, extension: str) -> Shaped[np.ndarray, "..."]:
        array = self._stored(data, extension)
        if self.channels_first:
            if array.ndim != 3:
                raise ValueError(
                    f"holds an array of shape {array.shape}; channels_first is for arrays "
                    "[channels, height, width]"
                )
            array = np.moveaxis(array, 0, -1)
        is_missing = None if self.missing is None else array == self.missing
        if self.scale != 1 or self.offset != 0:
            array = array.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)
        if is_missing is not None:
            array = np.where(is_missing, np.float32(np.nan), array.astype(np.float32))
        return np.ascontiguousarray(array)

    def _stored(self, data: bytes, extension: str) -> np.ndarray:
        match extension:
            case _ if extension in PICTURES:
                return _read_picture(data, self.as_rgb)
            case "npy":
                return np.load(io.BytesIO(data), allow_pickle=False)
            case "npz":
                with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                    names = arrays.files
                    name = self.field or (names[0] if len(names) == 1 else "")
                    if name not in names:
                        raise ValueError(
                            f"holds the arrays {_listed(names)}; set `field` to one of them"
                        )
                    return arrays[name]
            case "json":
                array = np.asarray(_field_of(_read_json(data), self.field))
                if array.dtype.kind not in "biuf":
                    raise ValueError("does not hold an array of numbers; `field` picks an entry")
                return array
            case _:
                raise ValueError(
                    f"can't be read as an array; readable are {_listed(PICTURES + ARRAYS)}, json"
                )


@dataclass(frozen=True)
class TextFile(FileFormat):
    """Captions: txt, or JSON holding a string, or a list of strings of which the first counts."""

    field: str = ""
    """Entry to take from a JSON object, such as caption."""

    def read(self, data: bytes, extension: str) -> str:
        match extension:
            case "txt":
                return data.decode("utf-8-sig").strip()
            case "json":
                text = _field_of(_read_json(data), self.field)
                if isinstance(text, list) and text:
                    text = text[0]
                if not isinstance(text, str):
                    raise ValueError("does not hold a string; `field` picks an entry of an object")
                return text.strip()
            case _:
                raise ValueError(f"can't be read as text; readable are {_listed(TEXTS)}")


@dataclass(frozen=True)
class NumberFile(FileFormat):
    """One number per sample: txt, JSON, or npy with a single entry."""

    field: str = ""
    """Entry to take from a JSON object."""

    def read(self, data: bytes, extension: str) -> float:
        match extension:
            case "txt":
                return float(data.decode("utf-8-sig"))
            case "json":
                number = _field_of(_read_json(data), self.field)
                if isinstance(number, bool) or not isinstance(number, int | float):
                    raise ValueError("does not hold a number; `field` picks an entry of an object")
                return float(number)
            case "npy":
                array = np.load(io.BytesIO(data), allow_pickle=False)
                if array.size != 1:
                    raise ValueError(f"holds an array of shape {array.shape}, not one number")
                return float(array.reshape(()))
            case _:
                raise ValueError("can't be read as a number; readable are txt, json, npy")


@dataclass(frozen=True)
class BoxesFile(FileFormat):
    """Boxes in the JSON layout of 4M: an object with a list of instances, each with its box.

    A box is [x_min, y_min, x_max, y_max], fractions of the picture's width and height.
    """

    class_names: tuple[str, ...] = ()
    """Names in the order of their class numbers. If empty, the file's class_id is the number."""
    minimum_score: float = 0.0
    """Leave out instances that their detector gave a lower score than this."""

    def read(self, data: bytes, extension: str) -> Boxes:
        if extension != "json":
            raise ValueError("can't be read as boxes; readable is json")
        instances = _field_of(_read_json(data), "instances")
        if not isinstance(instances, list):
            raise ValueError("has no list of `instances`")
        kept = [each for each in instances if each.get("score", 1.0) >= self.minimum_score]
        corners = np.array([_field_of(each, "boxes") for each in kept], np.float32).reshape(-1, 4)
        outside = (corners < -1e-3).any() or (corners > 1 + 1e-3).any()
        if outside or (corners[:, :2] > corners[:, 2:]).any():
            raise ValueError(
                "has a box that is not [x_min, y_min, x_max, y_max] in fractions of width and "
                "height, 0 to 1"
            )
        classes = np.array([self._class_of(each) for each in kept], np.int32)
        return Boxes(corners.clip(0, 1), classes.reshape(-1))

    def _class_of(self, instance: dict[str, Any]) -> int:
        if not self.class_names:
            return int(_field_of(instance, "class_id"))
        name = _field_of(instance, "class_name")
        if name not in self.class_names:
            raise ValueError(f"has the class {name!r}, which class_names does not name")
        return self.class_names.index(name)


def format_for(name: str, values: Values) -> FileFormat:
    """Returns files of raw values in a folder named after what they are; of ids, in full.

    Example:
        >>> format_for("tok_rgb@224", Colors()).folder
        'rgb'
    """
    folder = name.removeprefix("tok_").split("@")[0]
    match values:
        case Codes():
            return ArrayFile()
        case Text():
            return TextFile(folder)
        case BoxList(class_names=names):
            return BoxesFile(folder, class_names=names)
        case Scalar():
            return NumberFile(folder)
        case _:
            return ArrayFile(folder, as_rgb=isinstance(values, Colors))


def _read_picture(data: bytes, as_rgb: bool) -> np.ndarray:
    # Pillow would hand over the upper 8 bits without a word. Header: PNG specification, 11.2.2.
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 and data[24] == 16 and data[25] != 0:
        raise ValueError(
            "is a colour PNG of 16 bits per channel, of which 8 would be lost; store it as npy"
        )
    # A few formats, whatever the extension says: Pillow's rarer readers see no untrusted data.
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP", "TIFF", "BMP"]) as picture:
        if as_rgb and picture.mode != "RGB":
            if picture.mode.startswith(("I", "F")):
                raise ValueError("has more than 8 bits per channel, so as_rgb does not apply")
            picture = picture.convert("RGB")
        return np.asarray(picture)


def _read_json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"))


def _field_of(content: Any, field: str) -> Any:
    if not field:
        return content
    if not isinstance(content, dict):
        raise ValueError(f"holds no object with an entry {field!r}")
    if field not in content:
        raise ValueError(f"has the entries {_listed(tuple(content))}, not {field!r}")
    return content[field]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)

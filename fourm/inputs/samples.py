"""Samples as a user has them, as a model reads them: files, arrays of any size, texts, numbers.

Pictures are cut and resized as training cuts view 0 of a sample: the largest window in the middle
of the aspect ratio that the model reads, the same of all pictures of a sample and of what is told
of them, such as boxes.
"""

import io
import numbers
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageOps

from fourm.inputs.files import SUFFIXES, FileReader, is_there, path_of
from tokenizers.base import Boxes, Choices, Crop, Instances, RawBatch, Tokenizer, centre_crop
from tokenizers.values import Colors

WHOLE = Crop(0.0, 0.0, 1.0, 1.0, flip=False)
WITHOUT_LOSS = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I")
"""Modes of Pillow's images that a PNG keeps as they are."""


class Samples(NamedTuple):
    """What a model is given.

    Attributes:
        values: Raw values by modality, as `Any2Any.tokenize` takes them, pictures of one size; None
            where a sample lacks one.
        windows: Of every sample, height and width in pixels of the part of its first picture that
            the model sees; None if it has none, or is of the model's size already.
        crops: Of every sample, where in it that part lies; none at all if no picture was cut.
    """

    values: dict[str, RawBatch]
    windows: list[tuple[int, int] | None]
    crops: Sequence[Crop] = ()


class Given(NamedTuple):
    """One value of one sample."""

    value: Any
    is_seen: bool
    """Whether it shows what the model sees, however large other pictures of the sample are."""


class Seen(NamedTuple):
    """One sample as the model sees it."""

    values: dict[str, Any]
    """By modality; none of those that it lacks."""
    window: tuple[int, int] | None
    """As in `Samples`."""
    crop: Crop = WHOLE
    """Likewise."""


def prepare(inputs: Mapping[str, Any], reader: FileReader) -> Samples:
    """Returns samples as a model reads them.

    Args:
        inputs: By modality one value, an array with a batch axis, or a list with a value per
            sample, None where a sample lacks it. A value is what the modality takes; colours may
            also be floats from 0 to 1. A `Path` is a file, and a `str` is one where the modality
            takes no text like it; images of Pillow are read as their file would be. Both are read
            by `reader`, while arrays are in the modality's own units.
        reader: Of the run.

    Raises:
        ValueError: One sentence, if something can't be read or is not allowed.
    """
    if not isinstance(inputs, Mapping):
        raise ValueError(
            f"The inputs are {type(inputs).__name__} {str(inputs)[:40]!r}; give raw values by "
            'modality, such as {"rgb": picture}.'
        )
    batches = {name: as_batch(name, raw, reader.tokenizers[name]) for name, raw in inputs.items()}
    sizes = {
        name: size
        for name in reader.tokenizers
        if name in batches and (size := _size_of(reader.tokenizers[name])) is not None
    }
    if all(
        _is_ready(raw, sizes.get(name), reader.tokenizers[name]) for name, raw in batches.items()
    ):
        return Samples(batches, [])
    count = {len(raw) for raw in batches.values()}
    if len(count) != 1:  # Of which the caller tells.
        count = {max(count)}
    values: dict[str, list[Any]] = {name: [] for name in batches}
    windows: list[tuple[int, int] | None] = []
    crops: list[Crop] = []
    for row in range(count.pop()):
        sample = {
            name: read(raw[row], name, reader)
            for name, raw in batches.items()
            if row < len(raw) and raw[row] is not None
        }
        seen, window, crop = as_seen(sample, reader.tokenizers)
        windows.append(window)
        crops.append(crop)
        for name, raw in batches.items():
            if row < len(raw):
                values[name].append(seen.get(name))
    return Samples(dict(values), windows, crops)


def as_batch(name: str, raw: Any, tokenizer: Tokenizer) -> RawBatch:
    """Returns values of one modality as a batch; a single one is a batch of one.

    Raises:
        ValueError: If it is neither.
    """
    is_array = isinstance(raw, np.ndarray | jax.Array)
    is_one = isinstance(
        raw, str | Path | Boxes | Instances | Choices | Mapping | Image.Image | numbers.Real
    )
    if is_one or (is_array and not raw.ndim):
        return [raw]
    if isinstance(raw, bytes | Set) or not hasattr(raw, "__len__"):
        raise ValueError(
            f"{name} is a {type(raw).__name__}; give a list or an array of values, one per sample, "
            "with None where a sample lacks it."
        )
    if not is_array:
        return raw
    array = _as_colors(_as_numpy(raw), name, tokenizer)
    return [array] if _is_allowed(array, tokenizer) else array


def _as_numpy(array: Any) -> np.ndarray:
    """Returns an array that may know which of its numbers are unknown, as such."""
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def _is_allowed(value: Any, tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.values.check(value, "")
    except (ValueError, TypeError):
        return False
    return True


def _as_colors(array: np.ndarray, name: str, tokenizer: Tokenizer) -> np.ndarray:
    """Returns colours as uint8; any other array as it is."""
    if not isinstance(tokenizer.values, Colors) or array.dtype.kind != "f":
        return array
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # False for NaN.
        raise ValueError(
            f"{name} is {array.dtype} from {array.min():g} to {array.max():g}; colours are uint8 "
            "from 0 to 255, or floats from 0 to 1."
        )
    return np.round(array.astype(np.float64) * 255).astype(np.uint8)


def _size_of(tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Returns height and width of the pictures that a tokenizer reads, None if it reads none."""
    is_picture = getattr(tokenizer.values, "is_picture", True)
    return getattr(tokenizer, "picture_size", None) if is_picture else None


def _is_ready(raw: RawBatch, size: tuple[int, int] | None, tokenizer: Tokenizer) -> bool:
    """True for values that are neither files nor pictures of another size."""
    if isinstance(raw, np.ndarray):
        return size is None or raw.shape[1:3] == size
    if any(isinstance(each, str | Path | Image.Image) for each in raw):
        return False
    if size is None:
        return True
    may_be_floats = not isinstance(tokenizer.values, Colors)
    return all(
        isinstance(each, np.ndarray)
        and each.shape[:2] == size
        and (may_be_floats or each.dtype.kind != "f")
        for each in raw
        if each is not None
    )


def read(value: Any, name: str, reader: FileReader) -> Given:
    """Returns one value, checked.

    Raises:
        ValueError: One sentence, if it can't be read or is not allowed.
    """
    tokenizer = reader.tokenizers[name]
    if isinstance(value, str) and not _is_allowed(value, tokenizer):
        file = _file_of(value)
        if file is None and _size_of(tokenizer) is not None:
            raise ValueError(
                f"{name} is {value[:60]!r}, and there is no such file; give the path of one, an "
                "image or an array."
            )
        value = file or value
    if isinstance(value, Path):
        return Given(*reader.read(value, name))
    if isinstance(value, Image.Image):
        content, named = _stored(value, name), Path(f"the image of {name}.png")
        return Given(*reader.read_bytes(content, named, name))
    value = value[0] if isinstance(value, Choices) else value
    if isinstance(value, np.ndarray | jax.Array):
        value = _as_colors(_as_numpy(value), name, tokenizer)
    checked = tokenizer.values.check(value, name)
    size = _size_of(tokenizer)
    return Given(checked, size is not None and np.shape(checked)[:2] == size)


def _file_of(text: str) -> Path | None:
    """Returns the file that a text names, None if it names none."""
    path = path_of(text)
    return path if path.suffix.lower() in SUFFIXES or is_there(path) else None


def _stored(image: Image.Image, name: str) -> bytes:
    """Returns the file of an image, upright, without loss."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in WITHOUT_LOSS:
        raise ValueError(
            f"{name} is an image of the mode {upright.mode}; {', '.join(WITHOUT_LOSS)} are "
            "allowed: convert it, or give its numbers as an array."
        )
    content = io.BytesIO()
    upright.save(content, "PNG")
    return content.getvalue()


def as_seen(sample: Mapping[str, Given], tokenizers: Mapping[str, Tokenizer]) -> Seen:
    """Returns one sample as the model sees it.

    Raises:
        ValueError: If pictures can't show the same.
    """
    sizes = {name: _size_of(tokenizers[name]) for name in tokenizers if name in sample}
    pictures = {name: size for name, size in sizes.items() if size is not None}
    largest = max((size for each in tokenizers.values() if (size := _size_of(each))), default=None)
    shapes = {name: sample[name].value.shape[:2] for name in pictures if not sample[name].is_seen}
    _check_aligned(shapes)
    crop, window = WHOLE, None
    if largest is not None and shapes:
        height, width = next(iter(shapes.values()))
        crop = centre_crop((height, width), largest)
        window = round(crop.height * height), round(crop.width * width)
    seen = {}
    for name, each in sample.items():
        size = sizes[name]
        if each.is_seen and size is not None:
            seen[name] = _cut(each.value, name, centre_crop(each.value.shape[:2], size), tokenizers)
        elif each.is_seen or window is None:
            seen[name] = each.value
        else:
            seen[name] = _cut(each.value, name, crop, tokenizers)
    return Seen({name: each for name, each in seen.items() if each is not None}, window, crop)


def _cut(value: Any, name: str, crop: Crop, tokenizers: Mapping[str, Tokenizer]) -> Any:
    """Returns one value as a crop shows it, of the size that the model reads."""
    size = _size_of(tokenizers[name]) or (1, 1)
    if isinstance(value, np.ndarray) and value.shape[:2] == size and crop[:4] == (0, 0, 1, 1):
        return value  # Bit for bit.
    return tokenizers[name].values.crop(value, crop, size)


def _check_aligned(shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raises ValueError for pictures of a sample that can't show the same, as training does."""
    for name, (height, width) in shapes.items():
        first, (first_height, first_width) = next(iter(shapes.items()))
        most = max(height, width, first_height, first_width)
        if abs(height * first_width - width * first_height) > most:
            raise ValueError(
                f"{name} is {height}x{width} but {first} is {first_height}x{first_width}; pictures "
                "of one sample may differ in resolution but must show the same, of one aspect "
                "ratio."
            )


def in_original_size(value: Any, window: tuple[int, int] | None, tokenizer: Tokenizer) -> Any:
    """Returns a generated picture in the pixels of what it was generated from.

    Args:
        value: Of any modality; what is no picture stays as it is.
        window: Height and width of the part of the first picture that the model saw, see `Samples`.
        tokenizer: Of the modality.
    """
    if window is None or _size_of(tokenizer) is None or value.shape[:2] == window:
        return value
    return tokenizer.values.crop(value, Crop(0, 0, 1, 1, False), window)

"""What arrays and pictures hold: colours, measurements, classes, ids, signals or vectors."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from configs.from_folder.maps import IS_NORMALS, UNORDERED, disorder_of, infer_lossy, infer_map
from tokenizers.base import Choices
from tokenizers.codes import Codes
from tokenizers.embeddings.values import Embedding
from tokenizers.features import Vectors
from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.formats import ArrayFile, CodesFile, NumberFile
from tokenizers.formats.signals import SignalFile
from tokenizers.modality import Modality
from tokenizers.scalars import Scalar
from tokenizers.signals.values import Signal
from tokenizers.values import Colors, Directions, Reals

LEAST_MIXED = 0.1
"""Share of files that hold something else than most of them from which on that is said."""
MOST_SIGNAL_CHANNELS = 16
LONG = 4
"""Times that a signal is at least as long as it has channels."""
MOST_ID_SIDE = 128
"""Side of the largest grid that may be one of ids."""
LEAST_SIDE = 7
"""Side of the smallest grid of which there may be several views."""
MOST_IDS = 1 << 17
SMOOTH = 0.5
"""Correlation of neighbouring numbers of a signal, at least."""
LEAST_WIDTH = 16
"""Channels of a map of embeddings, at least."""
IS_IDS = re.compile(r"(^|_)(tok|tokens?|codes?|ids|indices|vq|vqgan|vqvae)(_|$)")
IS_VECTOR = re.compile(r"emb|feat|vector|latent|clip|dino|repr")
IS_COLORS = re.compile(r"rgb|colou?r|photo|image")
IS_FLOW = re.compile(r"flow")

Read = Callable[[FileFormat], list[Any]]
"""Returns what the files of a modality hold in some format, evenly spread over all of them."""


@dataclass(frozen=True)
class Inferred:
    """A modality that was found.

    Attributes:
        modality: What its values mean.
        file_format: How its files are read.
        why: What that was concluded from, in a few words.
        shape: Height and width of its pictures, the commonest; (0, 0) if it has none.
        told: What else is to be said, a sentence each.
        can_flip: Whether it may be mirrored.
        is_uniform: Whether its pictures are of one shape.
    """

    modality: Modality
    file_format: FileFormat
    why: str
    shape: tuple[int, int] = (0, 0)
    told: tuple[str, ...] = ()
    can_flip: bool = True
    is_uniform: bool = True


def infer_arrays(
    name: str,
    arrays: Sequence[Any],
    place: dict[str, Any],
    read_more: Read,
    is_picture: bool,
    is_lossy: bool = False,
) -> Inferred:
    """Returns what arrays are.

    Args:
        name: Of the modality.
        arrays: As files hold them.
        place: Where the files are, as settings of their format.
        read_more: Reads many files, in a format of its own.
        is_picture: Whether the files are pictures rather than arrays.
        is_lossy: Whether their compression changed the numbers, as JPEG's does.

    Raises:
        ValueError: One sentence, if nobody could tell.
    """
    plain = [np.asarray(each[0] if isinstance(each, Choices) else each) for each in arrays]
    plain = [_without_axes_of_one(each) for each in plain]
    counted = Counter((each.ndim, each.dtype.kind) for each in plain)
    (ndim, kind), most = counted.most_common(1)[0]
    kept = [each for each in plain if (each.ndim, each.dtype.kind) == (ndim, kind)]
    told: tuple[str, ...] = ()
    if len(plain) - most >= max(LEAST_MIXED * len(plain), 1):
        other = next(each for each in plain if (each.ndim, each.dtype.kind) != (ndim, kind))
        told = (
            f"{len(plain) - most} of {len(plain)} files that were looked at are of another kind "
            f"({other.dtype} of shape {other.shape}, not {kept[0].dtype} of {kept[0].shape}), and "
            "may be another modality",
        )
    found = None
    if not is_picture:
        found = _infer_ids(name, kept, place, read_more) or _infer_lines(name, kept, place)
    if found is not None:
        pass
    elif is_lossy and kept[0].dtype == np.uint8:
        found = Inferred(**infer_lossy(name, kept, place))
    elif ndim == 3:
        found = _infer_channels(name, kept, place, read_more, is_picture)
    elif ndim == 2:
        found = Inferred(**infer_map(name, kept, place, read_more, is_picture))
    else:
        raise ValueError(
            f"The files of {name} hold arrays of shape {kept[0].shape}; write a configuration that "
            "says what they are."
        )
    is_uniform = len(set(map(_shape, kept))) == 1
    return replace(found, told=(*told, *found.told), is_uniform=is_uniform)


def ids_that_do_not_fit(found: Mapping[str, Inferred]) -> dict[str, str]:
    """Returns the grids of ids that can't stand for the whole of the pictures beside them, and why.

    Args:
        found: All modalities.
    """
    pictures = {name: each for name, each in found.items() if min(each.shape)}
    reasons = {}
    for name, each in found.items():
        if not isinstance(each.modality.values, Codes):
            continue
        shape = each.modality.values.shape
        for other, picture in pictures.items():
            height, width = picture.shape
            if not picture.is_uniform:
                reasons[name] = f"as ids can't be cropped, and those of {other} differ in size"
            elif len(shape) > 1 and abs(shape[0] * width - shape[1] * height) > max(height, width):
                reasons[name] = (
                    f"as nobody knows of which part of {other}, {height} by {width} pixels, its "
                    f"{shape[0]} by {shape[1]} ids are"
                )
    return reasons


def picture_shape(arrays: Sequence[np.ndarray]) -> tuple[int, int]:
    """Returns the commonest height and width; (0, 0) of arrays without."""
    return Counter(map(_shape, arrays)).most_common(1)[0][0]


def _shape(array: np.ndarray) -> tuple[int, int]:
    if array.ndim < 2:
        return 0, 0
    height, width = array.shape[1:] if _is_first(array) else array.shape[:2]
    return int(height), int(width)


def _is_first(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.shape[0] < min(array.shape[1:])


def _without_axes_of_one(array: np.ndarray) -> np.ndarray:
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array


def _infer_channels(
    name: str, arrays: list[np.ndarray], place: dict[str, Any], read_more: Read, is_picture: bool
) -> Inferred:
    first, shape = arrays[0], picture_shape(arrays)
    is_first = not is_picture and _is_first(first)
    channels = first.shape[0] if is_first else first.shape[-1]
    file_format = ArrayFile(**place, channels_first=is_first)
    if channels >= LEAST_WIDTH and IS_VECTOR.search(name.lower()):
        height, width = shape
        modality = Modality(Embedding(channels, is_map=True), size=height, width=width)
        return Inferred(modality, file_format, f"{channels} channels, and the name", shape)
    is_named = bool(IS_NORMALS.search(name)) and channels == 3
    if first.dtype == np.uint8 and channels == 3:
        if is_named:
            why = "three channels of 8 bits, and the name"
            return Inferred(Modality(Directions()), file_format, why, shape)
        if not is_first and (found := infer_map(name, arrays, place, read_more, is_picture)):
            return Inferred(**found)
    if first.dtype == np.uint8 and (channels == 3 or (channels == 4 and is_picture)):
        if is_first:
            return Inferred(Modality(Colors()), file_format, "three channels of 8 bits", shape)
        why = "pictures of 8 bits" if is_picture else "three channels of 8 bits"
        return Inferred(Modality(Colors()), ArrayFile(**place, as_rgb=True), why, shape)
    if first.dtype.kind == "f" and channels == 3 and (is_named or _are_unit(arrays, is_first)):
        why = "three channels, and the name" if is_named else "three channels, of length 1 together"
        return Inferred(Modality(Directions()), file_format, why, shape)
    told, can_flip = (), True
    if channels == 2 and IS_FLOW.search(name):
        told, can_flip = (
            ("views are not mirrored, as what flows to the left would be wrong",),
            False,
        )
    drawn = (0, 1, 2) if channels > 2 else (0,)
    values = Reals(channels=channels, picture=drawn)
    why = f"{channels} channels of {first.dtype}"
    if first.dtype.kind == "f" and channels == 3 and IS_COLORS.search(name):
        told = ("colours as real numbers are read as real channels; pictures are of 8 bits",)
    return Inferred(Modality(values), file_format, why, shape, told, can_flip)


def _are_unit(arrays: list[np.ndarray], is_first: bool) -> bool:
    """True if nearly all vectors that are known, and not 0, have the length 1."""
    lengths = np.concatenate(
        [np.linalg.norm(each, axis=0 if is_first else -1).ravel() for each in arrays]
    )
    known = lengths[np.isfinite(lengths) & (lengths > 0)]
    return known.size > 0 and float(np.mean(np.abs(known - 1) < 0.02)) > 0.95


def _infer_ids(
    name: str, arrays: list[np.ndarray], place: dict[str, Any], read_more: Read
) -> Inferred | None:
    """Returns ids of another tokenizer; None if the numbers are none."""
    first = arrays[0]
    if first.dtype.kind not in "iu" or first.size < 2 or min(map(np.min, arrays)) < 0:
        return None
    is_named = bool(IS_IDS.search(name.lower()))
    shapes = {each.shape for each in arrays}
    highest = max(int(each.max()) for each in arrays)
    is_small = max(first.shape) <= MOST_ID_SIDE and highest < MOST_IDS and first.ndim < 3
    if not is_named and (not is_small or len(shapes) > 1 or first.dtype == np.uint8):
        return None
    disorder = disorder_of(arrays)
    if not is_named and (disorder < UNORDERED or highest < 64):
        return None
    if len(shapes) > 1:
        raise ValueError(
            f"The files of {name} hold ids in arrays of different shapes, such as "
            f"{' and '.join(map(str, sorted(shapes)[:2]))}; a grid of one size is allowed."
        )
    shape, views = first.shape, ""
    if is_named and first.ndim in (2, 3) and _are_views(first):
        side = math.isqrt(first.shape[-1])
        flat = (side, side) if side * side == first.shape[-1] else first.shape[1:]
        shape = first.shape[1:] if first.ndim == 3 else flat
        views = f", {first.shape[0]} views each"
    elif first.ndim == 1 and math.isqrt(first.size) ** 2 == first.size and is_named:
        shape = (math.isqrt(first.size),) * 2  # In reading order.
    file_format = CodesFile(**place, shape=tuple(map(int, shape)))
    everything = [each for each in read_more(file_format)]
    highest = max(int(np.max(view)) for each in everything for view in np.atleast_1d(_views(each)))
    vocabulary = 1 << max(highest, 1).bit_length()
    values = Codes(vocabulary, file_format.shape)
    reason = "the name" if is_named else "as neighbours are nothing alike"
    why = f"whole numbers up to {highest}{views}, and {reason}; {vocabulary} ids are allowed"
    told = ("ids can't be cropped or mirrored, so every sample has one view",)
    return Inferred(Modality(values), file_format, why, told=told)


def _views(ids: Any) -> list[np.ndarray] | np.ndarray:
    return np.stack([np.asarray(each) for each in ids]) if isinstance(ids, Choices) else ids


def _are_views(array: np.ndarray) -> bool:
    """True for ids of several views of a sample, as `save_vq_tokens` of 4M writes them."""
    if array.ndim == 3:
        return array.shape[1] == array.shape[2]
    side = math.isqrt(array.shape[1])
    return side >= LEAST_SIDE and 4 * array.shape[0] <= array.shape[1] == side * side


def _infer_lines(name: str, arrays: list[np.ndarray], place: dict[str, Any]) -> Inferred | None:
    """Returns numbers along a line, or a vector; None for pictures."""
    first = arrays[0]
    if first.ndim == 0 or (first.ndim == 1 and all(each.size == 1 for each in arrays)):
        return Inferred(Modality(Scalar()), NumberFile(**place), "one number each")
    is_vector = bool(IS_VECTOR.search(name.lower()))
    lengths = {len(each) for each in arrays}
    if first.ndim == 1:
        longest = max(lengths)
        is_smooth = _correlation(arrays) >= SMOOTH
        if len(lengths) == 1 and (is_vector or not is_smooth):
            reason = "the name" if is_vector else "as neighbours are nothing alike"
            why = f"{longest} numbers each, and {reason}"
            return Inferred(Modality(Embedding(longest)), ArrayFile(**place), why)
        why = f"up to {longest} numbers in a row"
        return Inferred(Modality(Signal(longest)), SignalFile(**place), why)
    if first.ndim != 2:
        return None
    if is_vector and len({each.shape[1] for each in arrays}) == 1:
        longest = max(lengths)
        why = f"up to {longest} vectors of {first.shape[1]} numbers, and the name"
        told = ("vectors are only ever input, never predicted",)
        values = Vectors(first.shape[1], longest)
        return Inferred(Modality(values), ArrayFile(**place), why, told=told)
    channels, longest = min(first.shape), max(max(each.shape) for each in arrays)
    is_long = all(
        min(each.shape) == channels and max(each.shape) >= LONG * channels for each in arrays
    )
    if channels > MOST_SIGNAL_CHANNELS or not is_long:
        return None
    is_first = first.shape[0] == channels
    file_format = SignalFile(**place, channels_first=is_first)
    why = f"arrays that are {longest} long and {channels} wide"
    return Inferred(Modality(Signal(longest, channels)), file_format, why)


def _correlation(arrays: Sequence[np.ndarray]) -> float:
    """Returns the mean correlation of neighbouring numbers."""
    found = []
    for array in arrays:
        numbers = array.astype(np.float64)
        known = np.isfinite(numbers[:-1]) & np.isfinite(numbers[1:])
        before, after = numbers[:-1][known], numbers[1:][known]
        if len(before) > 2 and before.std() and after.std():
            found.append(float(np.corrcoef(before, after)[0, 1]))
    return float(np.mean(found)) if found else 0.0

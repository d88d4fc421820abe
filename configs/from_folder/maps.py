"""What maps hold, of one number or colour per pixel: classes, distances, grey, measurements."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.formats import ArrayFile
from tokenizers.modality import Modality
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

FEW_CLASSES = 32
"""Different numbers of maps up to which they are classes, whatever their name."""
MOST_COLORS = 64
"""Colours that are classes, if the name says so."""
MOST_CLASSES = 256
EQUAL = 0.6
"""Share of neighbours in a class map that are of one class, at least, if it has many."""
UNORDERED = 0.6
"""Mean difference of neighbours that differ, as a share of that of any two numbers, from which on
the numbers are names of something: neighbours in a picture of measurements are alike."""
NEARLY_ALL = 0.97
"""Share of pixels that are nearly black or white in a mask in black and white."""
IS_NORMALS = re.compile(r"normal")
IS_DEPTH = re.compile(r"depth|distance|range")
IS_DISPARITY = re.compile(r"disp")
IS_MAP = re.compile(r"seg|label|mask|class|cover|lulc|annot|parsing|gt|truth")
IS_INSTANCES = re.compile(r"instance|panoptic")

Read = Callable[[FileFormat], list[Any]]


def infer_map(
    name: str,
    arrays: Sequence[np.ndarray],
    place: dict[str, Any],
    read_more: Read,
    is_picture: bool,
) -> dict[str, Any]:
    """Returns what maps are, as the fields of `Inferred`; of colours {} unless they are classes.

    Args:
        name: Of the modality.
        arrays: Maps [y, x], or colours [y, x, 3].
        place: Where the files are, as settings of their format.
        read_more: Reads many files, in a format of its own.
        is_picture: Whether the files are pictures rather than arrays.

    Raises:
        ValueError: One sentence, if nobody could tell.
    """
    first = arrays[0]
    shape = _commonest([each.shape[:2] for each in arrays])
    if first.ndim == 3:
        return _colored_classes(name, arrays, place, read_more, shape)
    if IS_DEPTH.search(name) and (first.dtype.kind == "f" or first.dtype.itemsize > 1):
        return _distances(arrays, place, shape)
    if first.dtype.kind in "biu" and (found := _classes(name, arrays, place, read_more, shape)):
        return found
    told: tuple[str, ...] = ()
    if IS_INSTANCES.search(name) and first.dtype.kind in "iu":
        raise ValueError(
            f"The files of {name} number instances, which mean something else in every picture; "
            "that is no modality."
        )
    if IS_DEPTH.search(name) or IS_DISPARITY.search(name):
        told = (f"{first.dtype} has no unit of length, so it is read as plain numbers",)
    elif first.dtype == np.uint8 and is_picture:
        if IS_MAP.search(name):
            told = ("their shades are too many, or too soft, for classes",)
        file_format = ArrayFile(**place, as_rgb=True)
        return _found(Modality(Colors()), file_format, "grey pictures of 8 bits", shape, told)
    elif first.dtype.kind == "f" and IS_MAP.search(name) and _are_whole(arrays):
        told = ("whole numbers that are stored as real ones are no classes; store integers",)
    elif first.dtype.kind in "iu" and not is_picture:
        told = ("should the numbers be ids of a tokenizer, call the folder tok_NAME",)
    return _found(
        Modality(Reals()), ArrayFile(**place), f"one channel of {first.dtype}", shape, told
    )


def infer_lossy(name: str, arrays: Sequence[np.ndarray], place: dict[str, Any]) -> dict[str, Any]:
    """Returns what JPEG holds, as the fields of `Inferred`: pictures, normals, or black and white.

    Args:
        name: Of the modality.
        arrays: uint8 [y, x], or [y, x, 3].
        place: Where the files are, as settings of their format.
    """
    shape = _commonest([each.shape[:2] for each in arrays])
    if IS_NORMALS.search(name) and arrays[0].ndim == 3:
        why = "three channels of 8 bits, and the name"
        return _found(Modality(Directions()), ArrayFile(**place), why, shape)
    if not IS_MAP.search(name):
        if IS_DEPTH.search(name) or IS_DISPARITY.search(name):
            told = ("JPEG keeps no distances, so it is read as pictures",)
        else:
            told = ()
        file_format = ArrayFile(**place, as_rgb=True)
        return _found(Modality(Colors()), file_format, "pictures of 8 bits", shape, told)
    extreme = np.mean([float(np.mean((each < 40) | (each > 215))) for each in arrays])
    if extreme > NEARLY_ALL:
        file_format = ArrayFile(**place, colors=((0, 0, 0), (255, 255, 255)), nearest_color=True)
        values = Classes(("background", "foreground"))
        return _found(Modality(values), file_format, "black and white, and the name", shape)
    told = ("JPEG keeps no classes, so it is read as pictures; store class maps as PNG",)
    file_format = ArrayFile(**place, as_rgb=True)
    return _found(Modality(Colors()), file_format, "pictures of 8 bits", shape, told)


def _found(
    modality: Modality,
    file_format: FileFormat,
    why: str,
    shape: tuple[int, int],
    told: tuple[str, ...] = (),
) -> dict[str, Any]:
    return {
        "modality": modality,
        "file_format": file_format,
        "why": why,
        "shape": shape,
        "told": told,
    }


def _commonest(shapes: list[tuple[int, ...]]) -> tuple[int, int]:
    height, width = max(sorted(set(shapes)), key=shapes.count)
    return int(height), int(width)


def _distances(
    arrays: Sequence[np.ndarray], place: dict[str, Any], shape: tuple[int, int]
) -> dict[str, Any]:
    first = arrays[0]
    unit = 1.0 if first.dtype.kind == "f" else 0.001
    known = np.concatenate([each[np.isfinite(each) & (each > 0)].ravel() for each in arrays])
    far = float(np.percentile(known, 99.9)) * unit if known.size else 100.0
    # A round number above what there is, so that other files hardly have more.
    most = 10.0 ** math.ceil(math.log10(max(far, 1e-3)))
    most = next((most * part for part in (0.2, 0.5) if most * part >= 1.1 * far), most)
    values = Distances(max_distance=most, min_distance=min(0.1, most / 1000))
    unit_name = "metres" if unit == 1.0 else "millimetres"
    why = f"{first.dtype} and the name, in {unit_name}, up to {far:.3g} metres"
    told = ("should the unit be another one, set the format's scale in config.py",)
    return _found(Modality(values), ArrayFile(**place), why, shape, told)


def _classes(
    name: str,
    arrays: Sequence[np.ndarray],
    place: dict[str, Any],
    read_more: Read,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Returns classes, or {} if numbers are none."""
    found = _numbers_in(arrays)
    is_named = bool(IS_MAP.search(name)) and not IS_INSTANCES.search(name)
    if len(found) > (MOST_CLASSES if is_named else FEW_CLASSES):
        return {}
    found = np.unique(np.concatenate([found, _numbers_in(read_more(ArrayFile(**place)))]))
    if len(found) > (MOST_CLASSES if is_named else FEW_CLASSES):
        return {}
    if len(found) > MOST_COLORS and not _are_regions(arrays):
        return {}
    if found.tolist() == [0, 255] or found.dtype.kind == "b":
        file_format = ArrayFile(**place, values={} if found.dtype.kind == "b" else {255: 1})
        values = Classes(("background", "foreground"))
        return _found(Modality(values), file_format, "two numbers", shape)
    steps = np.diff(found[found >= 0])
    is_even = len(steps) > 1 and len(set(steps.tolist())) == 1 and steps[0] > 1
    ignored = [] if is_even else [255]
    unknown = [int(number) for number in found if number < 0 or number in ignored]
    classes = [int(number) for number in found if int(number) not in unknown]
    if len(classes) < 2 or len(unknown) > 1:
        return {}
    ignore = unknown[0] if unknown else 255 if max(classes) < 255 else -1
    why = f"{len(classes)} different numbers from {min(classes)} to {max(classes)}"
    if max(classes) + 1 > 2 * len(classes):  # Most names would be of no class.
        names = tuple(f"class_{number}" for number in classes)
        numbers = {number: index for index, number in enumerate(classes) if number != index}
        if ignore in range(len(names)):
            return {}
        file_format = ArrayFile(**place, values=numbers)
        return _found(Modality(Classes(names, ignore=ignore)), file_format, why, shape)
    names = tuple(f"class_{number}" for number in range(max(classes) + 1))
    values = Classes(names, ignore=ignore)
    return _found(Modality(values), ArrayFile(**place), why, shape)


def _numbers_in(arrays: Sequence[Any]) -> np.ndarray:
    return np.unique(np.concatenate([np.unique(np.ma.compressed(each)) for each in arrays]))


def disorder_of(arrays: Sequence[np.ndarray]) -> float:
    """Returns how far neighbours that differ lie apart, as a share of how far any two do."""
    near, far = [], []
    random = np.random.default_rng(0)
    for array in arrays:
        numbers = array.astype(np.float64)
        steps = np.abs(np.diff(numbers, axis=-1)).ravel()
        near.append(steps[steps > 0])
        flat = numbers.ravel()
        pairs = np.abs(flat - random.permutation(flat))
        far.append(pairs[pairs > 0])
    steps, pairs = np.concatenate(near), np.concatenate(far)
    return float(steps.mean() / pairs.mean()) if steps.size and pairs.size else 0.0


def _are_regions(arrays: Sequence[np.ndarray]) -> bool:
    """True if most neighbours are equal, and others nothing alike, as at the edge of a mask."""
    equal = np.mean([float(np.mean(each[:, 1:] == each[:, :-1])) for each in arrays])
    return bool(equal >= EQUAL) and disorder_of(arrays) >= UNORDERED


def _are_whole(arrays: Sequence[np.ndarray]) -> bool:
    numbers = np.unique(np.concatenate([np.unique(each[np.isfinite(each)]) for each in arrays]))
    return 1 < len(numbers) <= MOST_CLASSES and bool((numbers % 1 == 0).all())


def _colored_classes(
    name: str,
    arrays: Sequence[np.ndarray],
    place: dict[str, Any],
    read_more: Read,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Returns classes by colour, if the name says that there are such; else {}."""
    if not IS_MAP.search(name) or IS_INSTANCES.search(name):
        return {}
    if not 1 < len(_colors_in(arrays)) <= MOST_COLORS:
        return {}
    found = _colors_in(read_more(ArrayFile(**place)))
    if len(found) > MOST_COLORS:
        return {}
    file_format = ArrayFile(**place, colors=tuple(sorted(found)))
    names = tuple(f"class_{number}" for number in range(len(found)))
    why = f"{len(found)} colours, and the name"
    return _found(Modality(Classes(names)), file_format, why, shape)


def _colors_in(arrays: Sequence[Any]) -> set[tuple[int, int, int]]:
    """Returns the colours of pictures, or more than are classes."""
    found: set[tuple[int, int, int]] = set()
    for array in arrays:
        colors = np.unique(np.asarray(array)[..., :3].reshape(-1, 3), axis=0)
        found |= {(int(r), int(g), int(b)) for r, g, b in colors[: MOST_COLORS + 1]}
        if len(found) > MOST_COLORS:
            break
    return found

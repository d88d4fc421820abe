"""What the files of a modality hold, as far as their content and their names tell."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.from_folder.structure import Part, is_array_file
from data_pipeline.sources.files.locations import Location, read_bytes
from tokenizers.base import Boxes, Choices, Mended
from tokenizers.boxes import BoxList
from tokenizers.formats.annotations import BoxesFile
from tokenizers.formats.file_format import FileFormat, parse_json
from tokenizers.formats.formats import ArrayFile, JsonFile, NumberFile, TextFile
from tokenizers.labels import Label
from tokenizers.modality import Modality
from tokenizers.scalars import Scalar
from tokenizers.spread import evenly_spread
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

LOOKED_AT = 64
"""Files of a modality that are read to know what they hold."""
MOST_CLASSES = 64
"""Different numbers of maps up to which they may be classes."""
MOSTLY = 0.8
"""Share of a folder's texts that are boxes if it is a folder of boxes."""
MOST_READ = 2000
"""Files of class maps, or of boxes, that are read to know their classes."""
IS_DEPTH = re.compile(r"depth|distance|disparity")
IS_NORMALS = re.compile(r"normal")
IS_LABEL = re.compile(r"(label|class|category|target)s?")
IS_MAP = re.compile(r"seg|label|mask|class|cover|lulc|annot|parsing|gt")


@dataclass(frozen=True)
class Inferred:
    """A modality that was found.

    Attributes:
        modality: What its values mean.
        file_format: How its files are read.
        why: What that was concluded from, in a few words.
        shape: Height and width of its pictures, the commonest; (0, 0) if it has none.
    """

    modality: Modality
    file_format: FileFormat
    why: str
    shape: tuple[int, int] = (0, 0)


def infer(part: Part) -> Inferred:
    """Returns what the files of a part are.

    Raises:
        ValueError: One sentence, if nobody could tell.
    """
    chosen = [part.files[row][1] for row in evenly_spread(len(part.files), LOOKED_AT)]
    extensions = Counter(each.extension for each in chosen)
    place = {"folder": part.folder, "extension": part.extension}
    if all(map(is_array_file, chosen)):
        return _infer_arrays(part, chosen, place)
    commonest = extensions.most_common(1)[0][0]
    match commonest:
        case "txt":
            return _infer_texts(part, chosen, place)
        case "json":
            return _infer_json(part, chosen, place)
        case "xml":
            return _infer_boxes(part, place)
    raise ValueError(
        f"The files of {part.name} are of different kinds "
        f"({', '.join(f'{count} {name}' for name, count in extensions.most_common(4))}); move them "
        "into folders of their own, or write a configuration."
    )


def _infer_arrays(part: Part, chosen: list[Location], place: dict[str, str]) -> Inferred:
    arrays = _read(ArrayFile(**place), chosen, part.name)
    arrays = [np.asarray(each[0] if isinstance(each, Choices) else each) for each in arrays]
    arrays = [each[..., 0] if each.ndim == 3 and each.shape[-1] == 1 else each for each in arrays]
    arrays = [each[0] if each.ndim == 3 and each.shape[0] == 1 else each for each in arrays]
    counted = Counter((each.ndim, each.dtype.kind) for each in arrays)
    (ndim, kind), _ = counted.most_common(1)[0]
    arrays = [each for each in arrays if (each.ndim, each.dtype.kind) == (ndim, kind)]
    name, first = part.name, arrays[0]
    shape = Counter(_picture_shape(each) for each in arrays).most_common(1)[0][0]
    if ndim == 3:
        if first.shape[-1] in (3, 4) and first.dtype == np.uint8:
            is_three = first.shape[-1] == 3
            if IS_NORMALS.search(name) and is_three:
                why = "three channels of 8 bits, and the name"
                return Inferred(Modality(Directions()), ArrayFile(**place), why, shape)
            if IS_MAP.search(name) and len(table := _color_table(arrays)) > 1:
                file_format = ArrayFile(**place, colors=table)
                names = tuple(f"class_{number}" for number in range(len(table)))
                why = f"{len(table)} colours, and the name"
                return Inferred(Modality(Classes(names)), file_format, why, shape)
            why = "pictures of 8 bits"
            return Inferred(Modality(Colors()), ArrayFile(**place, as_rgb=True), why, shape)
        is_first = first.shape[0] < min(first.shape[1:])
        channels = first.shape[0] if is_first else first.shape[-1]
        if IS_NORMALS.search(name) and channels == 3 and kind == "f":
            file_format = ArrayFile(**place, channels_first=is_first)
            why = "three channels, and the name"
            return Inferred(Modality(Directions()), file_format, why, shape)
        drawn = (0, 1, 2) if channels > 2 else (0,)
        values = Reals(channels=channels, picture=drawn)
        why = f"{channels} channels of {first.dtype}"
        return Inferred(Modality(values), ArrayFile(**place, channels_first=is_first), why, shape)
    if ndim == 2:
        return _infer_maps(part, arrays, place, shape)
    if first.size == 1 or ndim == 0:
        return Inferred(Modality(Scalar()), NumberFile(**place), "one number each")
    raise ValueError(
        f"The files of {name} hold arrays of shape {first.shape}, which may be a signal, ids or a "
        "vector; write a configuration that says it."
    )


def _infer_maps(
    part: Part, arrays: list[np.ndarray], place: dict[str, str], shape: tuple[int, int]
) -> Inferred:
    name, first = part.name, arrays[0]
    if IS_DEPTH.search(name) and (first.dtype.kind == "f" or first.dtype.itemsize > 1):
        unit = 1.0 if first.dtype.kind == "f" else 0.001
        known = np.concatenate([each[np.isfinite(each) & (each > 0)].ravel() for each in arrays])
        far = float(np.percentile(known, 99.9)) * unit if known.size else 100.0
        # A round number above what there is, so that other files hardly have more.
        most = 10.0 ** math.ceil(math.log10(max(far, 1e-3)))
        most = next((most * part for part in (0.2, 0.5) if most * part >= 1.1 * far), most)
        values = Distances(max_distance=most, min_distance=min(0.1, most / 1000))
        unit_name = "metres" if unit == 1.0 else "millimetres"
        why = f"{first.dtype} and the name, in {unit_name}, up to {far:.3g} metres"
        return Inferred(Modality(values), ArrayFile(**place), why, shape)
    found = np.unique(np.concatenate([np.unique(each) for each in arrays]))
    is_few = first.dtype.kind in "biu" and len(found) <= MOST_CLASSES
    if is_few and (IS_MAP.search(name) or len(found) <= MOST_CLASSES // 2):
        files = [part.files[row][1] for row in evenly_spread(len(part.files), MOST_READ)]
        others = _read(ArrayFile(**place), files, name)
        found = np.unique(
            np.concatenate([found, *(np.unique(np.asarray(each)) for each in others)])
        )
        if found.tolist() == [0, 255] or found.dtype.kind == "b":
            file_format = ArrayFile(**place, values={} if found.dtype.kind == "b" else {255: 1})
            values = Classes(("background", "foreground"))
            return Inferred(Modality(values), file_format, "two numbers", shape)
        ignored = [int(number) for number in found if number < 0 or number == 255]
        classes = [int(number) for number in found if int(number) not in ignored]
        if len(classes) > 1 and max(classes) <= 4 * MOST_CLASSES:
            ignore = ignored[0] if ignored else 255 if max(classes) < 255 else -1
            values = Classes(tuple(f"class_{n}" for n in range(max(classes) + 1)), ignore=ignore)
            why = f"{len(classes)} different numbers from {min(classes)} to {max(classes)}"
            return Inferred(Modality(values), ArrayFile(**place), why, shape)
    if first.dtype == np.uint8:
        why = "grey pictures of 8 bits"
        return Inferred(Modality(Colors()), ArrayFile(**place, as_rgb=True), why, shape)
    return Inferred(Modality(Reals()), ArrayFile(**place), f"one channel of {first.dtype}", shape)


def _infer_texts(part: Part, chosen: list[Location], place: dict[str, str]) -> Inferred:
    texts = [each for each in (_decode(read_bytes(location)) for location in chosen) if each]
    if not texts:
        raise ValueError(f"The files of {part.name} are empty, or no text in UTF-8.")
    if IS_LABEL.fullmatch(part.name) and (label := _infer_label(part, place)):
        return label
    if all(_is_number(text) for text in texts):
        return Inferred(Modality(Scalar()), NumberFile(**place), "one number each")
    # A list of the classes may lie among them.
    if sum(_is_yolo(text) for text in texts) >= MOSTLY * len(texts):
        return _infer_boxes(part, place)
    lines = [len([line for line in text.splitlines() if line.strip()]) for text in texts]
    several = max(lines) > 1
    longest = max(len(line.split()) for text in texts for line in text.splitlines() or [text])
    why = f"up to {longest} words" + (f", {max(lines)} lines each" if several else "")
    return Inferred(_text_modality(longest), TextFile(**place, lines=several), why)


def _infer_label(part: Part, place: dict[str, str]) -> Inferred | None:
    """Returns a label if all files hold one of few words or whole numbers; else None."""
    files = [part.files[row][1] for row in evenly_spread(len(part.files), MOST_READ)]
    found = Counter(text for text in map(_decode, map(read_bytes, files)) if text)
    if not 2 <= len(found) <= min(MOST_CLASSES, len(files) // 2):
        return None
    if all(text.isdecimal() for text in found):
        names = tuple(f"class_{number}" for number in range(max(map(int, found)) + 1))
    elif all(len(text.splitlines()) == 1 and len(text.split()) <= 3 for text in found):
        names = tuple(sorted(found))
    else:
        return None
    why = f"{len(found)} different texts in {len(files)} files, and the name"
    return Inferred(Modality(Label(names)), JsonFile(**place), why)


def _infer_json(part: Part, chosen: list[Location], place: dict[str, str]) -> Inferred:
    contents = []
    for location in chosen:
        try:
            contents.append(parse_json(read_bytes(location)))
        except ValueError:
            continue  # A damaged file; it will be counted.
    if not contents:
        raise ValueError(f"None of {len(chosen)} files of {part.name} is JSON that can be read.")
    first = contents[0]
    if isinstance(first, dict) and "instances" in first:
        return _infer_boxes(part, place)
    field = ""
    if isinstance(first, dict):
        texts = [key for key, value in first.items() if _is_text(value)]
        numbers = [key for key, value in first.items() if type(value) in (int, float)]
        usual = [key for key in ("caption", "text", "prompt", "label") if key in texts]
        field = next(iter([*usual, *texts, *numbers]), "")
        if not field:
            raise ValueError(
                f"The files of {part.name} hold objects with the entries {', '.join(first)}; write "
                "a configuration that says which is meant."
            )
        contents = [each[field] for each in contents if isinstance(each, dict) and field in each]
        first = contents[0]
    if type(first) in (int, float):
        why = f"the number {field!r}" if field else "one number each"
        return Inferred(Modality(Scalar()), NumberFile(**place, field=field), why)
    file_format = TextFile(**place, field=field)
    texts = [text for each in contents for text in _texts_in(each)] or [""]
    longest = max(len(text.split()) for text in texts)
    return Inferred(_text_modality(longest), file_format, f"texts of up to {longest} words")


def _is_text(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return bool(several) and all(isinstance(each, str) for each in several)


def _texts_in(content: Any) -> list[str]:
    """Returns the texts that JSON holds: one, several, or those of objects."""
    several = content if isinstance(content, list) else [content]
    return [
        str(each.get("caption", "") if isinstance(each, dict) else each)
        for each in several
        if each is not None
    ]


def _infer_boxes(part: Part, place: dict[str, str]) -> Inferred:
    """Returns boxes, with the classes that occur in all files."""
    files = [part.files[row][1] for row in evenly_spread(len(part.files), MOST_READ)]
    names: Counter[str] = Counter()
    for location in files:
        data = read_bytes(location)
        if location.extension == "json":
            try:
                instances = parse_json(data).get("instances", [])
                names.update(str(each["class_name"]) for each in instances if "class_name" in each)
            except (ValueError, AttributeError, TypeError):
                continue
        elif location.extension == "xml":
            found = re.findall(rb"<object>.*?<name>\s*([^<]+?)\s*</name>", data, re.DOTALL)
            names.update(each.decode(errors="replace") for each in found)
    class_names = tuple(sorted(names))
    boxes = _read(BoxesFile(**place, class_names=class_names), files, part.name)
    found = [each for each in boxes if isinstance(each, Boxes)]
    if not class_names:
        highest = max((int(each.classes.max()) for each in found if len(each.classes)), default=0)
        values_names = tuple(f"class_{number}" for number in range(highest + 1))
    else:
        values_names = class_names
    most = max(max((len(each.classes) for each in found), default=1), 1)
    values = BoxList(values_names, max_boxes=min(most, 20))
    why = f"boxes of {len(values_names)} classes, up to {most} a sample"
    return Inferred(Modality(values), BoxesFile(**place, class_names=class_names), why)


def _text_modality(longest: int) -> Modality:
    """Returns texts whose tokenizer has room for the longest, up to a limit."""
    usual = TextTokenizerConfig().max_tokens
    needed = 16 * math.ceil((1.5 * longest + 1) / 16)  # Words of several tokens are few.
    if needed <= usual:
        return Modality(Text())
    return Modality(Text(), TextTokenizerConfig(max_tokens=min(needed, 256)))


def _read(file_format: FileFormat, files: list[Location], name: str) -> list[Any]:
    """Returns what files hold, without those that are damaged: training will count them.

    Raises:
        ValueError: If all are.
    """
    values, reason = [], ""
    for location in files:
        try:
            value = file_format.read(read_bytes(location), location.extension)
        except MemoryError:
            raise
        except Exception as error:  # Decoders raise whatever they like on damaged files.
            reason = reason or f"{location}: {error}"
            continue
        values.append(value.value if isinstance(value, Mended) else value)
    if not values:
        raise ValueError(f"None of {len(files)} files of {name} can be read ({reason}).")
    return values


def _picture_shape(array: np.ndarray) -> tuple[int, int]:
    if array.ndim < 2:
        return 0, 0
    is_first = array.ndim == 3 and array.shape[0] < min(array.shape[1:])
    height, width = array.shape[1:] if is_first else array.shape[:2]
    return int(height), int(width)


def _color_table(arrays: list[np.ndarray]) -> tuple[tuple[int, int, int], ...]:
    """Returns the colours of class maps in order; empty if there are too many to be classes."""
    found: set[tuple[int, int, int]] = set()
    for array in arrays:
        colors = np.unique(array[..., :3].reshape(-1, 3), axis=0)
        if len(colors) > MOST_CLASSES:
            return ()
        found |= {(int(r), int(g), int(b)) for r, g, b in colors}
        if len(found) > MOST_CLASSES:
            return ()
    return tuple(sorted(found))


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) or True
    except ValueError:
        return False


def _is_yolo(text: str) -> bool:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(
        len(line) == 5 and line[0].isdecimal() and all(_is_number(n) for n in line[1:])
        for line in lines
    )

"""What the files of a modality hold, as far as their content and their names tell."""

import math
import re
from collections import Counter
from typing import Any

from configs.from_folder.align import Part
from configs.from_folder.arrays import Inferred, infer_arrays
from configs.from_folder.boxes import infer_boxes, is_yolo
from configs.from_folder.structure import is_array_file, knobs_of
from data_pipeline.sources.files.locations import Location, read_bytes
from tokenizers.base import Mended
from tokenizers.content.sounds import COLUMNS, read_sound
from tokenizers.formats.file_format import SOUNDS, FileFormat, parse_json
from tokenizers.formats.formats import ArrayFile, JsonFile, NumberFile, TextFile
from tokenizers.formats.signals import LogMel, SignalFile
from tokenizers.labels import Label
from tokenizers.modality import Modality
from tokenizers.rows import Row
from tokenizers.scalars import Scalar
from tokenizers.signals.values import Signal
from tokenizers.spread import evenly_spread
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig

LOOKED_AT = 64
"""Files of a modality that are read to know what they hold."""
MOST_READ = 2000
"""Files of class maps, of boxes or of ids that are read to know their classes."""
MOSTLY = 0.8
"""Share of a folder's texts that are boxes if it is a folder of boxes."""
MOST_LABELS = 64
LONGEST_WAVE = 4096
"""Steps of the longest sound that is read as its wave; longer ones are read as log-mel bands."""
LEAST_RATE = 4000
"""Steps per second of what is a sound to hear."""
WINDOW = 0.064
"""Seconds of a window of log-mel bands, about."""
MOST_WINDOWS = 4096
IS_LABEL = re.compile(r"(.*_)?(label|class|category|target)(es|s)?(_id)?")
CAPTION_FIELDS = ("caption", "captions", "text", "prompt", "description")


def infer(part: Part) -> Inferred:
    """Returns what the files of a part are.

    Raises:
        ValueError: One sentence, if nobody could tell.
    """
    chosen = [part.files[row][1] for row in evenly_spread(len(part.files), LOOKED_AT)]
    place = knobs_of(part)
    if all(map(is_array_file, chosen)):
        return _infer_arrays(part, chosen, place)
    commonest = Counter(each.extension for each in chosen).most_common(1)[0][0]
    match commonest:
        case "txt":
            return _infer_texts(part, chosen, place)
        case "json":
            return _infer_json(part, chosen, place)
        case "xml":
            return infer_boxes(part.name, _spread(part), place)
        case _ if commonest in SOUNDS:
            return _infer_sounds(part, chosen, place)
        case _ if commonest in COLUMNS:
            return _infer_columns(part, chosen, place | {"extension": commonest})
    extensions = Counter(each.extension for each in chosen)
    raise ValueError(
        f"The files of {part.name} are of different kinds "
        f"({', '.join(f'{count} {name}' for name, count in extensions.most_common(4))}); move them "
        "into folders of their own, or write a configuration."
    )


def text_modality(longest: int) -> Modality:
    """Returns texts whose tokenizer has room for the longest, of so many words, up to a limit."""
    usual = TextTokenizerConfig().max_tokens
    needed = 16 * math.ceil((1.5 * longest + 1) / 16)  # Words of several tokens are few.
    if needed <= usual:
        return Modality(Text())
    return Modality(Text(), TextTokenizerConfig(max_tokens=min(needed, 256)))


def label_names(found: Counter[str]) -> tuple[str, ...]:
    """Returns the names of labels, of which some are given; () if these are no labels.

    Example:
        >>> label_names(Counter({"dog": 4, "cat": 2})), label_names(Counter({"2": 4, "0": 3}))
        (('cat', 'dog'), ('class_0', 'class_1', 'class_2'))
    """
    if not 2 <= len(found) <= min(MOST_LABELS, found.total() // 2):
        return ()
    if all(text.isdecimal() for text in found):
        highest = max(map(int, found))
        return tuple(f"class_{number}" for number in range(highest + 1)) if highest < 1000 else ()
    if all(len(text.splitlines()) == 1 and len(text.split()) <= 3 for text in found):
        return tuple(sorted(found))
    return ()


def is_number(text: str) -> bool:
    """True if a text is a number that is finite."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_files(file_format: FileFormat, files: list[Location], name: str) -> list[Any]:
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


def _spread(part: Part) -> list[Location]:
    return [part.files[row][1] for row in evenly_spread(len(part.files), MOST_READ)]


def _infer_arrays(part: Part, chosen: list[Location], place: dict[str, Any]) -> Inferred:
    arrays = read_files(ArrayFile(**place), chosen, part.name)
    is_picture = not all(each.extension in ("npy", "npz", "json") for each in chosen)
    is_lossy = sum(each.extension in ("jpg", "jpeg") for each in chosen) > len(chosen) / 2

    def read_more(file_format: FileFormat) -> list[Any]:
        return read_files(file_format, _spread(part), part.name)

    return infer_arrays(part.name, arrays, place, read_more, is_picture, is_lossy)


def _infer_texts(part: Part, chosen: list[Location], place: dict[str, Any]) -> Inferred:
    texts = [each for each in (_decode(read_bytes(location)) for location in chosen) if each]
    if not texts:
        raise ValueError(f"The files of {part.name} are empty, or no text in UTF-8.")
    if IS_LABEL.fullmatch(part.name) and (label := _infer_label(part, place)):
        return label
    if all(is_number(text) for text in texts):
        return Inferred(Modality(Scalar()), NumberFile(**place), "one number each")
    # A list of the classes may lie among them.
    if sum(is_yolo(text) for text in texts) >= MOSTLY * len(texts):
        return infer_boxes(part.name, _spread(part), place)
    if all(is_number(word) for text in texts for word in re.split(r"[\s,;]+", text) if word):
        raise ValueError(
            f"The files of {part.name} hold several numbers as text; save them as npy or JSON."
        )
    lines = [len([line for line in text.splitlines() if line.strip()]) for text in texts]
    several = max(lines) > 1
    longest = max(len(line.split()) for text in texts for line in text.splitlines() or [text])
    why = f"up to {longest} words" + (f", {max(lines)} lines each" if several else "")
    told = ("of several lines each view of a sample takes one",) if several else ()
    file_format = TextFile(**place, lines=several)
    return Inferred(text_modality(longest), file_format, why, told=told)


def _infer_label(part: Part, place: dict[str, Any]) -> Inferred | None:
    """Returns a label if all files hold one of few words or whole numbers; else None."""
    files = _spread(part)
    names = label_names(found := Counter(filter(None, map(_decode, map(read_bytes, files)))))
    if not names:
        return None
    why = f"{len(found)} different texts in {len(files)} files, and the name"
    return Inferred(Modality(Label(names)), JsonFile(**place), why)


def _infer_json(part: Part, chosen: list[Location], place: dict[str, Any]) -> Inferred:
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
        return infer_boxes(part.name, _spread(part), place)
    if isinstance(first, list) and first and not _is_text(first) and not isinstance(first[0], dict):
        return _infer_arrays(part, chosen, place | {"extension": "json"})
    field, told = "", ()
    if isinstance(first, dict):
        if row := _infer_row(part, contents, place):
            return row
        texts = [key for key, value in first.items() if _is_text(value)]
        numbers = [key for key, value in first.items() if type(value) in (int, float)]
        usual = [key for key in (*CAPTION_FIELDS, "label") if key in texts]
        field = next(iter([*usual, *texts, *numbers]), "")
        if not field:
            raise ValueError(
                f"The files of {part.name} hold objects with the entries {', '.join(first)}; write "
                "a configuration that says which is meant."
            )
        others = [key for key in first if key != field]
        told = (f"of its entries {field} is read, not {', '.join(others[:6])}",) if others else ()
        contents = [each[field] for each in contents if isinstance(each, dict) and field in each]
        first = contents[0]
    if type(first) in (int, float):
        why = f"the number {field!r}" if field else "one number each"
        return Inferred(Modality(Scalar()), NumberFile(**place, field=field), why, told=told)
    words = Counter(each for each in contents if isinstance(each, str))
    is_label = IS_LABEL.fullmatch(field or part.name) and words.total() == len(contents)
    if is_label and (names := label_names(words)):
        why = f"{len(words)} different texts, and the name"
        return Inferred(Modality(Label(names)), JsonFile(**place, field=field), why, told=told)
    texts = [text for each in contents for text in _texts_in(each)] or [""]
    longest = max(len(text.split()) for text in texts)
    why = f"texts of up to {longest} words"
    return Inferred(text_modality(longest), TextFile(**place, field=field), why, told=told)


def _infer_row(part: Part, contents: list[Any], place: dict[str, Any]) -> Inferred | None:
    """Returns rows of numbers, and of words that occur again; None if there is anything else."""
    fields = dict.fromkeys(key for each in contents if isinstance(each, dict) for key in each)
    cells = {key: [each[key] for each in contents if each.get(key) is not None] for key in fields}
    numbers, categories = [], {}
    for key, own in cells.items():
        if own and all(type(cell) in (int, float) for cell in own):
            numbers.append(key)
        elif all(isinstance(cell, str) for cell in own) and (names := label_names(Counter(own))):
            categories[key] = names
        else:
            return None
    if len(cells) < 2:
        return None
    if categories:  # Files that were not looked at may hold other words.
        seen = [parse_json(read_bytes(each)) for each in _spread(part)]
        for key in categories:
            words = {each[key] for each in seen if isinstance(each, dict) and each.get(key)}
            categories[key] = tuple(sorted(map(str, words)))
    why = f"{len(numbers)} numbers and {len(categories)} words each"
    return Inferred(Modality(Row(tuple(numbers), categories)), JsonFile(**place), why)


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


def _infer_sounds(part: Part, chosen: list[Location], place: dict[str, Any]) -> Inferred:
    longest_file = max((each for _, each in part.files), key=lambda each: each.size)
    sounds, reason = [], ""
    for location in [*chosen, longest_file]:
        try:
            sounds.append(read_sound(read_bytes(location)))
        except ValueError as error:
            reason = reason or f"{location} {error}"
    if not sounds:
        raise ValueError(f"None of {len(chosen)} files of {part.name} can be read ({reason}).")
    rates = Counter(each.rate for each in sounds)
    rate = rates.most_common(1)[0][0]
    told = ()
    if len(rates) > 1:
        told = (f"sounds of other than {rate} steps per second are left out; resample them",)
    sounds = [each for each in sounds if each.rate == rate]
    steps = max(len(each.waves) for each in sounds)
    channels = Counter(each.waves.shape[1] for each in sounds).most_common(1)[0][0]
    if rate < LEAST_RATE or steps <= LONGEST_WAVE:
        why = f"waves of up to {steps} steps, {rate} per second"
        values = Signal(steps, channels, float(rate))
        return Inferred(Modality(values), SignalFile(**place, rate=float(rate)), why, told=told)
    window = 2 ** round(math.log2(rate * WINDOW))
    bands = LogMel(float(rate), window=window, hop=window // 4)
    length = (max(steps, window) - window) // bands.hop + 1
    if length > MOST_WINDOWS:
        length = MOST_WINDOWS
        steps = window + (length - 1) * bands.hop
        told += (f"what follows after {steps / rate:.0f} seconds is left out",)
        file_format = SignalFile(**place, length=steps, log_mel=bands)
    else:
        file_format = SignalFile(**place, log_mel=bands)
    values = Signal(length, bands.bands, rate / bands.hop, "log power")
    why = f"sounds of up to {steps / rate:.3g} seconds, as {bands.bands} log-mel bands"
    return Inferred(Modality(values), file_format, why, told=told)


def _infer_columns(part: Part, chosen: list[Location], place: dict[str, Any]) -> Inferred:
    file_format = SignalFile(**place)
    longest_file = max((each for _, each in part.files), key=lambda each: each.size)
    arrays = read_files(file_format, [*chosen, longest_file], part.name)
    channels = Counter(each.shape[1] for each in arrays).most_common(1)[0][0]
    longest = max(len(each) for each in arrays)
    # Lines may be shorter in the file that has most bytes.
    why = f"tables of up to {longest} lines and {channels} columns of numbers"
    return Inferred(Modality(Signal(max(2, longest), channels)), file_format, why)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return ""

"""How a folder of data lies: which folders are splits, and which files are of which modality."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.from_folder.align import Part, align, parts_apart
from configs.from_folder.places import (
    SPLIT,
    Chosen,
    Files,
    archive_stem,
    choose_split,
    list_files,
)
from configs.from_folder.words import LEAST_SHARE, NAMES, SHARED, Affix, find_words, is_name, strip
from data_pipeline.sources.files.locations import Location, read_bytes
from data_pipeline.sources.files.splits import Splits
from tokenizers.content.sounds import COLUMNS
from tokenizers.formats.file_format import ARRAYS, PICTURES, READABLE, SOUNDS
from tokenizers.formats.file_names import normal_key, split_name
from tokenizers.formats.formats import ArrayFile

TABLES = ("csv", "tsv", "jsonl", "ndjson")
"""Extensions of tables with a row per sample."""
USUAL_NAMES = (
    dict.fromkeys(PICTURES, "rgb")
    | dict.fromkeys(SOUNDS, "sound")
    | dict.fromkeys(ARRAYS, "array")
    | {"txt": "caption", "json": "about", "xml": "boxes"}
)
"""Names of modalities whose files lie together, by extension."""
PICTURE_NAMES = ("rgb", "image", "photo", "picture", "img", "color", "colour")
HINTS: dict[str, str] = dict.fromkeys(
    ("h5", "hdf5", "nc", "nc4"), "which a configuration with ArraysData reads"
)
"""What to do about files that are left alone, by extension."""
MOST_TOLD = 8
"""Kinds of files that are said to be left alone."""
MANY_FOLDERS = 8
"""Folders of pictures of one kind that are classes, whatever their files are called."""
LEAST_SIGNALS = 3
"""Tables in a folder of their own that are signals, one of each sample."""


class Structure(NamedTuple):
    """How a data set lies.

    Attributes:
        splits_by: How it is split.
        parts: Of one split, the one to train on.
        tables: Tables that may have a row per sample: name, and where it is.
        class_names: Of folders that are classes; () if there are none.
        told: What was concluded, beside the parts.
        left_alone: Why some files are of no part, a sentence each.
    """

    splits_by: Splits
    parts: list[Part]
    tables: Files
    class_names: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()


def find_structure(root: Path) -> Structure:
    """Returns how the files of a folder, or of an archive, lie.

    Raises:
        ValueError: If there is no file that can be read.
    """
    listed = list_files(root)
    signals = _signal_folders(listed.files)
    tables, readable, others = [], [], []
    for name, each in listed.files:
        if name.rpartition("/")[0] in signals or each.extension in READABLE:
            readable.append((name, each))
        elif each.extension in TABLES and not each.member:
            tables.append((name, each))
        else:
            others.append((name, each))
    left_alone = _unreadable(others)
    if not readable and not tables:
        there = "".join(f" There is {each}." for each in left_alone)
        raise ValueError(
            f"{root} has no file that can be read; readable are {', '.join(READABLE)}, also in "
            f"tar archives, tables with a row per sample, and Parquet files.{there}"
        )
    chosen = choose_split(readable)
    left_alone += tuple(
        f"{count:,} files in {folder}, which are of no split"
        for folder, count in sorted(chosen.strangers.items())
    )
    parts, classes, told = _parts(chosen, root)
    return Structure(chosen.splits_by, parts, tables, classes, told, left_alone)


def _signal_folders(files: Files) -> set[str]:
    """Returns the folders that hold a table of numbers for each sample, and nothing else."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for name, each in files:
        kinds[name.rpartition("/")[0]][each.extension] += 1
    return {
        folder
        for folder, counted in kinds.items()
        if folder and set(counted) <= set(COLUMNS) and counted.total() >= LEAST_SIGNALS
    }


def _unreadable(files: Files) -> tuple[str, ...]:
    """Returns what is said of folders' files of kinds that are not read."""
    counted: Counter[tuple[str, str]] = Counter()
    for name, each in files:
        counted[name.rpartition("/")[0], each.extension] += 1
    return tuple(
        f"{count:,} of {f'.{extension}' if extension else 'no extension'}"
        f"{f' in {folder}' if folder else ''}, {HINTS.get(extension, 'which can not be read')}"
        for (folder, extension), count in sorted(counted.items())[:MOST_TOLD]
    )


def _parts(chosen: Chosen, root: Path) -> tuple[list[Part], tuple[str, ...], tuple[str, ...]]:
    """Returns the modalities, the names of classes, and what is to be said."""
    by_folder: dict[str, Files] = defaultdict(list)
    for name, each in chosen.files:
        folder, rest = _modality_folder(name)
        by_folder[folder].append((rest, each))
    flat = {folder: own for folder, own in by_folder.items() if folder in ("", SPLIT)}
    folders = {folder: own for folder, own in by_folder.items() if folder not in flat}
    if scenes := _parts_of_scenes(folders):
        return scenes, (), ()
    are_samples = not flat and _are_samples(folders)
    if folders and (are_samples or _are_classes(folders, bool(flat))):
        inside = SPLIT if all(folder.startswith(f"{SPLIT}/") for folder in folders) else ""
        prefix = len(inside) + 1 if inside else 0
        together = [
            (f"{folder[prefix:]}/{rest}", each)
            for folder, own in folders.items()
            for rest, each in own
        ]
        parts, told = _parts_of_folder(inside, together, "")
        names = () if are_samples else tuple(sorted(folder[prefix:] for folder in folders))
        return _renamed(parts), names, told
    if flat and folders:  # Files such as classes.txt beside folders of modalities.
        most = max(map(len, folders.values()))
        flat = {folder: own for folder, own in flat.items() if len(own) >= LEAST_SHARE * most}
    hint = root.name if len(by_folder) == 1 else ""
    parts, told = [], ()
    for folder, own in (flat | folders).items():
        found, said = _parts_of_folder(folder, own, hint)
        parts += found
        told += said
    return align(_renamed(parts)), (), told


def _modality_folder(name: str) -> tuple[str, str]:
    """Returns the folder that may be a modality's, and the rest of a name.

    Example:
        >>> _modality_folder("{split}/rgb/a/1.png"), _modality_folder("rgb/{split}/1.png")
        (('{split}/rgb', 'a/1.png'), ('rgb/{split}', '1.png'))
    """
    parts = name.split("/")
    depth = 1 if parts[0] == SPLIT else 0
    if len(parts) - depth > 1:
        depth += 1
        depth += len(parts) - depth > 1 and parts[depth] == SPLIT
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def _parts_of_folder(folder: str, files: Files, hint: str) -> tuple[list[Part], tuple[str, ...]]:
    """Returns the modalities of the files of a folder, told apart by their names.

    Args:
        folder: With `{split}` in place of the split's name.
        files: Names below it.
        hint: The name of the only folder that there is; or empty.
    """
    by_stem: dict[str, list[Location]] = defaultdict(list)
    for name, each in files:
        by_stem[split_name(name)[0]].append(each)
    words = find_words(by_stem, lambda stem: _look_of(by_stem[stem][0]))
    grouped: dict[Affix, list[tuple[str, Location]]] = defaultdict(list)
    for name, each in files:
        stem = split_name(name)[0]
        affix = words.affixes[stem]
        grouped[affix].append((normal_key(strip(stem, affix)).removeprefix("all/"), each))
    own_name = archive_stem(re.sub(r"^[_\-. ]+|[_\-. ]+$", "", _without_split(folder)))
    parts = []
    for affix, own in grouped.items():
        families = _families(own)
        for number, (extensions, members) in enumerate(families):
            last = min(extensions, key=lambda e: (e not in PICTURES, e))
            if affix.name:
                name = f"{own_name}_{affix.name}" if own_name else affix.name
                name = affix.name if is_name(affix.name) else name
            else:
                name = own_name or _flat_name(last, hint if len(grouped) == 1 else "", number)
            if number and (affix.name or own_name):
                name = f"{name}_{last}"
            skip = tuple(
                _pattern_of(folder, other, grouped[other])
                for other in grouped
                if other != affix
                and other.after.endswith(affix.after)
                and other.before.startswith(affix.before)
                and not affix.middle
                and set(extensions) & {each.extension for _, each in grouped[other]}
            )
            is_alone = {each.extension for _, each in files} <= extensions
            only = () if is_alone else tuple(sorted(extensions))
            parts.append(Part(name, folder, members, affix, only, skip))
    told = []
    if words.doubtful:
        shown = ", ".join(words.doubtful[:4])
        told.append(
            f"files whose names differ in {shown} alone are samples of their own; if these words "
            "are modalities, write a configuration with patterns"
        )
    taken = {id(each) for part in parts for _, each in part.files}
    rare = Counter(each.extension for _, each in files if id(each) not in taken)
    told += [
        f"left alone: {count:,} of .{extension} in {folder or 'the folder'}, which are few"
        for extension, count in sorted(rare.items())
    ]
    return parts, tuple(told)


def _families(files: Files) -> list[tuple[set[str], Files]]:
    """Returns files by what they are, with their extensions; the most important first.

    Pictures and arrays may each be stored as either, unless a sample has both.
    """
    by_extension: dict[str, Files] = defaultdict(list)
    for key, each in files:
        by_extension[each.extension].append((key, each))
    counts = {extension: len(own) for extension, own in by_extension.items()}
    # A list of classes may lie among boxes.
    least = LEAST_SHARE * max(counts.values())
    keys = {extension: {key for key, _ in own} for extension, own in by_extension.items()}
    families: list[set[str]] = []
    order = ["jpg", "jpeg", "webp", *PICTURES, *ARRAYS, *SOUNDS, *COLUMNS, "txt", "json", "xml"]
    for extension in sorted(by_extension, key=lambda e: order.index(e) if e in order else 99):
        if counts[extension] < least and extension not in PICTURES:
            continue
        fitting = next(
            (
                family
                for family in families
                if extension in (*PICTURES, *ARRAYS)
                and family <= {*PICTURES, *ARRAYS}
                and all(_seldom_meet(keys[extension], keys[other]) for other in family)
            ),
            None,
        )
        if fitting is None:
            families.append({extension})
        else:
            fitting.add(extension)
    return [
        (family, [entry for extension in sorted(family) for entry in by_extension[extension]])
        for family in families
    ]


def _seldom_meet(keys: set[str], others: set[str]) -> bool:
    """True unless many samples have files of both kinds."""
    return len(keys & others) < max(SHARED * min(len(keys), len(others)), 2)


def _flat_name(extension: str, hint: str, number: int) -> str:
    """Returns the name of files that lie together, by what they are."""
    is_known = hint.lower() in NAMES or hint.lower().startswith("tok_")
    if number == 0 and is_known and not hint.lower().startswith(PICTURE_NAMES):
        return hint
    usual = USUAL_NAMES.get(extension, extension)
    return extension if number and usual in ("rgb", "array") else usual


def _without_split(folder: str) -> str:
    """Returns the part of a folder that names a modality.

    Example:
        >>> _without_split("{split}/rgb"), _without_split("images{split}")
        ('rgb', 'images')
    """
    named = [each for each in folder.split("/") if each != SPLIT]
    return named[-1].replace(SPLIT, "") if named else ""


def _look_of(location: Location) -> str:
    """Returns what a file is: the type of its numbers and their channels, or its extension."""
    if location.extension not in (*PICTURES, *ARRAYS):
        return location.extension
    try:
        array = np.asarray(ArrayFile().read(read_bytes(location), location.extension))
    except Exception:  # Decoders raise whatever they like on damaged files.
        return location.extension
    channels = min(array.shape) if array.ndim == 3 else 1
    return f"{array.dtype} of {channels} channels"


def _parts_of_scenes(folders: dict[str, Files]) -> list[Part]:
    """Returns the modalities of folders of scenes, each with a folder per modality; or none."""
    by_name: dict[str, Files] = defaultdict(list)
    first = ""
    for folder, own in folders.items():
        first, _, scene = folder.rpartition("/")
        if is_name(scene) or SPLIT in scene:
            return []
        for rest, each in own:
            inner, _, last = rest.partition("/")
            if not last:
                return []
            by_name[inner].append((f"{scene}/{split_name(last)[0]}", each))
    known = [name for name in by_name if is_name(name)]
    if len(folders) < 2 or not known or len(by_name) < 2:
        return []
    start = f"{first}/" if first else ""
    return _renamed(
        [
            Part(name, "", own, pattern=f"{start}{{scene}}/{name}/{{key}}.{{ext}}")
            for name, own in sorted(by_name.items())
        ]
    )


def _are_samples(by_folder: dict[str, Files]) -> bool:
    """True for folders of a sample each, in which files are called after their modality."""
    if len(by_folder) < 2 or any(is_name(_without_split(folder)) for folder in by_folder):
        return False
    counted = Counter(split_name(name)[0] for own in by_folder.values() for name, _ in own)
    usual = [stem for stem, count in counted.items() if count >= SHARED * len(by_folder)]
    most_files = sum(counted[stem] for stem in usual)
    return any(map(is_name, usual)) and most_files >= SHARED * counted.total()


def _are_classes(by_folder: dict[str, Files], has_flat: bool) -> bool:
    """True if folders hold pictures of different samples, and nothing that goes with them."""
    if len(by_folder) < 2 or has_flat:
        return False
    if any(SPLIT in folder.removeprefix(f"{SPLIT}/") for folder in by_folder):
        return False
    kinds = {each.extension for own in by_folder.values() for _, each in own}
    if not kinds <= {*PICTURES, *SOUNDS}:
        return False
    stems = [{split_name(name)[0] for name, _ in own} for own in by_folder.values()]
    counted = Counter(stem for own in stems for stem in own)
    known = sum(is_name(_without_split(folder)) for folder in by_folder)
    if sum(count > 1 for count in counted.values()) < LEAST_SHARE * len(counted):
        if not known:
            return True
        # rgb/a_rgb.png and depth/a_depth.png have other names and are of one sample.
        parts = [
            Part(folder, folder, [(split_name(name)[0], each) for name, each in own])
            for folder, own in by_folder.items()
        ]
        return 2 * known < len(by_folder) and len(parts_apart(align(parts))) > 0
    # Every class may have a 0001.png of its own.
    return len(by_folder) >= MANY_FOLDERS and not known and _are_photographs(by_folder)


def _are_photographs(by_folder: dict[str, Files]) -> bool:
    """True if some of the folders' pictures are all of 8 bits."""
    firsts = [own[0][1] for own in by_folder.values()]
    return all(_look_of(each).startswith("uint8") for each in firsts[:16])


def modality_name(folder: str) -> str:
    """Returns a name that can be typed, such as land_cover for "Land Cover".

    Example:
        >>> modality_name("Land Cover"), modality_name("2019")
        ('land_cover', 'm2019')
    """
    name = re.sub(r"[^0-9a-z_]+", "_", folder.lower()).strip("_") or "data"
    return name if not name[0].isdigit() else f"m{name}"


def _renamed(parts: Sequence[Part]) -> list[Part]:
    """Returns parts whose names can be typed and differ."""
    renamed, seen = [], set()
    for part in parts:
        name = modality_name(part.name)
        while name in seen:
            name += "_2"
        seen.add(name)
        renamed.append(part._replace(name=name))
    return renamed


def is_array_file(location: Location) -> bool:
    """True if a file's extension is that of a picture or an array."""
    return location.extension in (*PICTURES, *ARRAYS)


def pattern_of(part: Part) -> str:
    """Returns the pattern of a part's files."""
    return part.pattern or _pattern_of(part.folder, part.affix, part.files)


def knobs_of(part: Part) -> dict[str, Any]:
    """Returns the settings of a format that say where a part's files are."""
    extension = ", ".join(part.extensions)
    if part.pattern:
        return {"pattern": part.pattern, "extension": extension}
    *above, last = part.folder.split("/")
    if not part.affix.name and not part.skip:
        if above in ([], [SPLIT]) and last not in ("", SPLIT) and SPLIT not in last:
            if archive_stem(last) == last:
                return {"folder": "" if last == part.name else last, "extension": extension}
        elif part.folder in ("", SPLIT):
            return {"folder": ".", "extension": extension}
    pattern = pattern_of(part)
    return {"pattern": pattern, "extension": extension, "skip": part.skip}


def _pattern_of(folder: str, affix: Affix, files: Files) -> str:
    """Returns the pattern of files whose names have an affix."""
    start = f"{folder}/" if folder else ""
    if affix.middle or (affix.before and not affix.before.endswith("/")):
        depth = Counter(key.count("/") for key, _ in files).most_common(1)[0][0]
        depth -= bool(affix.middle)
        start += "".join(f"{{folder_{number}}}/" for number in range(depth))
        start += f"{{start}}{affix.middle}" if affix.middle else ""
    return f"{start}{affix.before}{{key}}{affix.after}.{{ext}}"

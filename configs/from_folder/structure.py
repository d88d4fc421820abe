"""How a folder of data lies: which folders are splits, and which files are of which modality."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.sources.files.listing import list_folder
from data_pipeline.sources.files.locations import (
    Location,
    normal_key,
    read_bytes,
    split_name,
)
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction, Splits
from tokenizers.formats.file_format import ARRAYS, PICTURES, READABLE
from tokenizers.formats.formats import ArrayFile

SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst"),
}
"""What folders of splits are called."""
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
"""Names of tables with a row per sample, as Hugging Face's imagefolder has them."""
SCENES = "{scene}/{modality}/{key}.{ext}"
"""The pattern of folders of scenes."""
USUAL_NAMES = dict.fromkeys(PICTURES, "rgb") | {"txt": "caption", "json": "about", "xml": "boxes"}
"""Names of modalities whose files lie together, by extension."""
HINTS = {
    "parquet": "which a configuration with ParquetData reads",
    **dict.fromkeys(
        ("csv", "tsv", "jsonl"), "which is read if it is called metadata.csv, .tsv or .jsonl"
    ),
}
"""What to do about files that are left alone, by extension."""
MOST_TOLD = 8
"""Kinds of files that are said to be left alone."""
KNOWN = re.compile(
    r"(rgb|images?|photos?|pictures?|colou?rs?|depth|normal|seg|semantic|mask|label|caption|text|box)"
)
"""What names of modalities begin with, as a rule."""
MANY_FOLDERS = 8
"""Folders of pictures of one kind that are classes, whatever their files are called."""
LEAST_SHARE = 0.1
"""Share of a folder's samples that a word in the names of files has if it names a modality."""

Files = list[tuple[str, Location]]


class Part(NamedTuple):
    """The files that are of one modality.

    Attributes:
        name: Of the modality.
        folder: Where they lie below the split's folder; empty if it has the modality's name.
        extension: What tells them from others there; empty where there are no others.
        files: Name below the folder, and where it is.
    """

    name: str
    folder: str
    extension: str
    files: Files


class Structure(NamedTuple):
    """How a data set lies.

    Attributes:
        splits_by: How it is split.
        parts: Of one split, the one to train on.
        table: As `FilesData.table`; empty if there is none.
        class_folders: Whether folders are classes.
        pattern: As `FilesData.pattern`; empty for the usual layouts.
        left_alone: Why some files are of no part, a sentence each.
    """

    splits_by: Splits
    parts: list[Part]
    table: str
    class_folders: bool
    pattern: str
    left_alone: tuple[str, ...] = ()


def find_structure(root: Path) -> Structure:
    """Returns how the files of a folder lie.

    Raises:
        ValueError: If there is no file that can be read.
    """
    files = list_folder(str(root)).files
    left_alone = _unreadable(files)
    structure = _structure_of(root, files, left_alone)
    return structure._replace(left_alone=left_alone)


def _unreadable(files: Files) -> tuple[str, ...]:
    """Returns what is said of folders' files of kinds that are not read."""
    counted: dict[tuple[str, str], int] = Counter()
    for name, each in files:
        if each.extension not in READABLE and name.rpartition("/")[2] not in TABLES:
            counted[name.rpartition("/")[0], each.extension] += 1
    return tuple(
        f"{count:,} of {f'.{extension}' if extension else 'no extension'}"
        f"{f' in {folder}' if folder else ''}, {HINTS.get(extension, 'which can not be read')}"
        for (folder, extension), count in sorted(counted.items())[:MOST_TOLD]
    )


def _structure_of(root: Path, files: Files, left_alone: tuple[str, ...]) -> Structure:
    tables = [name for name, _ in files if name.rpartition("/")[2] in TABLES]
    files = [
        (name, each) for name, each in files if name not in tables and each.extension in READABLE
    ]
    if not files:
        raise ValueError(
            f"{root} has no file that can be read; readable are {', '.join(READABLE)}, also in "
            f"tar archives.{''.join(f' There is {each}.' for each in left_alone)}"
        )
    splits = _splits_in({name.partition("/")[0] for name, _ in files if "/" in name})
    folders = {name.partition("/")[0] for name, _ in files}
    if "train" in splits or (splits and folders == set(splits.values())):
        own = splits.get("train") or next(iter(splits.values()))
        splits = splits if "train" in splits else {"train": own}
        inner = [(name[len(own) + 1 :], each) for name, each in files if name.startswith(f"{own}/")]
        scenes = _parts_of_scenes(inner)
        parts, is_classed = (scenes, False) if scenes else _parts(inner)
        pattern = f"{{split}}/{SCENES}" if scenes else ""
        by_folder = SplitByFolder(splits)
        splits_by = by_folder if len(splits) > 1 else SplitByFraction(folder=own)
        table = next((name for name in tables if name.startswith(f"{own}/")), "")
        table = table.replace(f"{own}/", "{split}/", 1) or next(iter(tables), "")
        return Structure(splits_by, parts, table, is_classed, pattern)
    if swapped := _splits_below(files):  # rgb/train/0001.jpg
        own = swapped["train"]
        by_name: dict[str, Files] = defaultdict(list)
        for name, each in files:
            folder, _, rest = name.partition("/")
            if rest.startswith(f"{own}/"):
                by_name[folder].append((rest[len(own) + 1 :], each))
        parts = [Part(name, "", "", own_files) for name, own_files in by_name.items()]
        pattern = "{modality}/{split}/{key}.{ext}"
        return Structure(SplitByFolder(swapped), _renamed(parts), "", False, pattern)
    table = next(iter(tables), "")
    if scenes := _parts_of_scenes(files):
        return Structure(SplitByFraction(folder=""), scenes, table, False, SCENES)
    parts, is_classed = _parts(files)
    return Structure(SplitByFraction(folder=""), parts, table, is_classed, "")


def data_folder_in(root: Path) -> Path:
    """Returns the folder that holds the splits: the given one, or the only one that it has."""
    inner = _folders_in(root)
    is_wrapped = root.is_dir() and len(inner) == 1 and not _splits_in({inner[0].name})
    splits = _folders_in(inner[0]) if is_wrapped else []
    splits = [each for each in splits if each.name in _splits_in({each.name}).values()]
    # Otherwise it is a modality's folder with a folder for each split.
    return inner[0] if splits and all(map(_folders_in, splits)) else root


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    shown = [each for each in folder.iterdir() if not each.name.startswith((".", "__MACOSX"))]
    return [each for each in shown if each.is_dir()]


def parts_apart(parts: Sequence[Part]) -> list[Part]:
    """Returns the parts that share no sample with any other, if others do share some."""
    endings = [tuple(filter(None, part.extension.split(", "))) for part in parts]
    keys = [
        {_key_of(name, own) for name, _ in part.files}
        for part, own in zip(parts, endings, strict=True)
    ]
    apart = [
        part
        for part, own in zip(parts, keys, strict=True)
        if not any(own & other for other in keys if other is not own)
    ]
    return apart if len(apart) < len(parts) else []


def _key_of(name: str, endings: tuple[str, ...]) -> str:
    stem = next((name[: -len(e) - 1] for e in endings if name.lower().endswith(f".{e}")), "")
    return normal_key(stem or split_name(name)[0]).removeprefix("all/")


def modality_name(folder: str) -> str:
    """Returns a name that can be typed, such as land_cover for "Land Cover".

    Example:
        >>> modality_name("Land Cover"), modality_name("2019")
        ('land_cover', 'm2019')
    """
    name = re.sub(r"[^0-9a-z_]+", "_", folder.lower()).strip("_") or "data"
    return name if not name[0].isdigit() else f"m{name}"


def _parts(files: Files) -> tuple[list[Part], bool]:
    """Returns the modalities among the files of a split, and whether folders are classes."""
    by_folder: dict[str, Files] = defaultdict(list)
    for name, each in files:
        folder, slash, rest = name.partition("/")
        by_folder[folder if slash else ""].append((rest if slash else name, each))
    flat = by_folder.pop("", [])
    if by_folder and _are_classes(by_folder, flat):
        everything = [(name, each) for name, each in files if "/" in name]
        return _flat_parts(everything + flat, "."), True
    parts = [Part(name, "", "", own) for name, own in by_folder.items()]
    if flat and not parts:
        return _flat_parts(flat, "."), False
    return _renamed(parts), False


def _parts_of_scenes(files: Files) -> list[Part]:
    """Returns the modalities of folders of scenes, each with a folder per modality; or none."""
    by_name: dict[str, Files] = defaultdict(list)
    scenes = set()
    for name, each in files:
        scene, _, rest = name.partition("/")
        inner, _, last = rest.partition("/")
        if not last or KNOWN.match(scene.lower()):
            return []
        scenes.add(scene)
        by_name[inner].append((f"{scene}/{last}", each))
    if len(scenes) < 2 or not any(KNOWN.match(name.lower()) for name in by_name):
        return []
    return _renamed([Part(name, "", "", own) for name, own in sorted(by_name.items())])


def _are_classes(by_folder: dict[str, Files], flat: Files) -> bool:
    """True if folders hold pictures of different samples, and nothing that goes with them."""
    if len(by_folder) < 2 or flat:
        return False
    kinds = {each.extension for own in by_folder.values() for _, each in own}
    if not kinds <= set(PICTURES):
        return False
    stems = [{split_name(name)[0] for name, _ in own} for own in by_folder.values()]
    counted = Counter(stem for own in stems for stem in own)
    if sum(count > 1 for count in counted.values()) < 0.1 * len(counted):
        return True
    # Every class may have a 0001.png of its own.
    is_known = any(KNOWN.match(folder.lower()) for folder in by_folder)
    return len(by_folder) >= MANY_FOLDERS and not is_known and _are_photographs(by_folder)


def _are_photographs(by_folder: dict[str, Files]) -> bool:
    """True if some of the folders' pictures are all of 8 bits."""
    firsts = [own[0][1] for own in by_folder.values()]
    try:
        pictures = [ArrayFile().read(read_bytes(each), each.extension) for each in firsts[:16]]
    except ValueError:
        return False
    return all(each.dtype == np.uint8 for each in pictures)


def _flat_parts(files: Files, folder: str) -> list[Part]:
    """Returns the modalities of files that lie together, told apart by how their names end."""
    endings = {name: _ending(name) for name, _ in files}
    counted = Counter(endings.values())
    # A word that few names have, as holiday.rome.jpg, is part of the name.
    least = LEAST_SHARE * len({name.rpartition("/")[2].partition(".")[0] for name in endings})
    by_ending: dict[str, Files] = defaultdict(list)
    for name, each in files:
        ending = endings[name]
        is_rare = counted[ending] < least
        by_ending[each.extension if is_rare else ending].append((name, each))
    pictures = {ending for ending in by_ending if ending in PICTURES}
    parts, taken = [], set()
    for ending, own in by_ending.items():
        if ending in pictures:
            if "rgb" in taken:
                continue
            taken.add("rgb")
            own = [entry for each in sorted(pictures) for entry in by_ending[each]]
            parts.append(Part("rgb", folder, ", ".join(sorted(pictures)), own))
            continue
        usual = USUAL_NAMES.get(ending, ending.partition(".")[0])
        parts.append(Part(modality_name(usual), folder, ending, own))
    if len(parts) == 1:
        parts = [parts[0]._replace(extension="")]
    return _renamed(parts)


def _ending(name: str) -> str:
    """Returns what tells a file's modality: png, or depth.png for 0001.depth.png."""
    stem, extension = split_name(name.rpartition("/")[2])
    inner = stem.rpartition(".")[2] if "." in stem else ""
    is_word = inner.replace("_", "").isalpha() and len(inner) > 1
    return f"{inner}.{extension}" if is_word else extension


def _renamed(parts: Sequence[Part]) -> list[Part]:
    """Returns parts whose names can be typed and differ."""
    renamed, seen = [], set()
    for part in parts:
        name = modality_name(part.name)
        while name in seen:
            name += "_2"
        seen.add(name)
        folder = part.folder or ("" if name == part.name else part.name)
        renamed.append(part._replace(name=name, folder=folder))
    return renamed


def _splits_in(folders: set[str]) -> dict[str, str]:
    """Returns which of some folders are splits, by the split."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        own = [folder for folder in sorted(folders) if folder.lower() in names]
        if own:
            found[split] = own[0]
    return found


def _splits_below(files: Files) -> dict[str, str]:
    """Returns the splits that every folder is divided into; none if there are not such."""
    second: dict[str, set[str]] = defaultdict(set)
    for name, _ in files:
        parts = name.split("/")
        if len(parts) > 2:
            second[parts[0]].add(parts[1])
    found = [_splits_in(own) for own in second.values()]
    is_split = found and all("train" in each and len(each) > 1 for each in found)
    return found[0] if is_split and all(each == found[0] for each in found) else {}


def is_array_file(location: Location) -> bool:
    """True if a file's extension is that of a picture or an array."""
    return location.extension in (*PICTURES, *ARRAYS)

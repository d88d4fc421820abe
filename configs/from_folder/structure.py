"""How a folder of data lies: which folders are splits, and which files are of which modality."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.sources.files.file_format import ARRAYS, PICTURES, READABLE
from data_pipeline.sources.files.listing import list_folder
from data_pipeline.sources.files.locations import Location, split_name
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction, Splits

SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst"),
}
"""What folders of splits are called."""
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
"""Names of tables with a row per sample, as Hugging Face's imagefolder has them."""
USUAL_NAMES = dict.fromkeys(PICTURES, "rgb") | {"txt": "caption", "json": "about", "xml": "boxes"}
"""Names of modalities whose files lie together, by extension."""

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
    """

    splits_by: Splits
    parts: list[Part]
    table: str
    class_folders: bool
    pattern: str


def find_structure(root: Path) -> Structure:
    """Returns how the files of a folder lie.

    Raises:
        ValueError: If there is no file that can be read.
    """
    files = list_folder(str(root)).files
    tables = [name for name, _ in files if name.rpartition("/")[2] in TABLES]
    files = [
        (name, each) for name, each in files if name not in tables and each.extension in READABLE
    ]
    if not files:
        raise ValueError(
            f"{root} has no file that can be read; readable are {', '.join(READABLE)}, also in "
            "tar archives."
        )
    splits = _splits_in({name.partition("/")[0] for name, _ in files if "/" in name})
    folders = {name.partition("/")[0] for name, _ in files}
    if "train" in splits or (splits and folders == set(splits.values())):
        own = splits.get("train") or next(iter(splits.values()))
        splits = splits if "train" in splits else {"train": own}
        inner = [(name[len(own) + 1 :], each) for name, each in files if name.startswith(f"{own}/")]
        parts, is_classed = _parts(inner)
        by_folder = SplitByFolder(splits)
        splits_by = by_folder if len(splits) > 1 else SplitByFraction(folder=own)
        table = next((name for name in tables if name.startswith(f"{own}/")), "")
        table = table.replace(f"{own}/", "{split}/", 1) or next(iter(tables), "")
        return Structure(splits_by, parts, table, is_classed, "")
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
    parts, is_classed = _parts(files)
    table = next(iter(tables), "")
    return Structure(SplitByFraction(folder=""), parts, table, is_classed, "")


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


def _are_classes(by_folder: dict[str, Files], flat: Files) -> bool:
    """True if folders hold pictures of different samples, and nothing that goes with them."""
    if len(by_folder) < 2 or flat:
        return False
    kinds = {each.extension for own in by_folder.values() for _, each in own}
    if not kinds <= set(PICTURES):
        return False
    stems = [{split_name(name)[0] for name, _ in own} for own in by_folder.values()]
    counted = Counter(stem for own in stems for stem in own)
    return sum(count > 1 for count in counted.values()) < 0.1 * len(counted)


def _flat_parts(files: Files, folder: str) -> list[Part]:
    """Returns the modalities of files that lie together, told apart by how their names end."""
    by_ending: dict[str, Files] = defaultdict(list)
    for name, each in files:
        by_ending[_ending(name)].append((name, each))
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

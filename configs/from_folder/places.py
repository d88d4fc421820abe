"""Which files a folder or an archive holds, and which of them are for training."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from data_pipeline.sources.files.listing import (
    ARCHIVE_ENDINGS,
    is_archive,
    list_archives,
    list_folder,
)
from data_pipeline.sources.files.locations import Location
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction, Splits
from tokenizers.formats.file_names import split_name

SPLIT_NAMES = {
    "train": ("train", "training", "trn", "tr"),
    "validation": ("validation", "valid", "val", "dev", "va"),
    "test": ("test", "testing", "tst", "ts"),
}
"""What folders of splits are called."""
SPLIT = "{split}"
"""What stands for the name of a split."""
IN_NAMES = re.compile(
    r"(?P<before>^|.*[_\-. ])"
    r"(?P<split>train|training|trn|val|valid|validation|dev|test|testing|tst)"
    r"(?P<after>$|[_\-. 0-9].*|annot.*|mask.*|image.*|label.*)"
    r"|(?P<head>.*[a-z])(?P<tail>Tr|Va|Ts|Train|Val|Test)"
)
"""Where a folder's name says a split: train_images, imagesTr, trainannot."""
SHARD = re.compile(r"[-_.]?(\d+)([-_.]of[-_.]\d+)?$")
"""What numbers the archives of one kind."""

Files = list[tuple[str, Location]]


class Listed(NamedTuple):
    """All files.

    Attributes:
        files: Name below the data set's folder, and where it is. What lies in an archive has a name
            below the archive's folder; below the archive itself, if archives are modalities; below
            the split's folder, if archives are splits.
        has_archives: Whether any lies in an archive.
    """

    files: Files
    has_archives: bool


class Chosen(NamedTuple):
    """The files to train on.

    Attributes:
        splits_by: How the data set is split.
        files: With `{split}` where the split's name stands in a path.
        strangers: How many files are of no split, by their folder.
    """

    splits_by: Splits
    files: Files
    strangers: dict[str, int] = {}  # noqa: RUF012  Never changed.


def data_folder_in(root: Path) -> Path:
    """Returns the folder that holds the data: the given one, or the only one that it has."""
    if not root.is_dir():
        return root
    inner = _folders_in(root)
    if len(inner) != 1 or _has_files(root) or splits_in({inner[0].name}):
        return root
    below = _folders_in(inner[0])
    if splits := [each for each in below if each.name in splits_in({each.name}).values()]:
        # Otherwise it is a modality's folder with a folder for each split.
        return inner[0] if all(map(_folders_in, splits)) else root
    return inner[0] if len(below) > 1 and not _has_files(inner[0]) else root


def list_files(root: Path) -> Listed:
    """Returns what a folder or an archive holds.

    Raises:
        ValueError: If it can't be read, or its archives are of several modalities and numbered.
    """
    if root.is_file():
        return Listed(list_archives([str(root)]).files, True)
    files = list_folder(str(root)).files
    by_archive: dict[str, dict[str, Files]] = defaultdict(lambda: defaultdict(list))
    loose: Files = []
    for name, each in files:
        if each.member:
            archive = Path(each.archive or each.file).relative_to(root).as_posix()
            folder, _, last = archive.rpartition("/")
            by_archive[folder][last].append((name, each))
        else:
            loose.append((name, each))
    for folder, archives in by_archive.items():
        loose += _named_by_archive(folder, archives)
    return Listed(loose, bool(by_archive))


def choose_split(files: Files) -> Chosen:
    """Returns the files to train on, and how the data set is split."""
    first = {name.partition("/")[0] for name, _ in files if "/" in name}
    templates = _templates(first)
    # One folder of a split, beside others that are none, may be called so by chance.
    is_whole = any(found[0] == SPLIT for found in templates.values()) or len(templates) > 1
    if is_whole and (own := _texts_of(templates)):
        chosen, strangers = [], Counter()
        for name, each in files:
            folder, _, rest = name.partition("/")
            template, split, text = templates.get(folder, ("", "", ""))
            if text == own["train"] and rest:
                chosen.append((f"{template}/{rest}", each))
            elif own.get(split) != text or not rest:
                strangers[folder if rest else "."] += 1
        return Chosen(_splits_by(own), chosen, dict(strangers))
    if swapped := _splits_below(files):  # rgb/train/0001.jpg
        chosen, strangers = [], Counter()
        for name, each in files:
            folder, _, rest = name.partition("/")
            inner, _, rest = rest.partition("/")
            if inner == swapped["train"] and rest:
                chosen.append((f"{folder}/{SPLIT}/{rest}", each))
            elif not rest or inner not in swapped.values():
                strangers[folder] += 1
        return Chosen(_splits_by(swapped), chosen, dict(strangers))
    return Chosen(SplitByFraction(folder=""), files)


def splits_in(folders: set[str]) -> dict[str, str]:
    """Returns which of some folders are splits, by the split."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        if own := [each for each in sorted(folders) if each.lower() in names and len(each) > 2]:
            found[split] = own[0]
    return found


def split_meant(word: str) -> str:
    """Returns the split that a word means; empty if none."""
    return next((split for split, names in SPLIT_NAMES.items() if word.lower() in names), "")


def archive_stem(name: str) -> str:
    """Returns the name of an archive without its ending.

    Example:
        >>> archive_stem("rgb-00000.tar.gz")
        'rgb-00000'
    """
    ending = max((e for e in ARCHIVE_ENDINGS if name.lower().endswith(e)), key=len, default="")
    return name[: len(name) - len(ending)]


def _named_by_archive(folder: str, archives: dict[str, Files]) -> Files:
    """Returns the files of the archives of a folder by the names that tell them apart."""
    words: dict[str, list[str]] = defaultdict(list)
    for archive in archives:
        words[SHARD.sub("", archive_stem(archive))].append(archive)
    everything = [entry for own in archives.values() for entry in own]
    splits = splits_in(set(words))
    if not folder and "train" in splits and set(words) <= set(splits.values()):
        return [
            (f"{word}/{name}", each)
            for word, own in words.items()
            for archive in own
            for name, each in archives[archive]
        ]
    stems = {
        word: {split_name(name)[0] for archive in own for name, _ in archives[archive]}
        for word, own in words.items()
    }
    counted = Counter(stem for own in stems.values() for stem in own)
    if len(words) < 2 or max(counted.values(), default=0) < 2:
        return everything
    if several := next((own for own in words.values() if len(own) > 1), None):
        raise ValueError(
            f"The archives {', '.join(sorted(archives)[:4])} hold files of the same names, as "
            f"several modalities do; put {several[0]} and those that belong to it into a folder "
            "of their own, named after the modality."
        )
    prefix = f"{folder}/" if folder else ""
    return [
        (f"{prefix}{archive}/{name.removeprefix(prefix)}", each)
        for archive, own in archives.items()
        for name, each in own
    ]


def _templates(folders: set[str]) -> dict[str, tuple[str, str, str]]:
    """Returns of folders that are of a split: its name with the split replaced, split, text."""
    found = {}
    for folder in folders:
        if len(folder) > 2 and split_meant(folder):
            found[folder] = (SPLIT, split_meant(folder), folder)
        elif match := IN_NAMES.fullmatch(folder):
            parts = match.groupdict(default="")
            text = parts["split"] or parts["tail"]
            template = f"{parts['before'] or parts['head']}{SPLIT}{parts['after']}"
            found[folder] = (template, split_meant(text), text)
    return found


def _texts_of(templates: dict[str, tuple[str, str, str]]) -> dict[str, str]:
    """Returns what stands for each split in most of the folders; none if there is no training."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for _, split, text in sorted(templates.values()):
        counted[split][text] += 1
    found = {split: each.most_common(1)[0][0] for split, each in counted.items()}
    if "train" in found:
        return {split: found[split] for split in SPLIT_NAMES if split in found}
    # A data set of which only the folder val is there.
    whole = [(split, text) for template, split, text in templates.values() if template == SPLIT]
    return {"train": whole[0][1]} if len(whole) == 1 == len(templates) else {}


def _splits_by(texts: dict[str, str]) -> Splits:
    return SplitByFolder(texts) if len(texts) > 1 else SplitByFraction(folder=texts["train"])


def _splits_below(files: Files) -> dict[str, str]:
    """Returns the splits that folders are divided into; none if they are not."""
    second: dict[str, set[str]] = defaultdict(set)
    counts = Counter()
    for name, _ in files:
        folder, *inner = name.split("/")
        counts[folder] += 1
        if len(inner) > 1:
            second[folder].add(inner[0])
    found = {folder: splits_in(own) for folder, own in second.items()}
    found = {folder: own for folder, own in found.items() if "train" in own and len(own) > 1}
    texts = Counter(tuple(own.items()) for own in found.values())
    # Others, such as ImageSets, hold lists.
    if not found or 2 * sum(counts[folder] for folder in found) < sum(counts.values()):
        return {}
    return dict(texts.most_common(1)[0][0])


def _folders_in(folder: Path) -> list[Path]:
    shown = [each for each in folder.iterdir() if not each.name.startswith((".", "__MACOSX"))]
    return [each for each in shown if each.is_dir()]


def _has_files(folder: Path) -> bool:
    """True if a folder holds files itself, other than those about it."""
    about = ("readme", "license", "licence", "copying", ".", "thumbs.db", "desktop.ini")
    names = [each.name.lower() for each in folder.iterdir() if each.is_file()]
    return any(not name.startswith(about) or is_archive(name) for name in names)

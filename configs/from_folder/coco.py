"""Pictures with annotations as COCO has them: where both are, and what is said of the pictures."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs.from_folder.arrays import Inferred
from configs.from_folder.boxes import described
from configs.from_folder.content import text_modality
from configs.from_folder.places import SPLIT_NAMES, split_meant
from data_pipeline.sources.coco import CocoData, Part, coco_class_names
from tokenizers.formats.annotations import BoxesFile
from tokenizers.formats.formats import ArrayFile
from tokenizers.modality import Modality
from tokenizers.values import Classes, Colors

HEAD = 1 << 20
"""Bytes of a JSON file that tell whether it may be one of annotations."""
MOST_FILES = 32
"""JSON files of a folder that are looked at: more are files of single samples."""
MOST_PICTURES = 20
"""Pictures of a file that are looked for."""
SPLIT_WORD = re.compile(
    r"(?<![a-z])(train|training|val|valid|validation|dev|test|testing)(?![a-z])"
)
SKIPPED = re.compile(r"person_keypoints|panoptic|image_info|stuff")


class FoundCoco(NamedTuple):
    """What annotations and pictures give.

    Attributes:
        data: To read them.
        found: By modality.
        told: What else is to be said, a sentence each.
    """

    data: CocoData
    found: dict[str, Inferred]
    told: tuple[str, ...]


class _Annotations(NamedTuple):
    """Files of annotations of the same kind, of several splits."""

    template: str
    files: dict[str, Path]
    """By the text that stands for the split."""


def annotation_files(root: Path) -> list[Path]:
    """Returns the files of annotations that a path stands for; [] if there are none."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _are_annotations(root) else []
    folders = [root, *(each for each in sorted(root.iterdir()) if each.is_dir())]
    found = []
    for folder in folders:
        files = sorted(each for each in folder.glob("*.json") if not each.name.startswith("."))
        if len(files) <= MOST_FILES:
            found += [each for each in files if _are_annotations(each)]
    return found


def infer_coco(root: Path, files: list[Path]) -> FoundCoco:
    """Returns the modalities of pictures with annotations.

    Args:
        root: Folder of the data set.
        files: Of annotations below it.

    Raises:
        ValueError: If they can't be read, or their pictures are nowhere.
    """
    skipped = [each for each in files if SKIPPED.search(each.name)]
    groups = _grouped(root, [each for each in files if each not in skipped] or files)
    texts = {text: split_meant(text) for each in groups for text in each.files if text}
    own = next((text for text, split in texts.items() if split == "train"), "")
    own = own or next(iter(texts), "")
    contents = {each.template: _load(each.files[own]) for each in groups if own in each.files}
    groups = [each for each in groups if own in each.files]
    pictures = [each for content in contents.values() for each in content["images"]]
    folder = _picture_folder(root, pictures)
    image_folder = _replaced(folder, own) if own else folder
    split_names = _split_names(root, groups, texts, image_folder) if own else {}
    told = tuple(f"left alone: {each.relative_to(root).as_posix()}" for each in skipped)
    if len(split_names) < 2:
        name = own or "train"
        split_names = {"train": f"{name}[:90%]", "validation": f"{name}[90%:]"}
    lacking = sorted(set(texts) - {each.partition("[")[0] for each in split_names.values()})
    if lacking:
        told += (f"left alone: the split {', '.join(lacking)}, not all of which is there",)
    data = CocoData(
        path=str(root),
        image_folder=image_folder or ".",
        annotations=tuple(each.template for each in groups),
        split_names=split_names,
    )
    return _described(data, groups, contents, own, told)


def _described(
    data: CocoData,
    groups: list[_Annotations],
    contents: dict[str, dict[str, Any]],
    own: str,
    told: tuple[str, ...],
) -> FoundCoco:
    annotations = [each for content in contents.values() for each in content["annotations"]]
    shown = ", ".join(each.template for each in groups)
    parts: dict[str, Part] = {"rgb": "image"}
    found = {"rgb": Inferred(Modality(Colors()), ArrayFile(as_rgb=True), f"pictures of {shown}")}
    boxed = [each for each in annotations if isinstance(each.get("bbox"), list)]
    names: tuple[str, ...] = ()
    if boxed:
        file = next(each.files[own] for each in groups if contents[each.template].get("categories"))
        names = coco_class_names(str(file))
        used = {each.get("category_id") for each in boxed}
        ids = {each["id"]: each["name"] for each in contents_of(contents, "categories")}
        # Some programs add a category above all others, which no annotation has.
        names = tuple(name for name in names if any(ids[key] == name for key in used & set(ids)))
        most = max(Counter(each["image_id"] for each in boxed).values())
        found["boxes"] = described(names, [], most, BoxesFile())
        parts["boxes"] = "boxes"
        outlined = sum(bool(each.get("segmentation")) for each in boxed)
        if outlined == len(boxed):
            values = Classes(("nothing", *names))
            why = f"outlines of {len(names)} classes, and nothing elsewhere"
            found["classes"] = Inferred(Modality(values), ArrayFile(), why)
            parts["classes"] = "classes"
        elif outlined:
            told += (f"left alone: outlines, which {len(boxed) - outlined:,} boxes do not have",)
    captions = [each["caption"] for each in annotations if isinstance(each.get("caption"), str)]
    if captions:
        longest = max(len(each.split()) for each in captions)
        per_picture = max(Counter(e["image_id"] for e in annotations if "caption" in e).values())
        why = f"captions of up to {longest} words, up to {per_picture} a picture"
        found["caption"] = Inferred(text_modality(longest), ArrayFile(), why)
        parts["caption"] = "captions"
    return FoundCoco(replace(data, modalities=parts, class_names=names), found, told)


def contents_of(contents: dict[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Returns the entries of a name of all files."""
    return [each for content in contents.values() for each in content.get(name) or []]


def _are_annotations(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
        if b'"images"' not in head and b'"annotations"' not in head:
            return False
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(content, dict):
        return False
    wanted = [content.get("images"), content.get("annotations")]
    return all(isinstance(each, list) and each for each in wanted)


def _load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes().decode("utf-8-sig"))


def _grouped(root: Path, files: list[Path]) -> list[_Annotations]:
    groups: dict[str, _Annotations] = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        words = list(SPLIT_WORD.finditer(name.lower()))
        text = name[words[-1].start() : words[-1].end()] if words else ""
        template = _replaced(name, text) if text else name
        groups.setdefault(template, _Annotations(template, {})).files[text] = file
    return list(groups.values())


def _replaced(name: str, text: str) -> str:
    """Returns a name with `{split}` where a split's text stands by itself."""
    return re.sub(rf"(?<![A-Za-z]){re.escape(text)}(?![A-Za-z])", "{split}", name)


def _picture_folder(root: Path, pictures: list[dict[str, Any]]) -> str:
    """Returns the folder below the data set's that holds the pictures."""
    names = [str(each.get("file_name", "")) for each in pictures[:MOST_PICTURES]]
    folders = [root, *(each for each in sorted(root.rglob("*")) if each.is_dir())]
    best, most = "", 0
    for folder in folders:
        count = sum((folder / name).is_file() for name in names if name)
        count = max(count, sum((folder / name.rpartition("/")[2]).is_file() for name in names))
        if count > most:
            best, most = folder.relative_to(root).as_posix(), count
    if not most:
        raise ValueError(
            f"{root} has annotations and none of the pictures that they are about, such as "
            f"{names[0] if names else 'none'}; put them below the same folder."
        )
    return "" if best == "." else best


def _split_names(
    root: Path, groups: list[_Annotations], texts: dict[str, str], image_folder: str
) -> dict[str, str]:
    """Returns the text of every split of which all annotations and the pictures are there."""
    found = {}
    for split in SPLIT_NAMES:
        for text, meant in texts.items():
            is_there = all(text in each.files for each in groups)
            folder = root / image_folder.replace("{split}", text)
            if meant == split and is_there and folder.is_dir():
                found[split] = text
    return found if "train" in found else {}

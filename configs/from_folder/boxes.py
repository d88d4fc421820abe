"""What files of boxes hold: their classes, and how many there are."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from configs.from_folder.arrays import Inferred
from data_pipeline.sources.files.locations import Location, read_bytes
from tokenizers.base import Boxes, Mended
from tokenizers.boxes import BoxList
from tokenizers.formats.annotations import BoxesFile
from tokenizers.formats.file_format import parse_json
from tokenizers.modality import Modality

MOST_BOXES = 20
"""Boxes of a sample that become tokens."""


def infer_boxes(name: str, files: list[Location], place: dict[str, Any]) -> Inferred:
    """Returns boxes, with the classes that occur in the files.

    Raises:
        ValueError: If none of them can be read.
    """
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
    file_format = BoxesFile(**place, class_names=class_names)
    found, reason = [], ""
    for location in files:
        try:
            value = file_format.read(read_bytes(location), location.extension)
        except ValueError as error:
            reason = reason or f"{location} {error}"
            continue
        value = value.value if isinstance(value, Mended) else value
        if isinstance(value, Boxes):
            found.append(value)
    if not found:
        raise ValueError(f"None of {len(files)} files of {name} can be read ({reason}).")
    most = max(max(len(each.classes) for each in found), 1)
    return described(class_names, found, most, file_format)


def described(
    class_names: tuple[str, ...], found: list[Boxes], most: int, file_format: BoxesFile
) -> Inferred:
    """Returns boxes of these classes; if they have no names, of numbers."""
    if not class_names:
        highest = max((int(each.classes.max()) for each in found if len(each.classes)), default=0)
        class_names = tuple(f"class_{number}" for number in range(highest + 1))
    told = ()
    if most > MOST_BOXES:
        told = (f"of more than {MOST_BOXES} boxes in a sample the first are kept",)
    values = BoxList(class_names, max_boxes=min(most, MOST_BOXES))
    why = f"boxes of {len(class_names)} classes, up to {most} a sample"
    return Inferred(Modality(values), file_format, why, told=told)


def is_yolo(text: str) -> bool:
    """True for lines of a class's number and a box, a box and its score, or a polygon."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(
        line[0].isdecimal()
        and (len(line) in (5, 6) or (len(line) >= 7 and len(line) % 2))
        and all(_is_fraction(each) for each in line[1:])
        for line in lines
    )


def _is_fraction(text: str) -> bool:
    try:
        return -0.1 <= float(text) <= 1.1
    except ValueError:
        return False


def class_list(root: Path) -> tuple[str, ...]:
    """Returns the names of classes that YOLO's data sets list beside their files; () if none do.

    They are in data.yaml, as `names`, or line by line in classes.txt or obj.names.
    """
    for pattern in (
        "*.yaml",
        "*.yml",
        "classes.txt",
        "*/classes.txt",
        "*/*/classes.txt",
        "*.names",
    ):
        for file in sorted(root.glob(pattern)):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            is_yaml = file.suffix.lower() in (".yaml", ".yml")
            names = _names_in_yaml(text) if is_yaml else text.splitlines()
            if found := tuple(each.strip() for each in names if each.strip()):
                return found
    return ()


def _names_in_yaml(text: str) -> list[str]:
    """Returns the entry `names`: in brackets, in lines with a dash, or in numbered ones."""
    if match := re.search(r"^names:\s*\[(.*?)\]", text, re.MULTILINE | re.DOTALL):
        return [each.strip().strip("'\"") for each in match[1].split(",")]
    if match := re.search(r"^names:[ \t]*\n((?:[ \t]*(?:-|\d+:)[^\n]*\n?)+)", text, re.MULTILINE):
        lines = match[1].splitlines()
        return [re.sub(r"^\s*(-|\d+:)\s*", "", line).strip().strip("'\"") for line in lines]
    return []

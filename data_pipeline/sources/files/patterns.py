"""Patterns of file names, such as `leftImg8bit/{split}/{key}_leftImg8bit.png`.

Names are matched from both ends towards the key in one pass each, with nothing tried twice, so that
no pattern and no name can take long.
"""

import re
from itertools import pairwise
from typing import NamedTuple

from tokenizers.formats.file_names import split_name

PART = re.compile(r"\{(\w*)\}|(\*)|([^{}*]+)|([{}])")
KEY, EXTENSION = "key", "ext"


class Part(NamedTuple):
    """A piece of a pattern."""

    text: str
    """Itself, or the name of a part that differs between files; "*" for what does not matter."""
    is_open: bool


class Pattern:
    """A pattern of which split and modality are known.

    `{key}` is any text; slashes may be in it. All other parts lie between two slashes and are as
    short as they can be: `{ext}`, an extension; `*`, anything; and names of your own, such as
    `{scene}/{modality}/{frame}.{ext}`, which together are the key, `scene/frame`. The same
    name twice stands for the same text.
    """

    def __init__(self, text: str, split: str, modality: str):
        """Reads a pattern.

        Args:
            text: As the user writes it.
            split: What `{split}` stands for.
            modality: What `{modality}` stands for.

        Raises:
            ValueError: If it isn't one.
        """
        self.text = text
        stated = {"split": split, "modality": modality}
        parts = _joined(
            [
                Part(stated[part.text], False) if part.is_open and part.text in stated else part
                for part in _parts_of(text)
            ]
        )
        _check_parts(parts, text)
        self.folder = ""
        """What comes before the first part that differs, up to its last slash."""
        if not parts[0].is_open:
            self.folder = parts[0].text[: parts[0].text.rfind("/") + 1]
        parts[0] = Part(parts[0].text.removeprefix(self.folder), parts[0].is_open)
        if not parts[-1].is_open:
            parts[-1] = Part(_lower_extension(parts[-1].text), False)
        self._parts = [part for part in parts if part.text]
        names = [part.text for part in self._parts if part.is_open]
        own = [name for name in names if name not in (EXTENSION, "*")]
        self._pivot = own[-1] if own and KEY not in own else KEY
        self._key_parts = tuple(dict.fromkeys(own))
        where = [i for i, part in enumerate(self._parts) if part == Part(self._pivot, True)]
        if not where:
            raise ValueError(f"The pattern {text!r} has no {{key}}; it must say where the key is.")
        self._middle = where[-1]

    def match(self, name: str) -> str:
        """Returns the key of a file, by its name below `folder`; empty if it does not match."""
        name = _lower_extension(name)
        found: dict[str, str] = {}
        before, after = self._parts[: self._middle], self._parts[self._middle + 1 :]
        start = _match_from_start(name, before, found)
        if start < 0:
            return ""
        end = _match_from_end(name, start, after, found)
        value = name[start:end] if end > start else ""
        if not value or found.get(self._pivot, value) != value:
            return ""
        if "/" in value and self._pivot != KEY:
            return ""
        found[self._pivot] = value
        return "/".join(found[part] for part in self._key_parts)


def check_pattern(text: str, knob: str) -> None:
    """Checks a pattern as far as it can be without files.

    Raises:
        ValueError: If it isn't one; the sentence names the knob.
    """
    try:
        Pattern(text, "train", "rgb")
    except ValueError as error:
        raise ValueError(f"{knob}: {error}") from error


def _parts_of(text: str) -> list[Part]:
    parts = []
    for name, star, plain, brace in PART.findall(text):
        if brace or not (name or star or plain):
            raise ValueError(
                f"The pattern {text!r} has a brace that encloses no name; it is made of {{split}}, "
                "{modality}, {key}, {ext}, * and what stands between them."
            )
        parts.append(Part(name or star or plain, not plain))
    return parts


def _check_parts(parts: list[Part], text: str) -> None:
    if not parts or any(a.is_open and b.is_open for a, b in pairwise(parts)):
        raise ValueError(
            f"The pattern {text!r} has two parts with nothing between them, so that nobody can "
            "tell where one ends."
        )
    if text.startswith("/") or any(".." in part.text.split("/") for part in parts):
        raise ValueError(f"The pattern {text!r} leads out of the data set's folder.")


def _joined(parts: list[Part]) -> list[Part]:
    """Returns parts of which no two in a row are known, and none is empty."""
    joined: list[Part] = []
    for part in parts:
        if joined and not joined[-1].is_open and not part.is_open:
            joined[-1] = Part(joined[-1].text + part.text, False)
        elif part.text:
            joined.append(part)
    # The folder of a split may be the data set's own, which leaves a slash too many.
    tidy = [Part(re.sub("/+", "/", part.text), part.is_open) for part in joined]
    if tidy and not tidy[0].is_open:
        tidy[0] = Part(tidy[0].text.removeprefix("./").lstrip("/"), False)
    return [part for part in tidy if part.text]


def _lower_extension(name: str) -> str:
    stem, extension = split_name(name)
    return f"{stem}.{extension}" if extension else name


def _match_from_start(name: str, parts: list[Part], found: dict[str, str]) -> int:
    """Returns where the last of these parts ends; -1 if they don't match."""
    position = 0
    for index, part in enumerate(parts):
        if not part.is_open:
            if not name.startswith(part.text, position):
                return -1
            position += len(part.text)
        elif part.text in found:
            if not name.startswith(found[part.text], position):
                return -1
            position += len(found[part.text])
        else:  # What follows is known: two open parts are never in a row.
            end = name.find(parts[index + 1].text, position + 1)
            if end < 0 or "/" in name[position:end]:
                return -1
            if part.text != "*":
                found[part.text] = name[position:end]
            position = end
    return position


def _match_from_end(name: str, start: int, parts: list[Part], found: dict[str, str]) -> int:
    """Returns where the first of these parts begins, not before `start`; -1 if they don't match."""
    position = len(name)
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index]
        if not part.is_open:
            if not name.endswith(part.text, start, position):
                return -1
            position -= len(part.text)
        elif part.text in found:
            if not name.endswith(found[part.text], start, position):
                return -1
            position -= len(found[part.text])
        else:
            before = parts[index - 1].text
            begin = name.rfind(before, start, position - 1)
            value = name[begin + len(before) : position]
            if begin < 0 or not value or "/" in value:
                return -1
            if part.text != "*":
                found[part.text] = value
            position = begin + len(before)
    return position

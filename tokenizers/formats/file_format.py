"""What a format of files is, and what formats share: JSON, fields, and what can be read."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tokenizers.content.kinds import describe, kind_of, read_text
from tokenizers.content.limits import MAX_PIXELS, unpack_gzip
from tokenizers.settings.checked import Checked, name_knob

PICTURES = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif")
ARRAYS = ("npy", "npz")
TEXTS = ("txt", "json", "xml")
SOUNDS = ("wav",)
READABLE = PICTURES + ARRAYS + TEXTS + SOUNDS


@dataclass(frozen=True)
class FileFormat(Checked, ABC):
    """Files of one modality: where they are."""

    folder: str = ""
    """Folder of this modality below the split's folder; the modality's own name if empty."""
    extension: str = ""
    """Read only files with this extension, such as jpg, or one of several, "jpg, png", and skip all
    others; any if empty. Where several modalities lie together it may be longer: rgb.jpg."""
    pattern: str = field(default="", kw_only=True)
    """Names of this modality's files, in place of the data's `pattern`."""
    skip: tuple[str, ...] = field(default=(), kw_only=True)
    """Patterns of files that are not this modality's, though its own pattern fits them, such as
    {split}/{key}_mask.{ext} where the pictures are {split}/{key}.{ext}."""
    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)
    """Pixels that a picture may have, and an eighth of the bytes that an array may take: a file
    that is small on disk may unpack to more than the memory holds."""

    def check_knobs(self, knob: str) -> None:
        if self.max_pixels < 1:
            raise ValueError(
                f"{name_knob(knob, 'max_pixels')} is {self.max_pixels}; at least 1 is allowed."
            )

    def settled(self, first: Iterable[bytes]) -> "FileFormat":
        """Returns a format in which what all files must share is as the first ones have it.

        Args:
            first: Content of some files, read as they are asked for; any may be damaged.
        """
        return self

    @abstractmethod
    def read(self, data: bytes, extension: str) -> Any:
        """Returns the raw value that a file with these bytes and this extension holds.

        `Choices` if it holds several, and `Mended` if it was corrected (`tokenizers/base.py`).

        Raises:
            ValueError: What is wrong with the content. The caller adds which file it was.
        """


def parse_json(data: bytes) -> Any:
    """Returns what JSON says, compressed by gzip or not.

    Raises:
        ValueError: If it is none.
    """
    unpacked = unpack_gzip(data)
    text = read_text(unpacked)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = describe(unpacked) if kind_of(unpacked) != "text" else "no valid JSON"
        raise ValueError(f"is {what} ({error})") from error


def field_of(content: Any, name: str) -> Any:
    """Returns an entry of a JSON object; all of the content if the name is empty.

    Raises:
        ValueError: If there is none of that name.
    """
    if not name:
        return content
    if not isinstance(content, dict):
        raise ValueError(f"holds no object with an entry {name!r}")
    if name not in content:
        shown = listed(list(content)[:20])
        raise ValueError(f"has the entries {shown}, not {name!r}")
    return content[name]


def listed(names: Iterable[str]) -> str:
    """Returns names for a message."""
    return ", ".join(names)

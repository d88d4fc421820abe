"""Names of files: the key, which names the sample, and the extension, which says what is in it."""

import os
import re
import unicodedata

ALIASES = {"cls": "txt", "text": "txt"}
"""Extensions that webdataset gives to files of another kind: a class's number, a text."""


def split_name(name: str) -> tuple[str, str]:
    """Returns a file's name without its extension, and the extension in lower case.

    Example:
        >>> split_name("dog/0001.JSON.gz")
        ('dog/0001', 'json')
    """
    stem, dot, extension = name.rpartition(".")
    if extension in ("gz", "GZ") and "." in stem:
        stem, dot, extension = stem.rpartition(".")
    return (stem, extension.lower()) if dot and "/" not in extension else (name, "")


def kind_of(name: str) -> str:
    """Returns the extension that says what a file holds."""
    extension = split_name(name)[1]
    return ALIASES.get(extension, extension)


def normal_key(name: str) -> str:
    """Returns a key in the one form in which keys are compared.

    An accent may be a part of its letter or a character of its own (which is what Macs write);
    Unicode's form NFC has the former. What is not Unicode at all is taken for Latin-1.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", printable(name))


def printable(name: str) -> str:
    """Returns a file's name as text that can be written down, even if it was not stored as such."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Returns a sort key that puts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name

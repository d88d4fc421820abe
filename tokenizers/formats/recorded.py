"""How the files of a run's data store each modality: `formats.json` of its directory.

A run in use reads a user's own files by it, as training read those of its data:

    {"formats": {"depth": {"class": "ArrayFile", "scale": 0.001, ...}},
     "notes": {"depth": "..."}}

A modality has no entry if the data's files say nothing beyond its values, as the built-in scenes
do, which have no files. Where data sets of a mixture differ, the first that has the modality
decides, and a note says so. Runs of before have no such file: their formats are read off the
configuration of their data. No folder of the code has to know the classes of data for that: a
format of files is found wherever a configuration of data keeps one, by the modality's name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers.base import Values
from tokenizers.content.limits import MAX_PIXELS
from tokenizers.formats.cells import TableColumn
from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.formats import format_for
from tokenizers.formats.signals import SignalFile
from tokenizers.settings.plain import from_plain, to_plain
from tokenizers.signals.values import Signal
from tokenizers.storage.run_paths import FORMATS

KNOWN = (TableColumn, SignalFile)
"""Formats that are stored by name; importing them makes `from_plain` know them all."""


@dataclass(frozen=True)
class RunFormats:
    """How files of each modality are stored, as far as a run knows it."""

    formats: dict[str, FileFormat] = field(default_factory=dict)
    """By modality."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a user should know who gives a file of a modality, a sentence each; under "" of those
    modalities that have no format."""

    def joined(self, others: "RunFormats") -> "RunFormats":
        """Returns these, and of others those of modalities that are not among them."""
        new = {name: each for name, each in others.formats.items() if name not in self.formats}
        notes = {name: each for name, each in others.notes.items() if name in new or not name}
        return RunFormats({**self.formats, **new}, {**notes, **self.notes})

    def of(self, names: Mapping[str, Values]) -> "RunFormats":
        """Returns the formats of some modalities, each of which has one.

        Args:
            names: What the values of each modality mean, by name.
        """
        formats = {
            name: self.formats.get(name) or usual_format(name, values)
            for name, values in names.items()
        }
        unknown = {name: self.notes[""] for name in names if "" in self.notes}
        notes = {name: each for name, each in unknown.items() if name not in self.formats}
        own = {name: each for name, each in self.notes.items() if name in names}
        return RunFormats(formats, {**notes, **own})


@dataclass(frozen=True)
class UnknownFormat(FileFormat):
    """Files that can't be read, since their class is not at hand, or has other knobs by now."""

    reason: str = ""
    """One sentence that says what is to be done."""
    stored: dict[str, Any] = field(default_factory=dict)
    """What is stored of it."""

    def read(self, data: bytes, extension: str) -> Any:
        raise ValueError(f"can't be read: {self.reason}")


def usual_format(name: str, values: Values) -> FileFormat:
    """Returns how files of a modality are stored where nothing else is known."""
    return SignalFile() if isinstance(values, Signal) else format_for(name, values)


def formats_of(data: Any) -> RunFormats:
    """Returns the formats of a data set, from its configuration.

    Args:
        data: The configuration, an object or as `to_plain` wrote it. Formats are found in its
            fields `modalities` and `formats`, and in those of its `sources`; a class of a user's
            own may have a property `file_formats` instead, a `FileFormat` by modality.
    """
    own = getattr(data, "file_formats", None)
    if own is not None:
        return RunFormats(dict(own))
    plain = data if isinstance(data, dict) else to_plain(data)
    return _formats_in(plain) if isinstance(plain, dict) else RunFormats()


def _formats_in(data: dict[str, Any]) -> RunFormats:
    found = RunFormats()
    for part, source in _entries(data, "sources"):
        if isinstance(source, dict):
            found = _joined_mixture(found, _formats_in(source), part)
    given = [*_entries(data, "modalities"), *_entries(data, "formats")]
    for name, each in given:
        if each == "image":  # A part of COCO's annotations.
            each = data.get("image_format")
        if isinstance(each, dict) and isinstance(each.get("class"), str):
            found.formats[name] = _format_of(each, data.get("max_pixels"))
    if not found.formats and not given and "from" in data:
        found.notes[""] = (
            f"this run's data, of the class {data['class']}, does not say how files are stored "
            "(file_formats); they are read as is usual"
        )
    return found


def _entries(data: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    entries = data.get(name)
    return list(entries.items()) if isinstance(entries, dict) else []


def _joined_mixture(found: RunFormats, further: RunFormats, part: str) -> RunFormats:
    """Returns the formats of data sets and of one more; the first that has a modality decides."""
    joined = found.joined(further)
    for name, each in further.formats.items():
        if _without_place(found.formats.get(name, each)) != _without_place(each):
            joined.notes[name] = (
                f"the data sets of this run store {name} differently; files are read as those of "
                f"the first are, unlike those of {part}"
            )
    return joined


def _without_place(each: FileFormat) -> FileFormat:
    """Returns a format without what says where its files are."""
    return replace(each, folder="", extension="", pattern="", skip=())


def _format_of(plain: dict[str, Any], max_pixels: Any) -> FileFormat:
    try:
        found = from_plain(plain, FileFormat)
    except ValueError as error:  # Only who gives a file of this modality needs to know.
        return UnknownFormat(reason=str(error), stored=plain)
    # As data of files reads them: its own limit holds where a format has none.
    is_open = isinstance(max_pixels, int) and found.max_pixels == MAX_PIXELS
    return replace(found, max_pixels=max_pixels) if is_open else found


def as_json(recorded: RunFormats) -> bytes:
    """Returns what `formats.json` holds."""
    formats = {
        name: each.stored if isinstance(each, UnknownFormat) else to_plain(each)
        for name, each in recorded.formats.items()
    }
    plain = {"formats": formats, "notes": recorded.notes}
    return (json.dumps(plain, indent=1) + "\n").encode()


def read_formats(run: Path, config: Mapping[str, Any]) -> RunFormats:
    """Returns the formats that a run directory knows.

    Args:
        run: The directory.
        config: Its configuration in plain values, which tells where there is no `formats.json`.

    Raises:
        ValueError: One sentence, if they can't be read.
    """
    file = run / FORMATS
    if not file.is_file():
        return formats_of(config.get("data"))
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        notes = from_plain(plain["notes"], dict[str, str])
        formats = {str(name): _format_of(each, None) for name, each in plain["formats"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}, which says how files of the run are stored, can't be used ({error}); put it "
            "back, or delete it: then the run's configuration says it."
        ) from error
    return RunFormats(formats, notes)

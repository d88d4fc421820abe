"""Where samples come from: random access, deterministic, any modality may be absent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from tokenizers.base import AUGMENTED, REFERENCES
from tokenizers.settings.checked import Checked, name_knob

METADATA = "metadata"
"""Under which name a sample has facts for probing, no modality: a dict of numbers or short strings.
"""
NOTES = ":notes"
"""Under which name a sample has a list of `Note`, if there is anything to say of its values."""
CROPS = ":crops"
"""Under which name a sample has the windows of its views, if they are given (`windows.py`)."""
NO_MODALITIES = (METADATA, NOTES, REFERENCES, AUGMENTED, CROPS)
"""Names under which a sample has no values."""

Sample = dict[str, Any]
"""Raw values by modality name, with `METADATA` and `NOTES` beside them where there are such.

An absent modality has no key. A value may be `Choices`, or `Mended`.
"""

LEAVES_OUT = ("unreadable", "unusable", "misaligned")
"""Kinds of `Note` about a value that its sample has to do without."""


@dataclass(frozen=True)
class Note:
    """What a user should know of one value, or of one file, of a data set."""

    kind: str
    """One of `LEAVES_OUT`, or in a few words what was done: "mended", "listed twice", "ignored"."""
    modality: str
    """Of the value; empty if it is the whole sample."""
    key: str
    """Of the sample; empty if the file belongs to none."""
    file: str
    """Where the value is stored; empty where the source can't tell."""
    reason: str
    """One phrase or sentence."""

    @property
    def leaves_out(self) -> bool:
        """True if the sample has to do without the value."""
        return self.kind in LEAVES_OUT


@runtime_checkable
class Source(Protocol):
    """A data set split with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Returns several samples at once, which some sources do much faster than one by one."""

    # A source may also have `views`, `notes`, `keys`, `file_of` and `state_of`. What holds of one
    # that does not is said once, by the functions of these names below: `views_of` and so on.


@runtime_checkable
class DataConfig(Protocol):
    """A data set: a frozen dataclass of the configuration."""

    def open(self, split: str) -> Source:
        """Returns one split.

        Raises:
            ValueError: If there is no such split; the sentence names those that exist.
        """

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, validation, test, and whatever else can be evaluated."""


@dataclass(frozen=True)
class MayBeDamaged(Checked):
    """Data that others wrote, some of which may be of no use."""

    max_damaged: float = field(default=0.01, kw_only=True)
    """Share of a modality's values that may be damaged, of a split; a single value always may.
    Such a value is left out of its sample, and counted and listed in RUN/left_out.jsonl. If there
    are more, the run stops. 0: not even one."""

    def check_knobs(self, knob: str) -> None:
        if not 0 <= self.max_damaged <= 1:
            raise ValueError(
                f"{name_knob(knob, 'max_damaged')} is {self.max_damaged}; a share from 0 to 1 is "
                "allowed."
            )


def max_damaged_of(data: Any) -> float:
    """Returns which share of its values may be damaged; none where the data does not say."""
    return float(getattr(data, "max_damaged", 0.0))


class ChosenSamples:
    """Some samples of a source, as a source."""

    def __init__(self, source: Source, chosen: Int[np.ndarray, "samples"]):
        self._source, self._chosen = source, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        return self._source[int(self._chosen[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return self._source.__getitems__(self._chosen[list(indices)].tolist())

    @property
    def keys(self) -> list[str]:
        return [key_of(self._source, int(index)) for index in self._chosen]

    def file_of(self, index: int, modality: str) -> str:
        return file_of(self._source, int(self._chosen[index]), modality)

    def state_of(self, index: int) -> str:
        return state_of(self._source, int(self._chosen[index]))


def file_of(source: Source, index: int, modality: str) -> str:
    """Returns where a value is stored; empty where a source can't tell."""
    ask = getattr(source, "file_of", None)
    return str(ask(index, modality)) if ask else ""


def state_of(source: Source, index: int) -> str:
    """Returns a text that changes when the files behind a sample do; empty where there are none."""
    ask = getattr(source, "state_of", None)
    return str(ask(index)) if ask else ""


def views_of(source: Source) -> int:
    """Returns how many samples in a row are views of one: 1 where a source does not say `views`."""
    return int(getattr(source, "views", 1))


def notes_of(source: Source) -> Sequence[Note]:
    """Returns what a source has to say of its files; none where it has no `notes`."""
    return getattr(source, "notes", ())


def key_of(source: Source, index: int) -> str:
    """Returns what names a sample in messages: its key if the source has `keys`, or its index."""
    keys = getattr(source, "keys", None)
    return str(keys[index]) if keys else str(index)

"""Where samples come from: random access, deterministic, any modality may be absent."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

METADATA = "metadata"
"""Under which name a sample has facts for probing, no modality: a dict of numbers or short strings.
"""
NOTES = ":notes"
"""Under which name a sample has a list of `Note`, if there is anything to say of its values."""

Sample = dict[str, Any]
"""Raw values by modality name, with `METADATA` and `NOTES` beside them where there are such.

An absent modality has no key. A value may be `Choices`, or `Mended`.
"""

LEAVES_OUT = ("unreadable", "unusable", "misaligned")
"""Kinds of `Note` about a value that its sample has to do without."""


class Note(NamedTuple):
    """What a user should know of one value, or of one file, of a data set.

    Attributes:
        kind: One of `LEAVES_OUT`, or in a few words what was done: "mended", "listed twice",
            "ignored".
        modality: Of the value; empty if it is the whole sample.
        key: Of the sample; empty if the file belongs to none.
        file: Where the value is stored; empty where the source can't tell.
        reason: One phrase or sentence.
    """

    kind: str
    modality: str
    key: str
    file: str
    reason: str

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


def key_of(source: Source, index: int) -> str:
    """Returns what names a sample in messages: its key if the source has `keys`, or its index."""
    keys = getattr(source, "keys", None)
    return str(keys[index]) if keys else str(index)

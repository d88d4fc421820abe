"""Where samples come from: random access, deterministic, any modality may be absent."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

Sample = dict[str, Any]
"""Raw values by modality name. An absent modality has no key.

`metadata`, where a source has it, is a dict of numbers or short strings for probing.
"""


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

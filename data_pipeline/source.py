"""Where samples come from: random access, deterministic, any modality may be absent."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

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


def key_of(source: Source, index: int) -> str:
    """Returns what names a sample in messages: its key if the source has `keys`, or its index."""
    keys = getattr(source, "keys", None)
    return str(keys[index]) if keys else str(index)

"""Tokens whose tokenizer is elsewhere: the ids themselves are the values.

A model can be used before all of its tokenizers are at hand: what such a modality takes and gives
are ids, which the tokenizer that made them can turn into what they mean.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Int, UInt8

from tokenizers.base import PADDING, Better, Crop, RawBatch, SequenceTokens
from tokenizers.settings.checked import Checked
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import load_folder, read_part, save_folder


@dataclass(frozen=True)
class Codes(Checked):
    """Ids of another tokenizer: int arrays of `shape`, or [length] up to it for sequences."""

    vocab_size: int
    """Ids are 0 to vocab_size - 1."""
    shape: tuple[int, ...]
    """(height, width) of a grid, (count,) of a set; (longest length,) of a sequence."""
    is_sequence: bool = False
    """Whether the ids are in order and their number varies."""

    is_of_view: ClassVar[bool] = True

    @property
    def metrics(self) -> dict[str, Better]:
        """Share of ids that are right."""
        return {"accuracy": "higher"}

    def check(self, value: Any, name: str) -> Int[np.ndarray, "..."]:
        """Returns the ids as int32; those of a grid may come in reading order, in one row or none.

        Raises:
            ValueError: If they are not whole numbers, out of range, or of another shape.
        """
        ids = np.asarray(value)
        count = int(np.prod(self.shape))
        is_shape = ids.shape == self.shape
        if self.is_sequence:
            is_shape = ids.ndim == 1 and len(ids) <= self.shape[0]
        elif ids.shape in ((count,), (1, count), (1, *self.shape)):
            ids, is_shape = ids.reshape(self.shape), True
        if ids.dtype.kind not in "iu" or not is_shape:
            longest = " or fewer" if self.is_sequence else ""
            raise ValueError(
                f"{name} has shape {ids.shape} of {ids.dtype}; whole numbers of shape {self.shape}"
                f"{longest} are allowed, as its tokenizer makes them; files of several views are "
                "read by CodesFile."
            )
        if np.ma.is_masked(value):
            raise ValueError(f"{name} has ids that are unknown; every id must be there.")
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ValueError(
                f"{name} holds the id {wrong[0]}; 0 to {self.vocab_size - 1} are allowed."
            )
        return ids.astype(np.int32)

    def crop(self, value: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
        """Returns the ids as they are, of the whole picture only.

        Raises:
            ValueError: For any other crop: ids can't be cut, only what they stand for.
        """
        if crop != Crop(0.0, 0.0, 1.0, 1.0, flip=False):
            raise ValueError(
                "Ids made beforehand can't be cropped, mirrored or turned; set crops.views to 1, "
                "crops.scale to 1 and crops.flip and crops.turn to false, or tokenize the raw "
                "values here."
            )
        return value

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns the share of true ids that were predicted in their place."""
        right = [_count_equal(p, t) for p, t in zip(predicted, truth, strict=True)]
        return {"accuracy": float(np.sum(right) / max(1, sum(np.size(t) for t in truth)))}

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what the commonest id of each place scores on `truth`."""
        counts = np.zeros((int(np.prod(self.shape)), self.vocab_size), np.int64)
        for value in training:
            flat = np.ravel(value)
            counts[np.arange(len(flat)), flat] += 1
        commonest = counts.argmax(axis=1)
        return self.score([commonest[: np.size(t)].reshape(np.shape(t)) for t in truth], truth)

    def draw(self, value: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"] | str:
        """Returns grids with a colour per id, sequences as numbers."""
        if len(self.shape) == 1:
            return " ".join(map(str, value))
        # Fixed, and far apart for neighbouring ids.
        colors = np.stack([(value * step + 64) % 256 for step in (97, 57, 151)], axis=-1)
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, self.shape, strict=True))
        return colors.astype(np.uint8)[rows][:, columns]


def _count_equal(predicted: np.ndarray, truth: np.ndarray) -> int:
    found, true = np.ravel(predicted), np.ravel(truth)
    shared = min(len(found), len(true))
    return int((found[:shared] == true[:shared]).sum())


@dataclass(frozen=True)
class CodesTokenizerConfig(Checked):
    """Ids as they are, of grids and sets; there is nothing to be fitted."""

    def fit(self, values: Codes, training: RawBatch, key: Array | None = None) -> "CodeTokenizer":
        """Returns the tokenizer.

        Raises:
            ValueError: If the ids are a sequence, whose end and sentinels nobody knows.
        """
        if values.is_sequence:
            raise ValueError(
                "The ids are a sequence, and nobody knows which of them are its end and its "
                "sentinels; give SavedTokenizerConfig(path) of a tokenizer that says so."
            )
        return CodeTokenizer(values)


class CodeTokenizer:
    """Ids as they are <-> ids; sequences are cut at their end and padded."""

    def __init__(self, values: Codes, special: SequenceTokens | None = None):
        """Args:
        values: What ids there are.
        special: End and sentinels; for sequences only.

        Raises:
            ValueError: If a sequence has no special ids, or anything else has some.
        """
        if values.is_sequence != (special is not None):
            raise ValueError(
                f"The ids are {'a' if values.is_sequence else 'no'} sequence and the special ids "
                f"{special}; sequences need special ids, and others have none."
            )
        self.values, self.special = values, special
        self.vocab_size, self.token_shape = values.vocab_size, values.shape

    def encode(self, values: RawBatch) -> Int[np.ndarray, "batch ..."]:
        ids = np.full((len(values), *self.token_shape), PADDING, np.int32)
        for row, value in enumerate(values):
            ids[row, : len(value)] = value
        return ids

    def decode(self, ids: Int[np.ndarray, "batch ..."]) -> RawBatch:
        if self.special is None:
            return np.asarray(ids, np.int32)
        return [np.asarray(row[row != PADDING], np.int32) for row in np.asarray(ids)]

    def save(self, folder: Path) -> None:
        description = {
            "tokenizer": "codes",
            "values": to_part(self.values),
            "special": None if self.special is None else list(self.special),
        }
        save_folder(folder, description, {})

    @classmethod
    def load(cls, folder: Path) -> "CodeTokenizer":
        description, _, _ = load_folder(folder)
        values = read_part(description, "values", Codes, folder)
        return cls(values, read_part(description, "special", SequenceTokens | None, folder))

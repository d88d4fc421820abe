"""Sequences of ids: how they end, how they are padded, how they are read back."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from tokenizers.base import PADDING, SequenceTokens, check_ids
from tokenizers.settings.checked import name_knob


def check_bins(knob: str, num_bins: int, num_sentinels: int) -> None:
    """Raises ValueError if a tokenizer of places, set at `knob`, has too few ids to write them."""
    if num_bins < 2 or num_sentinels < 1:
        raise ValueError(
            f"{name_knob(knob, 'num_bins')} is {num_bins} and "
            f"{name_knob(knob, 'num_sentinels')} {num_sentinels}; at least 2 and 1 are allowed."
        )


def pad_sequences(
    sequences: Sequence[Sequence[int] | Int[np.ndarray, "_"]], end: int, longest: int
) -> Int32[np.ndarray, "batch {longest}"]:
    """Returns ids [batch, longest]: each sequence, then `end`, then `PADDING`.

    A sequence with more than `longest - 1` ids loses its last ones and keeps its end.
    """
    ids = np.full((len(sequences), longest), PADDING, np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        kept = sequence[: longest - 1]
        row[: len(kept)] = kept
        row[len(kept)] = end
    return ids


def find_groups(
    ids: Int[np.ndarray, "_"], starts: Int[np.ndarray, "kinds"]
) -> Int[np.ndarray, "groups kinds"]:
    """Returns the groups of ids, one of each kind in order; ids that make up none are skipped.

    Args:
        ids: Of a sequence.
        starts: First id of each kind, ascending; smaller ids are of none.
    """
    kinds, count = np.searchsorted(starts, ids, side="right") - 1, len(starts)
    # Every id may open a group.
    groups = np.arange(max(len(ids) - count + 1, 0))[:, None] + np.arange(count)
    return ids[groups[(kinds[groups] == np.arange(count)).all(axis=1)]]


def read_sequences(
    ids: Int[np.ndarray, "batch tokens"], special: SequenceTokens, vocab_size: int
) -> list[Int[np.ndarray, "_"]]:
    """Returns per sample the ids before the first end, without sentinels and padding.

    Raises:
        ValueError: If an id is neither `PADDING` nor in [0, vocab_size).
    """
    check_ids(ids, vocab_size, may_pad=True)
    is_end = ids == special.end
    before_end = np.cumsum(is_end, axis=1) == 0
    sentinel = ids - special.first_sentinel
    is_sentinel = (sentinel >= 0) & (sentinel < special.num_sentinels)
    is_content = before_end & ~is_sentinel & (ids != PADDING)
    return [row[kept] for row, kept in zip(ids, is_content, strict=True)]

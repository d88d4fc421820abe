"""Which of many are taken where a few will do: evenly spread, since files lie sorted by class."""

import numpy as np
from jaxtyping import Int

from tokenizers.base import RawBatch


def evenly_spread(total: int, most: int) -> Int[np.ndarray, "chosen"]:
    """Returns which of `total` are taken, at most so many: ascending, at equal distances, from 0.

    All where they are no more than `most`.

    Example:
        >>> evenly_spread(10, 4).tolist()
        [0, 2, 5, 7]
    """
    count = max(0, min(total, most))
    return np.arange(count) * total // max(1, count)


def spread_order(total: int) -> Int[np.ndarray, "total"]:
    """Returns an order of all of `total` whose every beginning lies spread over them.

    What is at hand may differ from case to case: those that come first in this order are likely
    to be shared by all. The order is that of the indices with their bits reversed (van der Corput).

    Example:
        >>> spread_order(5).tolist()
        [0, 4, 2, 1, 3]
    """
    bits = max(1, (total - 1).bit_length())
    reversed_bits = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(total)]
    return np.argsort(reversed_bits, kind="stable")


def take_rows(raw: RawBatch, rows: Int[np.ndarray, "taken"]) -> RawBatch:
    """Returns the values in some rows of a batch, an array of an array and a list of a list."""
    return raw[rows] if isinstance(raw, np.ndarray) else [raw[int(row)] for row in rows]

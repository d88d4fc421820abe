"""What generation returns."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from tokenizers.base import RawBatch


class Generated(NamedTuple):
    """What `Any2Any.generate` returns.

    Attributes:
        values: Raw values per target.
        ids: Their tokens, int32 [batch, tokens], `PADDING` after the end of sequences; of several
            draws the first one's.
        spread: Of targets that were drawn several times: how far the draws lie apart, per pixel
            of dense values [batch, y, x], else per sample, see `Combined`.
        token_spread: Of these, the share of pairs of draws that differ in a token, [batch, tokens].
        draws: Of these, every draw's raw values, where they were not combined.
    """

    values: dict[str, RawBatch]
    ids: dict[str, np.ndarray]
    spread: Mapping[str, np.ndarray] = MappingProxyType({})
    token_spread: Mapping[str, np.ndarray] = MappingProxyType({})
    draws: Mapping[str, Sequence[RawBatch]] = MappingProxyType({})

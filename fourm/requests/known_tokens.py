"""Tokens that a caller knows, checked before a model reads them."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fourm.inference.conditions import Condition
from fourm.token_space import TokenSpace
from tokenizers.base import PADDING, RawBatch


def is_features_name(name: str, space: TokenSpace) -> bool:
    """Tells the name of numbers that describe a grid's tokens beside their ids."""
    return any(entry.feature_width and entry.features_name == name for entry in space.ranges)


def check_known(
    name: str, tokens: np.ndarray, space: TokenSpace
) -> Shaped[np.ndarray, "batch tokens ..."]:
    """Returns known tokens as a model reads them: ids int32, vectors float32.

    Args:
        name: A modality, or under `tokenizers.base.described(name)` what describes its tokens.
        tokens: Ids, `PADDING` where unknown, of any shape behind the batch axis; or vectors
            [batch, tokens, width], NaN where unknown.
        space: Of the model.

    Raises:
        ValueError: If their shape is wrong, an id is out of range, or a sequence has a hole.
    """
    if is_features_name(name, space):
        entry = next(e for e in space.ranges if e.feature_width and e.features_name == name)
        vectors = np.asarray(tokens, np.float32)
        if vectors.shape[1:] != (entry.num_tokens, entry.feature_width):
            raise ValueError(
                f"known[{name!r}] has shape {vectors.shape}; needed are {entry.num_tokens} vectors "
                f"of {entry.feature_width} numbers per sample."
            )
        return vectors
    entry = space[name]
    array = np.asarray(tokens).reshape(len(tokens), -1)
    is_id = (array == PADDING) | ((array >= 0) & (array < entry.vocab_size))
    if array.shape[1] != entry.num_tokens or not is_id.all():
        raise ValueError(
            f"known[{name!r}] has shape {np.shape(tokens)}; needed are {entry.num_tokens} "
            f"ids per sample, 0 to {entry.vocab_size - 1}, or {PADDING} where unknown."
        )
    is_hole = (array[:, :-1] == PADDING) & (array[:, 1:] != PADDING)
    if entry.kind == "sequence" and is_hole.any():
        raise ValueError(
            f"known[{name!r}] has unknown tokens before known ones; of a sequence only the "
            "beginning can be given, or sentinels in the place of spans."
        )
    return array.astype(np.int32)


def weigh(
    given: Any, encode: Callable[[Mapping[str, RawBatch | Any]], Mapping[str, np.ndarray]]
) -> Condition:
    """Returns a condition with a weight of its own, of raw values.

    Args:
        given: Raw values by modality, and a number.
        encode: Returns tokens of raw values.

    Raises:
        ValueError: If it is anything else.
    """
    is_pair = isinstance(given, Sequence) and len(given) == 2
    if not is_pair or not isinstance(given[0], Mapping) or not given[0]:
        raise ValueError(
            f"A condition is {str(given)[:200]}; give raw values by modality and a weight, such as "
            '({"caption": "a red sphere"}, 3.0).'
        )
    inputs, weight = given
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise ValueError(f"The weight of a condition is {weight!r}; give a number.")
    if not math.isfinite(weight):
        raise ValueError(f"The weight of a condition is {weight}; give a finite number.")
    return Condition(encode(inputs), float(weight))


def lengths_of(conditions: Sequence[Condition]) -> dict[str, int]:
    """Returns how many samples conditions are of, by their number, but for those for all."""
    return {
        f"condition {number + 1}": len(array)
        for number, each in enumerate(conditions)
        for array in each.known.values()
        if len(array) > 1
    }

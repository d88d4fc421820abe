"""Tokens that a caller knows, checked before a model reads them."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fourm.inference.conditions import Condition
from fourm.token_space import TokenRange, TokenSpace
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
    if not hasattr(tokens, "__len__") or not len(tokens):
        raise ValueError(f"known[{name!r}] is {str(tokens)[:40]}; give tokens, a row per sample.")
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
    if array.dtype.kind not in "iu":
        raise ValueError(f"known[{name!r}] are {array.dtype}; ids are whole numbers.")
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


def gather_known(
    given: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray],
    targets: Sequence[str],
    space: TokenSpace,
) -> dict[str, np.ndarray]:
    """Returns all tokens that a request knows; a sequence that is a target has no end.

    Args:
        given: Of raw values, by modality.
        known: Given as tokens.
        targets: What is generated.
        space: Of the model.

    Raises:
        ValueError: If a modality is given both ways, or tokens are not allowed.
    """
    if not isinstance(known, Mapping):
        raise ValueError(f"known is a {type(known).__name__}; give tokens by modality.")
    twice = [name for name in known if name in given]
    if twice:
        raise ValueError(f"{twice[0]} is given both as raw values and as tokens; give one.")
    ids = dict(given)
    for name in set(given) & set(targets):
        special = space[name].special
        if special is not None:
            ids[name] = np.where(ids[name] == special.end, PADDING, ids[name])
    return ids | {name: check_known(name, tokens, space) for name, tokens in known.items()}


def is_whole(ids: np.ndarray, entry: TokenRange) -> bool:
    """Tells whether every sample has all tokens of a modality."""
    if entry.kind == "features":
        return True  # What has no tokens can't be completed.
    has_all = (ids != PADDING).all(axis=1)
    if entry.special is not None:
        has_all |= (ids == entry.special.end).any(axis=1)
    return bool(has_all.all())


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

"""Raw values as a run takes them, and as what its model reads."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fourm.token_space import TokenRange
from tokenizers.base import PADDING, RawBatch, Tokenizer, described, is_described


def check_values(name: str, raw: RawBatch, tokenizer: Any) -> tuple[list[int], Any]:
    """Returns in which rows there is a value, and these, checked, as the tokenizer takes them.

    Raises:
        ValueError: If a value is not allowed, or pictures differ in shape.
    """
    present = [row for row, value in enumerate(raw) if value is not None]
    if not present:
        return [], []
    values: Any = [tokenizer.values.check(raw[row], name) for row in present]
    # Sequences may differ in length.
    if isinstance(values[0], np.ndarray) and len(tokenizer.token_shape) == 2:
        shapes = sorted({value.shape for value in values})
        if len(shapes) > 1:
            raise ValueError(
                f"The inputs of {name} differ in shape, such as {shapes[0]} and {shapes[1]}; "
                "resize them to one size."
            )
        values = np.stack(values)
    return present, values


def encode_values(
    name: str, raw: RawBatch, tokenizer: Tokenizer, entry: TokenRange, with_numbers: bool = True
) -> dict[str, Shaped[np.ndarray, "batch tokens ..."]]:
    """Returns what a model reads of some samples, by the names of `fourm.inference.conditions`.

    That is their ids, `PADDING` where one has no value; or their vectors, NaN there; and beside ids
    the numbers that describe them, NaN there, if the tokenizer has such and they are wanted.

    Raises:
        ValueError: As `check_values` does.
    """
    vectors = np.full((len(raw), entry.num_tokens, entry.feature_width), np.nan, np.float32)
    if entry.kind == "features":
        tokens = vectors
    else:
        tokens = np.full((len(raw), entry.num_tokens), PADDING, np.int32)
    present, values = check_values(name, raw, tokenizer)
    found = {name: tokens}
    if present:
        tell_of_cuts(name, tokenizer, values)
        encoded = np.asarray(tokenizer.encode(values))
        tokens[present] = encoded.reshape(len(present), *tokens.shape[1:])
    if with_numbers and is_described(tokenizer):
        found[described(name)] = vectors
        if present:
            vectors[present] = tokenizer.packed.unpack(np.stack(tokenizer.pack(values)))
    return found


def tell_of_cuts(name: str, tokenizer: Tokenizer, values: RawBatch) -> None:
    """Warns if texts have more tokens than there is room for."""
    count_tokens = getattr(tokenizer, "count_tokens", None)
    if count_tokens is None:
        return
    counts, most = count_tokens(values), tokenizer.token_shape[0]
    if (counts > most).any():
        warnings.warn(
            f"{(counts > most).sum()} of {len(counts)} values of {name} have more than {most} "
            f"tokens, the longest {counts.max()}; what is beyond is cut off.",
            stacklevel=2,
        )

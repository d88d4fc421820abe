"""What a probe may read of samples beside the encoder's features: pixels, tokens, their codes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fourm.evaluation.directions import Predictor
from tokenizers.base import CodeFeatures, RawBatch, Tokenizer

PROBE_PIXELS = 16
"""Side to which pictures are averaged down for the probe on raw pixels."""
MOST_NUMBERS = 8192
"""Numbers per sample from which on codes of tokens are averaged, not put side by side."""


class TokenRows(NamedTuple):
    """Features of all tokens of samples, whatever their modality.

    Attributes:
        tokens: float32 [rows, t, dim], 0 where a token is missing.
        is_real: bool [rows, t].
    """

    tokens: Float[np.ndarray, "rows t dim"]
    is_real: Bool[np.ndarray, "rows t"]


def token_rows(model: Predictor, known: Mapping[str, np.ndarray]) -> TokenRows:
    """Returns the frozen encoder's last features of every token.

    Args:
        model: With the encoder.
        known: As `Any2Any.encode_inputs` returns it.
    """
    found = model.features({}, pool="none", known=known)
    dim = next(iter(found.values.values())).shape[-1]
    values = [each[:, 0].reshape(len(each), -1, dim) for each in found.values.values()]
    is_real = [each.reshape(len(each), -1) for each in found.is_real.values()]
    return TokenRows(np.nan_to_num(np.concatenate(values, axis=1)), np.concatenate(is_real, axis=1))


def raw_features(values: RawBatch) -> Float[np.ndarray, "batch features"]:
    """Returns what a linear model sees of raw values: numbers, or pictures averaged down."""
    try:
        array = np.nan_to_num(np.asarray(values, np.float32))
    except (TypeError, ValueError) as error:
        kind = type(values[0]).__name__ if len(values) else "nothing"
        raise ValueError(
            f"values of type {kind}, or of different sizes, are no pixels or numbers"
        ) from error
    if array.ndim < 3:
        return array.reshape(len(array), -1)
    array = average_down(array, (PROBE_PIXELS, PROBE_PIXELS))
    return array.reshape(len(array), -1).astype(np.float32)


def average_down(
    array: Float[np.ndarray, "batch y x ..."], size: tuple[int, int]
) -> Float[np.ndarray, "batch y2 x2 ..."]:
    """Returns pictures averaged down to a height and width, or as they are where that is less."""
    for axis, most in zip((1, 2), size, strict=True):
        # Uneven sizes get windows that differ by one pixel.
        edges = np.linspace(0, array.shape[axis], min(most, array.shape[axis]) + 1)
        starts = np.floor(edges).astype(int)
        sums = np.add.reduceat(array, starts[:-1], axis=axis)
        shape = [1] * array.ndim
        shape[axis] = -1
        array = sums / np.diff(starts).reshape(shape)
    return array


def token_histogram(
    ids: Int[np.ndarray, "batch tokens"], vocab_size: int
) -> Float[np.ndarray, "batch {vocab_size}"]:
    """Returns how often each id occurs in each sample; padding counts nowhere."""
    rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    real = ids >= 0
    flat = rows[real] * vocab_size + ids[real]
    counts = np.bincount(flat, minlength=len(ids) * vocab_size)
    return counts.reshape(len(ids), vocab_size).astype(np.float32)


def histograms(
    ids: Mapping[str, np.ndarray], tokenizers: Mapping[str, Tokenizer]
) -> Float[np.ndarray, "batch features"]:
    """Returns token histograms of several modalities side by side."""
    return np.concatenate(
        [
            token_histogram(each.reshape(len(each), -1), tokenizers[name].vocab_size)
            for name, each in ids.items()
        ],
        axis=1,
    )


def tokenizer_features(
    ids: Int[np.ndarray, "batch tokens"], name: str, tokenizer: Tokenizer
) -> Float[np.ndarray, "batch tokens features"]:
    """Returns the code of every token, as its tokenizer has it; zeros for missing ones.

    Raises:
        ValueError: In half a sentence, if the tokenizer has no such.
    """
    if not isinstance(tokenizer, CodeFeatures):
        raise ValueError(f"the tokenizer of {name} has no codes, only ids")
    codes = np.asarray(tokenizer.code_features(), np.float32)
    return np.where((ids >= 0)[..., None], codes[np.maximum(ids, 0)], 0)


def side_by_side(tokens: Float[np.ndarray, "batch t dim"]) -> Float[np.ndarray, "batch features"]:
    """Returns features of all tokens as one vector; of very many numbers their mean."""
    if tokens.shape[1] * tokens.shape[2] > MOST_NUMBERS:
        return tokens.mean(axis=1)
    return tokens.reshape(len(tokens), -1)

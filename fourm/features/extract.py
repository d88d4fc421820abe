"""Features of samples from any layers of the encoder, per token with its place, or pooled."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from fourm.inference.conditions import Known
from fourm.inference.embedding import Pool, embed_tokens, encode_layers
from fourm.model.transformer import FourM
from fourm.requests.batching import check_whole, count_samples
from fourm.token_space import TokenSpace

BLOCK = 16
"""Samples that go through the encoder together, filled up where there are fewer: compiled code of
another shape rounds differently, and features are to be the same bits in any batch."""


class TokenFeatures(NamedTuple):
    """Features of every token, at its place.

    Attributes:
        values: Per modality float32 [batch, layers, *token_shape, dim], so that a grid is a map
            [batch, layers, y, x, dim]; NaN where a token is missing.
        is_real: Per modality bool [batch, *token_shape], False where a token is missing.
        layers: Which layers these are.
    """

    values: dict[str, Float[np.ndarray, "batch layers *token_shape dim"]]
    is_real: dict[str, Bool[np.ndarray, "batch *token_shape"]]
    layers: tuple[int, ...]


def extract_features(
    model: FourM,
    known: Known,
    layers: Sequence[int] | None = None,
    pool: str = "mean",
    batch_size: int = 64,
) -> Float[np.ndarray, "batch layers dim"] | TokenFeatures:
    """Returns features, the same bits whatever the batch size.

    Args:
        model: The transformer.
        known: Tokens by modality; what a sample lacks is `PADDING`, or NaN.
        layers: Which, in any order: 1 is the first block and 0 what it reads; the last by default.
            The encoder's last norm is applied to each.
        pool: How tokens become one vector, see `Pool`; "none" for every token's own.
        batch_size: Samples on the device at once, in blocks of 16; a matter of memory and speed
            alone.

    Returns:
        One vector per sample and layer, zeros for a sample without tokens; or `TokenFeatures`.

    Raises:
        ValueError: One sentence, if there is no such layer, or the model can't be pooled so.
    """
    chosen = check_layers(model, layers)
    check_pool(model, pool)
    check_whole("batch_size", batch_size, 1)
    graph, state = nnx.split(model)
    count = count_samples(known, None)
    at_once = -(-batch_size // BLOCK) * BLOCK
    parts: list[np.ndarray] = []
    real_parts: list[np.ndarray] = []
    for start in range(0, count, at_once):
        found = []
        for first in range(start, min(start + at_once, count), BLOCK):
            rows = np.minimum(np.arange(first, first + BLOCK), count - 1)
            block = {name: array[rows] for name, array in known.items()}
            if pool == "none":
                found.append(encode_layers(graph, state, block, chosen))
            else:
                found.append((embed_tokens(graph, state, block, chosen, pool),))
        for made in found:  # The device goes through all of them before the first is waited for.
            parts.append(np.asarray(made[0]))
            real_parts += [np.asarray(each) for each in made[1:]]
    features = np.concatenate(parts)[:count]
    if pool != "none":
        return features
    return _by_modality(model.space, known, features, np.concatenate(real_parts)[:count], chosen)


def check_layers(model: FourM, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Returns which layers are asked for; the last if none are named.

    Raises:
        ValueError: One sentence, if one is not there or is named twice.
    """
    last = model.config.encoder_layers
    chosen = (last,) if layers is None else tuple(int(layer) for layer in layers)
    if not chosen or not all(0 <= layer <= last for layer in chosen):
        raise ValueError(
            f"layers is {list(chosen)}; the encoder has {last} of them, so 0 (what the first "
            f"block reads) to {last} are allowed, at least one."
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"layers is {list(chosen)}; name each layer once.")
    return chosen


def check_pool(model: FourM, pool: str) -> None:
    """Raises ValueError, in one sentence, for a way of pooling that the model does not have."""
    if pool == "attentive":
        raise ValueError(
            'pool is "attentive", whose query has to be trained on labels: fourm probe does that; '
            'here "mean", "max" and "none" are allowed.'
        )
    if pool not in get_args(Pool):
        told = " (these models have no cls token)" if pool == "cls" else ""
        raise ValueError(
            f"pool is {pool!r}{told}; allowed are {', '.join(map(repr, get_args(Pool)))}."
        )
    if pool == "registers" and not model.config.num_registers:
        raise ValueError(
            'pool is "registers", and this model has none; train one with --model.num-registers, '
            'or take "mean".'
        )


def _by_modality(
    space: TokenSpace,
    known: Known,
    features: Float[np.ndarray, "batch layers n dim"],
    is_real: Bool[np.ndarray, "batch n"],
    layers: tuple[int, ...],
) -> TokenFeatures:
    """Divides the slots of the encoder, which lie modality by modality in the space's order."""
    features[~np.broadcast_to(is_real[:, None], features.shape[:3])] = np.nan
    values, real, start = {}, {}, 0
    for entry in space.ranges:
        if entry.name in known:
            end = start + entry.num_tokens
            shape = entry.token_shape
            values[entry.name] = features[:, :, start:end].reshape(
                *features.shape[:2], *shape, features.shape[-1]
            )
            real[entry.name] = is_real[:, start:end].reshape(-1, *shape)
            start = end
    return TokenFeatures(values, real, layers)

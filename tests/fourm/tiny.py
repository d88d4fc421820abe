"""A small token space, batches of random tokens in it, and a small model over it."""

import functools
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourm.model.config import ModelConfig, PublishedOptions
from fourm.model.positions import sincos_positions
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from tokenizers.base import PADDING, SequenceTokens, TokenBatch


@dataclass
class Shape:
    """A tokenizer of which only the shape matters."""

    vocab_size: int
    token_shape: tuple[int, ...]
    special: SequenceTokens | None = None
    feature_width: int = 0
    feature_bias: bool = False
    values: Any = None

    def unused(self, *arguments):
        raise AssertionError("only tokens are needed here")

    encode = decode = save = load = unused


SPACE = TokenSpace.build(
    {
        "picture": Shape(13, (3, 4)),
        "map": Shape(7, (2, 3)),
        "text": Shape(30, (10,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=4)),
        "boxes": Shape(19, (6,), SequenceTokens(end=18, first_sentinel=2, num_sentinels=6)),
        "number": Shape(5, (1,)),
    }
)


def contents(entry):
    """Ids of a modality that are neither its end nor a sentinel."""
    ids = np.arange(entry.vocab_size)
    if entry.special is None:
        return ids
    first = entry.special.first_sentinel
    is_sentinel = (ids >= first) & (ids < first + entry.special.num_sentinels)
    return ids[~is_sentinel & (ids != entry.special.end)]


def make_tokens(batch=8, seed=0, space=SPACE, present=1.0, index=None) -> TokenBatch:
    """Random tokens, those of a sequence all different; a modality is there by chance `present`."""
    rng = np.random.default_rng(seed)
    ids, num_real = {}, {}
    for entry in space.ranges:
        tokens = rng.choice(contents(entry), (batch, entry.num_tokens)).astype(np.int32)
        length = np.full(batch, entry.num_tokens, np.int32)
        if entry.special is not None:
            choices = np.tile(contents(entry), (batch, 1))
            tokens = rng.permuted(choices, axis=1)[:, : entry.num_tokens].astype(np.int32)
            length = rng.integers(1, entry.num_tokens + 1, batch).astype(np.int32)
            tokens[np.arange(batch), length - 1] = entry.special.end
        length = np.where(rng.random(batch) < present, length, 0).astype(np.int32)
        is_real = np.arange(entry.num_tokens) < length[:, None]
        ids[entry.name] = jnp.asarray(np.where(is_real, tokens, PADDING), jnp.int32)
        num_real[entry.name] = jnp.asarray(length)
    index = np.arange(batch) + 100 * seed if index is None else index
    return TokenBatch(ids, num_real, jnp.asarray(index, jnp.int32))


def change_config(config: ModelConfig, **changes) -> ModelConfig:
    """The configuration with other values; names of the published options are theirs."""
    names = {each.name for each in fields(PublishedOptions)} & set(changes)
    published = replace(config.published, **{name: changes.pop(name) for name in names})
    return replace(config, published=published, **changes)


@functools.cache
def positions_of(space: TokenSpace, dim: int) -> np.ndarray:
    """The table of positions that a model has; compiled once for all models of one space."""
    tables = jax.jit(lambda: [sincos_positions(entry, dim) for entry in space.ranges])()
    return np.concatenate(tables)


def draw_model(space: TokenSpace, config: ModelConfig, seed: int) -> FourM:
    """A model whose weights NumPy draws, as widely spread as those that training begins with.

    To compile how the model draws them takes seconds, for every space and configuration anew.
    """
    model = nnx.eval_shape(lambda: FourM(space, config, nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shape = variable.get_value().shape
        match path[-1]:
            case "position_table":
                value = positions_of(space, config.dim)
            case "scale":
                value = np.ones(shape)
            case "bias":
                value = np.zeros(shape)
            case "kernel":  # (layers,) inputs, outputs
                value = rng.uniform(-1, 1, shape) * (6 / sum(shape[-2:])) ** 0.5
            case "output_table" | "input_position_table" | "target_position_table":
                value = rng.normal(0, 0.02, shape)
            case _:
                value = rng.normal(0, config.embedding_std, shape)
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


def build_model(seed=0, space=SPACE, **options) -> FourM:
    shape = dict(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1, scan_layers=True)
    return draw_model(space, change_config(ModelConfig(), **shape | options), seed)

"""What the encoder makes of tokens: features of any of its layers, per token or pooled."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fourm.inference.conditions import Known, gather_inputs
from fourm.model.transformer import FourM

Pool = Literal["mean", "max", "registers", "none"]
"""How features of tokens become one vector: their mean or largest numbers over the real tokens; the
mean of the registers, which models with `num_registers` have; or not at all."""


@functools.partial(jax.jit, static_argnums=(0, 3))
def encode_layers(
    graph: nnx.GraphDef, state: nnx.State, known: Known, layers: tuple[int, ...]
) -> tuple[Float[Array, "batch layers n dim"], Bool[Array, "batch n"]]:
    """Returns float32 features of every token after some layers, and which tokens are real.

    Args:
        graph: Of the model.
        state: Of the model.
        known: What the encoder reads.
        layers: 1 is the first block and 0 what it reads. The encoder's last norm is applied to all
            of them, as DINO's `get_intermediate_layers` does, so that they are of one scale.
    """
    model = nnx.merge(graph, state)
    inputs = gather_inputs(model.space, known)
    features = _encode(model, inputs, layers)
    return features[:, :, -inputs.ids.shape[1] :], inputs.is_real


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def embed_tokens(
    graph: nnx.GraphDef, state: nnx.State, known: Known, layers: tuple[int, ...], pool: str
) -> Float[Array, "batch layers dim"]:
    """Returns one float32 vector per sample and layer; zeros for a sample without any token.

    Args:
        graph: As in `encode_layers`.
        state: Likewise.
        known: Likewise.
        layers: Likewise.
        pool: Any but "none".
    """
    model = nnx.merge(graph, state)
    inputs = gather_inputs(model.space, known)
    features = _encode(model, inputs, layers)
    if pool == "registers":
        return features[:, :, : -inputs.ids.shape[1]].mean(axis=2)
    tokens = features[:, :, -inputs.ids.shape[1] :]
    is_real = inputs.is_real[:, None, :, None]
    if pool == "max":
        largest = jnp.where(is_real, tokens, -jnp.inf).max(axis=2)
        return jnp.where(is_real.any(axis=2), largest, 0)
    total = jnp.where(is_real, tokens, 0).sum(axis=2)
    return total / jnp.maximum(is_real.sum(axis=2), 1)


def _encode(model: FourM, inputs, layers: tuple[int, ...]) -> Float[Array, "batch layers c dim"]:
    """Returns features after some layers, those of the registers first."""
    x, is_real = model.start_encoder(inputs)
    if layers == (model.config.encoder_layers,):
        found = [model.encoder(x, is_real[:, None, :])]
    else:

        def apply(block, x, _):
            x = block(x, is_real[:, None, :])
            return x, x

        after = model.encoder.scan(apply, x)[1]
        found = [x if layer == 0 else after[layer - 1] for layer in layers]
    return jnp.stack([model.encoder_norm(each).astype(jnp.float32) for each in found], axis=1)

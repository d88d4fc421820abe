"""Embeddings of whole samples: what the encoder makes of their tokens, averaged."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fourm.inference.conditions import Known, gather_inputs


@functools.partial(jax.jit, static_argnums=0)
def embed_tokens(graph: nnx.GraphDef, state: nnx.State, known: Known) -> Float[Array, "batch dim"]:
    """Returns the mean of the encoder's features over all tokens of a sample; zeros for none."""
    model = nnx.merge(graph, state)
    inputs = gather_inputs(model.space, known)
    features = model.encode(inputs)[:, -inputs.ids.shape[1] :].astype(jnp.float32)
    is_real = inputs.is_real[..., None]
    total = jnp.where(is_real, features, 0).sum(axis=1)
    return total / jnp.maximum(is_real.sum(axis=1), 1)

"""Scaled dot-product attention; on a CPU in chunks, which is faster."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend_heads(
    queries: Float[Array, "batch t heads k"],
    keys: Float[Array, "batch s heads k"],
    values: Float[Array, "batch s heads k"],
    can_attend: Bool[Array, "batch #t s"],
) -> Float[Array, "batch t dim"]:
    """Mixes values by the softmax of scaled products; heads are side by side in the result."""
    scores = jnp.einsum("bthk,bshk->bhts", queries, keys).astype(jnp.float32)
    mask = can_attend[:, None]
    scores = jnp.where(mask, scores / math.sqrt(queries.shape[-1]), -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("bhts,bshk->bthk", weights, values)
    mixed = jnp.where(can_attend.any(-1)[..., None, None], mixed, 0)
    return mixed.reshape(*mixed.shape[:2], -1)


def attend_in_parts(
    queries: Float[Array, "batch t heads k"],
    keys: Float[Array, "batch s heads k"],
    values: Float[Array, "batch s heads k"],
    can_attend: Bool[Array, "batch #t s"],
) -> Float[Array, "batch t dim"]:
    """Returns `attend_heads`, of some samples or heads at a time where that is faster.

    It is so on one CPU: XLA takes the many small products of a batch one after another there, on
    a single core; those of several smaller batches run side by side.
    """
    batch, t, heads, _ = queries.shape
    is_worthwhile = batch * heads * t * keys.shape[1] >= 2**18
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or not is_worthwhile:
        return attend_heads(queries, keys, values, can_attend)
    groups = math.gcd(batch, 8)
    if groups > 1:
        arrays = (queries, keys, values, can_attend)
        parts = zip(*(jnp.split(array, groups) for array in arrays), strict=True)
        return jnp.concatenate([attend_heads(*part) for part in parts])
    arrays = (queries, keys, values)
    parts = zip(*(jnp.split(array, math.gcd(heads, 8), axis=2) for array in arrays), strict=True)
    return jnp.concatenate([attend_heads(*part, can_attend) for part in parts], axis=-1)

"""Scaled dot-product attention: on a CPU in chunks, on a GPU fused, where that is possible."""

import math
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fourm.model.norms import is_half


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


def attend_fused(
    queries: Float[Array, "batch t heads k"],
    keys: Float[Array, "batch s heads k"],
    values: Float[Array, "batch s heads k"],
    can_attend: Bool[Array, "batch #t s"],
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch t dim"]:
    """Returns `attend_heads` by one of jax's kernels; cuDNN's keeps nothing of size t x s."""
    batch, t, heads, width = queries.shape
    # Written out over t, as jax does not do it by itself (jax#28974).
    mask = jnp.broadcast_to(can_attend[:, None], (batch, 1, t, keys.shape[1]))
    mixed = jax.nn.dot_product_attention(
        queries, keys, values, mask=mask, implementation=implementation
    )
    mixed = jnp.where(can_attend.any(-1)[..., None, None], mixed, 0)
    return mixed.reshape(batch, t, heads * width)


def can_fuse(backend: str, queries: Array, keys: Array) -> bool:
    """Tells whether cuDNN's flash attention takes these, with a mask, in training, too.

    Its rules are: half precision, heads of a multiple of 8 and at most 128 numbers, and even
    lengths. What follows from one token at a time is not worth a kernel of its own.
    """
    (_, t, _, width), s = queries.shape, keys.shape[1]
    is_half_width = is_half(queries.dtype) and width % 8 == 0 and width <= 128
    return backend == "gpu" and is_half_width and t > 1 and t % 2 == 0 and s % 2 == 0


def attend(
    queries: Float[Array, "batch t heads k"],
    keys: Float[Array, "batch s heads k"],
    values: Float[Array, "batch s heads k"],
    can_attend: Bool[Array, "batch #t s"],
    may_fuse: bool = True,
) -> Float[Array, "batch t dim"]:
    """Returns `attend_heads` in the way that is best on this machine.

    Args:
        queries: Of what attends.
        keys: Of what is attended to.
        values: Of what is attended to.
        can_attend: Which query may attend to which key.
        may_fuse: Whether to use a fused kernel where there is one.
    """
    if may_fuse and can_fuse(jax.default_backend(), queries, keys):
        try:
            return attend_fused(queries, keys, values, can_attend)
        except (RuntimeError, NotImplementedError) as error:
            # jax raises these while it traces, where this GPU or its cuDNN has no such kernel.
            warnings.warn(f"Attention is not fused: {error}", stacklevel=2)
    if is_half(queries.dtype):
        # Weights of t x s per head are computed again for the backward pass, not kept.
        return jax.checkpoint(attend_heads)(queries, keys, values, can_attend)
    return attend_in_parts(queries, keys, values, can_attend)


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

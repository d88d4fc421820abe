"""Norms that keep little for the backward pass in half precision.

What autodiff would keep of a norm are two float32 arrays of its input's size; here it is the input
as it came, and one or two numbers a row. In float32 that would save nothing: flax does it there.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class RMSNorm(nnx.RMSNorm):
    """Root mean square normalisation (Zhang and Sennrich 2019); statistics are in float32."""

    def __call__(self, x: Float[Array, "*batch dim"], **options) -> Float[Array, "*batch dim"]:
        if not is_half(self.dtype) or options:
            return super().__call__(x, **options)
        return normalize(x.astype(self.dtype), self.scale[...], None, self.epsilon, False)


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation (Ba et al. 2016); statistics are in float32."""

    def __call__(self, x: Float[Array, "*batch dim"], **options) -> Float[Array, "*batch dim"]:
        if not is_half(self.dtype) or options:
            return super().__call__(x, **options)
        bias = None if self.bias is None else self.bias[...]
        return normalize(x.astype(self.dtype), self.scale[...], bias, self.epsilon, True)


def is_half(dtype: DTypeLike | None) -> bool:
    """Tells whether activations have 16 bits."""
    return dtype is not None and jnp.dtype(dtype).itemsize == 2


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: Float[Array, "*batch dim"],
    scale: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None,
    epsilon: float,
    is_centred: bool,
) -> Float[Array, "*batch dim"]:
    """Returns rows of equal root mean square, times `scale`, plus `bias`.

    Args:
        x: Rows.
        scale: Per column.
        bias: Per column; none if there is none.
        epsilon: Added to the mean square.
        is_centred: Whether the mean of a row is taken off first.
    """
    return _forward(x, scale, bias, epsilon, is_centred)[0]


def _forward(x, scale, bias, epsilon, is_centred):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True) if is_centred else None
    square = jnp.square(wide).mean(-1, keepdims=True)
    if is_centred:
        square = jnp.maximum(square - jnp.square(mean), 0.0)
        wide = wide - mean
    rate = jax.lax.rsqrt(square + epsilon)
    y = wide * (rate * _per_column(scale, x))
    if bias is not None:
        y = y + _per_column(bias, x)
    return y.astype(x.dtype), (x, scale, bias is not None, mean, rate)


def _per_column(values: Float[Array, "dim"], x: Array) -> Array:
    """Returns values of columns with as many axes as `x`."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)


def _backward(epsilon, is_centred, kept, slope):
    x, scale, has_bias, mean, rate = kept
    wide = x.astype(jnp.float32)
    unit = (wide - mean if is_centred else wide) * rate
    slope = slope.astype(jnp.float32)
    over_rows = tuple(range(slope.ndim - 1))
    scale_slope = (slope * unit).sum(over_rows).astype(scale.dtype)
    bias_slope = slope.sum(over_rows).astype(scale.dtype) if has_bias else None
    pulled = slope * _per_column(scale, x)
    x_slope = pulled - unit * (pulled * unit).mean(-1, keepdims=True)
    if is_centred:
        x_slope = x_slope - pulled.mean(-1, keepdims=True)
    return (x_slope * rate).astype(x.dtype), scale_slope, bias_slope


normalize.defvjp(_forward, _backward)

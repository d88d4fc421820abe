"""Linear projections and norms, and how they are applied to tokens."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fourm.model.config import ModelConfig
from fourm.model.norms import LayerNorm, RMSNorm, is_half

XAVIER = nnx.initializers.xavier_uniform()


class Linear(nnx.Linear):
    """A linear projection, which in half precision keeps no copy of its kernel."""

    def __call__(self, x: Float[Array, "*rows inputs"], **options) -> Float[Array, "*rows outputs"]:
        if not is_half(self.dtype) or options:
            return super().__call__(x, **options)
        y = project(x.astype(self.dtype), self.kernel[...])
        if self.bias is None:
            return y
        return y + self.bias[...].astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


@jax.custom_vjp
def project(
    x: Float[Array, "*rows inputs"], *kernels: Float[Array, "inputs _"]
) -> Float[Array, "*rows outputs"]:
    """Returns `x @ kernel` in the precision of `x`, of several kernels side by side.

    For the backward pass a kernel is kept as it is stored, and rounded again there: a rounded
    copy of every layer's would be kept beside it. Its gradient is added up in its own precision.
    """
    return x @ _join(kernels, x)


def _join(kernels: Sequence[Array], x: Array) -> Float[Array, "inputs outputs"]:
    rounded = [kernel.astype(x.dtype) for kernel in kernels]
    return rounded[0] if len(rounded) == 1 else jnp.concatenate(rounded, axis=1)


def _starts(kernels: Sequence[Array]) -> list[int]:
    """Returns the columns at which the outputs of all kernels but the first begin."""
    return list(itertools.accumulate(kernel.shape[1] for kernel in kernels))[:-1]


def _project_forward(x, *kernels):
    return project(x, *kernels), (x, kernels)


def _project_backward(kept, slope):
    x, kernels = kept
    x_slope = slope @ _join(kernels, x).T
    rows, slopes = (array.reshape(-1, array.shape[-1]) for array in (x, slope))
    kernels_slope = jnp.matmul(rows.T, slopes, preferred_element_type=kernels[0].dtype)
    return x_slope, *jnp.split(kernels_slope, _starts(kernels), axis=1)


project.defvjp(_project_forward, _project_backward)


def apply_all(
    layers: Sequence[Linear], x: Float[Array, "batch tokens dim"], is_joined: bool
) -> list[Float[Array, "batch tokens _"]]:
    """Applies projections that read the same.

    Args:
        layers: The projections.
        x: What they read.
        is_joined: Whether to do so by one product, in half precision and without biases.
    """
    has_bias = any(layer.bias is not None for layer in layers)
    if not is_joined or has_bias or not is_half(layers[0].dtype):
        return [apply_flat(layer, x) for layer in layers]
    kernels = [layer.kernel[...] for layer in layers]
    y = project(x.astype(layers[0].dtype), *kernels)
    return jnp.split(y, _starts(kernels), axis=-1)


def dense(
    config: ModelConfig,
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    use_bias: bool,
    kernel_init: nnx.Initializer = XAVIER,
) -> "Linear":
    """Builds a projection, by default with Xavier-uniform weights."""
    return Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=config.dtype,
        rngs=rngs,
    )


def norm(config: ModelConfig, dim: int, rngs: nnx.Rngs) -> RMSNorm | LayerNorm:
    """Builds the normalisation; statistics are taken in float32."""
    dtype = config.dtype
    if config.norm == "rmsnorm":
        return RMSNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
    return LayerNorm(dim, epsilon=1e-6, use_bias=config.published.norm_bias, dtype=dtype, rngs=rngs)


def apply_flat(layer: Callable, x: Float[Array, "batch tokens dim"]) -> Float[Array, "..."]:
    """Applies a layer to tokens as rows: XLA's backward pass on the CPU is slow in 3-D.

    In half precision they stay as they are, so that layers that read the same keep it once.
    """
    if is_half(x.dtype):
        return layer(x)
    rows = layer(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])

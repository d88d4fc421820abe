"""Linear projections and norms, and how they are applied to tokens."""

from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, Float

from fourm.model.config import ModelConfig

XAVIER = nnx.initializers.xavier_uniform()


def dense(
    config: ModelConfig,
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    use_bias: bool,
    kernel_init: nnx.Initializer = XAVIER,
) -> nnx.Linear:
    """Builds a projection, by default with Xavier-uniform weights."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=config.dtype,
        rngs=rngs,
    )


def norm(config: ModelConfig, dim: int, rngs: nnx.Rngs) -> nnx.RMSNorm | nnx.LayerNorm:
    """Builds the normalisation; statistics are taken in float32."""
    dtype = config.dtype
    if config.norm == "rmsnorm":
        return nnx.RMSNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(
        dim, epsilon=1e-6, use_bias=config.published.norm_bias, dtype=dtype, rngs=rngs
    )


def apply_flat(layer: Callable, x: Float[Array, "batch tokens dim"]) -> Float[Array, "..."]:
    """Applies a layer to tokens as rows: XLA's backward pass on the CPU is slow in 3-D."""
    rows = layer(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])

"""The position-wise network of a block, and the gate of a gated one."""

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from fourm.model.config import ACTIVATIONS, ModelConfig
from fourm.model.norms import is_half
from fourm.model.projections import apply_all, apply_flat, dense


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gate(
    activate: Callable[[Array], Array],
    gates: Float[Array, "*rows hidden"],
    values: Float[Array, "*rows hidden"],
) -> Float[Array, "*rows hidden"]:
    """Returns `activate(gates) * values` (Shazeer 2020).

    The backward pass keeps both arguments and nothing else. What follows from them is computed
    again, for each of its two results: on a CPU that costs less than to write and read it.
    """
    return activate(gates) * values


def _forward(activate, gates, values):
    return gate(activate, gates, values), (gates, values)


def _backward(activate, kept, slope):
    gates, values = kept
    # XLA takes what goes through a barrier for something else, and so computes it again.
    gates_again, slope_again = jax.lax.optimization_barrier((gates, slope))
    values_slope = slope_again * activate(gates_again)
    gates, values, slope = jax.lax.optimization_barrier((gates, values, slope))
    _, pull_back = jax.vjp(activate, gates)
    return *pull_back(slope * values), values_slope


gate.defvjp(_forward, _backward)


def _close(activate, graph, state, gates, values):
    return nnx.merge(graph, state)(gate(activate, gates, values))


class Mlp(nnx.Module):
    """The position-wise network of a block."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        hidden, bias = config.mlp_hidden, config.published.mlp_bias
        self.activation, self.is_joined = config.activation, config.joined_products
        self.gate = dense(config, config.dim, hidden, rngs, bias) if config.is_gated else None
        self.up = dense(config, config.dim, hidden, rngs, bias)
        self.down = dense(config, hidden, config.dim, rngs, bias)

    def __call__(self, x: Float[Array, "batch t dim"]) -> Float[Array, "batch t dim"]:
        activate, _ = ACTIVATIONS[self.activation]

        def network(rows: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
            if self.gate is not None:
                if is_half(rows.dtype):  # The gated values are computed again, too.
                    gates, values = apply_all([self.gate, self.up], rows, self.is_joined)
                    down = nnx.split(self.down)
                    return jax.checkpoint(partial(_close, activate))(*down, gates, values)
                return self.down(gate(activate, self.gate(rows), self.up(rows)))
            return self.down(activate(self.up(rows)))

        return apply_flat(network, x)

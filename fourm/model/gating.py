"""The gate of a gated MLP."""

from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gate(
    activate: Callable[[Array], Array],
    gates: Float[Array, "rows hidden"],
    values: Float[Array, "rows hidden"],
) -> Float[Array, "rows hidden"]:
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

"""A stack of layers of one kind."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from fourm.model.config import ModelConfig


class Stack(nnx.Module):
    """Layers of one kind with stacked parameters, scanned or unrolled by one switch.

    Parameters are stacked [layers, ...] either way, so that a checkpoint serves both.
    """

    def __init__(self, block: type[nnx.Module], num_layers: int, config: ModelConfig, rngs):
        @nnx.split_rngs(splits=num_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs: nnx.Rngs) -> nnx.Module:
            return block(config, rngs)

        self.layers = create(rngs)
        self.unroll = 1 if config.scan_layers else num_layers
        self.remat = config.remat

    def __call__(self, x: Float[Array, "batch t dim"], *context: Array) -> Float[Array, "..."]:
        return self.scan(lambda layer, x, _: (layer(x, *context), None), x)[0]

    def scan(
        self,
        apply_layer: Callable[[nnx.Module, Any, Any], tuple[Any, Any]],
        carry: PyTree,
        per_layer: PyTree = None,
    ) -> tuple[PyTree, PyTree]:
        """Carries a value through the layers, each with its share of `per_layer`.

        Returns:
            The last carry, and what the layers return beside it, stacked.
        """
        graph, stacked = nnx.split(self.layers)

        def body(carry, layer_and_share):
            layer, share = layer_and_share
            return apply_layer(nnx.merge(graph, layer), carry, share)

        if self.remat == "none":
            return jax.lax.scan(body, carry, (stacked, per_layer), unroll=self.unroll)
        body = jax.checkpoint(body)
        if self.remat == "blocks":
            return jax.lax.scan(body, carry, (stacked, per_layer), unroll=self.unroll)
        return scan_in_groups(body, carry, (stacked, per_layer), self.unroll)


def scan_in_groups(
    body: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    layers: PyTree,
    unroll: int,
) -> tuple[PyTree, PyTree]:
    """Scans over layers, keeping for the backward pass what goes into every group of them.

    With groups of about the square root of their number, what is kept and what is computed again
    at a time are about as large (Chen et al. 2016, section 4.1).
    """
    count = len(jax.tree.leaves(layers)[0])
    size = next(n for n in range(1, count + 1) if count % n == 0 and n * n >= count)
    groups = jax.tree.map(lambda x: x.reshape(count // size, size, *x.shape[1:]), layers)
    carry, made = jax.lax.scan(
        jax.checkpoint(lambda carry, group: jax.lax.scan(body, carry, group, unroll=unroll)),
        carry,
        groups,
        unroll=min(unroll, count // size),
    )
    return carry, jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), made)

"""Updates of whole matrices, as Muon makes them, where every device stores a part of each.

XLA's partitioner would gather every matrix anew for each product of the update, all layers at
once. Here each device is handed the whole matrices of some layers, updates these, and hands back
their parts: one exchange each way, and the devices share the arithmetic.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from fourm.devices.layout import Layout
from fourm.devices.partition import AXES, names_in


def update_whole_matrices(
    optimizer: optax.GradientTransformation, layout: Layout
) -> optax.GradientTransformation:
    """Lets an optimizer of matrices [rows, columns] or [layers, rows, columns] see them whole.

    Args:
        optimizer: Updates each layer's matrix by itself. Its state has arrays of the parameters'
            names and shapes, and arrays without two axes.
        layout: Where parameters, gradients and state lie.
    """
    if not layout.is_split:
        return optimizer
    sizes = dict(layout.mesh.shape)

    def update(gradient: PyTree, state: PyTree, params: PyTree):
        given = gradient, state, params
        specs = jax.tree_util.tree_map_with_path(layout.spec, given)

        def update_some(*parts: PyTree) -> tuple[PyTree, PyTree]:
            updated = optimizer.update(*jax.tree.map(partial(gather_layers, sizes), parts, specs))
            return jax.tree.map(partial(scatter_layers, sizes), updated, specs[:2], parts[:2])

        return jax.shard_map(
            update_some, mesh=layout.mesh, in_specs=specs, out_specs=specs[:2], check_vma=False
        )(*given)

    return optax.GradientTransformation(optimizer.init, update)


def gather_layers(sizes: dict[str, int], part: Array, spec: P) -> Array:
    """Returns whole matrices of some layers, for parts of the matrices of all.

    Layers are filled up with zeros to a multiple of the number of devices.

    Args:
        sizes: Devices along each axis of the mesh.
        part: What this device has of [rows, columns] or [layers, rows, columns].
        spec: Where the parts lie; devices that it does not tell apart have the same.
    """
    if part.ndim < 2:
        return part
    split, alike = axes_of(spec, part.ndim, sizes)
    stack = part.reshape(-1, *part.shape[-2:])
    missing = -len(stack) % math.prod(sizes.values())
    stack = jnp.pad(stack, ((0, missing), (0, 0), (0, 0)))
    for name in alike:
        count = len(stack) // sizes[name]
        stack = jax.lax.dynamic_slice_in_dim(stack, jax.lax.axis_index(name) * count, count)
    for axis, name in split:
        stack = jax.lax.all_to_all(stack, name, 0, axis, tiled=True)
    return stack


def scatter_layers(sizes: dict[str, int], stack: Array, spec: P, part: Array) -> Array:
    """Undoes `gather_layers`; the result has the shape of `part`."""
    if part.ndim < 2:
        return stack
    split, alike = axes_of(spec, part.ndim, sizes)
    for axis, name in reversed(split):
        stack = jax.lax.all_to_all(stack, name, axis, 0, tiled=True)
    for name in reversed(alike):
        stack = jax.lax.all_gather(stack, name, axis=0, tiled=True)
    return stack[: math.prod(part.shape[:-2])].reshape(part.shape)


def axes_of(spec: P, ndim: int, sizes: dict[str, int]) -> tuple[list[tuple[int, str]], list[str]]:
    """Returns which axes of a stack of matrices are split over which of the mesh, and the others.

    Of several over which one is split, the innermost is first.

    Example:
        >>> axes_of(P(("fsdp", "tensor"), None), 2, {"data": 2, "fsdp": 4, "tensor": 2})
        ([(1, 'tensor'), (1, 'fsdp')], ['data'])
    """
    split = [
        (axis + 3 - ndim, name)
        for axis, entry in enumerate(spec)
        for name in reversed(names_in(entry))
        if sizes[name] > 1
    ]
    used = [name for _, name in split]
    return split, [name for name in AXES if sizes[name] > 1 and name not in used]

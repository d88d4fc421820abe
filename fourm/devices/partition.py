"""Over which axes of the mesh an array is split, from its own name and shape alone."""

import math
from typing import Any

from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")

OUTPUT_TABLE = "output_table"

# The axis, from the end, that tensor parallelism splits: heads and hidden units are columns of what
# makes them and rows of what reads them; the vocabulary is the rows of a table.
TENSOR_AXES = {
    "query.kernel": -1,
    "key.kernel": -1,
    "value.kernel": -1,
    "out.kernel": -2,
    "gate.kernel": -1,
    "up.kernel": -1,
    "down.kernel": -2,
    "input_table": -2,
    "previous_table": -2,
    OUTPUT_TABLE: -2,
}
STACKED = "layers"
"""Whose arrays have an axis of layers in front, over which they are scanned: never split."""


def name_of(key: Any) -> str:
    """Returns the name that an entry of a path in a tree stands for."""
    return str(getattr(key, "key", getattr(key, "name", key)))


def partition(path: tuple, shape: tuple[int, ...], fsdp: int, tensor: int) -> P:
    """Says over which axes of the mesh an array is split, from its name and shape.

    1. What has no two axes beside that of stacked layers (norms, biases, counters) is whole
       everywhere. The axis of layers is never split.
    2. Heads, hidden units and vocabulary are split over `tensor`: columns of query, key, value,
       gate and up; rows of out, down and the token tables.
    3. The longest other axis that `fsdp` divides is split over `fsdp`; of equals the first.
    4. Where 2 names no axis, or one that `tensor` does not divide, the longest axis that
       `fsdp * tensor` divides is split over both; nothing is padded.
    5. What no axis fits is whole everywhere.

    Optimizer state has the names and shapes of the parameters that it belongs to, so the same
    rule puts it beside them.

    Example:
        >>> from jax.tree_util import DictKey
        >>> partition((DictKey("layers"), DictKey("up"), DictKey("kernel")), (24, 64, 256), 4, 2)
        P(None, 'fsdp', 'tensor')
    """
    names = [name_of(key) for key in path]
    first = 1 if STACKED in names else 0
    if len(shape) - first < 2:
        return P()
    entries: list[Any] = [None] * len(shape)
    free = sorted(range(first, len(shape)), key=lambda axis: -shape[axis])
    own = tensor_axis(names, shape, tensor)
    if own is not None:
        entries[own] = "tensor"
        free.remove(own)
    wanted = [("fsdp",)] if own is not None or tensor == 1 else [("fsdp", "tensor"), ("fsdp",)]
    sizes = {"fsdp": fsdp, "tensor": tensor}
    for axes in wanted:
        count = math.prod(sizes[axis] for axis in axes)
        axis = next((axis for axis in free if shape[axis] % count == 0), None)
        if axis is not None:
            entries[axis] = axes if len(axes) > 1 else axes[0]
            break
    return P(*entries)


def tensor_axis(names: list[str], shape: tuple[int, ...], tensor: int) -> int | None:
    """Returns the axis that tensor parallelism splits, if there is one and it can be split."""
    own = TENSOR_AXES.get(".".join(names[-2:]), TENSOR_AXES.get(names[-1]))
    if own is None or tensor == 1 or shape[own] % tensor:
        return None
    return own % len(shape)


def keep_axes(spec: P, kept: str) -> P:
    """Returns what a placement says of one axis of the mesh.

    Example:
        >>> keep_axes(P(None, ("fsdp", "tensor")), "fsdp")
        P(None, 'fsdp')
    """
    return P(*[kept if kept in names_in(entry) else None for entry in spec])


def names_in(entry: Any) -> tuple[str, ...]:
    """Returns the axes of the mesh over which one axis of an array is split, outermost first."""
    return entry if isinstance(entry, tuple) else (entry,) if entry else ()

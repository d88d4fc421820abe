"""Positions of tokens within their modality."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fourm.token_space import MASK_ID, Inputs, TokenRange, TokenSpace


def sincos_positions(entry: TokenRange, dim: int) -> Float[Array, "positions {dim}"]:
    """Builds fixed positions of one modality, row-major: sines and cosines of each coordinate.

    Grids halve the width between row and column (four blocks: sin row, cos row, sin column,
    cos column, wavelengths up to 10000); sequences use it for one coordinate.
    """

    def encode(coordinate: Float[Array, "positions"], width: int) -> Float[Array, "positions _"]:
        frequencies = 10000.0 ** (-jnp.arange(width // 2) / (width // 2))
        angles = jnp.outer(coordinate, frequencies)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)

    place = jnp.arange(entry.num_positions)
    if len(entry.token_shape) == 2:
        width = entry.token_shape[1]
        rows, columns = (place // width).astype(jnp.float32), (place % width).astype(jnp.float32)
        return jnp.concatenate([encode(rows, dim // 2), encode(columns, dim // 2)], axis=1)
    return encode(place.astype(jnp.float32), dim)


def find_rows(space: TokenSpace, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns, per named modality, first row and number of rows in a table of their positions."""
    rows, first = {}, 0
    for name in names:
        rows[name] = (first, space[name].num_positions)
        first += space[name].num_positions
    return rows


def rows_of_positions(space: TokenSpace, names: Sequence[str]) -> Int[np.ndarray, "positions"]:
    """Returns the row that each position of the space has in a table of those of the named
    modalities alone; -1 where it has none."""
    found = np.full(space.num_positions, -1, np.int32)
    for name, (first, count) in find_rows(space, names).items():
        start = space[name].first_position
        found[start : start + count] = np.arange(first, first + count)
    return found


def cells_of(space: TokenSpace) -> Float[np.ndarray, "positions 4"]:
    """Returns what part of the picture every position stands for: top, bottom, left, right.

    As fractions of height and width, the same for grids of any size; all zero for positions that
    have no place in the picture, such as those of texts.
    """
    cells = np.zeros((space.num_positions, 4), np.float32)
    for entry in space.ranges:
        if len(entry.token_shape) == 2:
            height, width = entry.token_shape
            row, column = np.divmod(np.arange(entry.num_tokens), width)
            edges = row / height, (row + 1) / height, column / width, (column + 1) / width
            cells[entry.first_position :][: entry.num_tokens] = np.stack(edges, axis=1)
    return cells


def has_cells_of_different_size(space: TokenSpace) -> bool:
    """Tells whether cells of two grids can share a place without being the same."""
    return len({entry.token_shape for entry in space.ranges if len(entry.token_shape) == 2}) > 1


def shares_of_cells(
    own: Float[Array, "batch t 4"], others: Float[Array, "batch s 4"]
) -> Float[Array, "batch t s"]:
    """Returns the area that each cell has in common with those of others.

    Args:
        own: Cells that are filled, as those of `cells_of`.
        others: Cells that fill them.
    """
    own, others = own[:, :, None], others[:, None]

    def length(start: int, end: int) -> Float[Array, "batch t s"]:
        ends = jnp.minimum(own[..., end], others[..., end])
        return jnp.maximum(ends - jnp.maximum(own[..., start], others[..., start]), 0.0)

    return length(0, 1) * length(2, 3)


def offsets_of_cells(
    own: Float[Array, "batch t 4"], others: Float[Array, "batch s 4"]
) -> tuple[Float[Array, "batch t s"], Float[Array, "batch t s"]]:
    """Returns how far down and right of the middle of others' cells each cell lies.

    In quarters of the longer of both sides: 1 or -1 for halves of a cell, 0 for the whole of it.
    """
    own, others = own[:, :, None], others[:, None]

    def offset(start: int, end: int) -> Float[Array, "batch t s"]:
        longer = jnp.maximum(own[..., end] - own[..., start], others[..., end] - others[..., start])
        between = own[..., start] + own[..., end] - others[..., start] - others[..., end]
        return 2 * between / jnp.maximum(longer, 1e-6)

    return offset(0, 1), offset(2, 3)


def has_boxes(space: TokenSpace) -> bool:
    """Tells whether a modality writes boxes, and another has cells that lie in them."""
    return any(entry.box_starts for entry in space.ranges) and any(
        len(entry.token_shape) == 2 for entry in space.ranges
    )


def cells_of_boxes(space: TokenSpace, inputs: Inputs) -> Float[Array, "batch inputs 4"]:
    """Returns what part of the picture the box takes of which each input is the last token.

    As `cells_of` does: top, bottom, left, right; all zero for other inputs, and for boxes of which
    a token is hidden.
    """
    part = np.full(space.vocab_size, -1, np.int32)
    edge = np.zeros(space.vocab_size, np.float32)
    for entry in space.ranges:
        starts = entry.box_starts
        for number, (start, end) in enumerate(itertools.pairwise((*starts, entry.vocab_size))):
            rows = slice(entry.first_id + start, entry.first_id + end)
            # Five parts of each modality that has boxes, so that those of two never make one.
            part[rows] = 5 * entry.index + number
            edge[rows] = np.linspace(0.0, 1.0, end - start) if number < 4 else 0.0
    ids = jnp.where(inputs.is_real, inputs.ids, MASK_ID)

    def before(count: int) -> Int[Array, "batch inputs"]:
        return jnp.pad(ids, ((0, 0), (count, 0)), constant_values=MASK_ID)[:, : ids.shape[1]]

    last = jnp.asarray(part)[ids]
    is_box = (last >= 0) & (last % 5 == 4)
    edges = []
    for count in (4, 3, 2, 1):
        is_box = is_box & (jnp.asarray(part)[before(count)] == last - count)
        edges.append(jnp.asarray(edge)[before(count)])
    left, top, right, bottom = edges
    cells = jnp.minimum(top, bottom), jnp.maximum(top, bottom)
    cells += jnp.minimum(left, right), jnp.maximum(left, right)
    return jnp.where(is_box[..., None], jnp.stack(cells, axis=-1), 0.0)

"""Positions of tokens within their modality."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from fourm.token_space import TokenRange, TokenSpace


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

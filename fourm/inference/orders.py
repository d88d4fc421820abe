"""In which order the tokens of a grid are fixed, where that does not depend on what is drawn."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fourm.inference.settings import GenerationConfig

BASES = (2, 3, 5, 7)
"""Of the axes of a grid; without a common divisor, so that their points fill it."""
MOST_POINTS = 64
"""Points of the sequence per cell; cells that none has met then follow in reading order."""


def draw_order(
    keys: Key[Array, "batch"], config: GenerationConfig, shape: tuple[int, ...]
) -> Float[Array, "batch tokens"] | None:
    """Returns how early each token of a grid is fixed, the largest first.

    None if that depends on what is drawn.

    Args:
        keys: One per sample.
        config: How to generate.
        shape: Of the grid.
    """
    tokens = math.prod(shape)
    order_keys = jax.vmap(lambda key: jax.random.fold_in(key, config.num_steps))
    match config.scheme:
        case "random":
            return jax.vmap(lambda key: jax.random.uniform(key, (tokens,)))(order_keys(keys))
        case "halton":
            # Any part of the sequence is as even as its beginning, so samples may differ.
            start = jax.vmap(lambda key: jax.random.randint(key, (), 0, tokens))(order_keys(keys))
            rank = jnp.asarray(np.argsort(halton_order(shape)))
            return -((rank[None] - start[:, None]) % tokens).astype(jnp.float32)
        case "autoregressive":
            reading = -jnp.arange(tokens, dtype=jnp.float32)
            return jnp.broadcast_to(reading, (len(keys), tokens))
    return None


@lru_cache(maxsize=64)
def halton_order(shape: tuple[int, ...]) -> Int[np.ndarray, "tokens"]:
    """Returns the cells of a grid in the order in which a Halton sequence meets them first.

    Every beginning of it is spread evenly, so that tokens fixed in one pass lie far from each
    other and depend on each other little (Besnier et al. 2025, arXiv:2503.17076, section 4).

    Args:
        shape: Cells along each axis, of any number of axes up to four.

    Example:
        >>> halton_order((2, 3)).tolist()
        [4, 2, 3, 1, 5, 0]
    """
    axes = [size for size in shape if size > 1]
    cells = math.prod(axes)
    met: dict[int, None] = {}
    for number in range(1, MOST_POINTS * cells + 1):
        cell = 0
        for size, base in zip(axes, BASES, strict=False):
            cell = cell * size + mirrored(number, base, size)
        met.setdefault(cell)
        if len(met) == cells:
            break
    return np.array([*met, *(cell for cell in range(cells) if cell not in met)], np.int32)


def mirrored(number: int, base: int, size: int) -> int:
    """Returns in which of `size` parts of [0, 1) a number lies, its digits mirrored at the point.

    Whole numbers throughout, so that nothing is rounded.
    """
    numerator, denominator = 0, 1
    while number:
        number, digit = divmod(number, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * size // denominator

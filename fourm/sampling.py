"""Draws tokens from logits, and orders them by confidence.

Every function takes one key per sample, so that what a sample draws does not depend on its
neighbours in the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Draw(NamedTuple):
    """Tokens drawn from a distribution.

    Attributes:
        ids: The tokens.
        confidence: Log-probability of each under `probabilities`.
        probabilities: What they were drawn from.
    """

    ids: Int[Array, "batch tokens"]
    confidence: Float[Array, "batch tokens"]
    probabilities: Float[Array, "batch tokens vocab"]


def keep_likeliest(
    logits: Float[Array, "batch tokens vocab"], top_k: int, top_p: float
) -> Float[Array, "batch tokens vocab"]:
    """Sets the logits of unlikely ids to -inf; the likeliest id is always kept.

    Args:
        logits: Before temperature.
        top_k: How many ids to keep; 0 keeps all.
        top_p: Keep the fewest ids that together have this probability among those that top_k
            kept (nucleus sampling, Holtzman et al. 2020); 1 keeps all.
    """
    if 0 < top_k < logits.shape[-1]:
        lowest = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    if top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        # The first id has nothing before it; with rounding, not even zero is certain.
        is_kept = (before <= top_p) | (jnp.arange(logits.shape[-1]) == 0)
        lowest = jnp.where(is_kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    return logits


def sample_tokens(
    keys: Key[Array, "batch"],
    logits: Float[Array, "batch tokens vocab"],
    temperature: float | Float[Array, "batch"] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Draw:
    """Draws one id per token.

    top_k and top_p act before the temperature, which may be one per sample if it is not 0. At
    temperature 0 the likeliest id is taken, and its confidence is its probability at temperature
    1, so that tokens can still be told apart.
    """
    logits = keep_likeliest(logits, top_k, top_p)
    if isinstance(temperature, jax.Array):
        temperature = temperature[:, None, None]
        probabilities = jax.nn.softmax(logits / temperature, axis=-1)
        ids = _invert(keys, probabilities)
    elif temperature == 0:
        probabilities = jax.nn.softmax(logits, axis=-1)
        ids = jnp.argmax(logits, axis=-1)
    else:
        probabilities = jax.nn.softmax(logits / temperature, axis=-1)
        ids = _invert(keys, probabilities)
    chosen = jnp.take_along_axis(probabilities, ids[..., None], axis=-1)[..., 0]
    return Draw(ids.astype(jnp.int32), jnp.log(chosen), probabilities)


def _invert(
    keys: Key[Array, "batch"], probabilities: Float[Array, "batch tokens vocab"]
) -> Int[Array, "batch tokens"]:
    """Draws by inverting the cumulative distribution: one random number per token, not per id."""
    tokens = probabilities.shape[1]
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (tokens,)))(keys)
    cumulative = jnp.cumsum(probabilities, axis=-1)
    total = cumulative[..., -1:]
    # Below the total whatever rounding does; thus an id of probability 0 is never drawn.
    level = jnp.minimum(uniform[..., None] * total, jnp.nextafter(total, 0.0))
    return jnp.sum(cumulative <= level, axis=-1)


def add_gumbel(
    keys: Key[Array, "batch"],
    confidence: Float[Array, "batch tokens"],
    scale: Float[Array, ""] | float,
) -> Float[Array, "batch tokens"]:
    """Adds scaled Gumbel noise, so that the best are a draw rather than a certainty.

    The n best of log-probabilities plus noise of scale 1 are n draws without replacement.
    """
    noise = jax.vmap(lambda key: jax.random.gumbel(key, confidence.shape[1:]))(keys)
    return confidence + scale * noise


def order_best(
    score: Float[Array, "batch tokens"], is_open: Bool[Array, "batch tokens"]
) -> Int[Array, "batch tokens"]:
    """Returns each sample's tokens, open ones of the highest score first.

    Equals are in reading order.
    """
    # Two keys, so that closed tokens come last whatever the scores are, -inf included.
    return jnp.lexsort((-score, ~is_open))


def choose_best(
    score: Float[Array, "batch tokens"],
    is_open: Bool[Array, "batch tokens"],
    count: Int[Array, "batch"],
) -> Bool[Array, "batch tokens"]:
    """Marks each sample's `count` open tokens of the highest score, or all if there are fewer.

    Among equals the first in reading order are chosen.
    """
    rank = jnp.argsort(order_best(score, is_open))
    return is_open & (rank < count[:, None])

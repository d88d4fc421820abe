"""Draws tokens from logits, and orders them by confidence.

Every function takes one key per sample, so that what a sample draws does not depend on its
neighbours in the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.inference.schedules import LEAST_TEMPERATURE

ROUNDING = 1e-6
"""Of sums of probabilities in float32."""


class Draw(NamedTuple):
    """Tokens drawn from a distribution.

    Attributes:
        ids: The tokens.
        confidence: Log-probability of each under `probabilities`.
        probabilities: What they were drawn from.
        is_finite: Whether logits were numbers; of others nothing can be drawn.
    """

    ids: Int[Array, "batch tokens"]
    confidence: Float[Array, "batch tokens"]
    probabilities: Float[Array, "batch tokens vocab"]
    is_finite: Bool[Array, "batch tokens"]


def keep_likeliest(
    logits: Float[Array, "batch tokens vocab"],
    top_k: int | Int[Array, ""],
    top_p: float | Float[Array, ""],
    most_k: int | None = None,
) -> Float[Array, "batch tokens vocab"]:
    """Sets the logits of unlikely ids to -inf; the likeliest id is always kept.

    Of ids that are equally likely, those of the smallest numbers are kept.

    Args:
        logits: Before temperature.
        top_k: How many ids to keep; 0 keeps all, an array of 0 does not.
        top_p: Keep the fewest ids whose probabilities, among those that top_k kept, reach this sum
            (nucleus sampling, Holtzman et al. 2020), up to rounding; 1 keeps all.
        most_k: The largest `top_k` if that is an array, 0 if there is none.
    """
    if isinstance(top_k, int):
        most_k = top_k if top_k < logits.shape[-1] else 0
    if most_k:
        best = jax.lax.top_k(logits, min(most_k, logits.shape[-1]))[0]
        lowest = jnp.take(best, jnp.asarray(top_k)[None] - 1, axis=-1, mode="clip")
        logits = _keep_from(logits, lowest, jnp.asarray(top_k))
    if isinstance(top_p, jax.Array) or top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        # The first id has nothing before it; with rounding, not even zero is certain.
        is_kept = (before < top_p - ROUNDING) | (jnp.arange(logits.shape[-1]) == 0)
        lowest = jnp.where(is_kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = _keep_from(logits, lowest, is_kept.sum(axis=-1, keepdims=True))
    return logits


def _keep_from(
    logits: Float[Array, "batch tokens vocab"],
    lowest: Float[Array, "batch tokens 1"],
    count: Int[Array, "..."],
) -> Float[Array, "batch tokens vocab"]:
    """Keeps the `count` largest logits, of which `lowest` is the least."""
    is_above, is_equal = logits > lowest, logits == lowest
    left = count - is_above.sum(axis=-1, keepdims=True)
    is_kept = is_above | (is_equal & (jnp.cumsum(is_equal, axis=-1) <= left))
    return jnp.where(is_kept, logits, -jnp.inf)


def sample_tokens(
    keys: Key[Array, "batch"],
    logits: Float[Array, "batch tokens vocab"],
    temperature: float | Float[Array, "batch"] | Float[Array, ""] = 1.0,
    top_k: int | Int[Array, ""] = 0,
    top_p: float | Float[Array, ""] = 1.0,
    most_k: int | None = None,
) -> Draw:
    """Draws one id per token.

    top_k and top_p (see `keep_likeliest`) act before the temperature. A temperature that is an
    array, of one number or one per sample, must be at least `LEAST_TEMPERATURE`; a number below it
    counts as 0, at which the likeliest id is taken, and its confidence is its probability at
    temperature 1, so that tokens can still be told apart.
    """
    kept = keep_likeliest(logits, top_k, top_p, most_k)
    if not isinstance(temperature, jax.Array) and temperature < LEAST_TEMPERATURE:
        probabilities = jax.nn.softmax(kept, axis=-1)
        ids = jnp.argmax(kept, axis=-1)
    else:
        divisor = temperature
        if isinstance(temperature, jax.Array) and temperature.ndim:
            divisor = temperature[:, None, None]
        probabilities = jax.nn.softmax(kept / divisor, axis=-1)
        ids = _invert(keys, probabilities)
    chosen = jnp.take_along_axis(probabilities, ids[..., None], axis=-1)[..., 0]
    confidence = jnp.log(chosen)
    # One logit that is not a number makes all probabilities NaN, unless it is not kept.
    is_finite = ~jnp.isnan(confidence)
    if kept is not logits:
        is_finite &= jnp.isfinite(logits.max(axis=-1))
    return Draw(ids.astype(jnp.int32), confidence, probabilities, is_finite)


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

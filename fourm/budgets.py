"""How many tokens each modality gives, when a total is handed out at random."""

import math
import sys

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

SMALLEST_LOG_GAMMA = math.log(sys.float_info.min)
LARGEST_SHARE = 1 - 2.0**-24


def draw_log_shares(
    key: Key[Array, ""], alphas: Float[Array, "*draws modalities"]
) -> Float[Array, "*draws modalities"]:
    """Draws Dirichlet shares as logarithms, up to a constant; -inf where alpha is 0.

    Logarithms, because at concentration 0.01 nearly all shares underflow otherwise. They are
    gammas before they are normalised, so that any subset of them is a Dirichlet draw too.
    """
    is_open = alphas > 0
    return jnp.where(is_open, jax.random.loggamma(key, jnp.where(is_open, alphas, 1.0)), -jnp.inf)


def split_budget(
    log_shares: Float[Array, "modalities"],
    capacity: Int[Array, "modalities"],
    total: Int[Array, ""],
) -> Int[Array, "modalities"]:
    """Decides how many of `total` tokens each modality gives.

    Where a share exceeds what the modality has, the excess goes to the others in proportion to
    their shares, so that the budgets add up to `total` or to all there is, whichever is less.

    Args:
        log_shares: As from `draw_log_shares`; -inf = nothing.
        capacity: Tokens that each modality has at most.
        total: Tokens to hand out.

    Returns:
        Tokens per modality, each at most its capacity.
    """
    is_open = (log_shares > -jnp.inf) & (capacity > 0)
    shares = jax.nn.softmax(jnp.where(is_open, log_shares, -jnp.inf), where=is_open)
    # Even the smallest share gets what the others have no room for.
    shares = jnp.where(is_open, jnp.maximum(shares, 1e-6), 0.0)
    return fill_in_proportion(shares, capacity, total)


def fill_in_proportion(
    shares: Float[Array, "modalities"],
    capacity: Int[Array, "modalities"],
    total: Int[Array, ""],
) -> Int[Array, "modalities"]:
    """Splits `total` in proportion to `shares`, none above its capacity, without remainder.

    Solves sum(min(capacity, level * shares)) = total for the level exactly, by walking the
    sorted levels at which modalities fill up, then rounds by largest remainder.
    """
    capacity = jnp.where(shares > 0, capacity, 0)
    total = jnp.minimum(total, capacity.sum())
    full_at = jnp.where(shares > 0, capacity / jnp.maximum(shares, 1e-12), jnp.inf)
    # Entry i: the level that spends `total` if just the modalities that fill up before i are full.
    is_full_before = full_at[None, :] < full_at[:, None]
    left = total - jnp.where(is_full_before, capacity, 0).sum(1)
    open_shares = jnp.where(is_full_before, 0.0, shares).sum(1)
    # Spending at a level is the least, over all sets of modalities taken as full, of what that
    # set would spend; so every set's level is a lower bound and the right one is the largest.
    levels = jnp.where(shares > 0, left / jnp.maximum(open_shares, 1e-12), 0.0)
    level = jnp.max(levels)
    exact = jnp.minimum(capacity.astype(jnp.float32), level * shares)
    budgets = jnp.minimum(jnp.floor(exact + 1e-3).astype(jnp.int32), capacity)
    rest = jnp.where(budgets < capacity, exact - budgets, -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-rest))
    return jnp.where((rank < total - budgets.sum()) & (budgets < capacity), budgets + 1, budgets)


def split_by_chance(
    key: Key[Array, ""], alphas: Float[Array, "modalities"], total: Int[Array, ""]
) -> Int[Array, "modalities"]:
    """Splits `total` as ml-4m does: shares rounded down, then what is left by further draws.

    Each token left over goes to the modality with the largest share in a Dirichlet draw of its
    own. Its shares are below 1: a modality that wins everything gets `total` - 1, and the last
    token, drawn anew, often lands on another one. Capacities are not looked at.
    """
    modalities = alphas.shape[0]
    # Rounding down leaves less than one token per modality.
    concentrations = jnp.broadcast_to(jnp.maximum(alphas, 1e-9), (modalities + 1, modalities))
    # There, gammas are float64, and none is smaller than the smallest number.
    gammas = jnp.maximum(jax.random.loggamma(key, concentrations), SMALLEST_LOG_GAMMA)
    shares = jnp.minimum(jax.nn.softmax(gammas), LARGEST_SHARE)
    budgets = jnp.floor(shares[0] * total).astype(jnp.int32)
    winners = jax.nn.one_hot(jnp.argmax(shares[1:], axis=1), modalities, dtype=jnp.int32)
    is_given = jnp.arange(modalities) < total - budgets.sum()
    return budgets + jnp.where(is_given[:, None], winners, 0).sum(0)

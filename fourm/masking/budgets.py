"""How many tokens each modality gives, when a total is handed out at random."""

import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

GAMMA_TRIES = 4
"""Of each gamma in one round. One try fails in less than 5% of cases; a batch hardly ever needs
another round."""
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
    return jnp.where(is_open, draw_log_gammas(key, jnp.where(is_open, alphas, 1.0)), -jnp.inf)


class _Gammas(NamedTuple):
    """What the rounds of tries have drawn so far."""

    rounds: Int[Array, ""]
    log_cubes: Float[Array, "*shape"]
    is_drawn: Bool[Array, "*shape"]


def draw_log_gammas(key: Key[Array, ""], alphas: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Draws logarithms of gammas of scale 1, whatever their shape parameters, all above 0.

    The method is that of Marsaglia and Tsang (2000, "A simple method for generating gamma
    variables"), section 8 for shape parameters below 1, with several tries at once:
    `jax.random.loggamma` loops over single tries with a key for each, which takes a third of the
    time of masking.
    """
    boost_key, tries_key = jax.random.split(key)
    # A gamma of alpha is one of alpha + 1, which the tries are for, times uniform ** (1 / alpha).
    boosts = jnp.log1p(-jax.random.uniform(boost_key, alphas.shape)) / alphas
    center = (alphas + 2 / 3)[None]
    scale = 1 / jnp.sqrt(9 * center)

    def try_again(state: _Gammas) -> _Gammas:
        normal_key, chance_key = jax.random.split(jax.random.fold_in(tries_key, state.rounds))
        shape = (GAMMA_TRIES, *alphas.shape)
        normal = jax.random.normal(normal_key, shape)
        log_chance = jnp.log1p(-jax.random.uniform(chance_key, shape))
        root = 1 + scale * normal
        log_cube = 3 * jnp.log(jnp.where(root > 0, root, 1.0))
        bound = normal**2 / 2 + center * (1 - root**3 + log_cube)
        is_good = (root > 0) & (log_chance < bound)
        first = jnp.argmax(is_good, axis=0)
        drawn = jnp.take_along_axis(log_cube, first[None], axis=0)[0]
        is_new = is_good.any(0) & ~state.is_drawn
        return _Gammas(
            state.rounds + 1,
            jnp.where(is_new, drawn, state.log_cubes),
            state.is_drawn | is_new,
        )

    start = _Gammas(jnp.int32(0), jnp.zeros_like(alphas), jnp.zeros(alphas.shape, bool))
    done = jax.lax.while_loop(lambda state: ~state.is_drawn.all(), try_again, start)
    return jnp.log(center[0]) + done.log_cubes + boosts


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
    gammas = jnp.maximum(draw_log_gammas(key, concentrations), SMALLEST_LOG_GAMMA)
    shares = jnp.minimum(jax.nn.softmax(gammas), LARGEST_SHARE)
    budgets = jnp.floor(shares[0] * total).astype(jnp.int32)
    winners = jax.nn.one_hot(jnp.argmax(shares[1:], axis=1), modalities, dtype=jnp.int32)
    is_given = jnp.arange(modalities) < total - budgets.sum()
    return budgets + jnp.where(is_given[:, None], winners, 0).sum(0)

"""Grids, completed in a few passes, each of which fixes some tokens for good.

Either it is known before a pass which tokens it fixes (in reading order, or a random one), and only
these are predicted; or all unknown tokens are predicted, and the surest of them are fixed (MaskGIT,
Chang et al. 2022, section 3.2).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.inference.conditions import (
    NEVER,
    Known,
    apply_guidance,
    draw,
    first_failure,
    gather_guided,
    gather_inputs,
    keep_real,
    step_keys,
    target_keys,
)
from fourm.inference.orders import draw_order
from fourm.inference.sampling import Draw, add_gumbel, choose_best, order_best
from fourm.inference.schedules import Passes, entropy_passes, group_passes, step_table
from fourm.inference.settings import GenerationConfig, Numbers
from fourm.inference.watching import tell
from fourm.token_space import MASK_ID, Targets, TokenRange
from tokenizers.base import PADDING

LARGE_GRID, MOST_GROUPS = 128, 3
"""Tokens of a grid from which on its passes are compiled for their own sizes, in so many groups:
time to compile for time to run."""


class GridState(NamedTuple):
    """What the passes over a grid carry.

    Attributes:
        ids: `PADDING` where still unknown.
        probabilities: What each token was drawn from, if they are wanted.
        failed: The first pass whose logits were not finite, or `NEVER`.
    """

    ids: Int[Array, "batch tokens"]
    probabilities: Float[Array, "batch tokens vocab"] | None
    failed: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def generate_grid(
    graph: nnx.GraphDef,
    state: nnx.State,
    known: Known,
    keys: Key[Array, "batch"],
    entry: TokenRange,
    config: GenerationConfig,
    numbers: Numbers,
    further: Sequence[Known] = (),
    listener: Int[Array | np.ndarray, ""] | None = None,
) -> tuple[Int[Array, "batch tokens"], Float[Array, "batch tokens vocab"] | None, Int[Array, ""]]:
    """Completes a grid in `config.num_steps` passes, see `GridState` for what is returned.

    `further` are conditions with weights of their own, see `apply_guidance`; `listener` is told of
    every pass, see `listening`.
    """
    model = nnx.merge(graph, state)
    keys = target_keys(keys, entry)
    batch, tokens = len(keys), entry.num_tokens
    given = known.get(entry.name, jnp.full((batch, tokens), PADDING, jnp.int32))
    # A single pass over a grid of which nothing is given never reads any of its tokens.
    reads_target = config.num_steps > 1 or entry.name in known or not (known or further)
    unknown = (given == PADDING).sum(axis=1)
    table = step_table(config.schedule, config.num_steps, tokens)
    counts = jnp.asarray(table)[unknown]
    temperatures = None if numbers.temperatures is None else numbers.temperatures[unknown]
    order = draw_order(keys, config, entry.token_shape)
    if order is not None:
        order = order_best(order, given == PADDING)
    own_names = (entry.name, entry.features_name)
    conditions = {name: given for name, given in known.items() if name not in own_names}
    weighs = config.guidance != 1 or len(further) > 0
    by_entropy = config.entropy_bound > 0
    most_passes = min(config.num_steps, tokens)  # Later ones have nothing to do.

    def run_pass(
        ids: Int[Array, "batch tokens"],
        place: Int[Array, "batch asked"],
        is_asked: Bool[Array, "batch asked"],
        passes: Passes,
    ) -> Float[Array, "batch asked vocab"]:
        own = None
        if reads_target:
            own = gather_inputs(model.space, {entry.name: ids})
            own = keep_real(own, max(passes.most_known, 1))
        to_read = model.space, conditions, further, entry, own, passes.is_guided
        inputs = gather_guided(*to_read)
        targets = ask_grid(entry, place, is_asked)
        copies = len(inputs.is_real) // batch
        targets = jax.tree.map(lambda array: jnp.concatenate([array] * copies), targets)
        context = model.build_context(model.encode(inputs), inputs)
        features = model.decode(targets, context, inputs)
        logits = model.logits(features, entry)
        if not passes.is_guided:
            return logits
        return apply_guidance(logits, numbers.guidance, numbers.weights, len(conditions) > 0)

    def step(passes: Passes, i: Int[Array, ""], carry: GridState) -> GridState:
        draw_keys, choice_keys = step_keys(keys, i)
        own_temperatures = None if temperatures is None else temperatures[:, i]
        if order is None:
            place, is_asked = open_places(carry.ids, passes.most_unknown)
        else:
            place, is_asked = places_of_pass(order, counts, i, passes.most_fixed)
        logits = run_pass(carry.ids, place, is_asked, passes)
        drawn = draw(draw_keys, logits, config, numbers, own_temperatures)
        is_chosen = is_asked
        if by_entropy:
            is_last = i + 1 == config.num_steps
            bound = jnp.where(is_last, jnp.inf, numbers.entropy_bound)
            is_chosen = choose_by_entropy(drawn, is_asked, bound)
        elif order is None:
            noise = None
            if config.choice_noise > 0:
                noise = numbers.choice_noise * (1 - (i + 1) / most_passes)
            is_chosen = choose_surest(choice_keys, drawn, is_asked, counts[:, i], noise)
        at = (jnp.arange(batch)[:, None], jnp.where(is_chosen, place, tokens))
        probabilities = carry.probabilities
        if probabilities is not None:
            probabilities = probabilities.at[at].set(drawn.probabilities, mode="drop")
        failed = first_failure(carry.failed, i, drawn.is_finite, is_chosen)
        ids = carry.ids.at[at].set(drawn.ids, mode="drop")
        tell(listener, i + 1, ids)
        return GridState(ids, probabilities, failed)

    given_as_codes = None
    if config.decode == "expected":
        given_as_codes = jax.nn.one_hot(given, entry.vocab_size)
    carry = GridState(given, given_as_codes, jnp.int32(NEVER))
    num_passes = (counts > 0).sum(axis=1).max()
    num_groups = MOST_GROUPS if tokens >= LARGE_GRID else 1
    guided = guided_passes(config.guidance_interval, most_passes) if weighs else range(0)
    if by_entropy:
        for passes in entropy_passes(config.num_steps, tokens, guided):
            carry = run_until_known(functools.partial(step, passes), carry, passes)
        return tuple(carry)
    is_given = entry.name in known
    to_do = config.schedule, config.num_steps, tokens, num_groups, is_given, guided
    for passes in group_passes(*to_do):
        one_pass = functools.partial(step, passes)
        end = jnp.minimum(passes.end, num_passes)
        carry = jax.lax.fori_loop(passes.start, end, one_pass, carry)
    return tuple(carry)


def guided_passes(interval: tuple[float, float], num_passes: int) -> range:
    """Returns the passes in which conditions are weighted, of so many."""
    low, high = (round(share * num_passes) for share in interval)
    return range(low, high)


def run_until_known(
    step: Callable[[Int[Array, ""], GridState], GridState], carry: GridState, passes: Passes
) -> GridState:
    """Runs passes until no token is unknown in any sample."""

    def goes_on(state: tuple[Int[Array, ""], GridState]) -> Bool[Array, ""]:
        number, carry = state
        return (number < passes.end) & (carry.ids == PADDING).any()

    def run_one(state: tuple[Int[Array, ""], GridState]) -> tuple[Int[Array, ""], GridState]:
        number, carry = state
        return number + 1, step(number, carry)

    return jax.lax.while_loop(goes_on, run_one, (jnp.int32(passes.start), carry))[1]


def places_of_pass(
    order: Int[Array, "batch tokens"],
    counts: Int[Array, "batch steps"],
    step: Int[Array, ""],
    most_fixed: int,
) -> tuple[Int[Array, "batch asked"], Bool[Array, "batch asked"]]:
    """Returns the places that a pass fixes, `most_fixed` slots, and which slots are taken."""
    number = jnp.arange(most_fixed)[None]
    is_before = jnp.arange(counts.shape[1]) < step
    done = jnp.where(is_before, counts, 0).sum(1, keepdims=True)
    place = jnp.take_along_axis(order, jnp.minimum(done + number, order.shape[1] - 1), axis=1)
    return place, number < counts[:, step, None]


def open_places(
    ids: Int[Array, "batch tokens"], most_unknown: int
) -> tuple[Int[Array, "batch asked"], Bool[Array, "batch asked"]]:
    """Returns the places that are unknown, in `most_unknown` slots, and which slots are taken."""
    is_open = ids == PADDING
    place = order_best(jnp.zeros(ids.shape), is_open)[:, :most_unknown]
    return place, jnp.take_along_axis(is_open, place, axis=1)


def choose_surest(
    keys: Key[Array, "batch"],
    drawn: Draw,
    is_open: Bool[Array, "batch asked"],
    counts: Int[Array, "batch"],
    noise: Float[Array, ""] | None,
) -> Bool[Array, "batch asked"]:
    """Chooses, after a pass, the drawn tokens that the model is surest of, `counts` per sample."""
    score = drawn.confidence if noise is None else add_gumbel(keys, drawn.confidence, noise)
    return choose_best(score, is_open, counts)


def choose_by_entropy(
    drawn: Draw, is_open: Bool[Array, "batch asked"], bound: Float[Array, ""]
) -> Bool[Array, "batch asked"]:
    """Chooses the drawn tokens of the least entropy: as many as keep the error under a bound.

    Tokens of one pass are drawn independently. What that may cost is at most the sum of their
    entropies but for the largest (Ben-Hamu et al. 2025, arXiv:2505.24857, section 3.2). At least
    one token is chosen in every sample that has an open one.

    Args:
        drawn: Of the pass.
        is_open: Which of its tokens are still unknown.
        bound: In nats.
    """
    p = drawn.probabilities
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)
    order = order_best(-entropy, is_open)
    ordered = jnp.take_along_axis(jnp.where(is_open, entropy, 0.0), order, axis=1)
    before = jnp.cumsum(ordered, axis=1) - ordered
    # The first is chosen whatever rounding does.
    is_within = (before <= bound) | (jnp.arange(order.shape[1]) == 0)
    rank = jnp.argsort(order)
    return is_open & jnp.take_along_axis(is_within, rank, axis=1)


def ask_grid(
    entry: TokenRange, place: Int[Array, "batch asked"], is_asked: Bool[Array, "batch asked"]
) -> Targets:
    """Returns decoder queries for tokens of a grid, given their places in reading order."""
    mask = jnp.full(place.shape, MASK_ID, jnp.int32)
    return Targets(
        ids=mask,
        previous=mask,
        modality=jnp.full_like(mask, entry.index),
        position=place + entry.first_position,
        is_real=is_asked,
    )

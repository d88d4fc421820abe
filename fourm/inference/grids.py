"""Grids, completed in a few passes, each of which fixes some tokens for good.

Either it is known before a pass which tokens it fixes (in reading order, or a random one), and only
these are predicted; or all unknown tokens are predicted, and the surest of them are fixed (MaskGIT,
Chang et al. 2022, section 3.2).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.inference.conditions import (
    NEVER,
    Known,
    apply_guidance,
    draw,
    first_failure,
    gather_inputs,
    join_inputs,
    keep_real,
    step_keys,
    target_keys,
    with_unconditional,
)
from fourm.inference.sampling import Draw, add_gumbel, choose_best, order_best
from fourm.inference.schedules import Passes, group_passes, step_table
from fourm.inference.settings import GenerationConfig, Numbers
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
) -> tuple[Int[Array, "batch tokens"], Float[Array, "batch tokens vocab"] | None, Int[Array, ""]]:
    """Completes a grid in `config.num_steps` passes, see `GridState` for what is returned."""
    model = nnx.merge(graph, state)
    keys = target_keys(keys, entry)
    batch, tokens = len(keys), entry.num_tokens
    given = known.get(entry.name, jnp.full((batch, tokens), PADDING, jnp.int32))
    # A single pass over a grid of which nothing is given never reads any of its tokens.
    reads_target = config.num_steps > 1 or entry.name in known or not known
    unknown = (given == PADDING).sum(axis=1)
    table = step_table(config.schedule, config.num_steps, tokens)
    counts = jnp.asarray(table)[unknown]
    temperatures = None if numbers.temperatures is None else numbers.temperatures[unknown]
    order = draw_order(keys, config, tokens)
    if order is not None:
        order = order_best(order, given == PADDING)
    own_names = (entry.name, entry.features_name)
    conditions = {name: given for name, given in known.items() if name not in own_names}

    def run_pass(
        ids: Int[Array, "batch tokens"],
        place: Int[Array, "batch asked"],
        is_asked: Bool[Array, "batch asked"],
        most_known: int,
    ) -> Float[Array, "batch asked vocab"]:
        inputs = [gather_inputs(model.space, conditions)] if conditions else []
        if reads_target:
            own = gather_inputs(model.space, {entry.name: ids})
            inputs.append(keep_real(own, max(most_known, 1)))
        inputs = join_inputs(inputs)
        targets = ask_grid(entry, place, is_asked)
        if config.guidance != 1:
            inputs = with_unconditional(inputs, inputs.modality == entry.index)
            targets = jax.tree.map(lambda array: jnp.concatenate([array, array]), targets)
        context = model.build_context(model.encode(inputs), inputs)
        features = model.decode(targets, context, inputs)
        logits = model.logits(features, entry)
        return logits if config.guidance == 1 else apply_guidance(logits, numbers.guidance)

    def step(passes: Passes, i: Int[Array, ""], carry: GridState) -> GridState:
        draw_keys, choice_keys = step_keys(keys, i)
        own_temperatures = None if temperatures is None else temperatures[:, i]
        if order is None:
            place, is_asked = open_places(carry.ids, passes.most_unknown)
        else:
            place, is_asked = places_of_pass(order, counts, i, passes.most_fixed)
        logits = run_pass(carry.ids, place, is_asked, passes.most_known)
        drawn = draw(draw_keys, logits, config, numbers, own_temperatures)
        is_chosen = is_asked
        if order is None:
            noise = None
            if config.choice_noise > 0:
                noise = numbers.choice_noise * (1 - (i + 1) / config.num_steps)
            is_chosen = choose_surest(choice_keys, drawn, is_asked, counts[:, i], noise)
        at = (jnp.arange(batch)[:, None], jnp.where(is_chosen, place, tokens))
        probabilities = carry.probabilities
        if probabilities is not None:
            probabilities = probabilities.at[at].set(drawn.probabilities, mode="drop")
        failed = first_failure(carry.failed, i, drawn.is_finite, is_chosen)
        return GridState(carry.ids.at[at].set(drawn.ids, mode="drop"), probabilities, failed)

    given_as_codes = None
    if config.decode == "expected":
        given_as_codes = jax.nn.one_hot(given, entry.vocab_size)
    carry = GridState(given, given_as_codes, jnp.int32(NEVER))
    num_passes = (counts > 0).sum(axis=1).max()  # Later ones have nothing to do.
    num_groups = MOST_GROUPS if tokens >= LARGE_GRID else 1
    is_given = entry.name in known
    for passes in group_passes(config.schedule, config.num_steps, tokens, num_groups, is_given):
        one_pass = functools.partial(step, passes)
        end = jnp.minimum(passes.end, num_passes)
        carry = jax.lax.fori_loop(passes.start, end, one_pass, carry)
    return tuple(carry)


def draw_order(
    keys: Key[Array, "batch"], config: GenerationConfig, tokens: int
) -> Float[Array, "batch tokens"] | None:
    """Returns how early each token of a grid is fixed, the largest first.

    None if that depends on what is drawn.
    """
    match config.scheme:
        case "random":
            order_keys = jax.vmap(lambda key: jax.random.fold_in(key, config.num_steps))(keys)
            return jax.vmap(lambda key: jax.random.uniform(key, (tokens,)))(order_keys)
        case "autoregressive":
            reading = -jnp.arange(tokens, dtype=jnp.float32)
            return jnp.broadcast_to(reading, (len(keys), tokens))
    return None


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

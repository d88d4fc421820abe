"""Splits a sample by the rules of this library; `fourm.masking.ml4m` lists how others differ."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.masking.budgets import draw_log_shares, split_budget
from fourm.masking.mixture import (
    ComponentArrays,
    MaskingConfig,
    choose_between,
    choose_by_weight,
    choose_keep,
    tabulate,
)
from fourm.masking.packing import (
    Split,
    add_feature_positions,
    choose_shown_ids,
    gather_shown_features,
    is_predictable,
    split_modality,
)
from fourm.masking.spans import choose_window, corrupt_spans, is_split_by_spans, sentinels_of
from fourm.token_space import TokenSpace


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) for one sample, one for every decision but the shares.

    Drawn at once: a key for each of them takes several times as long to compile.
    """

    component: Float[Array, ""]
    num_inputs: Float[Array, ""]
    num_targets: Float[Array, ""]
    part: Float[Array, ""]
    keep: Float[Array, ""]
    windows: Float[Array, "modalities"]
    tokens: Float[Array, "positions"]


def draw_all(key: Key[Array, ""], space: TokenSpace) -> Draws:
    """Draws the numbers that decide on one sample."""
    modalities = len(space.ranges)
    numbers = jax.random.uniform(key, (5 + modalities + space.num_positions,))
    return Draws(*numbers[:5], numbers[5 : 5 + modalities], numbers[5 + modalities :])


def split_sample(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    features: dict[str, Float[Array, "_ _"]],
    space: TokenSpace,
    config: MaskingConfig,
) -> Split:
    """Splits one sample's tokens into inputs and targets; see `fourm.masking.mask`."""
    ids = add_feature_positions(ids, space)
    draws_key, shares_key = jax.random.split(key)
    draws = draw_all(draws_key, space)
    lengths = jnp.stack([num_real[name] for name in space.names]).astype(jnp.int32)
    is_sequence = jnp.array([is_split_by_spans(entry) for entry in space.ranges])
    component = choose_component(draws.component, lengths > 0, space, config)
    num_inputs = choose_between(draws.num_inputs, component.num_inputs)
    num_inputs = limit_inputs(draws.part, num_inputs, component, lengths)
    num_targets = choose_between(draws.num_targets, component.num_targets)
    keep = choose_keep(jnp.broadcast_to(draws.keep, component.keep.shape), component.keep)
    alphas = jnp.stack([component.inputs, component.inputs, component.targets])
    input_shares, freed_shares, target_shares = draw_log_shares(shares_key, alphas)

    budgets = split_budget(input_shares, lengths, num_inputs)
    corrupted = {}
    for entry in space.ranges:
        if is_split_by_spans(entry):
            first = entry.first_position
            corrupted[entry.name] = corrupt_spans(
                draws.tokens[first : first + entry.num_tokens],
                ids[entry.name],
                num_real[entry.name],
                budgets[entry.index],
                keep[entry.index],
                *sentinels_of(entry),
            )
    # What span corruption saves of its budget is given to the grids that are shown anyway.
    used = jnp.stack(
        [
            corrupted[entry.name].num_inputs if entry.name in corrupted else budgets[entry.index]
            for entry in space.ranges
        ]
    ).astype(jnp.int32)
    freed_shares = jnp.where(is_sequence | (budgets == 0), -jnp.inf, freed_shares)
    used = used + split_budget(freed_shares, lengths - used, num_inputs - used.sum())

    available = jnp.stack(
        [
            jnp.where(num_real[entry.name] > 0, corrupted[entry.name].num_targets - 1, 0)
            if entry.name in corrupted
            else lengths[entry.index] - used[entry.index]
            for entry in space.ranges
        ]
    ).astype(jnp.int32)
    asked = split_budget(target_shares, available, num_targets)

    split = Split([], [], {})
    for entry in space.ranges:
        asked_budget, spans = asked[entry.index], corrupted.get(entry.name)
        start = None
        if spans is not None:
            start = choose_window(draws.windows[entry.index], spans, asked_budget)
        shown, targets = split_modality(
            entry,
            ids[entry.name],
            draws.tokens,
            spans,
            start,
            used[entry.index],
            asked_budget,
            choose_shown_ids(ids, num_real, entry),
        )
        split.shown.append(shown)
        split.asked.append(targets)
        if entry.name in features:
            own = features[entry.name], num_real[entry.name]
            split.features[entry.name] = gather_shown_features(*own, spans)
    return split


def choose_component(
    draw: Float[Array, ""],
    is_present: Bool[Array, "modalities"],
    space: TokenSpace,
    config: MaskingConfig,
) -> ComponentArrays:
    """Picks a component, by weight, among those that have something to show and something to ask.

    If a sample lacks what every component needs, it is shown and asked what it has.
    """
    table = tabulate(space, config)
    readable = jnp.array([entry.is_input for entry in space.ranges])
    predictable = jnp.array([is_predictable(entry) for entry in space.ranges])
    table = table._replace(targets=jnp.where(predictable[None], table.targets, 0.0))
    weights = jnp.array([component.weight for component in config.components])
    is_shown, is_asked = table.inputs > 0, table.targets > 0
    is_feasible = (is_shown & is_present[None]).any(1) & (is_asked & is_present[None]).any(1)
    weights = jnp.where(is_feasible, weights, 0.0)
    is_possible = weights.sum() > 0
    chosen = choose_by_weight(draw, weights)
    component = jax.tree.map(lambda rows: rows[chosen], table)
    return component._replace(
        inputs=jnp.where(is_possible, component.inputs, readable.astype(jnp.float32)),
        targets=jnp.where(is_possible, component.targets, predictable.astype(jnp.float32)),
    )


def limit_inputs(
    draw: Float[Array, ""],
    num_inputs: Int[Array, ""],
    component: ComponentArrays,
    lengths: Int[Array, "modalities"],
) -> Int[Array, ""]:
    """Returns `num_inputs`, or less where showing so many would leave nothing to predict.

    That is the case for samples with few modalities. Of those a share is shown that is uniform
    between nothing and all but one token.
    """
    pool = jnp.where(component.inputs > 0, lengths, 0).sum()
    others = jnp.where((component.targets > 0) & (component.inputs <= 0), lengths, 0).sum()
    part = jnp.floor(draw * pool).astype(jnp.int32)
    return jnp.where((others == 0) & (pool <= num_inputs), part, num_inputs)

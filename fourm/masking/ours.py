"""Chooses which tokens of a sample are shown and which are to be predicted.

Per sample: draw a mixture component, draw how many tokens each present modality gives
(Dirichlet), choose them (at random in grids, by span corruption in sequences), and pack both
sides into arrays of fixed length. The method is 4M's (Mizrahi et al. 2023, section 3.1;
span corruption: Raffel et al. 2020, section 3.1.4).

Ours differs by design from what ml-4m does, which `MaskingConfig.rules` can choose as well:

* Components. Ours draws among those that have something to show and something to ask of the
  sample; ml-4m among all.
* Budgets. Ours go to modalities that the sample has, up to what it has of them, and are spent in
  full: what clipping frees goes to the others in proportion, what span corruption saves goes to
  the grids shown. In ml-4m absent modalities take part, budgets are clipped to the longest length
  there may be, and what is over is lost, as is what modalities that can't be predicted get.
* Rounding. Ours by largest remainder. In ml-4m shares are rounded down and each token left over is
  drawn anew; shares are below 1, so that a modality that wins everything loses its last token,
  often to another one.
* Something to predict. Ours shows less of a sample where else nothing would be left to ask.
* Spans. Ours keeps the most tokens that the wanted share and the budget allow, from one set of
  draws. ml-4m keeps each token by chance and tries again with 0.9 of the chance while the result
  is over budget; it can keep or drop chunks of tokens whole. Both show nothing, not even a
  sentinel, at a budget of 0.
* Kept share. Ours draws one for all sequences of a sample, ml-4m one for each.
* Targets of sequences. A window of `n` predictions starts at a sentinel that is given. Ours counts
  the predictions, ml-4m the given one, too, so that it predicts one less. Ours starts at any
  sentinel after which the budget can be spent; ml-4m at any but the last, or, if too little
  follows there, at the first from which everything that follows fits.
* Everything else. ml-4m can ask for all that is not shown, which ours never does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.masking import ml4m as ml4m_masking
from fourm.masking.budgets import draw_log_shares, split_budget
from fourm.masking.mixture import (
    ComponentArrays,
    MaskingComponent,
    MaskingConfig,
    choose_between,
    choose_by_weight,
    choose_keep,
    tabulate,
)
from fourm.masking.packing import (
    as_usable,
    can_be_asked,
    pack_inputs,
    pack_targets,
    split_grid,
    split_sequence,
    take_shown,
    with_places,
)
from fourm.masking.spans import choose_window, corrupt_spans, is_split_by_spans, sentinels_of
from fourm.token_space import MaskedBatch, TokenSpace
from tokenizers.base import TokenBatch

__all__ = ["MaskingComponent", "MaskingConfig", "mask_batch", "mask_sample"]


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


def mask_sample(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    features: dict[str, Float[Array, "_ _"]],
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits one sample's tokens into inputs and targets; see `mask_batch`."""
    ids = with_places(ids, space)
    draws_key, shares_key = jax.random.split(key)
    draws = draw_all(draws_key, space)
    lengths = jnp.stack([num_real[name] for name in space.names]).astype(jnp.int32)
    is_sequence = jnp.array([is_split_by_spans(entry) for entry in space.ranges])
    component = choose_component(draws.component, lengths > 0, space, config)
    num_inputs = choose_between(draws.num_inputs, component.num_inputs)
    num_inputs = leave_something(draws.part, num_inputs, component, lengths)
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

    inputs, targets, read = [], [], {}
    for entry in space.ranges:
        shown_budget, asked_budget = used[entry.index], asked[entry.index]
        spans = corrupted.get(entry.name)
        if spans is not None:
            start = choose_window(draws.windows[entry.index], spans, asked_budget)
            streams = split_sequence(spans, entry, shown_budget, start, asked_budget)
        else:
            first = entry.first_position
            streams = split_grid(
                draws.tokens[first : first + entry.num_tokens],
                ids[entry.name],
                entry,
                shown_budget,
                asked_budget,
            )
        shown, wanted = as_usable(*streams, entry)
        inputs.append(shown)
        targets.append(wanted)
        if entry.name in features:
            read[entry.name] = take_shown(features[entry.name], num_real[entry.name], spans)
    packed = pack_inputs(inputs, config.max_inputs)
    return MaskedBatch(
        packed._replace(features=read or None),
        pack_targets(targets, config.max_targets),
    )


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
    predictable = jnp.array([can_be_asked(entry) for entry in space.ranges])
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


def leave_something(
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


def mask_batch(
    key: Key[Array, ""],
    batch: TokenBatch,
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits every sample's tokens into inputs and targets.

    Args:
        key: Folded from the run's seed and the step. The sample's index is folded in here, so
            that the masks depend neither on the batch's composition nor on the devices.
        batch: Tokens of whole samples; absent modalities have `num_real` 0.
        space: Where the modalities live.
        config: The mixture.

    Returns:
        Packed arrays of `config.max_inputs` and `config.max_targets` tokens per sample.
    """
    sample_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
    mask = {"ours": mask_sample, "ml4m": ml4m_masking.mask_sample}[config.rules]
    return jax.vmap(lambda *sample: mask(*sample, space, config))(
        sample_keys, batch.ids, batch.num_real, batch.features or {}
    )

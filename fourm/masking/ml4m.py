"""Splits a sample by the rules of ml-4m, by which the published models were trained.

Where ml-4m calls a random generator in the order of its code, keys are split here, so that masks
are distributed as there but never the same. The rules in `fourm.masking.ours` differ by design:

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

from fourm.masking.budgets import split_by_chance
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
from fourm.masking.spans import (
    SpanCorruption,
    corrupt_by_chance,
    count_starts,
    cut_window,
    is_split_by_spans,
    sentinels_of,
)
from fourm.token_space import TokenRange, TokenSpace


class Counts(NamedTuple):
    """What one modality is allotted and what is taken of it.

    Attributes:
        input_budget: Tokens allotted to be shown.
        target_budget: Tokens allotted to be asked; 0 where all that is not shown is.
        inputs: Tokens shown, sentinels included.
        targets: Tokens of the target stream, the first of which, in sequences, is given.
        input_sentinels: Sentinels shown.
        target_sentinels: Sentinels in the target stream.
        is_closed: Whether the target stream ends with a sentinel, its own last or one it is cut at.
    """

    input_budget: Int[Array, "*modalities"]
    target_budget: Int[Array, "*modalities"]
    inputs: Int[Array, "*modalities"]
    targets: Int[Array, "*modalities"]
    input_sentinels: Int[Array, "*modalities"]
    target_sentinels: Int[Array, "*modalities"]
    is_closed: Bool[Array, "*modalities"]


def split_sample(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    features: dict[str, Float[Array, "_ _"]],
    space: TokenSpace,
    config: MaskingConfig,
) -> Split:
    """Splits one sample's tokens into inputs and targets; see `fourm.masking.mask`."""
    component_key, split_key = jax.random.split(key)
    weights = jnp.array([component.weight for component in config.components])
    chosen = choose_by_weight(jax.random.uniform(component_key), weights)
    component = jax.tree.map(lambda rows: rows[chosen], tabulate(space, config))
    chunk_sizes = config.ml4m.chunk_sizes
    return split_by_component(split_key, component, ids, num_real, features, space, chunk_sizes)[0]


def split_by_component(
    key: Key[Array, ""],
    component: ComponentArrays,
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    features: dict[str, Float[Array, "_ _"]],
    space: TokenSpace,
    chunk_sizes: dict[str, int],
) -> tuple[Split, Counts]:
    """Splits one sample by a component, and counts what each modality is allotted and gives."""
    budgets_key, keep_key, tokens_key, spans_key, starts_key = jax.random.split(key, 5)
    ids = add_feature_positions(ids, space)
    input_budget, target_budget = draw_budgets(budgets_key, component, space)
    keep = choose_keep(jax.random.uniform(keep_key, (len(space.ranges),)), component.keep)
    tokens = jax.random.uniform(tokens_key, (space.num_positions,))
    spans = corrupt_sequences(spans_key, ids, num_real, input_budget, keep, space, chunk_sizes)
    starts = jax.random.uniform(starts_key, (len(space.ranges),))

    split, counts = Split([], [], {}), []
    for entry in space.ranges:
        is_present = num_real[entry.name] > 0
        shown_budget = jnp.where(is_present, input_budget[entry.index], 0)
        # Where all the rest is asked, as much as there can be.
        asked_budget = jnp.where(
            component.predict_all_hidden > 0, entry.num_tokens + 2, target_budget[entry.index]
        )
        asked_budget = jnp.where(is_present & is_predictable(entry), asked_budget, 0)
        own, start = spans.get(entry.name), None
        if own is not None:
            sentinel = jnp.floor(starts[entry.index] * count_starts(own)).astype(jnp.int32)
            start, length = cut_window(sentinel, own, asked_budget)
            taken = count_spans(own, shown_budget, start, length)
            shown_budget, asked_budget = own.num_inputs, jnp.maximum(length - 1, 0)
        shown, targets = split_modality(
            entry,
            ids[entry.name],
            tokens,
            own,
            start,
            shown_budget,
            asked_budget,
            choose_shown_ids(ids, num_real, entry),
        )
        if own is None:
            taken = [shown.count, targets.count, 0, 0, False]
        split.shown.append(shown)
        split.asked.append(targets)
        counts.append(taken)
        if entry.name in features:
            present = features[entry.name], num_real[entry.name]
            split.features[entry.name] = gather_shown_features(*present, own)
    taken = [jnp.stack(column) for column in zip(*counts, strict=True)]
    return split, Counts(input_budget, target_budget, *taken)


def draw_budgets(
    key: Key[Array, ""], component: ComponentArrays, space: TokenSpace
) -> tuple[Int[Array, "modalities"], Int[Array, "modalities"]]:
    """Draws the budgets of both sides, whatever the sample has; what doesn't fit is lost."""
    sides_key, shares_key = jax.random.split(key)
    capacity = jnp.array([entry.num_tokens for entry in space.ranges])
    is_spans = jnp.array([is_split_by_spans(entry) for entry in space.ranges])
    draws = jax.random.uniform(sides_key, (2,))
    num_inputs = choose_between(draws[0], component.num_inputs)
    num_targets = choose_between(draws[1], component.num_targets)
    budgets = jax.vmap(split_by_chance)(
        jax.random.split(shares_key),
        jnp.stack([component.inputs, component.targets]),
        jnp.stack([num_inputs, num_targets]),
    )
    shown = jnp.minimum(budgets[0], capacity)
    # What a sequence shows and what it is asked for are streams apart.
    asked = jnp.minimum(budgets[1], jnp.where(is_spans, capacity, capacity - shown))
    return shown, jnp.where(component.predict_all_hidden > 0, 0, asked)


def corrupt_sequences(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    budget: Int[Array, "modalities"],
    keep: Float[Array, "modalities"],
    space: TokenSpace,
    chunk_sizes: dict[str, int],
) -> dict[str, SpanCorruption]:
    """Corrupts all sequences at once: as many tries as the longest of them needs, not their sum."""
    entries = [entry for entry in space.ranges if is_split_by_spans(entry)]
    if not entries:
        return {}
    longest = max(entry.num_tokens for entry in entries)

    def gather(values: dict[str, Int[Array, "_"]]) -> Int[Array, "sequences tokens"]:
        rows = [values[entry.name] for entry in entries]
        return jnp.stack([jnp.pad(row, (0, longest - len(row))) for row in rows])

    chunks = {entry.name: number_chunks(ids[entry.name], entry, chunk_sizes) for entry in entries}
    index = jnp.array([entry.index for entry in entries])
    sentinels = jnp.array([sentinels_of(entry) for entry in entries])

    def corrupt(
        key: Key[Array, ""], chunk: Int[Array, "tokens"] | None, *row: Array
    ) -> SpanCorruption:
        def draw_tokens(number: Int[Array, ""]) -> Float[Array, "tokens"]:
            return jax.random.uniform(jax.random.fold_in(key, number), (longest,))

        return corrupt_by_chance(draw_tokens, *row, chunk)

    found = jax.vmap(corrupt)(
        jax.random.split(key, len(entries)),
        gather(chunks) if chunk_sizes else None,
        gather(ids),
        jnp.stack([num_real[entry.name] for entry in entries]),
        budget[index],
        keep[index],
        sentinels[:, 0],
        sentinels[:, 1],
    )
    return {
        entry.name: SpanCorruption(
            found.inputs[row, : entry.num_tokens],
            found.num_inputs[row],
            found.targets[row, : entry.num_tokens + 2],
            found.is_sentinel[row, : entry.num_tokens + 2],
            found.num_targets[row],
        )
        for row, entry in enumerate(entries)
    }


def number_chunks(
    ids: Int[Array, "tokens"], entry: TokenRange, chunk_sizes: dict[str, int]
) -> Int[Array, "tokens"]:
    """Returns the number of the chunk that each token is in; the end is one by itself."""
    place = jnp.arange(entry.num_tokens)
    chunk = place // chunk_sizes.get(entry.name, 1)
    if entry.special is None:
        return chunk
    # Its place is the number of no chunk before it.
    return jnp.where(ids == entry.special.end, place, chunk)


def count_spans(
    spans: SpanCorruption,
    budget: Int[Array, ""],
    start: Int[Array, ""],
    length: Int[Array, ""],
) -> list[Array]:
    """Returns what is taken of a sequence, in the order of `Counts`."""
    place = jnp.arange(spans.targets.shape[0])
    is_left = (place >= start) & (place < start + length)
    return [
        spans.num_inputs,
        length,
        jnp.where(budget > 0, spans.is_sentinel.sum() - 1, 0),
        (spans.is_sentinel & is_left).sum(),
        (spans.is_sentinel & is_left & (place == start + length - 1)).any(),
    ]

"""Splits a sequence into what is shown and what is asked (Raffel et al. 2020, section 3.1.4)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class SpanCorruption(NamedTuple):
    """A sequence split into what is shown and what is asked, in the modality's own ids.

    With a b c d e, sentinels X Y Z, and b, c, e dropped:
    inputs a X d Y, targets X b c Y e Z.
    """

    inputs: Int[Array, "tokens"]
    num_inputs: Int[Array, ""]
    targets: Int[Array, "tokens_and_sentinels"]
    is_sentinel: Bool[Array, "tokens_and_sentinels"]
    num_targets: Int[Array, ""]


def corrupt_spans(
    draws: Float[Array, "tokens"],
    ids: Int[Array, "tokens"],
    num_real: Int[Array, ""],
    budget: Int[Array, ""],
    keep: Float[Array, ""],
    first_sentinel: int,
    num_sentinels: int,
) -> SpanCorruption:
    """Replaces random spans by sentinels so that what is left fits the budget.

    The tokens with the lowest draws are kept. All possible counts are tried at once and the
    largest that is wanted and fits is taken, where 4M retries with ever smaller shares.

    Args:
        draws: A number per token, uniform in [0, 1).
        ids: The sequence's ids; those after `num_real` are ignored.
        num_real: Length of the sequence.
        budget: Most tokens to show, sentinels included; 0 shows nothing and asks for all.
        keep: Share of tokens to keep, in [0, 1], where the budget allows.
        first_sentinel: Id of the first sentinel.
        num_sentinels: How many there are, which bounds the number of spans.
    """
    tokens = ids.shape[0]
    is_real = jnp.arange(tokens) < num_real
    draws = jnp.where(is_real, draws, jnp.inf)
    order = jnp.argsort(draws)
    rank = jnp.argsort(order)
    # Keeping one token more, in the order of the draws, splits a span, shortens it or ends it:
    # that depends on which of its neighbours are dropped at that time, those drawn higher.
    left_is_dropped = jnp.pad(rank[:-1] > rank[1:], (1, 0))
    right_is_dropped = jnp.pad((rank[1:] > rank[:-1]) & is_real[1:], (0, 1))
    more_spans = left_is_dropped.astype(jnp.int32) + right_is_dropped - 1
    counts = jnp.arange(tokens + 1)
    spans = jnp.cumsum(jnp.append(num_real > 0, more_spans[order]))
    fits = (counts + spans <= budget) & (spans < num_sentinels)
    wanted = jnp.sum(draws <= keep)
    count = jnp.max(jnp.where(fits & (counts <= wanted), counts, 0))
    is_kept = (rank < count) & is_real
    is_dropped = ~is_kept & is_real
    is_start = is_dropped & ~jnp.pad(is_dropped[:-1], (1, 0))
    span = jnp.cumsum(is_start)

    is_shown = (is_kept | is_start) & (budget > 0)
    shown = jnp.where(is_start, first_sentinel + span - 1, ids)
    inputs = pack(shown, is_shown, tokens)

    asked_before = jnp.cumsum(is_dropped) - is_dropped
    length = tokens + 2
    targets = jnp.zeros(length, ids.dtype)
    is_sentinel = jnp.zeros(length, bool)
    at_token = jnp.where(is_dropped, asked_before + span, length)
    at_start = jnp.where(is_start, asked_before + span - 1, length)
    at_end = is_dropped.sum() + span[-1]
    targets = targets.at[at_token].set(ids, mode="drop")
    targets = targets.at[at_start].set(first_sentinel + span - 1, mode="drop")
    targets = targets.at[at_end].set(first_sentinel + span[-1])
    is_sentinel = is_sentinel.at[at_start].set(True, mode="drop").at[at_end].set(True)
    return SpanCorruption(inputs, is_shown.sum(), targets, is_sentinel, at_end + 1)


def choose_window(
    draw: Float[Array, ""], spans: SpanCorruption, budget: Int[Array, ""]
) -> Int[Array, ""]:
    """Picks where `budget` predictions begin in a target stream: at a sentinel, given free.

    `draw` is uniform in [0, 1). All sentinels after which the stream is long enough are equally
    likely; the first is one of them as long as the budget is feasible.
    """
    place = jnp.arange(spans.targets.shape[0])
    is_start = spans.is_sentinel & (place + budget < spans.num_targets)
    chosen = jnp.floor(draw * is_start.sum()).astype(jnp.int32)
    return jnp.argmax(is_start & (jnp.cumsum(is_start) == chosen + 1))


def pack(
    values: Int[Array, "tokens"], is_chosen: Bool[Array, "tokens"], length: int
) -> Int[Array, "{length}"]:
    """Moves the chosen values to the front, in their order; zeros follow."""
    place = jnp.where(is_chosen, jnp.cumsum(is_chosen) - 1, length)
    return jnp.zeros(length, values.dtype).at[place].set(values, mode="drop")

"""Splits a sequence into what is shown and what is asked (Raffel et al. 2020, section 3.1.4)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fourm.token_space import TokenRange


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


def is_split_by_spans(entry: TokenRange) -> bool:
    """Tells sequences, of ids or of features, from grids."""
    return entry.special is not None or (entry.kind == "features" and len(entry.token_shape) == 1)


def sentinels_of(entry: TokenRange) -> tuple[int, int]:
    """Returns the first sentinel of a sequence, and how many there are.

    Of features it is their places that are split, and places past the end that mark where some
    were dropped.
    """
    if entry.special is None:
        return entry.num_tokens, entry.num_tokens + 1
    return entry.special.first_sentinel, entry.special.num_sentinels


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
    order = argsort_draws(jnp.where(is_real, draws, 1.0))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(tokens), unique_indices=True)
    # Keeping one token more, in the order of the draws, splits a span, shortens it or ends it:
    # that depends on which of its neighbours are dropped at that time, those drawn higher.
    left_is_dropped = jnp.pad(rank[:-1] > rank[1:], (1, 0))
    right_is_dropped = jnp.pad((rank[1:] > rank[:-1]) & is_real[1:], (0, 1))
    more_spans = left_is_dropped.astype(jnp.int32) + right_is_dropped - 1
    counts = jnp.arange(tokens + 1)
    spans = jnp.cumsum(jnp.append(num_real > 0, more_spans[order]))
    fits = (counts + spans <= budget) & (spans < num_sentinels)
    wanted = jnp.sum((draws <= keep) & is_real)
    count = jnp.max(jnp.where(fits & (counts <= wanted), counts, 0))
    is_kept = (rank < count) & is_real
    return split_spans(is_kept, ids, num_real, budget > 0, first_sentinel)


def corrupt_by_chance(
    draw_tokens: Callable[[Int[Array, ""]], Float[Array, "tokens"]],
    ids: Int[Array, "tokens"],
    num_real: Int[Array, ""],
    budget: Int[Array, ""],
    keep: Float[Array, ""],
    first_sentinel: int | Int[Array, ""],
    num_sentinels: int | Int[Array, ""],
    chunk: Int[Array, "tokens"] | None = None,
) -> SpanCorruption:
    """Replaces random spans by sentinels as ml-4m does: again and again until the budget fits.

    Each token is kept by itself with the probability `keep`, which falls to 0.9 of itself and is
    tried anew with fresh draws while there is more to show than `budget`.

    Args:
        draw_tokens: Returns a number per token, or per chunk, uniform in [0, 1), for each try.
        ids: The sequence's ids; those after `num_real` are ignored.
        num_real: Length of the sequence.
        budget: Most tokens to show, sentinels included; 0 shows nothing and asks for all.
        keep: Probability with which a token is kept at first.
        first_sentinel: Id of the first sentinel.
        num_sentinels: How many there are. More spans than that don't fit either; ml-4m has no
            answer to them.
        chunk: Number of the chunk that each token belongs to; chunks are kept or dropped whole.
    """
    is_real = jnp.arange(ids.shape[0]) < num_real
    keep = jnp.where(budget > 0, keep, 0.0)

    def attempt(number: Int[Array, ""]) -> Bool[Array, "tokens"]:
        draws = draw_tokens(number)
        draws = draws if chunk is None else draws[chunk]
        return (draws <= keep * 0.9**number) & is_real

    def is_too_long(state: tuple[Int[Array, ""], Bool[Array, "tokens"]]) -> Bool[Array, ""]:
        _, is_kept = state
        spans = find_starts(is_kept, is_real).sum()
        is_over = (is_kept.sum() + spans > budget) | (spans >= num_sentinels)
        return is_over & (budget > 0) & is_kept.any()

    def again(
        state: tuple[Int[Array, ""], Bool[Array, "tokens"]],
    ) -> tuple[Int[Array, ""], Bool[Array, "tokens"]]:
        number = state[0] + 1
        return number, attempt(number)

    first = jnp.zeros((), jnp.int32)
    _, is_kept = jax.lax.while_loop(is_too_long, again, (first, attempt(first)))
    return split_spans(is_kept, ids, num_real, budget > 0, first_sentinel)


def find_starts(
    is_kept: Bool[Array, "tokens"], is_real: Bool[Array, "tokens"]
) -> Bool[Array, "tokens"]:
    """Returns where runs of dropped tokens begin."""
    is_dropped = ~is_kept & is_real
    return is_dropped & ~jnp.pad(is_dropped[:-1], (1, 0))


def split_spans(
    is_kept: Bool[Array, "tokens"],
    ids: Int[Array, "tokens"],
    num_real: Int[Array, ""],
    is_any_shown: Bool[Array, ""],
    first_sentinel: int | Int[Array, ""],
) -> SpanCorruption:
    """Replaces every run of dropped tokens by a sentinel, and lists what each stands for."""
    tokens = ids.shape[0]
    is_real = jnp.arange(tokens) < num_real
    is_dropped = ~is_kept & is_real
    is_start = find_starts(is_kept, is_real)
    span = jnp.cumsum(is_start)

    is_shown = (is_kept | is_start) & is_any_shown
    shown = jnp.where(is_start, first_sentinel + span - 1, ids)
    inputs = pack(shown, is_shown)

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


def cut_window(
    sentinel: Int[Array, ""], spans: SpanCorruption, budget: Int[Array, ""]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Picks where a target stream begins that is longer than its budget, as ml-4m does.

    Args:
        sentinel: Number of the sentinel to begin at, drawn out of `count_starts`. If fewer than
            `budget` tokens follow, it is the earliest from which all that follows fits.
        spans: The stream.
        budget: Most tokens to be left, sentinels included.

    Returns:
        start: Place of the first token, which is given rather than predicted.
        length: How many tokens are left, that one included.
    """
    place = jnp.arange(spans.targets.shape[0])
    left = spans.num_targets - place
    drawn = jnp.argmax(spans.is_sentinel & (jnp.cumsum(spans.is_sentinel) == sentinel + 1))
    late = jnp.argmax(spans.is_sentinel & (left <= budget))
    start = jnp.where(left[drawn] >= budget, drawn, late)
    start = jnp.where(spans.num_targets > budget, start, 0)
    return start, jnp.minimum(budget, left[start])


def count_starts(spans: SpanCorruption) -> Int[Array, ""]:
    """Returns how many sentinels `cut_window` may begin at: all but the last, if there are more."""
    return jnp.maximum(spans.is_sentinel.sum() - 1, 1)


def argsort_draws(draws: Float[Array, "tokens"]) -> Int[Array, "tokens"]:
    """Returns the order of numbers in [0, 1], as `jnp.argsort` does.

    Number and place are sorted as one integer, which takes a CPU a tenth of the time. Uniform
    draws are multiples of 2**-23: up to 256 tokens nothing is rounded, and in longer streams only
    ties come more often.
    """
    bits = max(1, (draws.shape[0] - 1).bit_length())
    place = jnp.arange(draws.shape[0], dtype=jnp.uint32)
    scale = 2.0 ** min(23, 31 - bits)
    keys = (draws * scale).astype(jnp.uint32) << bits | place
    return (jnp.sort(keys) & (2**bits - 1)).astype(jnp.int32)


def pack(values: Int[Array, "tokens"], is_chosen: Bool[Array, "tokens"]) -> Int[Array, "tokens"]:
    """Moves the chosen values to the front, in their order; zeros follow."""
    place = jnp.where(is_chosen, jnp.cumsum(is_chosen) - 1, len(values))
    return jnp.zeros_like(values).at[place].set(values, mode="drop")

"""Sequences, written token by token with a cache of what the decoder has read."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Int, Key

from fourm.inference.cache import DecoderCache, decode_next, start_cache
from fourm.inference.conditions import (
    NEVER,
    Known,
    apply_guidance,
    count_blanks,
    draw,
    first_failure,
    gather_guided,
    gather_inputs,
    has_ended,
    is_blank,
    step_keys,
    target_keys,
)
from fourm.inference.settings import GenerationConfig, Numbers
from fourm.inference.watching import tell
from fourm.token_space import TokenRange
from tokenizers.base import PADDING


class SequenceState(NamedTuple):
    """What writing sequences carries.

    Attributes:
        step: Tokens written so far, sentinels between spans included.
        written: These tokens, `PADDING` where nothing is written yet.
        blank: The number of the span that is being written.
        room: How many tokens may still be written.
        has_ended: Which samples are complete.
        cache: What the decoder remembers.
        failed: The first step whose logits were not finite, or `NEVER`.
    """

    step: Int[Array, ""]
    written: Int[Array, "batch length"]
    blank: Int[Array, "batch"]
    room: Int[Array, "batch"]
    has_ended: Bool[Array, "batch"]
    cache: DecoderCache
    failed: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 8))
def generate_sequence(
    graph: nnx.GraphDef,
    state: nnx.State,
    known: Known,
    keys: Key[Array, "batch"],
    entry: TokenRange,
    config: GenerationConfig,
    numbers: Numbers,
    further: Sequence[Known] = (),
    has_blanks: bool = False,
    listener: Int[Array | np.ndarray, ""] | None = None,
) -> tuple[Int[Array, "batch tokens"], Int[Array, ""]]:
    """Writes a sequence token by token, until every sample's has ended.

    What is known of it may have sentinels, each in place of a span; these are written one after
    the other, as the target stream of span corruption has them (Raffel et al. 2020, section 3.1.4).
    If it has no end, it is continued besides.

    Args:
        graph: The model.
        state: Its parameters.
        known: Tokens by modality.
        keys: One per sample.
        entry: The sequence.
        config: What shapes the program, as `split_settings` returns it.
        numbers: Its arguments.
        further: Conditions with weights of their own, see `apply_guidance`.
        has_blanks: Whether any sample has a sentinel.
        listener: Who is told of every token, see `listening`.

    Returns:
        The ids, and the first step whose logits were not finite, or `NEVER`.
    """
    model = nnx.merge(graph, state)
    keys = target_keys(keys, entry)
    batch, tokens = len(keys), entry.num_tokens
    nothing = jnp.full((batch, tokens), PADDING, jnp.int32)
    given = known.get(entry.name, nothing)
    others = known.keys() - {entry.name, entry.features_name}
    # What is weighted by nothing is what is given nothing.
    weighs = (config.guidance != 1 and len(others) > 0) or len(further) > 0
    if others or not further:
        known = known or {entry.name: nothing}
        further = [{**each, entry.name: given} for each in further]
        inputs = gather_guided(model.space, known, further, entry, is_guided=weighs)
    else:
        own = gather_inputs(model.space, {entry.name: given})
        inputs = gather_guided(model.space, {}, further, entry, own)
    copies = len(inputs.is_real) // batch
    context = model.build_context(model.encode(inputs), inputs)
    special = entry.special
    end, first = special.end, special.first_sentinel
    is_open = ~has_ended(given, entry)
    given_blanks = count_blanks(given, entry)
    num_blanks = given_blanks + is_open
    num_given = (given != PADDING).sum(axis=1) - given_blanks
    length = entry.num_positions if has_blanks else tokens
    ids = jnp.arange(entry.vocab_size)[None]

    def is_unfinished(carry: SequenceState) -> Bool[Array, ""]:
        return (carry.step < length) & ~carry.has_ended.all()

    def step(carry: SequenceState) -> SequenceState:
        before = carry.written[:, jnp.maximum(carry.step - 1, 0)]
        previous = jnp.where(carry.step == 0, first, before)
        # Nothing is made of what follows an end.
        previous = jnp.where(previous == PADDING, end, previous) + entry.first_id
        previous = jnp.concatenate([previous] * copies)
        features, cache = decode_next(model, previous, carry.step, entry, carry.cache)
        logits = model.logits(features, entry)
        if weighs:
            weights = numbers.guidance, numbers.weights
            logits = apply_guidance(logits, *weights, has_inputs=len(others) > 0)
        # A span closes with the next sentinel, the last one of an open text also with its end.
        # Other sentinels stand for spans that are not hidden here.
        is_last = carry.blank + 1 >= num_blanks
        closing = first + jnp.minimum(carry.blank + 1, special.num_sentinels - 1)
        is_closing = (ids == closing[:, None]) & (special.num_sentinels > 1)
        is_end = ids == end
        is_sentinel = (ids >= first) & (ids < first + special.num_sentinels)
        is_allowed = jnp.where(is_end, (is_last & is_open)[:, None], ~is_sentinel | is_closing)
        logits = jnp.where(is_allowed[:, None], logits, -jnp.inf)
        keys_now = step_keys(keys, carry.step)[0]
        drawn = draw(keys_now, logits, config, numbers)
        token = drawn.ids[:, 0]
        closes = (token == closing) & (special.num_sentinels > 1) | (token == end)
        # An open text ends with its end, whichever token closed it.
        token = jnp.where(closes & is_last & is_open, end, token)
        takes_room = ~closes | (token == end)
        room = carry.room - takes_room
        is_here = (jnp.arange(length) == carry.step) & ~carry.has_ended[:, None]
        written = jnp.where(is_here, token[:, None], carry.written)
        if listener is not None:
            tell(listener, carry.step + 1, fill_blanks(given, written, entry))
        return SequenceState(
            step=carry.step + 1,
            written=written,
            blank=carry.blank + closes,
            room=room,
            has_ended=carry.has_ended | (closes & is_last) | (room <= 0),
            cache=cache,
            failed=first_failure(
                carry.failed, carry.step, drawn.is_finite, ~carry.has_ended[:, None]
            ),
        )

    start = SequenceState(
        step=jnp.zeros((), jnp.int32),
        written=jnp.full((batch, length), PADDING, jnp.int32),
        blank=jnp.zeros(batch, jnp.int32),
        room=tokens - num_given,
        has_ended=num_blanks == 0,
        cache=start_cache(model, context, inputs.is_real, length),
        failed=jnp.int32(NEVER),
    )
    ended = jax.lax.while_loop(is_unfinished, step, start)
    return fill_blanks(given, ended.written, entry), ended.failed


def fill_blanks(
    given: Int[Array, "batch tokens"], written: Int[Array, "batch length"], entry: TokenRange
) -> Int[Array, "batch tokens"]:
    """Puts spans that were written in the place of their sentinels, and what follows at the end.

    Args:
        given: What was known, with or without sentinels and an end.
        written: Span after span, with a sentinel before every one but the first.
        entry: The sequence.
    """
    tokens = given.shape[1]
    blank, is_given = is_blank(given, entry), given != PADDING
    starts = is_blank(written, entry)
    is_written = (written != PADDING) & ~starts
    # Which span each of the two belongs to, or follows; then they are sorted by that and by place.
    span = jnp.cumsum(starts, axis=1)
    spans_before = jnp.cumsum(blank, axis=1)
    is_kept = jnp.concatenate([is_given & ~blank, is_written], axis=1)
    rank = jnp.concatenate([2 * spans_before, 2 * span + 1], axis=1)
    ids = jnp.concatenate([given, written], axis=1)
    order = jnp.argsort(jnp.where(is_kept, rank, 2 * ids.shape[1] + 2), axis=1, stable=True)
    joined = jnp.take_along_axis(jnp.where(is_kept, ids, PADDING), order, axis=1)
    return joined[:, :tokens]

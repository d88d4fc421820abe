"""Sequences, written token by token with a cache of what the decoder has read."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int, Key

from fourm.inference.cache import DecoderCache, decode_next, start_cache
from fourm.inference.conditions import (
    NEVER,
    Known,
    apply_guidance,
    draw,
    first_failure,
    gather_guided,
    has_ended,
    step_keys,
    target_keys,
)
from fourm.inference.settings import GenerationConfig, Numbers
from fourm.token_space import TokenRange
from tokenizers.base import PADDING


class SequenceState(NamedTuple):
    """What writing a sequence carries.

    Attributes:
        step: Tokens written so far.
        ids: `PADDING` where nothing is written yet.
        previous: The token to be read next, in the modality's own vocabulary.
        has_ended: Which samples are complete.
        cache: What the decoder remembers.
        failed: The first step whose logits were not finite, or `NEVER`.
    """

    step: Int[Array, ""]
    ids: Int[Array, "batch tokens"]
    previous: Int[Array, "batch"]
    has_ended: Bool[Array, "batch"]
    cache: DecoderCache
    failed: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def generate_sequence(
    graph: nnx.GraphDef,
    state: nnx.State,
    known: Known,
    keys: Key[Array, "batch"],
    entry: TokenRange,
    config: GenerationConfig,
    numbers: Numbers,
    further: Sequence[Known] = (),
) -> tuple[Int[Array, "batch tokens"], Int[Array, ""]]:
    """Writes a sequence token by token, until every sample's has ended.

    `further` are conditions with weights of their own, see `apply_guidance`.

    Returns:
        The ids, and the first step whose logits were not finite, or `NEVER`.
    """
    model = nnx.merge(graph, state)
    keys = target_keys(keys, entry)
    batch, tokens = len(keys), entry.num_tokens
    nothing = jnp.full((batch, tokens), PADDING, jnp.int32)
    given = known.get(entry.name, nothing)
    weighs = config.guidance != 1 or len(further) > 0
    further = [{**each, entry.name: given} for each in further]
    known = known or {entry.name: nothing}
    inputs = gather_guided(model.space, known, further, entry, is_guided=weighs)
    copies = len(inputs.is_real) // batch
    context = model.build_context(model.encode(inputs), inputs)
    num_given = (given != PADDING).sum(axis=1)
    first = entry.special.first_sentinel
    # The stream opens with the first sentinel and would close with the second. The others stand
    # for spans that are not hidden here.
    ids = jnp.arange(entry.vocab_size)
    is_closing = (ids == entry.special.end) | (
        (ids == first + 1) & (entry.special.num_sentinels > 1)
    )
    is_sentinel = (ids >= first) & (ids < first + entry.special.num_sentinels)
    is_allowed = ~is_sentinel | is_closing

    def is_unfinished(carry: SequenceState) -> Bool[Array, ""]:
        return (carry.step < tokens) & ~carry.has_ended.all()

    def step(carry: SequenceState) -> SequenceState:
        previous = carry.previous + entry.first_id
        previous = jnp.concatenate([previous] * copies)
        features, cache = decode_next(model, previous, carry.step, entry, carry.cache)
        logits = model.logits(features, entry)
        if weighs:
            logits = apply_guidance(logits, numbers.guidance, numbers.weights)
        logits = jnp.where(is_allowed, logits, -jnp.inf)
        keys_now = step_keys(keys, carry.step)[0]
        drawn = draw(keys_now, logits, config, numbers)
        token = drawn.ids[:, 0]
        token = jnp.where(is_closing[token], entry.special.end, token)
        at = num_given + carry.step
        is_here = (jnp.arange(tokens) == at[:, None]) & ~carry.has_ended[:, None]
        return SequenceState(
            step=carry.step + 1,
            ids=jnp.where(is_here, token[:, None], carry.ids),
            previous=token,
            has_ended=carry.has_ended | (token == entry.special.end) | (at + 1 >= tokens),
            cache=cache,
            failed=first_failure(
                carry.failed, carry.step, drawn.is_finite, ~carry.has_ended[:, None]
            ),
        )

    start = SequenceState(
        step=jnp.zeros((), jnp.int32),
        ids=given,
        previous=jnp.full(batch, first, jnp.int32),
        has_ended=has_ended(given, entry),
        cache=start_cache(model, context, inputs.is_real, tokens),
        failed=jnp.int32(NEVER),
    )
    end = jax.lax.while_loop(is_unfinished, step, start)
    return end.ids, end.failed

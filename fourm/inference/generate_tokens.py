"""Generates the tokens of any modality from those of any others.

Grids are completed in a few passes, each of which fixes some tokens for good: the surest ones
(MaskGIT, Chang et al. 2022, section 3.2) or random ones (4M, Mizrahi et al. 2023). Sequences are
written token by token. Both are one loop in one compiled function over arrays of fixed shape.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.inference.cache import DecoderCache, decode_next, start_cache
from fourm.inference.sampling import Draw, add_gumbel, choose_best, order_best, sample_tokens
from fourm.inference.schedules import Passes, group_passes, step_table
from fourm.inference.settings import GenerationConfig, Numbers, split_settings
from fourm.model.transformer import FourM
from fourm.token_space import MASK_ID, Inputs, Targets, TokenRange, TokenSpace
from tokenizers.base import PADDING

__all__ = ["GeneratedTokens", "GenerationConfig", "generate_tokens"]

Known = Mapping[str, Int[Array | np.ndarray, "batch _"] | Float[Array | np.ndarray, "batch _ _"]]
"""Per modality ids [batch, tokens] in its own vocabulary, `PADDING` where unknown; of features the
vectors [batch, tokens, width], NaN where unknown."""


class GeneratedTokens(NamedTuple):
    """What `generate_tokens` returns.

    Attributes:
        ids: Per target, complete: sequences have `PADDING` after their end.
        probabilities: Per grid target with decode="expected": what each token was drawn from;
            one-hot where it was given.
    """

    ids: dict[str, Int[Array, "batch _"]]
    probabilities: dict[str, Float[Array, "batch _ _"]]


def generate_tokens(
    model: FourM,
    known: Known,
    targets: Sequence[str],
    keys: Key[Array, "batch"],
    settings: Mapping[str, GenerationConfig],
) -> GeneratedTokens:
    """Generates `targets` in their order; each becomes a condition of those after it.

    A target may be known in part: a grid keeps the tokens it has and gets the others; a sequence
    without an end is continued. What is known is never changed.

    Args:
        model: The trained model.
        known: Per modality ids [batch, tokens] in its own vocabulary; `PADDING` where unknown,
            and all over in samples that lack the modality. May be empty.
        targets: What to generate.
        keys: One per sample; what a sample becomes depends on its own key and ids alone.
        settings: Per target.

    Raises:
        ValueError: If a modality is not the model's, a shape is wrong, or a setting is; or if the
            model's logits are not finite.
    """
    known = {name: _as_known(ids, model.space[name], len(keys)) for name, ids in known.items()}
    graph, state = nnx.split(model)
    probabilities, generated, failed = {}, {}, {}
    for name in targets:
        entry = model.space[name]
        if entry.kind == "features":
            raise ValueError(f"{name} has no tokens and is only ever input; it can't be a target.")
        generate = _generate_grid if entry.kind == "grid" else _generate_sequence
        shape, numbers = split_settings(settings[name], entry)
        ids, drawn_from, failed[name] = generate(graph, state, known, keys, entry, shape, numbers)
        known[name] = generated[name] = ids
        if drawn_from is not None:
            probabilities[name] = drawn_from
    for name, step in failed.items():
        if int(step) != NEVER:
            what = "pass" if model.space[name].kind == "grid" else "token"
            raise ValueError(
                f"The logits of {name} are not finite in {what} {int(step) + 1}: weights or inputs "
                f"are not, or its guidance, {settings[name].guidance}, is too large."
            )
    return GeneratedTokens(generated, probabilities)


def _as_known(
    given: Int[Array | np.ndarray, "..."] | Float[Array | np.ndarray, "..."],
    entry: TokenRange,
    batch: int,
) -> Array:
    """Returns known ids or vectors as the array that they should be."""
    is_features = entry.kind == "features"
    array = jnp.asarray(given, jnp.float32 if is_features else jnp.int32)
    shape = (batch, entry.num_tokens, *([entry.feature_width] if is_features else []))
    if array.shape != shape:
        raise ValueError(
            f"The tokens of {entry.name} have shape {array.shape}; {shape} is needed: one row per "
            "key, one column per token."
        )
    return array


def gather_inputs(space: TokenSpace, known: Known) -> Inputs:
    """Returns what the encoder reads of known tokens; one slot per token of each modality.

    A sequence that has begun but not ended is followed by a sentinel, as in training.
    """
    parts, features = [], {}
    for entry in space.ranges:
        if entry.name not in known:
            continue
        ids = jnp.asarray(known[entry.name])
        is_real = ids != PADDING
        if entry.kind == "features":
            is_real = jnp.isfinite(ids).all(axis=-1)
            features[entry.name] = jnp.where(is_real[..., None], ids, 0.0)
            ids = jnp.zeros(is_real.shape, jnp.int32)
        if entry.special is not None:
            length = is_real.sum(axis=1)
            is_open = (length > 0) & ~has_ended(ids, entry)
            at_end = jnp.arange(ids.shape[1]) == length[:, None]
            sentinel = at_end & is_open[:, None]
            ids = jnp.where(sentinel, entry.special.first_sentinel, ids)
            is_real = is_real | sentinel
        place = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        parts.append(
            Inputs(
                ids=jnp.where(is_real, ids + entry.first_id, MASK_ID),
                modality=jnp.full(ids.shape, entry.index, jnp.int32),
                position=place + entry.first_position,
                is_real=is_real,
            )
        )
    return join_inputs(parts)._replace(features=features or None)


def join_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Puts inputs side by side; features are those of the first part."""
    slots = [part._replace(features=None) for part in parts]
    joined = jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *slots)
    return joined._replace(features=parts[0].features)


def keep_real(inputs: Inputs, most: int) -> Inputs:
    """Returns inputs in `most` slots, of which at least as many are there as are real."""
    if most >= inputs.is_real.shape[1]:
        return inputs
    place = jnp.argsort(~inputs.is_real, axis=1)[:, :most]
    return jax.tree.map(lambda slots: jnp.take_along_axis(slots, place, axis=1), inputs)


def has_ended(ids: Int[Array, "batch tokens"], entry: TokenRange) -> Bool[Array, "batch"]:
    """Says which sequences are complete."""
    is_full = (ids != PADDING).all(axis=1)
    return is_full | (ids == entry.special.end).any(axis=1)


def guide(
    logits: Float[Array, "doubled tokens vocab"], guidance: Float[Array, ""] | float
) -> Float[Array, "batch tokens vocab"]:
    """Combines the halves of a doubled batch: with conditions, then without."""
    conditional, unconditional = jnp.split(logits, 2)
    return unconditional + guidance * (conditional - unconditional)


def double(inputs: Inputs, is_kept: Bool[Array, "batch n"]) -> Inputs:
    """Appends to a batch its copy from which all but the kept tokens are removed."""
    bare = inputs._replace(is_real=inputs.is_real & is_kept)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inputs, bare)


def target_keys(keys: Key[Array, "batch"], entry: TokenRange) -> Key[Array, "batch"]:
    """Returns every sample's key for one modality."""
    return jax.vmap(lambda key: jax.random.fold_in(key, entry.index))(keys)


def step_keys(keys: Key[Array, "batch"], step: Int[Array, ""]) -> Key[Array, "2 batch"]:
    """Returns this step's keys: for drawing tokens, and for choosing among them."""
    return jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step)), out_axes=1)(keys)


NEVER = -1
"""The pass in which logits were not finite, if they always were."""


def first_failure(
    failed: Int[Array, ""],
    step: Int[Array, ""],
    is_finite: Bool[Array, "batch tokens"],
    is_used: Bool[Array, "batch tokens"],
) -> Int[Array, ""]:
    """Returns the first step at which logits of tokens that are used were not finite."""
    has_failed = (is_used & ~is_finite).any()
    return jnp.where((failed == NEVER) & has_failed, step, failed)


LARGE_GRID, MOST_GROUPS = 128, 3
"""Tokens of a grid from which on its passes are compiled for their own sizes, in so many groups:
time to compile for time to run."""


def draw(
    keys: Key[Array, "batch"],
    logits: Float[Array, "batch tokens vocab"],
    config: GenerationConfig,
    numbers: Numbers,
    temperatures: Float[Array, "batch"] | None = None,
) -> Draw:
    """Draws tokens as settings say, which `split_settings` returned."""
    temperature = numbers.temperature if temperatures is None else temperatures
    return sample_tokens(
        keys,
        logits,
        0.0 if config.temperature == 0 else temperature,
        numbers.top_k if config.top_k else 0,
        numbers.top_p if config.top_p < 1 else 1.0,
        config.top_k,
    )


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
def _generate_grid(
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
    order_keys = jax.vmap(lambda key: jax.random.fold_in(key, config.num_steps))(keys)
    fixed_order = {
        "random": jax.vmap(lambda key: jax.random.uniform(key, (tokens,)))(order_keys),
        "autoregressive": jnp.broadcast_to(-jnp.arange(tokens, dtype=jnp.float32), (batch, tokens)),
    }.get(config.scheme)
    if fixed_order is not None:
        # Which tokens a pass fixes is known before it, so that only these are asked.
        order = order_best(fixed_order, given == PADDING)
    conditions = {name: ids for name, ids in known.items() if name != entry.name}

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
            inputs = double(inputs, inputs.modality == entry.index)
            targets = jax.tree.map(lambda array: jnp.concatenate([array, array]), targets)
        context = model.build_context(model.encode(inputs), inputs)
        features = model.decode(targets, context, inputs.is_real)
        logits = model.logits(features, entry)
        return logits if config.guidance == 1 else guide(logits, numbers.guidance)

    def draw_tokens(i: Int[Array, ""], keys: Key[Array, "batch"], logits: Float[Array, "..."]):
        own = None if temperatures is None else temperatures[:, i]
        return draw(keys, logits, config, numbers, own)

    def step(passes: Passes, i: Int[Array, ""], carry: GridState) -> GridState:
        draw_keys, choice_keys = step_keys(keys, i)
        if fixed_order is None:
            is_open = carry.ids == PADDING
            place = order_best(jnp.zeros((batch, tokens)), is_open)[:, : passes.most_unknown]
            is_open = jnp.take_along_axis(is_open, place, axis=1)
            logits = run_pass(carry.ids, place, is_open, passes.most_known)
            drawn = draw_tokens(i, draw_keys, logits)
            score = drawn.confidence
            if config.choice_noise > 0:
                noise = numbers.choice_noise * (1 - (i + 1) / config.num_steps)
                score = add_gumbel(choice_keys, score, noise)
            is_chosen = choose_best(score, is_open, counts[:, i])
        else:
            number = jnp.arange(passes.most_fixed)[None]
            done = jnp.where(jnp.arange(config.num_steps) < i, counts, 0).sum(1, keepdims=True)
            place = jnp.take_along_axis(order, jnp.minimum(done + number, tokens - 1), axis=1)
            is_chosen = number < counts[:, i, None]
            logits = run_pass(carry.ids, place, is_chosen, passes.most_known)
            drawn = draw_tokens(i, draw_keys, logits)
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
def _generate_sequence(
    graph: nnx.GraphDef,
    state: nnx.State,
    known: Known,
    keys: Key[Array, "batch"],
    entry: TokenRange,
    config: GenerationConfig,
    numbers: Numbers,
) -> tuple[Int[Array, "batch tokens"], None, Int[Array, ""]]:
    """Writes a sequence token by token, until every sample's has ended."""
    model = nnx.merge(graph, state)
    keys = target_keys(keys, entry)
    batch, tokens = len(keys), entry.num_tokens
    nothing = jnp.full((batch, tokens), PADDING, jnp.int32)
    given = known.get(entry.name, nothing)
    inputs = gather_inputs(model.space, known or {entry.name: nothing})
    if config.guidance != 1:
        inputs = double(inputs, inputs.modality == entry.index)
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
        if config.guidance != 1:
            previous = jnp.concatenate([previous, previous])
        features, cache = decode_next(model, previous, carry.step, entry, carry.cache)
        logits = model.logits(features, entry)
        if config.guidance != 1:
            logits = guide(logits, numbers.guidance)
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
    return end.ids, None, end.failed

"""What a generated modality is conditioned on, and what grids and sequences share in drawing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.inference.sampling import Draw, sample_tokens
from fourm.inference.settings import GenerationConfig, Numbers
from fourm.token_space import MASK_ID, Inputs, TokenRange, TokenSpace
from tokenizers.base import PADDING

Known = Mapping[str, Int[Array | np.ndarray, "batch _"] | Float[Array | np.ndarray, "batch _ _"]]
"""Per modality ids [batch, tokens] in its own vocabulary, `PADDING` where unknown; of features the
vectors [batch, tokens, width], NaN where unknown. Under `tokenizers.base.described(name)` the
vectors that describe a grid's tokens, NaN where its ids are all that is known."""


class Condition(NamedTuple):
    """What a generated modality follows with a weight of its own, or shuns.

    Attributes:
        known: What the condition shows, by itself.
        weight: 1 follows it as the model would, more follows it more closely, and a negative
            number leads away from it; see `apply_guidance`.
    """

    known: Known
    weight: float

    def of_rows(self, rows: Int[np.ndarray, "rows"]) -> "Condition":
        """Returns the condition of some samples; one that is given once is the same for all."""
        known = {
            name: array[rows] if len(array) > 1 else np.repeat(array, len(rows), axis=0)
            for name, array in self.known.items()
        }
        return self._replace(known=known)


def gather_inputs(space: TokenSpace, known: Known) -> Inputs:
    """Returns what the encoder reads of known tokens; one slot per token of each modality.

    A sequence that has begun but not ended is followed by a sentinel, as in training; it may have
    others, each in place of a span that is to be written.
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
        elif entry.features_name in known:
            features[entry.features_name] = jnp.asarray(known[entry.features_name])
        if entry.special is not None:
            length = is_real.sum(axis=1)
            is_open = (length > 0) & ~has_ended(ids, entry)
            at_end = jnp.arange(ids.shape[1]) == length[:, None]
            sentinel = at_end & is_open[:, None]
            next_sentinel = entry.special.first_sentinel + count_blanks(ids, entry)
            ids = jnp.where(sentinel, next_sentinel[:, None], ids)
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


def is_blank(ids: Int[Array, "batch tokens"], entry: TokenRange) -> Bool[Array, "batch tokens"]:
    """Says which tokens of sequences are sentinels, in place of spans that are to be written."""
    first = entry.special.first_sentinel
    return (ids >= first) & (ids < first + entry.special.num_sentinels)


def count_blanks(ids: Int[Array, "batch tokens"], entry: TokenRange) -> Int[Array, "batch"]:
    """Returns how many sentinels each sequence has."""
    return is_blank(ids, entry).sum(axis=1)


def gather_guided(
    space: TokenSpace,
    known: Known,
    further: Sequence[Known],
    entry: TokenRange,
    own: Inputs | None = None,
    is_guided: bool = True,
) -> Inputs:
    """Returns what the encoder reads where conditions are weighted: one batch after the other.

    First all that is known together, if anything is; then, if guidance is on, nothing but the
    target's own tokens; then each further condition by itself.

    Args:
        space: The token space.
        known: What is known, the target's own tokens among it unless `own` has these.
        further: Conditions by themselves.
        entry: The target.
        own: The target's own tokens, of which every batch has a copy.
        is_guided: Whether guidance is on.
    """
    if not is_guided:
        return _gather(space, known, own)
    names = [e.name for e in space.ranges if any(e.name in each for each in (known, *further))]
    batches = [known, *further]
    if further:  # All of one shape, so that they are one batch.
        batches = [_with_unknown(space, each, names, known, further) for each in batches]
    inputs = _gather(space, batches[0], own)
    is_own = inputs.modality == entry.index
    first = with_unconditional(inputs, is_own) if known else _without(inputs, is_own)
    copies = [first, *(_gather(space, each, own) for each in batches[1:])]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *copies)


def _gather(space: TokenSpace, known: Known, own: Inputs | None) -> Inputs:
    parts = [gather_inputs(space, known)] if known else []
    return join_inputs(parts if own is None else [*parts, own])


def _with_unknown(
    space: TokenSpace, given: Known, names: Sequence[str], known: Known, further: Sequence[Known]
) -> Known:
    """Returns a condition with all modalities of all conditions, unknown where it lacks them."""
    filled = dict(given)
    for name in names:
        for key in (name, space[name].features_name):
            like = next((each[key] for each in (known, *further) if key in each), None)
            if like is not None and key not in given:
                is_id = jnp.issubdtype(jnp.asarray(like).dtype, jnp.integer)
                filled[key] = jnp.full_like(like, PADDING if is_id else jnp.nan)
    return filled


def apply_guidance(
    logits: Float[Array, "batches tokens vocab"],
    guidance: Float[Array, ""] | float,
    weights: Float[Array, "conditions"] | Sequence[float] = (),
    has_inputs: bool = True,
) -> Float[Array, "batch tokens vocab"]:
    """Combines the batches of `gather_guided`.

    The result is n + guidance (c - n) + the sum of weight (f - n) over the further conditions f,
    where c has seen all that is known together, if anything is, and n nothing (classifier-free
    guidance, Ho and Salimans 2022; several conditions as in 4M, Mizrahi et al. 2023, section 3.3).
    """
    if not has_inputs:
        unconditional, *further = jnp.split(logits, 1 + len(weights))
        guided = unconditional
    else:
        conditional, unconditional, *further = jnp.split(logits, 2 + len(weights))
        guided = unconditional + guidance * (conditional - unconditional)
    for weight, each in zip(weights, further, strict=True):
        guided = guided + weight * (each - unconditional)
    return guided


def with_unconditional(inputs: Inputs, is_kept: Bool[Array, "batch n"]) -> Inputs:
    """Appends to a batch its copy from which all but the kept tokens are removed."""
    bare = _without(inputs, is_kept)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inputs, bare)


def _without(inputs: Inputs, is_kept: Bool[Array, "batch n"]) -> Inputs:
    return inputs._replace(is_real=inputs.is_real & is_kept)


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

"""The tokens of each modality that take part, and all of them packed side by side."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fourm.masking.spans import SpanCorruption, argsort_draws
from fourm.token_space import MASK_ID, Inputs, Targets, TokenRange, TokenSpace
from tokenizers.base import shown as shown_name


class Stream(NamedTuple):
    """The tokens of one modality on one side, before packing.

    Attributes:
        ids: Shared ids, [length], in the order in which they are taken.
        previous: What the decoder reads in their place (targets only; unused in inputs).
        position: Shared positions.
        first: Where those that take part begin.
        count: How many take part.
    """

    ids: Int[Array, "length"]
    previous: Int[Array, "length"]
    position: Int[Array, "length"]
    first: Int[Array, ""]
    count: Int[Array, ""]


class Split(NamedTuple):
    """One sample, split.

    Attributes:
        shown: Of every modality.
        asked: Of every modality.
        features: What is shown of modalities that have vectors in place of ids, by name.
    """

    shown: list[Stream]
    asked: list[Stream]
    features: dict[str, Float[Array, "_ _"]]


def add_feature_positions(
    ids: dict[str, Int[Array, "_"]], space: TokenSpace
) -> dict[str, Int[Array, "_"]]:
    """Returns the ids, and for features, which have none, the places of their vectors."""
    features = [entry for entry in space.ranges if entry.kind == "features"]
    return ids | {entry.name: jnp.arange(entry.num_tokens) for entry in features}


def choose_shown_ids(
    ids: dict[str, Int[Array, "_"]], num_real: dict[str, Int[Array, ""]], entry: TokenRange
) -> Int[Array, "_"] | None:
    """Returns what is shown of a modality of which some samples show other ids than their own.

    None of modalities of which none does.
    """
    name = shown_name(entry.name)
    if name not in ids:
        return None
    return jnp.where(num_real[name] > 0, ids[name], ids[entry.name])


def is_predictable(entry: TokenRange) -> bool:
    """True if the modality can be predicted."""
    return entry.is_target and entry.kind != "features"


def split_modality(
    entry: TokenRange,
    ids: Int[Array, "tokens"],
    draws: Float[Array, "positions"],
    spans: SpanCorruption | None,
    start: Int[Array, ""] | None,
    num_shown: Int[Array, ""],
    num_asked: Int[Array, ""],
    shown_ids: Int[Array, "tokens"] | None = None,
) -> tuple[Stream, Stream]:
    """Splits one modality of a sample into what is shown and what is asked.

    Args:
        entry: The modality.
        ids: Its tokens.
        draws: Uniform numbers, one for each position of the token space.
        spans: Of a sequence, after span corruption.
        start: Of a sequence, where in the target stream the window begins.
        num_shown: How many tokens are shown.
        num_asked: How many are asked.
        shown_ids: What is shown of a grid in place of `ids`, if that is something else.
    """
    if spans is not None:
        streams = split_sequence(spans, entry, num_shown, start, num_asked)
    else:
        own = draws[entry.first_position : entry.first_position + entry.num_tokens]
        streams = split_grid(own, ids, entry, num_shown, num_asked, shown_ids)
    return mask_unpredictable(*streams, entry)


def split_grid(
    draws: Float[Array, "tokens"],
    ids: Int[Array, "tokens"],
    entry: TokenRange,
    num_shown: Int[Array, ""],
    num_asked: Int[Array, ""],
    shown_ids: Int[Array, "tokens"] | None = None,
) -> tuple[Stream, Stream]:
    """Shows and asks disjoint random tokens of a grid; shows others in their place if given."""
    order = argsort_draws(draws)
    num_shown = jnp.minimum(num_shown, entry.num_tokens)
    shown = Stream(
        ids=ids[order] + entry.first_id,
        previous=jnp.full_like(ids, MASK_ID),
        position=order + entry.first_position,
        first=jnp.zeros_like(num_shown),
        count=num_shown,
    )
    num_asked = jnp.minimum(num_asked, entry.num_tokens - num_shown)
    asked = shown._replace(first=num_shown, count=num_asked)
    if shown_ids is not None:
        shown = shown._replace(ids=shown_ids[order] + entry.first_id)
    return shown, asked


def split_sequence(
    spans: SpanCorruption,
    entry: TokenRange,
    num_shown: Int[Array, ""],
    start: Int[Array, ""],
    num_asked: Int[Array, ""],
) -> tuple[Stream, Stream]:
    """Shows the span-corrupted sequence and asks for a window of its target stream.

    The token at `start` is given, and the `num_asked` that follow it are asked. Positions count
    the tokens of each stream. A window starts at position 0 wherever it was cut from, as in the
    reference.
    """
    place = jnp.arange(entry.num_tokens)
    shown = Stream(
        ids=spans.inputs + entry.first_id,
        previous=jnp.full_like(spans.inputs, MASK_ID),
        position=place + entry.first_position,
        first=jnp.zeros_like(num_shown),
        count=jnp.minimum(num_shown, entry.num_tokens),
    )
    place = jnp.arange(entry.num_tokens + 1)
    stream = jnp.roll(spans.targets, -start) + entry.first_id
    asked = Stream(
        ids=stream[1:],
        previous=stream[:-1],
        position=place + entry.first_position,
        first=jnp.zeros_like(num_asked),
        count=jnp.minimum(num_asked, entry.num_tokens + 1),
    )
    return shown, asked


def mask_unpredictable(shown: Stream, asked: Stream, entry: TokenRange) -> tuple[Stream, Stream]:
    """Returns the streams without the ids that features lack, and without what can't be asked."""
    if entry.kind == "features":
        shown = shown._replace(ids=jnp.zeros_like(shown.ids))
    if not is_predictable(entry):
        asked = asked._replace(count=jnp.zeros_like(asked.count))
    return shown, asked


def gather_shown_features(
    features: Float[Array, "tokens width"],
    num_real: Int[Array, ""],
    spans: SpanCorruption | None,
) -> Float[Array, "tokens width"]:
    """Returns features by the position that they have when shown.

    Those of a sequence move up, with a zero vector for each run dropped. What is not there is
    zero, whatever it was, lest a NaN reach the model.
    """
    if spans is None:
        return jnp.where(num_real > 0, features, 0.0)
    taken = jnp.pad(features, ((0, 1), (0, 0)))[jnp.minimum(spans.inputs, len(features))]
    is_shown = jnp.arange(len(features)) < spans.num_inputs
    return jnp.where(is_shown[:, None], taken, 0.0)


def pack_streams(streams: list[Stream], length: int) -> dict[str, Array]:
    """Packs the tokens that take part, by modality, into `length` slots; zeros follow."""
    ends = jnp.cumsum(jnp.stack([stream.count for stream in streams]))
    slot = jnp.arange(length)
    modality = jnp.sum(slot[:, None] >= ends[None], axis=1)
    is_real = slot < ends[-1]
    lengths = np.array([len(stream.ids) for stream in streams])
    # Where a modality's tokens would have to begin for its first slot to fall on its first token.
    shift = jnp.stack([stream.first + stream.count for stream in streams]) - ends
    shift = shift + (np.cumsum(lengths) - lengths)
    source = jnp.where(is_real, slot + shift[jnp.minimum(modality, len(streams) - 1)], 0)

    def take(name: str) -> Int[Array, "slots"]:
        joined = jnp.concatenate([getattr(stream, name) for stream in streams])
        return jnp.where(is_real, joined[source], 0)

    packed = {name: take(name) for name in ("ids", "previous", "position")}
    return packed | {"modality": jnp.where(is_real, modality, 0), "is_real": is_real}


def pack_inputs(streams: list[Stream], length: int) -> Inputs:
    """Packs what is shown of all modalities."""
    packed = pack_streams(streams, length)
    return Inputs(**{name: packed[name] for name in Inputs._fields if name in packed})


def pack_targets(streams: list[Stream], length: int) -> Targets:
    """Packs what is asked of all modalities."""
    packed = pack_streams(streams, length)
    return Targets(**{name: packed[name] for name in Targets._fields})

"""Batches of ml-4m as our `MaskedBatch`.

There, a batch holds all tokens of every modality and masks that are True for what is not used; its
model looks up what it needs. Here, the tokens that are used are packed beforehand.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fourm.interop.transformer.modalities import find_published
from fourm.token_space import MASK_ID, Inputs, MaskedBatch, Targets, TokenRange, TokenSpace

RawBatch = Mapping[str, Mapping[str, np.ndarray]]
"""Per modality `tensor`, `input_mask` and `target_mask`, in the order in which they are packed."""


class Tokens(NamedTuple):
    """All tokens of a modality on one side, of which some are used."""

    ids: Int[np.ndarray, "batch tokens"]
    previous: Int[np.ndarray, "batch tokens"]
    modality: Int[np.ndarray, "batch tokens"]
    position: Int[np.ndarray, "batch tokens"]
    is_real: Bool[np.ndarray, "batch tokens"]


def group_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Groups arrays named `MODALITY/WHAT` by modality, in their order."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        modality, _, what = name.partition("/")
        grouped.setdefault(modality, {})[what] = array
    return grouped


def read_batch(
    batch: RawBatch, space: TokenSpace, num_inputs: int, num_targets: int
) -> MaskedBatch:
    """Packs the first so many shown and asked tokens of each sample.

    Args:
        batch: As ml-4m's model takes it.
        space: Of the model.
        num_inputs: Tokens for the encoder; fewer if the modalities together have no more.
        num_targets: Tokens for the decoder, likewise.

    Raises:
        ValueError: If a modality is not the model's, or an id or a length is out of range.
    """
    shown, asked, features = [], [], {}
    for name, arrays in batch.items():
        entry = space[name]
        if entry.is_input:
            shown.append(_read_inputs(entry, arrays))
        if entry.is_input and entry.kind == "features":
            features[name] = jnp.asarray(_read_features(entry, arrays))
        if entry.is_target:
            asked.append(_read_targets(entry, arrays))
    inputs, targets = _pack(shown, num_inputs), _pack(asked, num_targets)
    fields = {name: jnp.asarray(inputs[name]) for name in Inputs._fields if name in inputs}
    return MaskedBatch(
        Inputs(**fields, features=features or None),
        Targets(**{name: jnp.asarray(targets[name]) for name in Targets._fields}),
    )


def _pack(parts: list[Tokens], length: int) -> dict[str, np.ndarray]:
    """Joins modalities and moves what is used to the front, in its order; zeros follow."""
    joined = {
        field: np.concatenate([getattr(part, field) for part in parts], axis=1)
        for field in Tokens._fields
    }
    order = np.argsort(~joined["is_real"], axis=1, kind="stable")[:, :length]
    packed = {name: np.take_along_axis(array, order, axis=1) for name, array in joined.items()}
    is_real = packed["is_real"]
    return {name: np.where(is_real, array, 0).astype(array.dtype) for name, array in packed.items()}


def _count_visible(is_real: Bool[np.ndarray, "batch tokens"]) -> Int[np.ndarray, "batch tokens"]:
    """Numbers what is visible; 0 for what is not."""
    return np.where(is_real, np.cumsum(is_real, axis=1) - 1, 0)


def _is_compacted(entry: TokenRange) -> bool:
    """Says whether positions count the visible tokens, as in all sequences."""
    return find_published(entry.name).kind in ("sequence", "embeddings")


def _finish(entry: TokenRange, ids, previous, place, is_real) -> Tokens:
    """Moves ids and positions of a modality into the shared space."""
    if place.max(initial=0) >= entry.num_positions:
        raise ValueError(
            f"{entry.name} shows {place.max() + 1} tokens in one sample; this model has positions "
            f"for {entry.num_positions}."
        )
    if entry.vocab_size:
        used = ids[is_real]
        if used.size and not (used.min() >= 0 and used.max() < entry.vocab_size):
            raise ValueError(
                f"{entry.name} has ids from {used.min()} to {used.max()}; 0 to "
                f"{entry.vocab_size - 1} are allowed."
            )
    shape, kind = is_real.shape, np.int32
    return Tokens(
        ids=(ids + entry.first_id).astype(kind) if entry.vocab_size else np.zeros(shape, kind),
        previous=previous.astype(kind),
        modality=np.full(shape, entry.index, kind),
        position=np.broadcast_to(place + entry.first_position, shape).astype(kind),
        is_real=is_real,
    )


def _read_inputs(entry: TokenRange, arrays: Mapping[str, np.ndarray]) -> Tokens:
    is_real = ~arrays["input_mask"].astype(bool)
    if entry.kind == "features":
        ids = np.zeros(is_real.shape, np.int32)
    else:
        ids = arrays["tensor"].reshape(is_real.shape)
    place = _count_visible(is_real) if _is_compacted(entry) else np.arange(is_real.shape[1])
    return _finish(entry, ids, np.zeros(is_real.shape, np.int32), place, is_real)


def _read_features(
    entry: TokenRange, arrays: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "batch tokens width"]:
    """Returns the vectors of a modality by position: of patches, or of visible embeddings."""
    tensor = arrays["tensor"]
    if not _is_compacted(entry):
        return cut_patches(tensor, find_published(entry.name).patch)
    order = np.argsort(arrays["input_mask"].astype(bool), axis=1, kind="stable")
    return np.take_along_axis(tensor, order[..., None], axis=1)


def cut_patches(
    pictures: Float[np.ndarray, "batch channels height width"], size: int
) -> Float[np.ndarray, "batch patches values"]:
    """Cuts pictures into patches, row-major; the channels of a pixel are neighbours."""
    batch, channels, height, width = pictures.shape
    rows, columns = height // size, width // size
    cut = pictures.reshape(batch, channels, rows, size, columns, size)
    return cut.transpose(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, size * size * channels)


def _read_targets(entry: TokenRange, arrays: Mapping[str, np.ndarray]) -> Tokens:
    is_real = ~arrays["target_mask"].astype(bool)
    ids = arrays["tensor"].reshape(is_real.shape)
    if entry.kind == "grid":
        previous = np.full(ids.shape, MASK_ID, np.int32)
        return _finish(entry, ids, previous, np.arange(ids.shape[1]), is_real)
    # A token is predicted from the one before it, so that the first is given.
    place = _count_visible(is_real)[:, :-1]
    # The peer takes positions that are too far for the first one.
    place = np.where(place >= find_published(entry.name).max_length, 0, place)
    is_asked = is_real[:, 1:] & is_real[:, :-1]
    return _finish(entry, ids[:, 1:], ids[:, :-1] + entry.first_id, place, is_asked)

"""Values that occur twice, and pictures of one split that are nearly those of another."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from tokenizers.base import Boxes, Choices, Instances

BITS = 8
"""Side of the grid of brightness differences that a picture is told by."""
ALIKE = 2
"""Of 64 bits, how many may differ between pictures that are nearly the same."""
FLAT = 4.0
"""Brightness of 255 by which a picture must vary to be told from another at all."""


class Twin(NamedTuple):
    """A value that two samples share.

    Attributes:
        modality: Of the value.
        first: Split and key of one of them.
        second: Of the other.
        is_exact: Whether the values are the same, and not only nearly so.
    """

    modality: str
    first: tuple[str, str]
    second: tuple[str, str]
    is_exact: bool


def digest_of(value: Any) -> bytes:
    """Returns a hash that equal values share."""
    hashed = hashlib.blake2b(digest_size=16)
    parts = value if isinstance(value, Boxes | Choices | Instances) else (value,)
    for part in parts:
        array = part if isinstance(part, np.ndarray) else None
        content = str(part).encode() if array is None else np.ascontiguousarray(array).tobytes()
        hashed.update(f"{getattr(array, 'shape', type(part).__name__)}:".encode() + content)
    return hashed.digest()


def look_of(picture: Shaped[np.ndarray, "height width ..."]) -> Bool[np.ndarray, "bits"] | None:
    """Returns bits that nearly equal pictures share: where brightness grows to the right.

    None if a picture hardly varies. (Difference hash: Buchner, imagehash; Krawetz 2013.)
    """
    grey = np.asarray(picture, np.float64)
    grey = grey if grey.ndim == 2 else grey.mean(axis=-1)
    known = np.isfinite(grey)
    if not known.any():
        return None
    low, high = np.percentile(grey[known], (1, 99))
    scaled = 255 * (np.where(known, grey, low) - low) / max(high - low, np.finfo(float).tiny)
    image = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    small = np.asarray(image.resize((BITS + 1, BITS), Image.Resampling.BOX), np.float64)
    if small.std() < FLAT:
        return None
    return (small[:, 1:] > small[:, :-1]).ravel()


def find_twins(
    by_split: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]], pictures: Sequence[str]
) -> list[Twin]:
    """Returns pairs of samples that share a value which should be a sample's own.

    Only pictures and arrays are compared: many samples have the same caption or class.

    Args:
        by_split: Per split, key and values of some samples.
        pictures: Modalities whose values are pictures; these are also compared for being nearly
            the same, between splits.
    """
    twins = []
    first_of: dict[tuple[str, bytes], tuple[str, str]] = {}
    for split, samples in by_split.items():
        for key, sample in samples:
            for name, value in sample.items():
                if not isinstance(value, np.ndarray) or value.ndim < 2 or _is_constant(value):
                    continue
                first = first_of.setdefault((name, digest_of(value)), (split, key))
                if first != (split, key):
                    twins.append(Twin(name, first, (split, key), is_exact=True))
    exact = {(twin.modality, frozenset((twin.first, twin.second))) for twin in twins}
    for name in pictures:
        places, bits = [], []
        for split, samples in by_split.items():
            for key, sample in samples:
                if name in sample and (look := look_of(sample[name])) is not None:
                    places.append((split, key))
                    bits.append(look)
        if len(places) < 2:
            continue
        looks = np.array(bits)
        for row, place in enumerate(places):
            differing = (looks[row + 1 :] != looks[row]).sum(axis=1)
            for other in np.flatnonzero(differing <= ALIKE) + row + 1:
                pair = (place, places[int(other)])
                is_leak = pair[0][0] != pair[1][0]
                if is_leak and (name, frozenset(pair)) not in exact:
                    twins.append(Twin(name, *pair, is_exact=False))
    return twins


def _is_constant(value: np.ndarray) -> bool:
    return bool((value == value.flat[0]).all()) if value.size else True

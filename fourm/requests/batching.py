"""How many samples a request is for, and in which batches they are computed."""

import functools
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key


def count_samples(
    ids: Mapping[str, np.ndarray],
    num_samples: int | None,
    others: Mapping[str, int] | None = None,
) -> int:
    """Returns how many samples a request is for.

    Args:
        ids: Tokens by modality.
        num_samples: What the caller said.
        others: How many there are of what else is given, by a name for messages.

    Raises:
        ValueError: If these differ, or there is none.
    """
    counts = {name: len(array) for name, array in ids.items()} | dict(others or {})
    if num_samples is not None:
        check_whole("num_samples", num_samples, 1)
        counts["num_samples"] = int(num_samples)
    if not counts:
        raise ValueError("There is neither an input nor num_samples; give one of them.")
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ValueError(f"The numbers of samples differ ({told}); they must be equal.")
    count = next(iter(counts.values()))
    if count < 1:
        raise ValueError("The inputs have no sample; give at least 1.")
    return count


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises ValueError unless a value is a whole number in a range."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or int(value) < least or (most is not None and int(value) > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {allowed}.")


def as_places(places: Any, count: int) -> Int[np.ndarray, "count"]:
    """Returns the number that each sample's draws depend on: its place, unless others are given.

    Raises:
        ValueError: If these are no whole numbers from 0 to 2^31 - 1, one for each sample.
    """
    if places is None:
        return np.arange(count)
    found = np.asarray(places)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < 0).any() or (found >> 31).any():
        raise ValueError(
            f"places is {str(places)[:80]}; give a whole number for each sample, 0 to {2**31 - 1}."
        )
    if len(found) != count:
        raise ValueError(f"There are {count} samples and {len(found)} places; give one each.")
    return found.astype(np.int64)


def batches(count: int, size: int) -> Iterator[tuple[Int[np.ndarray, "rows"], int]]:
    """Yields the rows of each batch, filled up with the last row, and how many are no filler.

    Numbers of rows are 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on up to `size`, for each of which there
    is a program: one for every number would take seconds to compile, again and again.
    """
    size = min(size, _round_up(count))
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1), min(size, count - start)


def _round_up(count: int) -> int:
    """Returns the least power of two, or three quarters of one, that is not below a number."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def draw_keys(
    key: Key[Array, ""], rows: Int[np.ndarray, "rows"], draws: Int[np.ndarray, "rows"] | None = None
) -> Key[Array, "rows"]:
    """Returns every sample's own key, and of further draws a key of their own.

    Args:
        key: Of the request.
        rows: Numbers of the samples.
        draws: Numbers of the draws; the first, 0, has the key that a single draw has.
    """
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(rows)
    if draws is None or not draws.any():
        return keys
    # Numbers that no modality has, whose keys are made of the same key.
    others = jax.vmap(jax.random.fold_in)(keys, jnp.asarray(draws, jnp.uint32) + jnp.uint32(2**31))
    return jnp.where(jnp.asarray(draws == 0), keys, others)

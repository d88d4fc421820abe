"""What files and folders of arrays have in common, and what their attributes mean."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

USED = (
    *("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned"),
    *("valid_min", "valid_max", "valid_range"),
)
"""Attributes that say what numbers mean (CF conventions, sections 2.5.1 and 8.1)."""


class About(NamedTuple):
    """What a store says of an array.

    Attributes:
        shape: As stored.
        dtype: As stored; object for texts and for rows of different lengths.
        chunks: Shape of what is packed together.
        dimensions: A name per axis; empty ones if there are none.
        attributes: What else is said, such as `_FillValue`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    attributes: dict[str, Any]


@runtime_checkable
class Store(Protocol):
    """An open file or folder of arrays."""

    def names(self) -> list[str]:
        """Returns the names of all arrays, with those of their groups in front."""

    def about(self, name: str) -> About:
        """Returns what is said of an array; raises ValueError if there is no such."""

    def read(self, name: str, axis: int, start: int, stop: int) -> Shaped[np.ndarray, "..."]:
        """Returns a part of an array, as stored, along one of its axes."""

    def close(self) -> None: ...


def state_of_store(path: Path) -> str:
    """Returns a text that is another one if any file of a store has changed."""
    if not path.is_dir():
        state = path.stat()
        return f"{path.name}:{state.st_size}:{state.st_mtime_ns}"
    states = [file.stat() for file in path.rglob("*") if file.is_file()]
    newest = max((state.st_mtime_ns for state in states), default=0)
    return f"{path.name}:{len(states)}:{sum(state.st_size for state in states)}:{newest}"


@contextlib.contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Turns what a library raises into one sentence about a file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Whatever comes up in damaged files.
        if type(error) is ValueError and str(error).startswith(("Reading", str(path))):
            raise
        reason = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        raise ValueError(f"{path} can't be read ({reason}).") from error


def some_of(names: list[str]) -> str:
    """Returns names for a message."""
    shown = ", ".join(sorted(names)[:20])
    return f"{shown}, ..." if len(names) > 20 else shown or "none"


def meaning(
    stored: Shaped[np.ndarray, "..."], attributes: Mapping[str, Any], is_scaled: bool
) -> Shaped[np.ndarray, "..."]:
    """Returns what stored numbers mean, by the attributes of CF: what is no data is unknown.

    Args:
        stored: Numbers.
        attributes: Those of `USED`.
        is_scaled: Whether `scale_factor` and `add_offset` apply.

    Returns:
        Real numbers with NaN, or whole ones of which some may be masked.

    Raises:
        ValueError: If an attribute is no number.
    """
    numbers = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if str(attributes.get("_Unsigned", "")).lower() == "true" and numbers.dtype.kind == "i":
        numbers = numbers.view(f"u{numbers.dtype.itemsize}")
    unknown = np.zeros(numbers.shape, bool)
    for name in ("_FillValue", "missing_value"):
        for number in _numbers_of(attributes, name, numbers.dtype):
            unknown |= np.isnan(numbers) if np.isnan(number) else numbers == number
    limits = _numbers_of(attributes, "valid_range", numbers.dtype)
    low = [*_numbers_of(attributes, "valid_min", numbers.dtype), *limits[:1]]
    high = [*_numbers_of(attributes, "valid_max", numbers.dtype), *limits[1:]]
    for number in low:
        unknown |= numbers < number
    for number in high:
        unknown |= numbers > number
    [scale] = _numbers_of(attributes, "scale_factor") or [1.0]
    [offset] = _numbers_of(attributes, "add_offset") or [0.0]
    if is_scaled and (scale != 1 or offset != 0):
        numbers = (numbers.astype(np.float64) * scale + offset).astype(np.float32)
    if not unknown.any():
        return numbers
    if numbers.dtype.kind == "f":
        return np.where(unknown, numbers.dtype.type(np.nan), numbers)
    return np.ma.MaskedArray(numbers, unknown)


def _numbers_of(attributes: Mapping[str, Any], name: str, kind: np.dtype | None = None) -> list:
    """Returns the numbers of an attribute, of a type in which they are equal to what is stored."""
    if name not in attributes:
        return []
    try:
        given = np.ravel(np.asarray(attributes[name]))
        numbers = given.astype(np.float64) if given.dtype.kind in "USO" else given
        if numbers.dtype.kind not in "iuf":
            raise ValueError("it is of another type")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"has the attribute {name} {str(attributes[name])[:40]!r}, which is no number"
        ) from error
    if kind is None:
        if not np.isfinite(numbers).all() or numbers.size != 1:
            raise ValueError(f"has the attribute {name} {numbers.tolist()}; a number is allowed")
        return numbers.astype(np.float64).tolist()
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return list(numbers.astype(kind))
    same_size = numbers.dtype.kind in "iu" and numbers.dtype.itemsize == kind.itemsize
    # Those of bytes that count from 0 to 255 may be noted as -128 to 127.
    return list(numbers.view(kind) if same_size else numbers)

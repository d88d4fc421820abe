"""What of a value is kept and what is made anew: regions of grids, and blanks in texts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key, Shaped

from fourm.requests.batching import draw_keys
from fourm.token_space import TokenRange, TokenSpace
from tokenizers.base import PADDING, RawBatch, Tokenizer


@runtime_checkable
class Run(Protocol):
    """What an edit needs of a run: `fourm.any2any.Any2Any`, or anything like it."""

    tokenizers: dict[str, Tokenizer]

    @property
    def space(self) -> TokenSpace:
        """Of its model."""

    def prepare(self, inputs: Mapping[str, Any]) -> Any:
        """Returns raw values as the model takes them, by modality, in `.values`."""

    def tokenize(self, samples: Mapping[str, RawBatch | Any]) -> dict[str, np.ndarray]:
        """Returns ids [batch, tokens] by modality."""

    def generate(self, inputs: Mapping[str, Any], targets: str, **options: Any) -> Any:
        """Returns raw values by target in `.values`."""


class Edit(NamedTuple):
    """What of a value is made anew.

    Attributes:
        name: The modality.
        known: Its tokens that are kept, as `Any2Any.generate` takes them.
        original: Its raw values.
        redone: Which tokens of a grid are made anew; None of sequences.
    """

    name: str
    known: dict[str, np.ndarray]
    original: RawBatch
    redone: Bool[np.ndarray, "batch tokens"] | None

    def paste(self, made: RawBatch, entry: TokenRange) -> RawBatch:
        """Returns what was made, with the original's pixels wherever tokens were kept."""
        if self.redone is None or len(entry.token_shape) != 2:
            return made
        return paste(np.asarray(self.original), np.asarray(made), self.redone, entry)


def plan_edit(
    run: Run,
    value: Mapping[str, RawBatch | Any],
    inputs: Mapping[str, RawBatch | Any],
    redo: Any,
    keep: Any,
    seed: int,
) -> Edit:
    """Returns what is kept and what is made anew, see `Any2Any.complete` for the arguments.

    Raises:
        ValueError: If there is not one modality or not one region, or it is none.
    """
    if len(value) != 1:
        raise ValueError(f"One modality is edited; {', '.join(value) or 'none'} is given.")
    (name,) = value
    if name in inputs:
        raise ValueError(f"{name} is edited, so it can't be an input, too; give it once.")
    raw = run.prepare(value).values[name]
    if any(each is None for each in raw):
        raise ValueError(f"A sample has no {name} that could be edited; leave it out.")
    entry, tokenizer = run.space[name], run.tokenizers[name]
    if entry.kind == "sequence":
        if redo is not None or keep is not None:
            raise ValueError(f"{name} is a sequence; write ___ where words are to be found.")
        return Edit(name, {name: encode_with_blanks(raw, tokenizer, entry)}, raw, None)
    if (redo is None) == (keep is None):
        raise ValueError("Give either redo or keep: the part that is made anew, or kept.")
    region = keep if redo is None else redo
    if isinstance(region, Mapping):
        region = _region_in_class_map(run, region, {**inputs, name: raw})
    keys = draw_keys(jax.random.key(seed), np.arange(len(raw)))
    redone = redone_tokens(region, entry, keys)
    redone = ~redone if redo is None else redone
    ids = run.tokenize({name: raw})[name]
    return Edit(name, {name: np.where(redone, PADDING, ids)}, raw, redone)


def _region_in_class_map(
    run: Run, region: Mapping[str, Sequence[str] | str], inputs: Mapping[str, Any]
) -> list[Bool[np.ndarray, "y x"]]:
    """Returns where a class map, given or else predicted, has some classes."""
    if len(region) != 1:
        raise ValueError(f"A region is of one class map; {', '.join(region) or 'none'} is given.")
    ((name, classes),) = region.items()
    if name not in run.tokenizers:
        raise ValueError(f"There is no modality {name!r}; there are {', '.join(run.tokenizers)}.")
    known = getattr(run.tokenizers[name].values, "names", ())
    if name in inputs:
        maps = run.prepare({name: inputs[name]}).values[name]
    else:
        maps = run.generate(inputs, name).values[name]
    wanted = [classes] if isinstance(classes, str) else list(classes)
    return list(region_of_classes(np.asarray(maps), wanted, known))


BLANK = re.compile(r"_{3,}")
"""What stands in a text for words that are to be written."""


def redone_tokens(
    region: Any, entry: TokenRange, keys: Key[Array, "batch"]
) -> Bool[np.ndarray, "batch tokens"]:
    """Returns which tokens of a grid lie in a region, whole or in part.

    Args:
        region: One for all samples, or a list or array of one for each: a mask [y, x] of any size,
            true where the picture is to be made anew; a box (x_min, y_min, x_max, y_max) in
            fractions of width and height; or a share of all tokens, which are then random ones.
        entry: The grid.
        keys: One per sample; of random tokens.

    Raises:
        ValueError: If it is none of these.
    """
    batch = len(keys)
    if isinstance(region, np.ndarray) and region.dtype == bool and region.ndim == 3:
        _check_number(len(region), batch)
        regions: Sequence[Any] = list(region)
    elif isinstance(region, list):
        _check_number(len(region), batch)
        regions = region
    else:
        regions = [region] * batch
    return np.stack(
        [_redone_of_one(each, entry, key) for each, key in zip(regions, keys, strict=True)]
    )


def _check_number(found: int, batch: int) -> None:
    if found != batch:
        raise ValueError(f"There are {found} regions for {batch} samples; give one, or one each.")


def _redone_of_one(region: Any, entry: TokenRange, key: Key[Array, ""]) -> Bool[np.ndarray, "_"]:
    tokens = entry.num_tokens
    if isinstance(region, float | int) and not isinstance(region, bool):
        if not 0 <= region <= 1:
            raise ValueError(f"The share of tokens to redo is {region}; 0 to 1 is allowed.")
        rank = np.asarray(jax.random.permutation(jax.random.fold_in(key, entry.index), tokens))
        return rank < round(region * tokens)
    if len(entry.token_shape) != 2:
        raise ValueError(
            f"{entry.name} has no height and width; of it a share of tokens can be made anew."
        )
    if isinstance(region, np.ndarray) and region.dtype == bool and region.ndim == 2:
        return cover(region, entry.token_shape).ravel()
    corners = np.asarray(region, np.float64) if _are_corners(region) else None
    if corners is None or not (corners >= 0).all() or not (corners <= 1).all():
        raise ValueError(
            f"A region is {str(region)[:80]!r}; give a mask of booleans [y, x], a box (x_min, "
            "y_min, x_max, y_max) in fractions of width and height, or a share of tokens."
        )
    x_min, y_min, x_max, y_max = corners
    if not (x_min < x_max and y_min < y_max):
        told = tuple(corners.tolist())
        raise ValueError(f"The box {told} is empty; give the least x and y first.")
    height, width = entry.token_shape
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    inside_y = (y < y_max * height) & (y + 1 > y_min * height)
    inside_x = (x < x_max * width) & (x + 1 > x_min * width)
    return (inside_y & inside_x).ravel()


def _are_corners(region: Any) -> bool:
    is_sequence = isinstance(region, tuple) or (
        isinstance(region, np.ndarray) and region.ndim == 1 and region.dtype.kind in "iuf"
    )
    is_four = is_sequence and len(region) == 4
    return is_four and all(isinstance(n, int | float | np.number) for n in region)


def cover(
    mask: Bool[np.ndarray, "y x"], shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Returns which cells of a coarser or finer grid a mask touches."""
    found = mask
    for axis, cells in enumerate(shape):
        size = mask.shape[axis]
        starts = [cell * size // cells for cell in range(cells)]
        ends = [max(-(-(cell + 1) * size // cells), start + 1) for cell, start in enumerate(starts)]
        parts = [found.take(range(a, b), axis).any(axis) for a, b in zip(starts, ends, strict=True)]
        found = np.stack(parts, axis)
    return found


def paste(
    original: Shaped[np.ndarray, "batch y x ..."],
    made: Shaped[np.ndarray, "batch y x ..."],
    redone: Bool[np.ndarray, "batch tokens"],
    entry: TokenRange,
) -> Shaped[np.ndarray, "batch y x ..."]:
    """Returns the original, with what was made in the place of the tokens that were redone."""
    height, width = original.shape[1:3]
    cells = redone.reshape(-1, *entry.token_shape)
    rows = np.arange(height) * cells.shape[1] // height
    columns = np.arange(width) * cells.shape[2] // width
    where = cells[:, rows][:, :, columns]
    where = where.reshape(*where.shape, *[1] * (original.ndim - 3))
    return np.where(where, made, original)


def encode_with_blanks(
    texts: RawBatch, tokenizer: Tokenizer, entry: TokenRange
) -> Int[np.ndarray, "batch tokens"]:
    """Returns ids of texts with a sentinel in the place of every blank, `___`.

    Raises:
        ValueError: If a text has no blank, or more tokens or blanks than there is room for.
    """
    ids = np.full((len(texts), entry.num_tokens), PADDING, np.int32)
    for row, text in zip(ids, texts, strict=True):
        parts = [part.strip() for part in BLANK.split(text)]
        if len(parts) == 1:
            raise ValueError(f"{text[:60]!r} has no blank; write ___ where words are to be found.")
        pieces = iter(np.asarray(tokenizer.encode([p for p in parts if p] or ["a"])))
        found: list[int] = []
        for number, part in enumerate(parts):
            if number:
                found.append(entry.special.first_sentinel + number - 1)
            if part:
                own = next(pieces)
                found += own[(own != PADDING) & (own != entry.special.end)].tolist()
        found.append(entry.special.end)
        if len(found) > len(row):
            raise ValueError(
                f"{text[:60]!r} has {len(found)} tokens with its blanks; {len(row)} are allowed."
            )
        row[: len(found)] = found
    return ids


def region_of_classes(
    class_map: Int[np.ndarray, "batch y x"], names: Sequence[str], known: Sequence[str]
) -> Bool[np.ndarray, "batch y x"]:
    """Returns where a class map has one of some classes.

    Raises:
        ValueError: If there is no class of a name.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"There is no class {', '.join(unknown) or 'given'}; there are {', '.join(known)}."
        )
    return np.isin(class_map, [list(known).index(name) for name in names])


def hide_tokens(
    ids: Mapping[str, np.ndarray], share: float, space: TokenSpace, keys: Key[Array, "batch"]
) -> dict[str, np.ndarray]:
    """Returns what is known with a share of every modality's tokens hidden.

    Random ones of a grid, with the numbers that describe them, and of vectors; of a sequence the
    last ones, so that it goes on as one that has begun. At least one token is left.

    Args:
        ids: As `Any2Any.encode_inputs` returns them.
        share: Of the tokens that there are.
        space: Of the model.
        keys: One per sample.
    """
    found = dict(ids)
    for entry in space.ranges:
        if entry.name not in ids:
            continue
        if entry.kind == "sequence":
            length = (ids[entry.name] != PADDING).sum(axis=1, keepdims=True)
            kept = np.minimum(np.maximum(np.round(length * (1 - share)), 1), length)
            is_shown = np.arange(entry.num_tokens)[None] < kept
        else:
            is_shown = ~redone_tokens(share, entry, keys)
            is_shown[~is_shown.any(axis=1), 0] = True
        for name in {entry.name, entry.features_name} & ids.keys():
            given = ids[name]
            if given.dtype.kind == "f":
                found[name] = np.where(is_shown[..., None], given, np.float32(np.nan))
            else:
                found[name] = np.where(is_shown, given, PADDING).astype(given.dtype)
    return found

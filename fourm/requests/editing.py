"""What of a value is kept and what is made anew: regions of grids, and blanks in texts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from fourm.requests.batching import as_places, draw_keys
from fourm.requests.regions import paste, redone_tokens, region_of_classes
from fourm.token_space import TokenRange, TokenSpace
from tokenizers.base import PADDING, RawBatch, Tokenizer

BLANK = re.compile(r"_{3,}")
"""What stands in a text for words that are to be written."""


@runtime_checkable
class Run(Protocol):
    """What an edit needs of a run: `fourm.any2any.Any2Any`, or anything like it."""

    tokenizers: dict[str, Tokenizer]

    @property
    def space(self) -> TokenSpace:
        """Of its model."""

    def prepare(self, inputs: Mapping[str, Any], inputs_are: str = "auto") -> Any:
        """Returns raw values as the model takes them, by modality, in `.values`, see `Samples`."""

    def tokenize(self, samples: Mapping[str, RawBatch | Any]) -> dict[str, np.ndarray]:
        """Returns ids [batch, tokens] by modality."""

    def generate(self, inputs: Mapping[str, Any], targets: str, **options: Any) -> Any:
        """Returns raw values by target in `.values`."""


class Edit(NamedTuple):
    """What of a value is made anew.

    Attributes:
        name: The modality.
        known: Its tokens that are kept, as `Any2Any.generate` takes them.
        inputs: What the new part goes by besides, as the model reads it.
        original: Its raw values.
        redone: Which tokens of a grid are made anew; None of sequences.
    """

    name: str
    known: dict[str, np.ndarray]
    inputs: dict[str, RawBatch]
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
    places: Sequence[int] | None = None,
    inputs_are: str = "auto",
) -> Edit:
    """Returns what is kept and what is made anew, see `Any2Any.complete` for the arguments.

    Raises:
        ValueError: If there is not one modality or not one region, or it is none.
    """
    name = one_name(value, "modality is edited")
    if name in inputs:
        raise ValueError(f"{name} is edited, so it can't be an input, too; give it once.")
    # Together, so that all of a sample is cut alike.
    samples = run.prepare({**value, **inputs}, inputs_are)
    given, entry, tokenizer = dict(samples.values), run.space[name], run.tokenizers[name]
    raw = given.pop(name)
    if any(each is None for each in raw):
        raise ValueError(f"A sample has no {name} that could be edited; leave it out.")
    if entry.kind == "features":
        raise ValueError(f"{name} has no tokens and is only ever input; it can't be edited.")
    if entry.kind == "sequence":
        if not all(isinstance(each, str) for each in raw):
            raise ValueError(f"{name} is no text; of sequences only texts can be edited.")
        if redo is not None or keep is not None:
            raise ValueError(f"{name} is a sequence; write ___ where words are to be found.")
        ids = encode_with_blanks(raw, tokenizer, entry)
        return Edit(name, {name: ids}, given, raw, None)
    if (redo is None) == (keep is None):
        raise ValueError("Give either redo or keep: the part that is made anew, or kept.")
    region, crops = keep if redo is None else redo, samples.crops
    if isinstance(region, Mapping):
        # What the model sees of a class map is what it sees of the value.
        region, crops = _region_in_class_map(run, region, {**given, name: raw}), ()
    keys = draw_keys(jax.random.key(seed), as_places(places, len(raw)))
    redone = redone_tokens(region, entry, keys, crops)
    redone = ~redone if redo is None else redone
    ids = run.tokenize({name: raw})[name]
    return Edit(name, {name: np.where(redone, PADDING, ids)}, given, raw, redone)


def one_name(given: Any, told: str) -> str:
    """Returns the only modality of a request.

    Raises:
        ValueError: If there is not one of them; `told` says of what.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"One {told}, and {type(given).__name__} is given; give raw values by modality, such "
            'as {"rgb": picture}.'
        )
    if len(given) != 1:
        raise ValueError(f"One {told}; {', '.join(given) or 'none'} is given.")
    return next(iter(given))


def _region_in_class_map(
    run: Run, region: Mapping[str, Sequence[str] | str], inputs: Mapping[str, Any]
) -> list[Bool[np.ndarray, "y x"]]:
    """Returns where a class map, given or else predicted, has some classes."""
    name = one_name(region, "class map has the region")
    if name not in run.tokenizers:
        raise ValueError(f"There is no modality {name!r}; there are {', '.join(run.tokenizers)}.")
    known = getattr(run.tokenizers[name].values, "names", ())
    if not known or len(run.space[name].token_shape) != 2:
        raise ValueError(f"{name} is no map of classes with names; give one, or another region.")
    classes = region[name]
    wanted = [classes] if isinstance(classes, str) else classes
    if not isinstance(wanted, Sequence):
        raise ValueError(f"The classes of {name} are {classes!r}; give names, such as {known[0]}.")
    maps = inputs[name] if name in inputs else run.generate(inputs, name).values[name]
    if any(each is None for each in maps):
        raise ValueError(f"A sample has no {name} to find classes in; leave it out of all.")
    return list(region_of_classes(np.asarray(maps), list(wanted), known))


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

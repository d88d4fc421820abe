"""Encodes a data set, shard by shard.

Every shard is made under another name and then renamed, so that it is there whole or not at all.
Shards that are there are not made again, whoever made them: any number of processes, on any number
of machines, may work on one folder, and whatever was interrupted is continued by the same call.
"""

import hashlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from data_pipeline.census import Census
from data_pipeline.crops import CropConfig
from data_pipeline.sources.source import (
    ChosenSamples,
    MayBeDamaged,
    Sample,
    Source,
    state_of,
    views_of,
)
from data_pipeline.tokens.index import INDEX, Counts, Shard, StoreIndex
from data_pipeline.tokens.read_ahead import Chunk, read_ahead, read_chunk
from data_pipeline.tokens.records import build_layouts, pack_record
from tokenizers.base import AUGMENTED, PADDING, RawBatch, Tokenizer, described, is_described, shown
from tokenizers.features import FeatureTokenizer
from tokenizers.spread import evenly_spread
from tokenizers.storage.unfinished import clear_unfinished, partial_name

CHUNK = 512
"""Samples read and encoded at once."""
SHARD = 1024
"""Samples of a shard, unless that makes too many shards."""


def plan_store(
    source: Source,
    tokenizers: dict[str, Tokenizer],
    fingerprints: dict[str, str],
    made_from: dict[str, Any],
    num_shards: int | None = None,
    num_samples: int | None = None,
) -> StoreIndex:
    """Returns what the tokens of a source will be, before there are any.

    Args:
        source: Of samples as the tokenizers take them.
        tokenizers: By modality. A sample without a modality gets no token of it.
        fingerprints: `fingerprint_files` of each saved tokenizer.
        made_from: What else the tokens depend on, by name, such as the data's configuration:
            texts, or configurations.
        num_shards: Files to divide the samples into; one per 1024 samples and at most 64 by
            default.
        num_samples: How many of the samples, the first ones; all by default.

    Raises:
        ValueError: If there are no samples, or fewer than shards.
    """
    samples = len(source) if num_samples is None else min(num_samples, len(source))
    if num_shards is None:
        num_shards = max(1, min(64, -(-samples // SHARD)))
    if not 1 <= num_shards <= samples:
        raise ValueError(
            f"{samples} samples can't be divided into {num_shards} shards; --num-shards must be 1 "
            "to the number of samples."
        )
    layouts = build_layouts(tokenizers, getattr(source, "augmented", ()))
    made_by = {
        own: fingerprints[name]
        for name in tokenizers
        for own in (name, described(name), shown(name))
        if own in layouts
    }
    return StoreIndex(samples, num_shards, layouts, made_by, made_from)


def describe_source(data: Any, crops: CropConfig, seed: int, split: str) -> dict[str, Any]:
    """Returns what tokens are made from beside tokenizers, by name, as `plan_store` takes it."""
    if isinstance(data, MayBeDamaged):  # What may be left out decides on no token.
        data = replace(data, max_damaged=MayBeDamaged.max_damaged)
    return {"data": data, "split": split, "crops": crops, "seed": str(seed)}


def open_folder(folder: Path, plan: StoreIndex, may_replace: bool = True) -> StoreIndex:
    """Makes a folder one for the tokens of a plan; returns the plan as it is stored there.

    If it holds those of another, a warning names what differs, and they will be replaced.

    Raises:
        ValueError: If it holds those of another, and may not replace them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = _stored_in(folder)
    if stored is not None and not plan.differing_from(stored):
        return stored
    if (folder / INDEX).exists():
        differing = plan.differing_from(stored) if stored else ["its index, which is damaged"]
        told = f"The tokens in {folder} were made from something else (differing: "
        told += f"{', '.join(differing)})"
        if not may_replace:
            raise ValueError(f"{told}; give another --out, or --replace to compute them again.")
        warnings.warn(f"{told}, so they are computed again.", stacklevel=2)
    plan.write(folder)
    kept = {plan.file_of(number) for number in range(plan.num_shards)}
    for file in folder.glob("shard-*"):
        if file.with_suffix(".array_record").name not in kept:
            file.unlink(missing_ok=True)
    return StoreIndex.read(folder)


def is_planned(folder: Path, plan: StoreIndex) -> bool:
    """True if a folder is one for the tokens of a plan, whether they are there already or not."""
    stored = _stored_in(folder)
    return stored is not None and not plan.differing_from(stored)


def _stored_in(folder: Path) -> StoreIndex | None:
    try:
        return StoreIndex.read(folder)
    except ValueError:
        return None


def missing_shards(
    source: Source, folder: Path, plan: StoreIndex, numbers: Iterable[int], check: bool = False
) -> list[int]:
    """Returns which shards have to be made.

    One from which values were left out, in a store that is not complete, is made again if its
    files have changed since: they may have been repaired.

    Args:
        source: Of the samples.
        folder: Where they are.
        plan: What they are to be.
        numbers: The shards in question.
        check: Whether to read those that are there and compare them with their checksums, and what
            they were made from with what is there now.
    """

    def is_there(number: int) -> bool:
        found = plan.read_shard(folder, number)
        if found is None:
            return False
        shard = found[0]
        is_suspect = check or (shard.census.left_out and not plan.shards)
        if is_suspect and shard.state and shard.state != _state(source, plan, number):
            return False
        return not check or shard.is_intact(folder)

    return [number for number in numbers if not is_there(number)]


def close_folder(folder: Path, plan: StoreIndex, max_damaged: float = 1.0) -> int:
    """Completes the index if all shards are there; returns how many are missing.

    Raises:
        TooDamagedError: If a larger share than `max_damaged` of a modality's values was left out.
    """
    found = [plan.read_shard(folder, number) for number in range(plan.num_shards)]
    shards = [each for each in found if each is not None]
    if len(shards) == plan.num_shards:
        index = plan.complete(shards)
        index.census.check(max_damaged, f"the samples of {folder}")
        known = StoreIndex.read(folder)
        if not known.checksums == known.own_checksums == index.own_checksums:
            index.write(folder)
        for leftover in folder.glob(".shard-*.partial-*"):  # Of processes that were killed.
            leftover.unlink(missing_ok=True)
        clear_unfinished(folder, "index.json.*")
    return plan.num_shards - len(shards)


def write_tokens(
    source: Source,
    tokenizers: dict[str, Tokenizer],
    folder: Path,
    plan: StoreIndex,
    progress: Callable[[int], None] = lambda samples: None,
    max_damaged: float = 1.0,
) -> None:
    """Encodes every sample of a source, or what is still missing, in this process.

    Args:
        source: What `plan_store` was given.
        tokenizers: The same.
        folder: Where to keep the tokens; made if it is not there.
        plan: From `plan_store`.
        progress: Called with the number of samples that were done since the last call, those that
            had been there before included.
        max_damaged: Share of a modality's values that may be left out.

    Raises:
        TooDamagedError: If more were.
        ValueError: If a tokenizer returns ids outside its vocabulary or of the wrong shape.
    """
    plan = open_folder(folder, plan)
    missing = missing_shards(source, folder, plan, range(plan.num_shards))
    progress(plan.samples - sum(len(plan.range_of(number)) for number in missing))
    write_shards(source, tokenizers, folder, plan, missing, progress)
    close_folder(folder, plan, max_damaged)


def encode_split(
    source: Source,
    tokenizers: dict[str, Tokenizer],
    fingerprints: dict[str, str],
    made_from: dict[str, Any],
    folder: Path,
    num_samples: int | None = None,
    max_damaged: float = 1.0,
) -> None:
    """Encodes a split, or samples evenly spread over it, or what of them is still missing.

    Args:
        source: Of samples as the tokenizers take them.
        tokenizers: By modality.
        fingerprints: `fingerprint_files` of each saved tokenizer.
        made_from: As from `describe_source`.
        folder: Where to keep the tokens; its name is shown beside the progress.
        num_samples: How many samples at most; all by default.
        max_damaged: Share of a modality's values that may be left out.

    Raises:
        TooDamagedError: If more were.
    """
    plan = plan_store(source, tokenizers, fingerprints, made_from, num_samples=num_samples)
    # Runs whose held-out tokens are the first samples of a split go on with those.
    if plan.samples < len(source) and not is_planned(folder, plan):
        source = ChosenSamples(source, evenly_spread(len(source), plan.samples))
        made_from = {**made_from, "samples": f"{plan.samples}, evenly spread"}
        plan = plan_store(source, tokenizers, fingerprints, made_from)
    with tqdm(total=plan.samples, desc=folder.name, unit="sample", dynamic_ncols=True) as bar:
        write_tokens(source, tokenizers, folder, plan, bar.update, max_damaged)


class Tally(NamedTuple):
    """What is found of a shard's samples while they are encoded, added to these.

    Attributes:
        counts: How often ids occur.
        census: What the samples of each chunk have.
        empty: Places, in the shard, of samples that have nothing.
        states: Of their files.
    """

    counts: Counts
    census: list[Census]
    empty: list[int]
    states: list[str]


def write_shards(
    source: Source,
    tokenizers: dict[str, Tokenizer],
    folder: Path,
    plan: StoreIndex,
    numbers: Sequence[int],
    progress: Callable[[int], None],
) -> None:
    """Encodes the samples of some shards, reading the next ones meanwhile; see `write_tokens`."""
    parts = {
        number: [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
        for number, indices in ((number, plan.range_of(number)) for number in numbers)
    }
    flat = itertools.chain.from_iterable(parts.values())
    with closing(read_ahead(partial(read_chunk, source), flat)) as chunks:
        for number, own in parts.items():
            some = itertools.islice(chunks, len(own))
            _write_shard(source, tokenizers, folder, plan, number, some, progress)


def _write_shard(
    source: Source,
    tokenizers: dict[str, Tokenizer],
    folder: Path,
    plan: StoreIndex,
    number: int,
    chunks: Iterator[Chunk],
    progress: Callable[[int], None],
) -> None:
    file = folder / plan.file_of(number)
    temporary = partial_name(file)
    counts = {
        name: np.zeros(layout.vocab_size, np.int64)
        for name, layout in plan.layouts.items()
        if layout.kind != "features"
    }
    tally = Tally(counts, [], [], [])
    views = views_of(source)
    records = _records(chunks, views, tokenizers, plan, tally, progress)
    try:
        _write_records(temporary, records)
        with open(temporary, "rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        size = temporary.stat().st_size
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    found, state, empty = sum(tally.census, Census()), _hash_of(tally.states), tuple(tally.empty)
    shard = Shard(file.name, len(tally.states), size, checksum, found, empty, state)
    plan.write_shard(folder, shard, counts)


def _state(source: Source, plan: StoreIndex, number: int) -> str:
    return _hash_of([state_of(source, index) for index in plan.range_of(number)])


def _hash_of(states: Sequence[str]) -> str:
    """Returns a hash of the files that samples are read from; empty where there are none."""
    return hashlib.sha256("\n".join(states).encode()).hexdigest() if any(states) else ""


def _write_records(file: Path, records: Iterable[bytes]) -> None:
    try:
        # A group per record, so that one is read without its neighbours; ids are dense already.
        writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
        try:
            for record in records:
                writer.write(record)
        finally:
            writer.close()
    except RuntimeError as error:  # What the library raises, whatever the cause.
        raise ValueError(
            f"{file} can't be written ({error}); make room, or give another folder."
        ) from error


def _records(
    chunks: Iterator[Chunk],
    views: int,
    tokenizers: dict[str, Tokenizer],
    plan: StoreIndex,
    tally: Tally,
    progress: Callable[[int], None],
) -> Iterator[bytes]:
    """Yields the records, and adds what is found to the tally."""
    for indices, keys, states, samples in chunks:
        originals = [s for i, s in zip(indices, samples, strict=True) if i % views == 0]
        tally.census.append(Census.of(originals))
        tokens = encode_samples(tokenizers, samples, keys)
        has_nothing = [not any(map(len, own.values())) for own in tokens]
        tally.empty.extend((len(tally.states) + np.flatnonzero(has_nothing)).tolist())
        tally.states.extend(states)
        for name, count in tally.counts.items():
            ids = [own[name] for own in tokens if name in own]
            if ids:
                count += np.bincount(np.concatenate(ids), minlength=len(count))
        for key, own in zip(keys, tokens, strict=True):
            yield pack_record(key, own, plan.layouts)
        progress(len(indices))


def encode_samples(
    tokenizers: Mapping[str, Tokenizer], samples: Sequence[Sample], keys: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Returns, per sample, what is kept of it by name, as `pack_record` takes it.

    Args:
        tokenizers: By modality.
        samples: Raw values; what a sample lacks has no key. Under `AUGMENTED` those that are shown
            in their place: of them are features, and ids beside those of the sample's own.
        keys: Names of the samples, for errors.

    Raises:
        ValueError: If ids are outside the vocabulary or of the wrong shape.
    """
    tokens: list[dict[str, np.ndarray]] = [{} for _ in samples]
    for name, tokenizer in tokenizers.items():
        own_values = {row: sample[name] for row, sample in enumerate(samples) if name in sample}
        changed = {
            row: samples[row][AUGMENTED][name]
            for row in own_values
            if name in samples[row].get(AUGMENTED, ())
        }
        read = own_values | changed
        is_features = isinstance(tokenizer, FeatureTokenizer)
        asked = {name: read} if is_features else {name: own_values, shown(name): changed}
        for kept, values in asked.items():
            encoded = encode(tokenizer, name, list(values.values()), [keys[row] for row in values])
            for row, own in zip(values, encoded, strict=True):
                tokens[row][kept] = own
        if is_described(tokenizer) and read:
            packed = tokenizer.pack(_stack(list(read.values())))
            for row, own in zip(read, packed, strict=True):
                tokens[row][described(name)] = own
    return tokens


def encode(tokenizer: Tokenizer, name: str, values: list[Any], keys: list[str]) -> list[np.ndarray]:
    """Returns the real tokens of some samples: ids [tokens], or packed features [tokens, width].

    Args:
        tokenizer: Of the modality `name`.
        name: For errors.
        values: One sample's raw value each.
        keys: Names of the samples, for errors.

    Raises:
        ValueError: If ids are outside the vocabulary or of the wrong shape.
    """
    if not values:
        return []
    if isinstance(tokenizer, FeatureTokenizer):
        return tokenizer.pack(_stack(values))
    encoded = np.asarray(tokenizer.encode(_stack(values)))
    if encoded.shape != (len(values), *tokenizer.token_shape):
        raise ValueError(
            f"The tokenizer of {name} returned ids of shape {encoded.shape} for {len(values)} "
            f"samples; its token_shape is {tokenizer.token_shape}."
        )
    encoded = encoded.reshape(len(values), -1)
    is_real = encoded != PADDING
    num_real = is_real.sum(axis=1)
    leads = is_real == (np.arange(encoded.shape[1]) < num_real[:, None])
    is_id = ~is_real | ((encoded >= 0) & (encoded < tokenizer.vocab_size))
    wrong = ~(leads & is_id).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"The tokenizer of {name} returned wrong ids for the sample "
            f"{keys[int(wrong.argmax())]!r}; they must be in [0, {tokenizer.vocab_size}), with "
            f"{PADDING} only after the end."
        )
    return [row[:count] for row, count in zip(encoded, num_real, strict=True)]


def _stack(values: list[Any]) -> RawBatch:
    """Returns arrays of one shape, or numbers, as one array; anything else as a list."""
    first = values[0]
    if isinstance(first, np.ndarray) and all(value.shape == first.shape for value in values):
        return np.stack(values)
    if isinstance(first, int | float | np.number):
        return np.asarray(values)
    return values

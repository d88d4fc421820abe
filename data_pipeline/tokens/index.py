"""What a token store says of itself: `index.json`, and a few lines beside each shard.

A store is a folder:

    index.json                           format, samples, modalities and their layouts, what the
                                         tokens were made from; once complete, also the shards and
                                         how often every id occurs
    shard-00003-of-00064.array_record    the records of samples 3 * n // 64 to 4 * n // 64 of n
    shard-00003-of-00064.json            its size, checksum and counts of ids

A shard is there if both of its files are, and they belong together and to the index. All are
written under another name first and then renamed, the one beside the shard last.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from data_pipeline.census import Census
from data_pipeline.tokens.records import Layouts, ModalityLayout
from tokenizers.settings.checked import checked_fields
from tokenizers.settings.plain import (
    classes_of,
    differing_knobs,
    from_plain,
    from_repr,
    to_plain,
    up_to_date,
)
from tokenizers.storage.unfinished import write_file

FORMAT = 2
"""Version of the records and of the index."""
INDEX = "index.json"
MADE = ("shards", "counts", "sha256")
"""What an index says of tokens once there are any; all else is the plan."""
MOST_SHARDS = 10**6
"""Files that a store may be divided into."""

Counts = dict[str, Int64[np.ndarray, "_"]]
"""Per modality with ids, how often each occurs."""


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    file: str
    """Its name."""
    samples: int
    """Records in it."""
    bytes: int
    """Its size."""
    sha256: str
    """Of the whole file, in hexadecimal digits."""

    census: Census = Census()  # noqa: RUF009  Frozen, so it may be shared.
    """What its samples have; none in stores of before."""
    empty: tuple[int, ...] = ()
    """Places of records without a token, of samples of which nothing could be used."""
    state: str = ""
    """Hash of `state_of` of its samples; empty where their source has no files."""

    def to_plain(self) -> dict[str, Any]:
        """Returns what JSON can hold, without fields that came later and say nothing."""
        later = {"census": Census(), "empty": (), "state": ""}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in later or getattr(self, name) != later[name]
        }

    def is_intact(self, folder: Path) -> bool:
        """Reads the whole file and compares it with its checksum."""
        with open(folder / self.file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256


@dataclass(frozen=True)
class StoreIndex:
    """What a token store holds and what it was made from."""

    samples: int
    """In all shards."""
    num_shards: int
    """Files that the samples are divided into, as equally as can be."""
    layouts: Layouts
    """How each modality lies in the records."""
    tokenizers: dict[str, str]
    """Fingerprint of each modality's saved tokenizer."""
    made_from: dict[str, Any]
    """What else the tokens depend on, by name, such as the data's configuration."""
    shards: tuple[Shard, ...] = ()
    """Empty until all are there."""
    counts: Counts = field(default_factory=dict)
    """Of the whole store; empty until it is complete."""
    checksums: dict[str, str] = field(default_factory=dict)
    """Of a complete index as it was written: of its plan, and of shards and counts."""
    written: dict[str, Any] = field(default_factory=dict)
    """The plan as it was read; an earlier version may have written fewer fields."""

    def range_of(self, number: int) -> range:
        """Returns the samples of a shard."""
        start, stop = (self.samples * n // self.num_shards for n in (number, number + 1))
        return range(start, stop)

    def file_of(self, number: int) -> str:
        """Returns the name of a shard's file."""
        return f"shard-{number:05d}-of-{self.num_shards:05d}.array_record"

    @property
    def census(self) -> Census:
        """What all samples have, as far as the shards say it."""
        return sum((shard.census for shard in self.shards), Census())

    @cached_property
    def filled(self) -> Int64[np.ndarray, "samples"]:
        """The samples that have at least one token, ascending."""
        starts = np.cumsum([0, *(shard.samples for shard in self.shards)])
        empty = [
            start + place
            for start, shard in zip(starts, self.shards, strict=False)
            for place in shard.empty
        ]
        return np.delete(np.arange(self.samples), np.array(empty, np.int64))

    @property
    def plan(self) -> dict[str, Any]:
        """All that is known before there is any token, in plain values."""
        return self.written or self._plan

    @property
    def _plan(self) -> dict[str, Any]:
        """The plan as this version writes it."""
        return {
            "format": FORMAT,
            "samples": self.samples,
            "num_shards": self.num_shards,
            "modalities": {
                name: {**asdict(layout), "tokenizer": self.tokenizers[name]}
                for name, layout in self.layouts.items()
            },
            "made_from": to_plain(self.made_from),
        }

    def differing_from(self, stored: "StoreIndex") -> list[str]:
        """Returns in what this plan differs from that of a store, whichever version made it."""
        classes = classes_of(*self.made_from.values())
        # Earlier versions wrote configurations as Python shows them.
        made_from = {name: from_repr(value) for name, value in stored.made_from.items()}
        before = {**stored._plan, "made_from": up_to_date(made_from, classes)}
        return differing_knobs(before, self._plan)

    @property
    def fingerprint(self) -> str:
        """Hash of the plan, by which shards know what they belong to."""
        return hashlib.sha256(json.dumps(self.plan).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes `index.json`."""
        checksums = {"sha256": self.own_checksums} if self.shards else {}
        _write_json(folder / INDEX, {**self.plan, **self._made, **checksums})

    @property
    def _made(self) -> dict[str, Any]:
        """What is known once there are tokens, in plain values."""
        shards = [each.to_plain() for each in self.shards]
        return {"shards": shards, "counts": _to_plain(self.counts)}

    @property
    def own_checksums(self) -> dict[str, str]:
        """What `checksums` must be."""
        made = hashlib.sha256(json.dumps(self._made).encode()).hexdigest()
        return {"plan": self.fingerprint, "made": made}

    @classmethod
    def read(cls, folder: Path) -> "StoreIndex":
        """Returns what `write` wrote.

        Raises:
            ValueError: If it is not there, of another version, or damaged.
        """
        file = folder / INDEX
        try:
            plain = json.loads(file.read_text())
            if plain["format"] != FORMAT:
                raise ValueError(f"format {plain['format']!r}, where {FORMAT} is read")
            written = {name: plain[name] for name in plain if name not in MADE}
            modalities = copy.deepcopy(plain["modalities"])
            tokenizers = {name: each.pop("tokenizer") for name, each in modalities.items()}
            fields = {
                "samples": plain["samples"],
                "num_shards": plain["num_shards"],
                "layouts": {n: from_plain(each, ModalityLayout) for n, each in modalities.items()},
                "tokenizers": tokenizers,
                "made_from": plain["made_from"],
                "shards": from_plain(plain["shards"], tuple[Shard, ...]),
                "counts": _from_plain(plain["counts"]),
                "checksums": plain.get("sha256", {}),
                "written": written,
            }
            index = cls(**checked_fields(cls, fields))
            index._check()
            return index
        except OSError as error:
            raise ValueError(
                f"There are no tokens in {folder}; they have to be computed first."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{file} is damaged or of another version ({error}); delete {folder} to compute "
                "the tokens again."
            ) from error

    def _check(self) -> None:
        """Raises ValueError if one part of the index does not fit another."""
        if not 1 <= self.num_shards <= min(self.samples, MOST_SHARDS):
            raise ValueError(f"{self.samples} samples in {self.num_shards} shards")
        for name, each in self.layouts.items():
            each.check(name)
        for name, each in self.made_from.items():
            if not isinstance(each, str | dict):
                raise ValueError(f"made_from.{name} is {each!r}")
        wanted = {n: each.vocab_size for n, each in self.layouts.items() if each.kind != "features"}
        found = {name: len(each) for name, each in self.counts.items()}
        numbers = range(self.num_shards if self.shards else 0)
        shards = [(each.file, each.samples) for each in self.shards]
        if shards != [(self.file_of(n), len(self.range_of(n))) for n in numbers]:
            raise ValueError("its shards are not those of its samples")
        if found != (wanted if self.shards else {}) or any(
            c.min() < 0 for c in self.counts.values()
        ):
            raise ValueError("its counts are not those of its vocabularies")

    def check_counts(self, folder: Path) -> None:
        """Compares shards and counts with their checksum, or what lies beside the shards.

        Raises:
            ValueError: If what is said there of a shard, or of how often ids occur, is different.
        """
        if self.checksums:
            is_same = self.checksums.get("made") == self.own_checksums["made"]
        elif all(self._beside(folder, n).is_file() for n, _ in enumerate(self.shards)):
            # Written before there were checksums.
            found = [self._read_beside(folder, number) for number, _ in enumerate(self.shards)]
            shards = [each[1:] for each in found if each is not None]
            is_same = len(shards) == len(found) and (
                not shards or self._made == self.complete(shards)._made
            )
        else:
            is_same = True
        if not is_same:
            raise ValueError(
                f"{folder / INDEX} does not say of its shards what was written; delete "
                f"{folder / INDEX} and run again what made it: shards that are there are not made "
                "again."
            )

    def check_plan(self, folder: Path) -> None:
        """Checks that what the index says of tokenizers and samples is what was written.

        Raises:
            ValueError: If it was changed, or the shards are those of another index.
        """
        found = {self.checksums.get("plan")} if self.checksums else set()
        if not self.checksums:  # Written before there were any.
            beside = [self._read_beside(folder, number) for number, _ in enumerate(self.shards)]
            found = {each[0] for each in beside if each is not None}
        if found - {self.fingerprint}:
            raise ValueError(
                f"{folder / INDEX} does not belong to the shards beside it, or was changed: they "
                "were made by other tokenizers, or from other samples; run again what made them."
            )

    def _beside(self, folder: Path, number: int) -> Path:
        return (folder / self.file_of(number)).with_suffix(".json")

    def _read_beside(self, folder: Path, number: int) -> tuple[str, Shard, Counts] | None:
        """Returns the plan's fingerprint, a shard and its counts; None if they can't be read."""
        try:
            plain = json.loads(self._beside(folder, number).read_text())
            store, counts = plain.pop("store"), _from_plain(plain.pop("counts"))
            wanted = [n for n, each in self.layouts.items() if each.kind != "features"]
            is_whole = set(counts) == set(wanted) and all(
                len(counts[name]) == self.layouts[name].vocab_size for name in wanted
            )
            shard = from_plain(plain, Shard)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # Whatever is wrong, making it again is the remedy.
        is_whole = is_whole and (shard.file, shard.samples) == (
            self.file_of(number),
            len(self.range_of(number)),
        )
        return (store, shard, counts) if is_whole else None

    def write_shard(self, folder: Path, shard: Shard, counts: Counts) -> None:
        """Writes the few lines beside a shard, which make it part of the store."""
        plain = {"store": self.fingerprint, **shard.to_plain(), "counts": _to_plain(counts)}
        _write_json((folder / shard.file).with_suffix(".json"), plain)

    def read_shard(self, folder: Path, number: int) -> tuple[Shard, Counts] | None:
        """Returns a shard and its counts, if it is of this plan and there, by its size, whole."""
        found = self._read_beside(folder, number)
        if found is None or found[0] != self.fingerprint:
            return None
        shard, file = found[1], folder / self.file_of(number)
        is_there = file.is_file() and file.stat().st_size == shard.bytes
        return found[1:] if is_there else None

    def complete(self, shards: Sequence[tuple[Shard, Counts]]) -> "StoreIndex":
        """Returns the index of a store all of whose shards are there."""
        counts = {
            name: sum((counts[name] for _, counts in shards), np.zeros(each.vocab_size, np.int64))
            for name, each in self.layouts.items()
            if each.kind != "features"
        }
        return replace(self, shards=tuple(shard for shard, _ in shards), counts=counts)


def is_complete(folder: Path) -> bool:
    """True if a folder has the index of a store all of whose shards are there."""
    try:
        return bool(StoreIndex.read(Path(folder)).shards)
    except (ValueError, OSError):
        return False


def _to_plain(counts: Counts) -> dict[str, str]:
    # A line per modality, however many ids it has.
    return {name: " ".join(map(str, each.tolist())) for name, each in counts.items()}


def _from_plain(plain: Mapping[str, str]) -> Counts:
    return {name: np.array(text.split(), np.int64) for name, text in plain.items()}


def _write_json(file: Path, plain: dict[str, Any]) -> None:
    write_file(file, (json.dumps(plain, indent=1) + "\n").encode())

"""The tokens of one sample as bytes, and many samples' bytes as one batch of arrays.

A record, all numbers little-endian:

    offset  bytes    what
    0       4        CRC-32 (zlib's) of everything that follows
    4       c        which modalities are there: bit m % 8 of byte m // 8 for modality m, c bytes
                     for up to 8 * c modalities
    4 + c            for each modality that is there, in order:
            2            how many tokens follow, 1 to 65535
            2 * n ...    the tokens: ids of 1, 2 or 4 bytes; features `width` numbers per token
                     then the sample's key, UTF-8, up to the end

Modalities with ids come before those with features, both in the order of their names. One that is
absent has no bytes; sequences have those of their real tokens only. The numbers that describe the
tokens of a grid beside its ids lie there like a modality of their own, NAME:features. So do the ids
that are shown of an augmented view, NAME:shown; views that show their own have none.
"""

import math
import zlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from tokenizers.base import PADDING, TokenBatch, Tokenizer, described, is_described, shown
from tokenizers.features import FeatureTokenizer, PackedFeatures

MOST_TOKENS = 2**16 - 1
"""Tokens of one modality and sample that a record can hold."""
CHECKSUM = 4
"""Bytes of a checksum."""
COUNT = 2
"""Bytes of the number of tokens."""


class DamagedRecordError(ValueError):
    """A record is not what was written."""

    def __init__(self, row: int):
        super().__init__(f"The record {row} of the batch is damaged.")
        self.row = row


@dataclass(frozen=True)
class ModalityLayout:
    """How one modality lies in records."""

    kind: Literal["grid", "sequence", "features"]
    """Grids and sequences have ids, features have vectors."""
    vocab_size: int
    """Number of ids; 0 for features."""
    token_shape: tuple[int, ...]
    """(height, width) of a grid, (longest length,) of a sequence."""
    dtype: str
    """Of the numbers kept: the smallest unsigned one that holds all ids, or that of features."""
    width: int = 1
    """Numbers per token."""
    mean: tuple[float, ...] = ()
    """See `tokenizers.features.PackedFeatures`; empty for ids."""
    std: tuple[float, ...] = ()
    """The same."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, name: str) -> "ModalityLayout":
        """Returns how the tokens of a tokenizer are laid out.

        Raises:
            ValueError: If there may be too many.
        """
        shape = tuple(tokenizer.token_shape)
        if math.prod(shape) > MOST_TOKENS:
            raise ValueError(
                f"{name} has {math.prod(shape)} tokens per sample; a token store holds up to "
                f"{MOST_TOKENS}."
            )
        if isinstance(tokenizer, FeatureTokenizer):
            return cls.of_features(tokenizer)
        return cls(
            kind="grid" if tokenizer.special is None else "sequence",
            vocab_size=tokenizer.vocab_size,
            token_shape=shape,
            dtype=np.min_scalar_type(tokenizer.vocab_size - 1).name,
        )

    @classmethod
    def of_features(cls, tokenizer: Any) -> "ModalityLayout":
        """Returns how the features of a tokenizer are laid out that has them in place of ids, or
        beside them."""
        return cls(
            kind="features",
            vocab_size=0,
            token_shape=tuple(tokenizer.token_shape),
            width=tokenizer.feature_width,
            **asdict(tokenizer.packed),
        )

    def check(self, name: str) -> None:
        """Raises ValueError if it is no layout that `of` makes."""
        is_features = self.kind == "features"
        if np.dtype(self.dtype).kind not in ("uf" if is_features else "u"):
            raise ValueError(f"{name} has numbers of type {self.dtype}")
        has_size = min((self.width, *self.token_shape)) >= 1 and self.token_shape
        if not has_size or math.prod(self.token_shape) > MOST_TOKENS:
            raise ValueError(f"{name} has tokens of shape {self.token_shape}, width {self.width}")
        if not is_features and not 1 <= self.vocab_size <= np.iinfo(self.dtype).max + 1:
            raise ValueError(f"{name} has {self.vocab_size} ids")

    @cached_property
    def num_tokens(self) -> int:
        """Tokens at most."""
        return math.prod(self.token_shape)

    @cached_property
    def stored(self) -> np.dtype:
        """The type of the numbers on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def token_bytes(self) -> int:
        """Bytes per token."""
        return self.stored.itemsize * self.width

    @cached_property
    def most_bytes(self) -> int:
        """Bytes of a sample at most, the number of tokens included."""
        return COUNT + self.num_tokens * self.token_bytes

    def unpack(self, stored: Shaped[np.ndarray, "*tokens width"]) -> Shaped[np.ndarray, "..."]:
        """Returns features as the model reads them."""
        return PackedFeatures(self.dtype, self.mean, self.std).unpack(stored)


Layouts = dict[str, ModalityLayout]
"""By modality: those with ids before those with features, each in the order of their names."""


def build_layouts(tokenizers: dict[str, Tokenizer], augmented: Collection[str] = ()) -> Layouts:
    """Returns how the tokens of several tokenizers are laid out, in whatever order they come.

    Args:
        tokenizers: By modality.
        augmented: Modalities of which some samples show other values than their own.

    Raises:
        ValueError: If one of these is a sequence, or if there may be too many tokens of one.
    """
    layouts = {name: ModalityLayout.of(each, name) for name, each in tokenizers.items()}
    for name, each in tokenizers.items():
        if is_described(each):
            layouts[described(name)] = ModalityLayout.of_features(each)
        if name in augmented and layouts[name].kind == "sequence":
            raise ValueError(
                f"--crops.augment changes {name}, whose tokens are a sequence; only grids and "
                "features can be shown changed: leave it out of --crops.augment.modalities."
            )
        if name in augmented and layouts[name].kind == "grid":
            layouts[shown(name)] = layouts[name]
    return dict(sorted(layouts.items(), key=lambda entry: (entry[1].kind == "features", entry[0])))


def pack_record(key: str, tokens: dict[str, np.ndarray], layouts: Layouts) -> bytes:
    """Returns the record of one sample.

    Args:
        key: Names the sample.
        tokens: Of the modalities that are there: ids [tokens] or packed features [tokens, width],
            the real ones only.
        layouts: Of all modalities.
    """
    is_present = [len(tokens.get(name, ())) > 0 for name in layouts]
    parts = [np.packbits(is_present, bitorder="little").tobytes()]
    for name, layout in layouts.items():
        if len(tokens.get(name, ())):
            parts.append(len(tokens[name]).to_bytes(COUNT, "little"))
            parts.append(tokens[name].astype(layout.stored, copy=False).tobytes())
    content = b"".join([*parts, key.encode()])
    return zlib.crc32(content).to_bytes(CHECKSUM, "little") + content


def unpack_records(
    records: Sequence[bytes], layouts: Layouts, wanted: Layouts, index: Int[np.ndarray, "b"]
) -> TokenBatch:
    """Returns the tokens of several samples.

    Ids are taken out of all records at once, which is several times as fast as one by one.

    Args:
        records: From `pack_record`.
        layouts: What they were packed with.
        wanted: Modalities to return. Those without a layout in the records are absent.
        index: The samples' indices, as the batch is to name them.

    Raises:
        DamagedRecordError: If a checksum is wrong.
    """
    check_records(records)
    batch = absent_tokens(
        {name: layout for name, layout in wanted.items() if name not in layouts}, index
    )
    walk = _Walk(records, layouts)
    ids, num_real, features = batch.ids, batch.num_real, batch.features or {}
    for name, layout in layouts.items():
        starts, counts = walk.next(layout)
        if name in wanted:
            num_real[name] = counts
            if layout.kind == "features":
                features[name] = _take_features(records, layout, starts, counts)
            else:
                ids[name] = walk.take_ids(layout, starts, counts)
    return batch._replace(features=features or None)


def absent_tokens(layouts: Layouts, index: Int[np.ndarray, "batch"]) -> TokenBatch:
    """Returns a batch of samples that have none of the modalities."""
    size = len(index)
    ids, features = {}, {}
    for name, each in layouts.items():
        if each.kind == "features":
            features[name] = np.zeros((size, each.num_tokens, each.width), np.float32)
        else:
            ids[name] = np.full((size, each.num_tokens), PADDING, np.int32)
    num_real = {name: np.zeros(size, np.int32) for name in layouts}
    return TokenBatch(ids, num_real, np.asarray(index, np.int32), features or None)


def unpack_keys(records: Sequence[bytes], layouts: Layouts) -> list[str]:
    """Returns the keys of several samples.

    Raises:
        DamagedRecordError: If a checksum is wrong.
    """
    check_records(records)
    walk = _Walk(records, layouts)
    for layout in layouts.values():
        walk.next(layout)
    return [record[end:].decode() for record, end in zip(records, walk.ends, strict=True)]


def check_records(records: Sequence[bytes]) -> None:
    """Raises DamagedRecordError if a record is not what its checksum says."""
    for row, record in enumerate(records):
        content = memoryview(record)[CHECKSUM:]
        if zlib.crc32(content) != int.from_bytes(record[:CHECKSUM], "little"):
            raise DamagedRecordError(row)


class _Walk:
    """Goes through the modalities of several records side by side."""

    def __init__(self, records: Sequence[bytes], layouts: Layouts):
        num_flags = -(-len(layouts) // 8)
        head = CHECKSUM + num_flags
        with_ids = [each.most_bytes for each in layouts.values() if each.kind != "features"]
        # The heads of all records, as wide as ids can be: windows never reach over the edge.
        width = head + sum(with_ids)
        joined = b"".join([record[:width].ljust(width, b"\0") for record in records])
        self._heads = np.frombuffer(joined, np.uint8).reshape(len(records), width)
        self._records = records
        flags = self._heads[:, CHECKSUM:head]
        self._is_present: Bool[np.ndarray, "batch m"] = np.unpackbits(
            flags, axis=1, count=len(layouts), bitorder="little"
        ).astype(bool)
        self._number = 0
        self.ends = np.full(len(records), head, np.int64)
        """Where in each record the next modality starts."""

    def next(self, layout: ModalityLayout) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
        """Returns where the next modality's tokens start, and how many there are."""
        is_present = self._is_present[:, self._number]
        counts = np.zeros(len(self.ends), np.int32)
        if layout.kind == "features":  # They may lie behind what the heads hold.
            for row in np.flatnonzero(is_present).tolist():
                start = self.ends[row]
                counts[row] = int.from_bytes(self._records[row][start : start + COUNT], "little")
        elif is_present.any():
            low, high = self._windows(COUNT, self.ends * is_present).T.astype(np.int32)
            counts = np.where(is_present, low + 256 * high, 0).astype(np.int32)
        starts = self.ends + COUNT * is_present
        self.ends = starts + layout.token_bytes * counts
        self._number += 1
        return starts, counts

    def take_ids(
        self, layout: ModalityLayout, starts: Int[np.ndarray, "b"], counts: Int[np.ndarray, "b"]
    ) -> Int[np.ndarray, "b tokens"]:
        """Returns ids, with `PADDING` behind the real ones."""
        size = layout.num_tokens * layout.token_bytes
        windows = self._windows(size, np.where(counts > 0, starts, 0))
        ids = windows.view(layout.stored).astype(np.int32)
        if (counts < layout.num_tokens).any():
            ids[np.arange(layout.num_tokens) >= counts[:, None]] = PADDING
        return ids

    def _windows(self, size: int, starts: Int[np.ndarray, "b"]) -> Shaped[np.ndarray, "b size"]:
        views = np.lib.stride_tricks.sliding_window_view(self._heads, size, axis=1)
        return views[np.arange(len(starts)), starts]


def _take_features(
    records: Sequence[bytes],
    layout: ModalityLayout,
    starts: Int[np.ndarray, "b"],
    counts: Int[np.ndarray, "b"],
) -> Shaped[np.ndarray, "b tokens width"]:
    """Returns features, zeros where there are none."""
    taken = np.zeros((len(records), layout.num_tokens, layout.width), np.float32)
    for row in np.flatnonzero(counts).tolist():
        stored = np.frombuffer(
            records[row], layout.stored, counts[row] * layout.width, int(starts[row])
        )
        taken[row, : counts[row]] = layout.unpack(stored.reshape(-1, layout.width))
    return taken

"""Samples and tokenizers that tests of token stores share."""

from pathlib import Path

import numpy as np

from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.writer import plan_store, write_tokens
from tokenizers.base import PADDING, SequenceTokens
from tokenizers.features import PixelTokenizer, Vectors, VectorTokenizer


class Grid:
    """Encodes a picture by its numbers."""

    values = None
    vocab_size = 300
    token_shape = (2, 3)
    special = None

    def __init__(self):
        self.calls: list[int] = []

    def encode(self, values):
        assert isinstance(values, np.ndarray)
        self.calls.append(len(values))
        return np.asarray(values, np.int32)

    def decode(self, ids):
        return ids

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "grid.json").write_text("{}")

    @classmethod
    def load(cls, folder: Path) -> "Grid":
        return cls()


class Letters(Grid):
    """Encodes a text by its letters."""

    vocab_size = 128
    token_shape = (5,)
    special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=2)

    def encode(self, values):
        ids = np.full((len(values), 5), PADDING, np.int32)
        for row, text in zip(ids, values, strict=True):
            row[: len(text)] = [ord(letter) for letter in text]
        return ids


def build_tokenizers() -> dict:
    """Returns a tokenizer of each kind; those without ids are not the last."""
    return {
        "grid": Grid(),
        "pixels": PixelTokenizer(4, 2),
        "text": Letters(),
        "vectors": VectorTokenizer(Vectors(width=3, longest=4)),
    }


class Samples:
    """Every third sample has no picture, every fourth no text, every fifth no features.

    But the first one has a text: what has nothing at all is left out.
    """

    def __init__(self, length: int = 23, fail_from: int = 10**9, with_keys: bool = False):
        self.length = length
        self.fail_from = fail_from
        self.reads: list[int] = []
        if with_keys:
            self.keys = [f"a/ü{index}" for index in range(length)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if index >= self.fail_from:
            raise KeyboardInterrupt
        self.reads.append(index)
        sample = {"metadata": {"index": index}}
        if index % 3:
            sample["grid"] = (np.arange(6).reshape(2, 3) * 7 + index * 13) % 300
        if index % 4 or not index:
            sample["text"] = "abcde"[: index % 5 + 1]
        if index % 5:
            rng = np.random.default_rng(index)
            sample["pixels"] = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
            sample["vectors"] = rng.normal(size=(index % 4 + 1, 3)).astype(np.float32)
        return sample

    def __getitems__(self, indices) -> list[dict]:
        return [self[index] for index in indices]


def write(folder, source=None, tokenizers=None, made_from=None, num_shards=5, **options) -> None:
    """Writes the tokens of a source with tokenizers whose fingerprints are their names."""
    tokenizers = tokenizers or build_tokenizers()
    source = source or Samples()
    fingerprints = {name: name for name in tokenizers}
    plan = plan_store(source, tokenizers, fingerprints, made_from or {"data": "a"}, num_shards)
    write_tokens(source, tokenizers, folder, plan, **options)


def build(folder, *arguments, **options) -> TokenStore:
    """Writes a store and opens it."""
    write(folder, *arguments, **options)
    return TokenStore.open(folder)


def assert_same(ours, theirs) -> None:
    """Compares two batches bit by bit."""
    assert ours.ids.keys() == theirs.ids.keys()
    assert ours.num_real.keys() == theirs.num_real.keys()
    for name in ours.ids:
        np.testing.assert_array_equal(ours.ids[name], theirs.ids[name])
    for name in ours.num_real:
        np.testing.assert_array_equal(ours.num_real[name], theirs.num_real[name])
    assert (ours.features or {}).keys() == (theirs.features or {}).keys()
    for name in ours.features or {}:
        assert ours.features[name].tobytes() == theirs.features[name].tobytes()
    np.testing.assert_array_equal(ours.index, theirs.index)


def everything(store: TokenStore):
    return store.batch(np.arange(len(store)))

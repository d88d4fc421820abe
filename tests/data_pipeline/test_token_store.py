import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.token_store import TokenStore, build_token_store, fingerprint_files
from tokenizers.base import PADDING, SequenceTokens


class Grid:
    """Encodes a picture by its numbers."""

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


class Samples:
    """Every third sample has no picture, every fourth no text."""

    def __init__(self, length: int = 23, fail_from: int = 10**9):
        self.length = length
        self.fail_from = fail_from
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if index >= self.fail_from:
            raise KeyboardInterrupt
        self.reads.append(index)
        sample = {"metadata": {"index": index}}
        if index % 3:
            sample["grid"] = (np.arange(6).reshape(2, 3) * 7 + index * 13) % 300
        if index % 4:
            sample["text"] = "abcde"[: index % 5 + 1]
        return sample

    def __getitems__(self, indices) -> list[dict]:
        return [self[index] for index in indices]


def build(folder, source=None, tokenizers=None, fingerprints=None, **options) -> TokenStore:
    return build_token_store(
        source or Samples(),
        tokenizers or {"grid": Grid(), "text": Letters()},
        folder,
        fingerprints or {"data": "a"},
        **({"chunk": 5} | options),
    )


def assert_equal(ours: TokenStore, theirs: TokenStore) -> None:
    assert ours.ids.keys() == theirs.ids.keys()
    for name in ours.ids:
        np.testing.assert_array_equal(ours.ids[name], theirs.ids[name])
        np.testing.assert_array_equal(ours.num_real[name], theirs.num_real[name])


def test_the_store_holds_what_the_tokenizers_return(tmp_path):
    store = build(tmp_path)
    assert len(store) == 23
    samples = Samples()
    for index in range(23):
        sample = samples[index]
        grid, text = store.ids["grid"][index], store.ids["text"][index]
        expected = sample["grid"].ravel() if "grid" in sample else [PADDING] * 6
        np.testing.assert_array_equal(grid, expected)
        assert store.num_real["grid"][index] == (6 if "grid" in sample else 0)
        letters = [ord(letter) for letter in sample.get("text", "")]
        assert text.tolist() == letters + [PADDING] * (5 - len(letters))
        assert store.num_real["text"][index] == len(letters)


def test_a_batch_is_rows_of_int32_with_their_indices(tmp_path):
    store = build(tmp_path)
    batch = store.batch(np.array([7, 2, 7]))
    assert batch.index.tolist() == [7, 2, 7] and batch.index.dtype == np.int32
    for name, length in (("grid", 6), ("text", 5)):
        assert batch.ids[name].shape == (3, length) and batch.ids[name].dtype == np.int32
        assert batch.num_real[name].dtype == np.int32
        np.testing.assert_array_equal(batch.ids[name][1], store.ids[name][2])


def test_the_size_of_chunks_does_not_change_tokens(tmp_path):
    whole = build(tmp_path / "whole", chunk=100)
    for chunk in (1, 7, 23):
        assert_equal(build(tmp_path / str(chunk), chunk=chunk), whole)


def test_tokens_are_kept_in_the_smallest_type(tmp_path):
    build(tmp_path)
    with np.load(tmp_path / "chunk-00000.npz") as arrays:
        assert arrays["ids/grid"].dtype == np.uint16
        assert arrays["ids/text"].dtype == np.uint8


def test_only_samples_that_have_a_modality_are_encoded(tmp_path):
    grid = Grid()
    build(tmp_path, tokenizers={"grid": grid})
    assert grid.calls == [3, 3, 4, 3, 2]


def test_a_modality_that_no_sample_has_is_absent_everywhere(tmp_path):
    store = build(tmp_path, tokenizers={"depth": Grid()})
    assert (store.ids["depth"] == PADDING).all() and (store.num_real["depth"] == 0).all()


def test_interrupted_work_continues_with_the_first_missing_chunk(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a", Samples(fail_from=12))
    (tmp_path / "a" / "chunk-00002.part").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="tokens of 10 of 23 samples; run again"):
        TokenStore.load(tmp_path / "a")
    source = Samples()
    store = build(tmp_path / "a", source)
    assert source.reads == list(range(10, 23))
    assert_equal(store, build(tmp_path / "b"))


def test_finished_work_is_not_repeated(tmp_path):
    first = build(tmp_path)
    source = Samples()
    again = build(tmp_path, source)
    assert source.reads == []
    assert_equal(first, again)
    assert_equal(first, TokenStore.load(tmp_path))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fingerprints": {"data": "b"}}, "data"),
        ({"fingerprints": {"data": "a", "grid": "x"}}, "grid"),
        ({"source": Samples(22)}, "samples"),
        ({"chunk": 6}, "samples"),
        ({"tokenizers": {"grid": Grid()}}, "modalities"),
    ],
)
def test_tokens_made_from_something_else_are_made_again(tmp_path, changes, named):
    build(tmp_path / "a")
    with pytest.warns(UserWarning, match=rf"differing: {named}\), so they are computed again"):
        store = build(tmp_path / "a", **changes)
    assert_equal(store, build(tmp_path / "b", **changes))


def test_every_chunk_is_handed_on_in_order_even_if_its_tokens_are_there(tmp_path):
    build(tmp_path)
    (tmp_path / "chunk-00003.npz").unlink()
    grid, seen = Grid(), []
    build(
        tmp_path,
        tokenizers={"grid": grid, "text": Letters()},
        on_chunk=lambda indices, samples: seen.extend(
            (index, sample["metadata"]["index"])
            for index, sample in zip(indices, samples, strict=True)
        ),
    )
    assert seen == [(index, index) for index in range(23)]
    assert grid.calls == [3]


def test_progress_is_reported_after_every_chunk(tmp_path):
    calls = []
    build(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


class Wrong(Grid):
    def __init__(self, ids):
        super().__init__()
        self.ids = ids

    def encode(self, values):
        return np.repeat(np.asarray(self.ids, np.int32)[None], len(values), axis=0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 1, 2], [3, 4, 300]], r"wrong ids for the sample 1; they must be in \[0, 300\)"),
        ([[0, 1, 2], [3, 4, -2]], "wrong ids for the sample 1"),
        ([[0, 1, PADDING], [3, 4, 5]], "wrong ids for the sample 1"),
        ([[0, 1, 2]], r"shape \(3, 1, 3\) for 3 samples; its token_shape is \(2, 3\)"),
    ],
)
def test_wrong_ids_are_refused_before_they_are_written(tmp_path, ids, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tokenizers={"grid": Wrong(ids)})
    assert not list(tmp_path.glob("chunk-*"))


def test_missing_and_damaged_stores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokens in"):
        TokenStore.load(tmp_path)
    build(tmp_path)
    (tmp_path / "chunk-00001.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"chunk-00001\.npz is damaged; delete it"):
        TokenStore.load(tmp_path)
    (tmp_path / "made_from.json").write_text("{")
    with pytest.raises(ValueError, match=r"made_from\.json is damaged"):
        build(tmp_path)


def test_a_fingerprint_follows_names_and_contents(tmp_path):
    file = tmp_path / "a" / "b" / "c.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([1]))
    first = fingerprint_files(tmp_path / "a")
    assert fingerprint_files(tmp_path / "a") == first
    file.write_text(json.dumps([2]))
    second = fingerprint_files(tmp_path / "a")
    file.rename(file.with_name("d.json"))
    assert len({first, second, fingerprint_files(tmp_path / "a")}) == 3

"""Reading token stores."""

import json
import shutil

import numpy as np
import pytest

from data_pipeline.batches import BatchIterator, BatchOrder
from data_pipeline.tokens import store as token_store
from data_pipeline.tokens.index import StoreIndex
from data_pipeline.tokens.records import build_layouts
from data_pipeline.tokens.store import TokenStore
from tests.data_pipeline.token_samples import (
    Grid,
    Samples,
    assert_same,
    build,
    build_tokenizers,
    everything,
    write,
)
from tokenizers.base import PADDING


def test_the_store_holds_what_the_tokenizers_return(tmp_path):
    store, tokenizers, samples = build(tmp_path), build_tokenizers(), Samples()
    assert len(store) == 23
    batch = everything(store)
    for index in range(23):
        sample = samples[index]
        expected = sample["grid"].ravel() if "grid" in sample else [PADDING] * 6
        np.testing.assert_array_equal(batch.ids["grid"][index], expected)
        assert batch.num_real["grid"][index] == (6 if "grid" in sample else 0)
        letters = [ord(letter) for letter in sample.get("text", "")]
        assert batch.ids["text"][index].tolist() == letters + [PADDING] * (5 - len(letters))
        assert batch.num_real["text"][index] == len(letters)
        if "pixels" in sample:  # Bit by bit what the tokenizer would have made.
            encoded = tokenizers["pixels"].encode(sample["pixels"][None])
            assert batch.features["pixels"][index].tobytes() == encoded.tobytes()
            assert batch.num_real["pixels"][index] == 4
            vectors, count = sample["vectors"], len(sample["vectors"])
            assert batch.num_real["vectors"][index] == count
            found = batch.features["vectors"][index]
            np.testing.assert_array_equal(found[:count], vectors.astype(np.float16))
            assert not found[count:].any()
        else:
            assert batch.num_real["pixels"][index] == batch.num_real["vectors"][index] == 0


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_a_batch_is_rows_with_their_indices_in_memory_or_not(tmp_path, in_memory):
    write(tmp_path)
    store = TokenStore.open(tmp_path, in_memory=in_memory)
    assert store.is_in_memory == bool(in_memory)
    whole = everything(store)
    batch = store.batch(np.array([7, 22, 0, 7]))
    assert batch.index.tolist() == [7, 22, 0, 7] and batch.index.dtype == np.int32
    for name in ("grid", "text"):
        assert batch.ids[name].dtype == batch.num_real[name].dtype == np.int32
        np.testing.assert_array_equal(batch.ids[name], whole.ids[name][[7, 22, 0, 7]])
    for name in ("pixels", "vectors"):
        assert batch.features[name].dtype == np.float32
        np.testing.assert_array_equal(batch.features[name], whole.features[name][[7, 22, 0, 7]])


def test_any_number_of_threads_read_the_same_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "MOST_OPEN", 2)  # Of five shards.
    reference = everything(build(tmp_path))
    store = TokenStore.open(tmp_path, in_memory=0)
    order = BatchOrder(23, 16)
    with BatchIterator(order, store.batch, ahead=8, threads=4) as batches:
        for step in range(60):
            batch, indices = next(batches), order.indices(step)
            np.testing.assert_array_equal(batch.ids["grid"], reference.ids["grid"][indices])
            for name, features in reference.features.items():
                np.testing.assert_array_equal(batch.features[name], features[indices])


def test_keys_are_those_of_the_data_or_else_indices(tmp_path):
    keyed = build(tmp_path / "a", Samples(with_keys=True))
    assert keyed.keys(np.array([22, 0])) == ["a/ü22", "a/ü0"]
    assert build(tmp_path / "b").keys(np.array([22, 0])) == ["22", "0"]


def test_modalities_may_be_left_out_or_be_absent(tmp_path):
    tokenizers = build_tokenizers()
    write(tmp_path, tokenizers={name: tokenizers[name] for name in ("grid", "text")})
    wanted = build_layouts({name: tokenizers[name] for name in ("text", "pixels")})
    batch = everything(TokenStore.open(tmp_path, wanted))
    assert set(batch.ids) == {"text"} and set(batch.features) == {"pixels"}
    assert batch.num_real["text"].any() and not batch.num_real["pixels"].any()


def test_the_index_says_what_there_is(tmp_path):
    store = build(tmp_path, made_from={"data": "photographs"})
    plain = json.loads((tmp_path / "index.json").read_text())
    assert plain["samples"] == 23 and plain["made_from"] == {"data": "photographs"}
    assert plain["modalities"]["grid"] == {
        **{"kind": "grid", "vocab_size": 300, "token_shape": [2, 3], "dtype": "uint16"},
        **{"width": 1, "mean": [], "std": [], "tokenizer": "grid"},
    }
    assert plain["modalities"]["pixels"]["mean"] == [0.485, 0.456, 0.406]
    assert [shard["samples"] for shard in plain["shards"]] == [4, 5, 4, 5, 5]
    batch = everything(store)
    for name in ("grid", "text"):
        ids = batch.ids[name][batch.ids[name] != PADDING]
        counts = np.array(plain["counts"][name].split(), int)
        np.testing.assert_array_equal(counts, np.bincount(ids, minlength=len(counts)))
    assert StoreIndex.read(tmp_path) is not None


def test_missing_and_damaged_stores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokens in"):
        TokenStore.open(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Samples(fail_from=12))
    with pytest.raises(ValueError, match="tokens of 9 of 23 samples; run again"):
        TokenStore.open(tmp_path)
    write(tmp_path)
    shard = tmp_path / "shard-00002-of-00005.array_record"
    whole = shard.read_bytes()
    for content in (None, whole[:-1]):
        shard.unlink() if content is None else shard.write_bytes(content)
        with pytest.raises(ValueError, match=r"shard-00002.* is not there or not of \d+ bytes"):
            TokenStore.open(tmp_path)
    shard.write_bytes(whole)
    everything(TokenStore.open(tmp_path))
    (tmp_path / "index.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"index\.json .* of another version \(format 1, where 2"):
        TokenStore.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        TokenStore.open(tmp_path)


def test_damage_is_named_with_file_and_sample_and_mended_by_running_again(tmp_path):
    reference = everything(build(tmp_path, tokenizers={"grid": Grid()}))
    shard = tmp_path / "shard-00003-of-00005.array_record"
    content = bytearray(shard.read_bytes())
    place = content.index(reference.ids["grid"][10].astype("<u2").tobytes())
    content[place] ^= 255
    shard.write_bytes(content)
    store = TokenStore.open(tmp_path)
    for read in (store.batch, store.keys):
        with pytest.raises(ValueError, match=r"shard-00003.* is damaged \(at sample 10\); delete"):
            read(np.array([2, 9, 10, 11]))
    shard.unlink()
    source = Samples()
    again = build(tmp_path, source, tokenizers={"grid": Grid()})
    assert source.reads == [13, 14, 15, 16, 17]
    assert_same(everything(again), reference)


def edit_index(folder, change) -> None:
    plain = json.loads((folder / "index.json").read_text())
    change(plain)
    (folder / "index.json").write_text(json.dumps(plain))


def set_counts(plain) -> None:
    plain["counts"]["grid"] = " ".join(["99999"] + ["0"] * 299)


@pytest.mark.parametrize("is_old", [False, True])
def test_counts_that_were_edited_are_refused_and_mended_by_running_again(tmp_path, is_old):
    build(tmp_path, tokenizers={"grid": Grid()})
    whole = (tmp_path / "index.json").read_text()
    edit_index(tmp_path, set_counts)
    if is_old:
        edit_index(tmp_path, lambda plain: plain.pop("sha256"))
    with pytest.raises(
        ValueError, match=r"index\.json does not say of its shards what was written"
    ):
        TokenStore.open(tmp_path)
    source = Samples()
    write(tmp_path, source, tokenizers={"grid": Grid()})
    assert (tmp_path / "index.json").read_text() == whole and not source.reads


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(samples=10**12),
        lambda plain: plain.update(samples=-23),
        lambda plain: plain.update(num_shards=0),
        lambda plain: plain.update(num_shards="5"),
        lambda plain: plain["modalities"]["grid"].update(vocab_size=-3),
        lambda plain: plain["modalities"]["grid"].update(vocab_size=10**9),
        lambda plain: plain["modalities"]["grid"].update(token_shape=[-2, 3]),
        lambda plain: plain["modalities"]["grid"].update(token_shape="23"),
        lambda plain: plain["modalities"]["grid"].update(dtype="object"),
        lambda plain: plain["modalities"]["grid"].update(kind="sound"),
        lambda plain: plain["counts"].update(grid="1 2 3"),
        lambda plain: plain["counts"].update(grid=" ".join(["-1"] * 300)),
        lambda plain: plain["counts"].clear(),
        lambda plain: plain["shards"].pop(),
        lambda plain: plain["shards"][1].update(samples=10**9),
        lambda plain: plain["shards"][1].update(file="../../other"),
        lambda plain: plain.update(made_from={"data": 3}),
        lambda plain: plain.update(modalities=[]),
        lambda plain: plain.update(shards=None),
    ],
)
def test_an_index_that_fits_neither_itself_nor_its_shards_is_one_sentence(tmp_path, change):
    build(tmp_path, tokenizers={"grid": Grid()})
    edit_index(tmp_path, change)
    with pytest.raises(ValueError, match=r"index\.json (is damaged|does not say)") as error:
        TokenStore.open(tmp_path)
    assert "\n" not in str(error.value)


class Others(Samples):
    """Samples of the same sizes with other numbers."""

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        return {**sample, "grid": sample["grid"][::-1]} if "grid" in sample else sample


def test_a_shard_of_another_store_is_noticed(tmp_path):
    for name, source in (("ours", Samples()), ("theirs", Others())):
        build(tmp_path / name, source, tokenizers={"grid": Grid()})
    name = "shard-00001-of-00005.array_record"
    shutil.copy(tmp_path / "theirs" / name, tmp_path / "ours" / name)
    store = TokenStore.open(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"ours/shard-00001.* is not what was written; delete it"):
        store.batch(np.arange(3))

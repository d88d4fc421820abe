"""Several token stores as one data set."""

import numpy as np
import pytest

from data_pipeline.tokens.mixture import TokenMixture, open_store
from data_pipeline.tokens.store import TokenStore
from tests.data_pipeline.token_samples import (
    Samples,
    assert_same,
    build_tokenizers,
    everything,
    write,
)
from tokenizers.base import PADDING

TOKENIZERS = build_tokenizers()
MADE_BY = {name: name for name in TOKENIZERS}
TEXTS = {name: TOKENIZERS[name] for name in ("text", "vectors")}


def open_both(folder, weights=(3.0, 1.0), tokenizers=TOKENIZERS) -> TokenMixture:
    """Opens 23 samples of everything and 11 of texts and vectors alone."""
    write(folder / "a", Samples(23, with_keys=True))
    write(folder / "b", Samples(11), tokenizers=TEXTS)
    folders = {str(folder / "a"): weights[0], str(folder / "b"): weights[1]}
    return TokenMixture.open(folders, tokenizers, MADE_BY)


def test_samples_are_counted_through_and_absent_where_a_store_has_none(tmp_path):
    mixture = open_both(tmp_path)
    assert len(mixture) == 34
    indices = np.array([30, 2, 23, 22, 2, 33])
    batch = mixture.batch(indices)
    assert batch.index.tolist() == indices.tolist() and batch.index.dtype == np.int32
    first, second = (everything(store) for store in mixture.stores)
    for row, index in enumerate(indices):
        store, own = (first, index) if index < 23 else (second, index - 23)
        for name in ("grid", "text"):
            np.testing.assert_array_equal(batch.ids[name][row], store.ids[name][own])
        for name in ("pixels", "vectors"):
            np.testing.assert_array_equal(batch.features[name][row], store.features[name][own])
        for name in TOKENIZERS:
            assert batch.num_real[name][row] == store.num_real[name][own]
    assert (batch.ids["grid"][[0, 2, 5]] == PADDING).all()
    assert not batch.num_real["pixels"][[0, 2, 5]].any() and batch.num_real["pixels"][1] == 4
    assert mixture.keys(indices) == ["7", "a/ü2", "0", "a/ü22", "a/ü2", "10"]


def test_a_batch_out_of_one_store_is_that_of_the_store(tmp_path):
    mixture = open_both(tmp_path)
    whole = mixture.batch(np.arange(23))
    assert_same(whole, everything(mixture.stores[0]))
    assert mixture.batch(np.arange(23, 34)).index.tolist() == list(range(23, 34))


def test_only_what_is_on_disk_is_read_in_several_threads(tmp_path):
    assert open_both(tmp_path).threads == 1
    from_disk = TokenStore.open(tmp_path / "a", in_memory=0)
    assert TokenMixture([from_disk], (1.0,)).threads > 1


def test_stores_are_drawn_from_by_their_weights(tmp_path):
    order = open_both(tmp_path).order(batch_size=8, seed=1)
    for step in range(20):
        assert (order.indices(step) >= 23).sum() == 2


def test_the_entropy_is_that_of_ids_as_they_are_drawn(tmp_path):
    mixture = open_both(tmp_path)
    texts = [everything(store).ids["text"] for store in mixture.stores]
    # As many of each as are drawn when each of the 23 is drawn 33 times and each of the 11 23.
    ids = np.concatenate([np.repeat(texts[0], 33, axis=0), np.repeat(texts[1], 23, axis=0)])
    shares = np.bincount(ids[ids != PADDING]) / (ids != PADDING).sum()
    shares = shares[shares > 0]
    entropy = mixture.marginal_entropy()
    assert entropy["text"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert set(entropy) == {"grid", "text"}


def test_tokens_fit_tokenizers_that_are_still_to_be_made(tmp_path):
    open_both(tmp_path)
    store = open_store(str(tmp_path / "a"), ["text", "grid", "sound"], {"grid": "grid"})
    assert len(store) == 23
    with pytest.raises(ValueError, match=r"a were made by other tokenizers of text than"):
        open_store(str(tmp_path / "a"), ["text", "grid"], {"text": "another"})


def test_tokens_of_other_tokenizers_are_refused(tmp_path):
    open_both(tmp_path)
    folders = {str(tmp_path / "a"): 1.0, str(tmp_path / "b"): 1.0}
    with pytest.raises(ValueError, match=r"b were made by other tokenizers of text than this run"):
        only_b = {str(tmp_path / "b"): 1.0}
        TokenMixture.open(only_b, TOKENIZERS, MADE_BY | {"text": "another", "grid": "another"})
    grid = {"grid": TOKENIZERS["grid"]}
    with pytest.raises(ValueError, match=r"b are of text, vectors, of which this run has none"):
        TokenMixture.open(folders, grid, MADE_BY)
    with pytest.raises(ValueError, match=r"no tokens in .*none"):
        TokenMixture.open({str(tmp_path / "none"): 1.0}, TOKENIZERS, MADE_BY)

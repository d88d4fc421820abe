"""Heads on frozen tokens: what a mean can't tell, attention finds; maps are read place by place."""

import dataclasses

import jax
import numpy as np
import pytest

from fourm.evaluation.probing.heads import HeadConfig, train_attentive, train_map
from tokenizers.values import Classes, Distances

FEW = HeadConfig(queries=2, epochs=30, batch_size=32, learning_rate=0.03)


def make_tokens(count=192, seed=0):
    """One of six tokens is marked and says the class; the others say other classes at random."""
    rng = np.random.default_rng(seed)
    said, marked = rng.integers(0, 3, (count, 6)), rng.integers(0, 6, count)
    tokens = np.concatenate([np.eye(3)[said], np.zeros((count, 6, 1))], axis=2)
    tokens[np.arange(count), marked, 3] = 1
    labels = said[np.arange(count), marked]
    return tokens.astype(np.float32), np.ones((count, 6), bool), labels


def test_attention_finds_the_token_that_matters():
    tokens, is_real, labels = make_tokens()
    test, real, truth = make_tokens(seed=1)
    answer = train_attentive(tokens, is_real, labels, "class", FEW, jax.random.key(0))
    assert (answer(test, real) == truth).mean() > 0.9
    again = train_attentive(tokens, is_real, labels, "class", FEW, jax.random.key(0))
    np.testing.assert_array_equal(answer(test, real), again(test, real))


def test_what_is_missing_changes_nothing():
    tokens, is_real, labels = make_tokens()
    is_real[:, 5] = False
    others = tokens.copy()
    others[:, 5] = np.nan_to_num(np.inf, posinf=1e3)
    found = [
        train_attentive(each, is_real, labels, "class", FEW, jax.random.key(0))(each, is_real)
        for each in (tokens, others)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ["several", "number"])
def test_labels_and_numbers_are_read_too(kind):
    tokens, is_real, labels = make_tokens()
    wanted = labels[:, None] == np.arange(3) if kind == "several" else 10.0 * labels + 100
    answer = train_attentive(tokens, is_real, wanted, kind, FEW, jax.random.key(0))
    found = answer(tokens, is_real)
    if kind == "several":
        assert found.dtype == bool and (found == wanted).mean() > 0.9
    else:
        assert np.abs(found - wanted).mean() < 3


@pytest.mark.parametrize("kind", ["classes", "distances"])
def test_a_linear_layer_reads_maps_of_any_dense_kind(kind):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (96, 4, 4))
    tokens = np.eye(3, dtype=np.float32)[classes]
    pixels = classes.repeat(2, axis=1).repeat(2, axis=2)
    is_real = np.ones((96, 4, 4), bool)
    values = Classes(("a", "b", "c")) if kind == "classes" else Distances()
    truth = pixels.astype(np.uint8) if kind == "classes" else (1.0 + pixels).astype(np.float32)
    config = dataclasses.replace(FEW, epochs=40)
    answer = train_map(tokens, is_real, truth, values, config, jax.random.key(0))
    found = answer(tokens, is_real)
    assert found.shape == truth.shape and found.dtype == truth.dtype
    scores, floor = values.score(found, truth), values.floor(truth, truth)
    if kind == "classes":
        assert scores["miou"] > 0.7 > floor["miou"]
    else:
        assert scores["abs_rel"] < 0.2 < floor["abs_rel"]


def test_knobs_have_ranges():
    with pytest.raises(ValueError, match="queries is 0; at least 1"):
        HeadConfig(queries=0)
    with pytest.raises(ValueError, match="learning_rate is 0"):
        HeadConfig(learning_rate=0.0)

"""Embeddings: what they mean, and how they become tokens."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenizers.base import Crop
from tokenizers.embeddings.embedding_tokenizer import (
    EmbeddingTokenizer,
    EmbeddingTokenizerConfig,
)
from tokenizers.embeddings.values import Embedding
from tokenizers.modality import Modality, load_tokenizer

WHOLE, MAP = Embedding(12), Embedding(12, is_map=True)
SMALL = EmbeddingTokenizerConfig(num_heads=2, codebook_size=16, code_dim=6, hidden=8)
LEFT = Crop(0.0, 0.0, 1.0, 0.5, flip=False)


def clustered(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Vectors of ten clusters in five dimensions, far from the origin, as encoders make them."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(10, 5)) @ np.random.default_rng(9).normal(size=(5, 12))
    rows = centers[rng.integers(0, 10, shape)] + 0.1 * rng.normal(size=(*shape, 12)) + 2
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    ("values", "shape", "found"),
    [
        *((WHOLE, (12,), (12,)), (WHOLE, (1, 12), (12,)), (MAP, (4, 6, 12), (4, 6, 12))),
        *((MAP, (12, 4, 6), (4, 6, 12)), (MAP, (1, 4, 6, 12), (4, 6, 12))),
    ],
)
def test_vectors_and_maps_may_be_stored_in_several_ways(values, shape, found):
    checked = values.check(np.ones(shape, np.float16), "dino")
    assert checked.shape == found and checked.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "value", "message"),
    [
        (WHOLE, np.ones(11), r"dino has shape \(11,\); \[12\] is allowed \(Embedding\.width"),
        (WHOLE, np.ones((2, 12)), r"dino has shape \(2, 12\)"),
        (MAP, np.ones((24, 12)), r"dino has shape \(24, 12\); \[y, x, 12\] or \[12, y, x\]"),
        (WHOLE, np.full(12, np.nan), "dino has numbers that are not finite"),
        (WHOLE, np.ones(12, complex), "dino has dtype complex128"),
    ],
)
def test_what_is_no_such_vector_gets_one_sentence(values, value, message):
    with pytest.raises(ValueError, match=message):
        values.check(value, "dino")


def test_a_map_follows_the_picture_and_one_vector_does_not():
    value = clustered((4, 6))
    seen = MAP.crop(value, LEFT._replace(flip=True), (4, 3))
    np.testing.assert_allclose(seen, value[:, 2::-1], atol=1e-5)
    turned = MAP.crop(value, Crop(0.0, 0.0, 1.0, 1.0, False, quarter_turns=1), (4, 6))
    np.testing.assert_allclose(turned, np.rot90(value), atol=1e-5)
    one = value[0, 0]
    assert WHOLE.crop(one, LEFT, (8, 8)) is one
    assert replace(WHOLE, least_shown=0.6).crop(one, LEFT, (8, 8)) is None


@pytest.mark.parametrize(("values", "shape"), [(WHOLE, (40,)), (MAP, (10, 4, 2))])
def test_the_truth_scores_highest_and_the_mean_direction_lowest(values, shape):
    truth, training = clustered(shape), clustered(shape, 1)
    best = values.score(truth, truth)
    assert best["cosine"] == pytest.approx(1, abs=1e-6) and best["neighbours"] == 1
    floor = values.floor(training, truth)
    noisy = values.score(truth + np.random.default_rng(2).normal(size=truth.shape), truth)
    for name in values.metrics:
        assert floor[name] < noisy[name] < best[name]


def test_neighbours_are_counted_as_a_naive_search_does():
    truth, found = clustered((9,)), clustered((9,), 3)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (found, truth)]
    shared = 0
    for row in range(9):
        others = [other for other in range(9) if other != row]
        near = [
            set(sorted(others, key=lambda o, u=u, row=row: -float(u[row] @ unit[1][o]))[:5])
            for u in unit
        ]
        shared += len(near[0] & near[1])
    assert WHOLE.score(found, truth)["neighbours"] == pytest.approx(shared / 45)


def test_a_region_restricts_a_map():
    truth = clustered((3, 4, 2))
    found, where = truth.copy(), np.zeros((3, 4, 2), bool)
    where[:, 0] = True
    found[~where] *= -1
    assert MAP.score(found, truth, where)["cosine"] == pytest.approx(1, abs=1e-6)
    assert MAP.score(found, truth)["cosine"] == pytest.approx(-0.5, abs=1e-6)
    assert MAP.floor(truth, truth, where, where)["cosine"] < 1


@pytest.mark.parametrize("value", [clustered(()), clustered((4, 6)), np.ones((2, 1, 12))])
def test_both_are_drawn(value):
    values = MAP if value.ndim == 3 else WHOLE
    drawn = values.draw(value, (20, 30))
    assert drawn.shape == (20, 30, 3) and drawn.dtype == np.uint8
    assert (drawn.std() > 0) == (value.std() > 0)


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
@pytest.mark.parametrize(
    ("values", "shape", "heads", "tokens"),
    [
        *((WHOLE, (), 2, (2,)), (WHOLE, (), 1, (1,)), (MAP, (4, 2), 2, (8, 2))),
        (MAP, (4, 2), 1, (4, 2)),
    ],
)
def test_embeddings_become_ids_and_come_back(quantizer, values, shape, heads, tokens, tmp_path):
    settings = replace(SMALL, quantizer=quantizer, levels=(4, 4), num_heads=heads)
    raw = clustered((64, *shape))
    tokenizer = settings.fit(values, raw, jax.random.key(0))
    ids = tokenizer.encode(list(raw))
    assert ids.shape[1:] == tokenizer.token_shape == tokens
    assert hasattr(tokenizer, "picture_size") == values.is_map
    back = tokenizer.decode(ids)
    assert back.shape == raw.shape
    assert values.score(back, raw)["cosine"] > values.floor(raw, raw)["cosine"]
    one_hot = np.eye(tokenizer.vocab_size, dtype=np.float32)[ids]
    np.testing.assert_allclose(tokenizer.decode_expected(one_hot), back, atol=1e-4)
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert isinstance(again, EmbeddingTokenizer)
    np.testing.assert_array_equal(again.encode(raw), ids)
    with pytest.raises(ValueError, match="this tokenizer takes"):
        tokenizer.encode(raw[..., :-1] if not values.is_map else raw[:, :-1])


def test_squares_of_a_map_may_share_a_token():
    tokenizer = replace(SMALL, patch_size=2).fit(MAP, clustered((8, 4, 2)), jax.random.key(0))
    assert tokenizer.token_shape == (4, 1)
    assert tokenizer.decode(tokenizer.encode(clustered((3, 4, 2)))).shape == (3, 4, 2, 12)


def test_residual_codes_keep_more_than_one_code():
    raw = clustered((200,))
    kept = [
        WHOLE.score(tokenizer.decode(tokenizer.encode(raw)), raw)["neighbours"]
        for heads in (1, 4)
        for tokenizer in [replace(SMALL, num_heads=heads).fit(WHOLE, raw, jax.random.key(0))]
    ]
    assert kept[1] > kept[0]


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_a_tokenizer_of_embeddings_learns(quantizer):
    import optax
    from flax import nnx

    raw = clustered((200,))
    settings = replace(SMALL, quantizer=quantizer, levels=(4, 4))
    tokenizer = settings.fit(WHOLE, raw, jax.random.key(0))
    before = WHOLE.score(tokenizer.decode(tokenizer.encode(raw)), raw)["cosine"]
    optimizer = nnx.Optimizer(tokenizer, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(tokenizer, optimizer, key):
        grads = nnx.grad(lambda model: model.loss(jnp.asarray(raw), key)[0])(tokenizer)
        optimizer.update(tokenizer, grads)

    for number in range(60):
        step(tokenizer, optimizer, jax.random.key(number))
    assert WHOLE.score(tokenizer.decode(tokenizer.encode(raw)), raw)["cosine"] > before


def test_a_map_without_a_size_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"Modality\.size is 0, but values are a map of vectors"):
        Modality(MAP)
    assert Modality(MAP, size=4).tokenizer == EmbeddingTokenizerConfig(
        num_heads=1, codebook_size=0, batch_size=16
    )


def test_neighbours_keep_their_labels_through_the_round_trip():
    """Handwritten digits by their 64 shades, before any training: 4 ids keep nearly all labels."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    raw, labels = load_digits(return_X_y=True)
    raw, values = raw.astype(np.float32), Embedding(64)
    tokenizer = EmbeddingTokenizerConfig(codebook_size=128).fit(
        values, raw[:1200], jax.random.key(0)
    )
    nearest = KNeighborsClassifier(5, metric="cosine").fit(raw[:1200], labels[:1200])
    before = nearest.score(raw[1200:], labels[1200:])
    after = nearest.score(tokenizer.decode(tokenizer.encode(raw[1200:])), labels[1200:])
    assert before > 0.9 and after > before - 0.06

"""Signals: what they mean, and how they become tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenizers.base import Crop
from tokenizers.signals.signal_tokenizer import SignalTokenizer, SignalTokenizerConfig
from tokenizers.signals.values import Signal

HEART = Signal(length=20, channels=2, rate=10.0, unit="mV")
SMALL = SignalTokenizerConfig(patch_steps=6, codebook_size=8, code_dim=4, width=16)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(20, 2), (2, 20), (1, 20, 2), (15, 2)])
def test_a_signal_may_be_stored_either_way_and_be_shorter(shape):
    stored = RNG.normal(size=shape)
    found = HEART.check(stored, "ecg")
    assert found.shape == (20, 2) and found.dtype == np.float32
    assert np.isnan(found[15:]).all() == (15 in shape)
    assert np.isfinite(found[:15]).all()
    assert HEART.crop(found, Crop(0.2, 0.2, 0.5, 0.5, flip=True), (8, 8)) is found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((20, 3)), r"ecg has shape \(20, 3\); signals must be \[time, 2\] or \[2, time\]"),
        (np.zeros(20), r"ecg has shape \(20,\)"),
        (np.zeros((21, 2)), r"ecg has 21 steps; at most 20 are allowed: raise Signal\.length"),
        (np.full((5, 2), np.nan), "ecg has no number that is known"),
        (np.zeros((20, 2), complex), "ecg has dtype complex128"),
    ],
)
def test_what_is_no_such_signal_gets_one_sentence(value, message):
    with pytest.raises(ValueError, match=message):
        HEART.check(value, "ecg")


def test_scores_leave_out_what_is_unknown_and_the_floor_is_the_mean_curve():
    truth = np.stack([HEART.check(RNG.normal(size=(15, 2)), "ecg") for _ in range(6)])
    assert HEART.score(np.nan_to_num(truth), truth)["r2"] == 1.0
    floor = HEART.floor(truth, truth)
    assert 0 < floor["r2"] < 1 and set(floor) == set(HEART.metrics)
    assert HEART.vectors(truth).shape == (6, 2 * 20)


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_curves_and_maps_have_the_size_that_is_asked(channels):
    value = RNG.normal(size=(20, channels)).astype(np.float32)
    value[4:6] = np.nan
    drawn = Signal(length=20, channels=channels).draw(value, (40, 60))
    assert drawn.shape == (40, 60, 3) and drawn.dtype == np.uint8 and drawn.std() > 0


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_signals_become_ids_and_come_back(quantizer, tmp_path):
    settings = SignalTokenizerConfig(**{**vars(SMALL), "quantizer": quantizer, "levels": (4, 4)})
    raw = np.stack([HEART.check(RNG.normal(size=(18, 2)), "ecg") for _ in range(5)])
    tokenizer = settings.fit(HEART, raw, jax.random.key(0))
    ids = tokenizer.encode(list(raw))
    assert ids.shape == (5, 4) and settings.most_tokens(HEART) == 4
    assert tokenizer.token_shape == (4,) and not hasattr(tokenizer, "picture_size")
    back = tokenizer.decode(ids)
    assert back.shape == raw.shape and np.isfinite(back).all()
    one_hot = np.eye(tokenizer.vocab_size, dtype=np.float32)[ids]
    np.testing.assert_allclose(tokenizer.decode_expected(one_hot), back, atol=1e-4)
    tokenizer.save(tmp_path / "saved")
    np.testing.assert_array_equal(SignalTokenizer.load(tmp_path / "saved").encode(raw), ids)
    with pytest.raises(ValueError, match=r"A value has shape \(19, 2\); this tokenizer takes"):
        tokenizer.encode(raw[:, 1:])


@pytest.mark.slow
def test_a_tokenizer_of_signals_learns():
    import optax
    from flax import nnx

    time = np.arange(20)
    raw = np.stack([np.sin(time[:, None] * rate + [0, 1]) for rate in RNG.uniform(0.2, 1, 64)])
    raw = raw.astype(np.float32)
    batch = jnp.asarray(raw)
    tokenizer = SMALL.fit(HEART, raw, jax.random.key(0))
    before = HEART.score(tokenizer.decode(tokenizer.encode(raw)), raw)["r2"]
    optimizer = nnx.Optimizer(tokenizer, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(tokenizer, optimizer, key):
        grads = nnx.grad(lambda model: model.loss(batch, key)[0])(tokenizer)
        optimizer.update(tokenizer, grads)

    for number in range(60):
        step(tokenizer, optimizer, jax.random.key(number))
    after = HEART.score(tokenizer.decode(tokenizer.encode(raw)), raw)["r2"]
    assert after > max(before, 0.3)

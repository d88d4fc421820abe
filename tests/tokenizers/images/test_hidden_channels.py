"""Channels that are unknown within a sample, or are hidden in training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tokenizers.images.patch_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    hide_channels,
)
from tokenizers.values import Colors, Reals

BANDS = Reals(channels=4, by_channel=True)
SMALL = ImageTokenizerConfig(
    patch_size=4, codebook_size=32, code_dim=6, width=32, shown_numbers=0, hidden_channels=0.3
)


def bands(count: int, seed: int) -> np.ndarray:
    """Pictures [8, 8, 4] of bands that follow two patterns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] / 8
    rates = rng.uniform(-1, 1, (count, 4, 1, 1))
    one = np.sin(2 * np.pi * (rates[:, 0] * x + rates[:, 1] * y))
    other = np.cos(2 * np.pi * (rates[:, 2] * x + rates[:, 3] * y))
    mixed = np.stack([one, other], -1) @ np.array([[1, 0.7, 0, -0.5], [0, 0.5, 1, 0.8]])
    return (mixed + np.array([0, 3, -3, 9])).astype(np.float32)


def trained(values: Reals, settings: ImageTokenizerConfig) -> ImageTokenizer:
    raw = bands(128, 0)
    tokenizer = settings.fit(values, raw, jax.random.key(0))
    optimizer = nnx.Optimizer(tokenizer, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(tokenizer, optimizer, key):
        chosen = jax.random.randint(key, (16,), 0, len(raw))
        batch = jnp.asarray(raw)[chosen]
        optimizer.update(tokenizer, nnx.grad(lambda model: model.loss(batch, key)[0])(tokenizer))

    for number in range(150):
        step(tokenizer, optimizer, jax.random.key(number))
    return tokenizer


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_share_of_the_channels_is_hidden_and_one_stays(share):
    raw = bands(400, 1)
    raw[:, ..., 0] = np.nan
    seen = np.asarray(hide_channels(jnp.asarray(raw), share, jax.random.key(0)))
    is_known = np.isfinite(seen).any(axis=(1, 2))
    assert not is_known[:, 0].any() and is_known[:, 1:].any(axis=1).all()
    np.testing.assert_array_equal(np.isfinite(seen).all(axis=(1, 2))[:, 1:], is_known[:, 1:])
    hidden = 1 - is_known[:, 1:].mean()
    # Where all three would be hidden, one is not.
    assert hidden == pytest.approx(share - share**3 / 3, abs=0.05)


def test_hiding_needs_values_that_tell_what_is_known():
    raw = bands(4, 0)
    with pytest.raises(ValueError, match=r"hidden_channels is 0\.3, but Reals does not tell"):
        SMALL.fit(Reals(channels=4), raw, jax.random.key(0))
    with pytest.raises(ValueError, match=r"but Colors does not tell"):
        SMALL.fit(Colors(), np.zeros((2, 8, 8, 3), np.uint8), jax.random.key(0))
    with pytest.raises(ValueError, match=r"hidden_channels is 1\.0; a share of at least 0"):
        replace(SMALL, hidden_channels=1.0)


def test_nothing_is_hidden_when_samples_are_encoded(tmp_path):
    raw = bands(6, 0)
    tokenizer = SMALL.fit(BANDS, raw, jax.random.key(0))
    ids = tokenizer.encode(raw)
    np.testing.assert_array_equal(tokenizer.encode(raw), ids)
    tokenizer.save(tmp_path / "saved")
    again = ImageTokenizer.load(tmp_path / "saved")
    assert again.values == BANDS
    np.testing.assert_array_equal(again.encode(raw), ids)


@pytest.mark.slow
def test_known_bands_are_not_ruined_by_those_that_are_missing():
    """Trained on whole samples, all of them; the test's samples lack two bands of four."""
    whole = bands(64, 2)
    lacking = whole.copy()
    lacking[:, ..., 1:3] = np.nan
    kept = {}
    for name, values, hidden in (
        ("one mask", Reals(channels=4), 0.0),
        ("by channel", BANDS, 0.3),
    ):
        tokenizer = trained(values, replace(SMALL, hidden_channels=hidden))
        kept[name] = [
            values.score(tokenizer.decode(tokenizer.encode(raw)), raw)["r2"]
            for raw in (whole, lacking)
        ]
    assert kept["by channel"][1] > 0.6 > kept["one mask"][1]
    assert kept["by channel"][0] - kept["by channel"][1] < 0.15

"""Codebooks side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenizers.images.memcodes import Memcodes
from tokenizers.images.quantizers import Quantized

KEY = jax.random.key(3)


@nnx.jit(static_argnames="train")
def quantize(memcodes: Memcodes, latents: jax.Array, train: bool) -> Quantized:
    """One compiled call, which is much faster than one operation after the other."""
    return memcodes.quantize(latents, KEY, train)


@pytest.fixture
def memcodes() -> Memcodes:
    return Memcodes(16, 12, 3, rngs=nnx.Rngs(0))


@pytest.fixture
def latents() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (5, 2, 12))


def test_every_part_gets_the_id_whose_key_answers_loudest(memcodes, latents):
    quantized = quantize(memcodes, latents, train=False)
    assert quantized.ids.shape == (5, 2, 3) and quantized.ids.dtype == jnp.int32
    parts = np.asarray(latents).reshape(5, 2, 3, 4)
    for head in range(3):
        keys = np.asarray(memcodes.codes[...][head] @ memcodes.to_key[...][head])
        best = (parts[:, :, head] @ keys.T).argmax(axis=-1)
        np.testing.assert_array_equal(quantized.ids[..., head], best)
        values = np.asarray(memcodes.codes[...][head] @ memcodes.to_value[...][head])
        found = quantized.codes.reshape(5, 2, 3, 4)[:, :, head]
        np.testing.assert_allclose(found, values[best], atol=1e-5)
    assert float(quantized.loss) == 0


def test_ids_and_certain_distributions_stand_for_the_same_codes(memcodes, latents):
    quantized = quantize(memcodes, latents, train=False)
    np.testing.assert_allclose(memcodes.lookup(quantized.ids), quantized.codes, atol=1e-6)
    certain = jax.nn.one_hot(quantized.ids, 16)
    np.testing.assert_allclose(memcodes.mean_code(certain), quantized.codes, atol=1e-6)
    same = jnp.full((1, 3), 7)
    np.testing.assert_allclose(memcodes.lookup(same)[0], memcodes.codebook()[7], atol=1e-6)


def test_training_draws_in_proportion_and_evaluation_does_not(memcodes):
    latents = jnp.zeros((4000, 12))  # All answers are equally loud.
    drawn = quantize(memcodes, latents, train=True).ids
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=16)
    assert counts.min() > 0.7 * 12000 / 16 and counts.max() < 1.3 * 12000 / 16
    assert len(np.unique(quantize(memcodes, latents, train=False).ids)) == 1


def test_gradients_reach_latents_codes_keys_and_values(memcodes, latents):
    def loss(memcodes, latents):
        return jnp.sum(jnp.square(quantize(memcodes, latents, train=True).codes))

    gradients, of_latents = nnx.jit(nnx.grad(loss, argnums=(0, 1)))(memcodes, latents)
    reached = [np.abs(np.asarray(leaf)).max() for leaf in jax.tree.leaves(gradients)]
    assert len(reached) == 3 and min(reached) > 0 and np.abs(of_latents).max() > 0


def test_codes_in_training_are_still_whole_ones(memcodes, latents):
    quantized = quantize(memcodes, latents, train=True)
    np.testing.assert_allclose(quantized.codes, memcodes.lookup(quantized.ids), atol=1e-5)


def test_metrics_are_of_single_codebooks(memcodes):
    metrics = quantize(memcodes, jnp.zeros((4000, 12)), train=True).metrics
    assert float(metrics["usage"]) == 1 and 15 < float(metrics["perplexity"]) <= 16


def test_parts_that_do_not_fit_get_one_sentence():
    with pytest.raises(ValueError, match="dim=12 and num_heads=5; give at least 2 codes"):
        Memcodes(16, 12, 5, rngs=nnx.Rngs(0))

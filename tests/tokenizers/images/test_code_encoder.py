"""The half of a tokenizer that makes ids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenizers.images.code_encoder import CodeEncoder, CodeEncoderConfig, QuantizerConfig
from tokenizers.images.quantizers import (
    CountingQuantizer,
    FiniteScalarQuantizer,
    LinearlyMovedQuantizer,
    VectorQuantizer,
)
from tokenizers.images.vit import NetworkConfig

LAYERS = NetworkConfig(kind="mlp", width=8, depth=0)
VQ = QuantizerConfig(codebook_size=16, code_dim=12)
MEMCODES = dataclasses.replace(VQ, kind="memcodes", num_heads=4)
KEY = jax.random.key(0)


def encoder(quantizer=VQ, grid=(2, 3), num_classes=0, **settings) -> CodeEncoder:
    config = CodeEncoderConfig(patch_size=2, network=LAYERS, quantizer=quantizer, **settings)
    return CodeEncoder(config, 3, grid, nnx.Rngs(0), num_classes=num_classes)


def pictures(grid=(2, 3)) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, 2 * grid[0], 2 * grid[1], 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantizer", "grid", "token_shape"),
    [
        (VQ, (2, 3), (2, 3)),
        (QuantizerConfig(kind="fsq", levels=(4, 4)), (2, 3), (2, 3)),
        (QuantizerConfig(kind="simvq", codebook_size=16, code_dim=12), (2, 3), (2, 3)),
        (MEMCODES, (1, 1), (2, 2)),
        (dataclasses.replace(MEMCODES, num_heads=6), (1, 1), (1, 6)),
        (MEMCODES, (2, 3), (8, 3)),
    ],
)
def test_ids_lie_on_a_grid_and_stand_for_the_same_codes(quantizer, grid, token_shape):
    half = encoder(quantizer, grid)
    assert half.token_shape == token_shape and half.vocab_size == 16

    @nnx.jit
    def run(half, x):
        latents = half.latents(x)
        quantized = half.quantize(latents, KEY, train=False)
        certain = jax.nn.one_hot(quantized.ids, 16)
        return latents, quantized, half.lookup(quantized.ids), half.mean_codes(certain)

    latents, quantized, found, mean = run(half, pictures(grid))
    assert latents.shape[:3] == (2, *grid) and quantized.ids.shape == (2, *token_shape)
    np.testing.assert_allclose(found, quantized.codes, atol=1e-5)
    np.testing.assert_allclose(mean, quantized.codes, atol=1e-5)


@pytest.mark.slow
def test_ids_of_several_parts_lie_part_below_part():
    half = encoder(MEMCODES)
    latents = half.latents(pictures())
    ids = half.quantize(latents, KEY, train=False).ids
    by_part = half.quantizer.quantize(latents, KEY, train=False).ids
    np.testing.assert_array_equal(ids[:, 2:4], by_part[..., 1])


@pytest.mark.slow
def test_classes_are_looked_up_and_unknown_ones_are_zero():
    half = encoder(class_channels=5, num_classes=4)
    labels = jnp.zeros((1, 4, 6), jnp.int32).at[0, 0, 0].set(-1).at[0, 1, 1].set(3)
    table = half.classes[...]
    assert table.shape == (4, 5)
    seen = table[labels[0]].at[0, 0].set(0)
    by_hand = half.project(half.network(seen[None]))
    np.testing.assert_allclose(half.latents(labels), by_hand, atol=1e-6)


@pytest.mark.slow
def test_a_frozen_half_has_no_gradients_and_keeps_its_codes():
    def loss(half, x):
        return jnp.sum(jnp.square(half.quantize(half.latents(x), KEY, train=True).codes - 1))

    for is_frozen in (False, True):
        half = encoder(is_frozen=is_frozen)
        before = np.asarray(half.quantizer.codes[...])
        gradients = nnx.jit(nnx.grad(loss))(half, pictures())
        largest = max(np.abs(np.asarray(leaf)).max() for leaf in jax.tree.leaves(gradients))
        assert (largest == 0) == is_frozen
        assert np.array_equal(half.quantizer.codes[...], before) == is_frozen


def test_every_setting_of_a_quantiser_reaches_it():
    counts = dataclasses.replace(
        VQ,
        averages="counts",
        normalize_latents=True,
        distance="euclidean",
        decay=0.5,
        commitment=2.0,
        rare=0.1,
        replacement="split",
    )
    built = counts.build(nnx.Rngs(0))
    assert type(built) is CountingQuantizer
    assert (built.normalize_latents, built.distance, built.replacement) == (
        True,
        "euclidean",
        "split",
    )
    assert (built.decay, built.commitment, built.rare) == (0.5, 2.0, 0.1)
    assert type(VQ.build(nnx.Rngs(0))) is VectorQuantizer
    fsq = QuantizerConfig(kind="fsq", levels=(3, 3)).build(nnx.Rngs(0))
    assert type(fsq) is FiniteScalarQuantizer and fsq.num_codes == 9
    assert fsq.bounding == "tanh"
    ifsq = QuantizerConfig(kind="fsq", levels=(3, 3), bounding="sigmoid").build(nnx.Rngs(0))
    assert isinstance(ifsq, FiniteScalarQuantizer) and ifsq.bounding == "sigmoid"
    simvq = dataclasses.replace(VQ, kind="simvq", commitment=0.5).build(nnx.Rngs(0))
    assert isinstance(simvq, LinearlyMovedQuantizer) and simvq.commitment == 0.5
    assert simvq.codebook().shape == (16, 12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuantizerConfig(normalize_latents=True), "are for counts"),
        (
            lambda: QuantizerConfig(kind="simvq", bounding="sigmoid"),
            "bounding is sigmoid, of a quantiser of kind simvq; only fsq bounds latents",
        ),
        (lambda: CodeEncoderConfig(patch_size=0), "patch_size is 0"),
        (lambda: encoder(class_channels=4), "class_channels is for class maps"),
    ],
)
def test_settings_that_make_no_sense_get_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()

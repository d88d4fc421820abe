"""Several ids per latent, residual and grouped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenizers.images.code_encoder import CodeEncoderConfig, QuantizerConfig
from tokenizers.images.several_codes import GroupedQuantizer, ResidualQuantizer
from tokenizers.images.vit import NetworkConfig
from tokenizers.images.vit_tokenizer import DecoderConfig, ViTTokenizer, ViTTokenizerConfig
from tokenizers.values import Colors

pytestmark = pytest.mark.slow

RESIDUAL = QuantizerConfig(
    codebook_size=16, code_dim=6, distance="euclidean", num_heads=3, heads="residual"
)
GROUPED = dataclasses.replace(RESIDUAL, heads="grouped")
FSQ = dataclasses.replace(GROUPED, kind="fsq", levels=(4, 4))
KINDS = {
    "residual": RESIDUAL,
    "residual simvq": dataclasses.replace(RESIDUAL, kind="simvq"),
    "grouped": GROUPED,
    "grouped cosine": dataclasses.replace(GROUPED, distance="cosine"),
    "grouped simvq": dataclasses.replace(GROUPED, kind="simvq"),
    "grouped fsq": FSQ,
}
KEY = jax.random.key(0)
LATENTS = jax.random.normal(jax.random.key(1), (40, 2, 6))


@nnx.jit(static_argnames="train")
def quantize(quantizer, latents, train):
    """One compiled call, which is much faster than one operation after the other."""
    return quantizer.quantize(latents, KEY, train)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_certain_distributions_and_codes_stand_for_the_same(kind):
    quantizer = KINDS[kind].build(nnx.Rngs(0))
    answer = quantize(quantizer, LATENTS, train=False)
    assert (quantizer.num_codes, quantizer.num_heads, quantizer.dim) == (16, 3, 6)
    assert answer.ids.shape == (40, 2, 3) and answer.ids.dtype == jnp.int32
    assert answer.codes.shape == LATENTS.shape and answer.codes.dtype == jnp.float32
    assert set(answer.metrics) == {"usage", "perplexity"}
    np.testing.assert_allclose(quantizer.lookup(answer.ids), answer.codes, atol=1e-5)
    certain = jax.nn.one_hot(answer.ids, 16)
    np.testing.assert_allclose(quantizer.mean_code(certain), answer.codes, atol=1e-5)
    assert len(quantizer.codebook()) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_latent_and_every_layer(kind):
    graph, params, rest = nnx.split(KINDS[kind].build(nnx.Rngs(0)), nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradients(both):
        answer = nnx.merge(graph, both[0], rest, copy=True).quantize(both[1], KEY, train=True)
        return jnp.sum(answer.codes * jnp.arange(1.0, 7.0)) + answer.loss

    layers, latents = gradients((params, LATENTS))
    assert (jnp.abs(latents) > 0).all()
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(layers))
    if kind == "residual":  # It passes straight through: what codes weigh, latents weigh.
        assert np.abs(latents - jnp.arange(1.0, 7.0)).max() < 0.1


def test_residual_heads_code_what_is_left():
    quantizer = RESIDUAL.build(nnx.Rngs(0))
    assert isinstance(quantizer, ResidualQuantizer)
    quantizer.spread(LATENTS.reshape(-1, 6), KEY)
    ids = np.asarray(quantize(quantizer, LATENTS, train=False).ids)
    rest, errors = np.asarray(LATENTS), []
    for number, head in enumerate(quantizer.heads):
        codes = np.asarray(head.codebook())
        nearest = np.linalg.norm(rest[:, :, None] - codes, axis=-1).argmin(axis=-1)
        np.testing.assert_array_equal(ids[..., number], nearest)
        rest = rest - codes[nearest]
        errors.append(np.square(rest).mean())
    assert errors[2] < errors[1] < errors[0] < 1


def test_grouped_heads_code_their_own_numbers_only():
    quantizer = GROUPED.build(nnx.Rngs(0))
    assert isinstance(quantizer, GroupedQuantizer)
    changed = LATENTS.at[..., 2:4].add(3.0)
    first, second = (quantize(quantizer, x, train=False).ids for x in (LATENTS, changed))
    np.testing.assert_array_equal(first[..., [0, 2]], second[..., [0, 2]])
    assert (first[..., 1] != second[..., 1]).any()


@pytest.mark.parametrize("kind", ["residual", "grouped"])
def test_training_moves_every_codebook_and_evaluation_none(kind):
    quantizer = KINDS[kind].build(nnx.Rngs(0))
    before = [np.asarray(head.codebook()) for head in quantizer.heads]
    quantize(quantizer, LATENTS, train=False)
    for head, codes in zip(quantizer.heads, before, strict=True):
        np.testing.assert_array_equal(head.codebook(), codes)
    quantize(quantizer, LATENTS, train=True)
    for head, codes in zip(quantizer.heads, before, strict=True):
        assert (np.asarray(head.codebook()) != codes).any()


@pytest.mark.parametrize("kind", ["residual", "grouped fsq"])
def test_tokenizers_save_and_load_several_ids_bit_for_bit(kind, tmp_path):
    layers = NetworkConfig(kind="mlp", width=8, depth=0)
    config = ViTTokenizerConfig(
        CodeEncoderConfig(patch_size=4, network=layers, quantizer=KINDS[kind]),
        DecoderConfig(network=layers),
    )
    raw = np.random.default_rng(0).integers(256, size=(4, 8, 12, 3)).astype(np.uint8)
    tokenizer = config.fit(Colors(), raw, KEY)
    assert tokenizer.token_shape == (6, 3) and tokenizer.vocab_size == 16
    assert len(tokenizer.code_features()) == 16
    tokenizer.save(tmp_path / "rgb")
    loaded = ViTTokenizer.load(tmp_path / "rgb")
    ids = tokenizer.encode(raw)
    np.testing.assert_array_equal(loaded.encode(raw), ids)
    np.testing.assert_array_equal(loaded.decode(ids), tokenizer.decode(ids))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0; it must be at least 1"),
        ({"num_heads": 2}, "directions leave no residual; set distance to euclidean"),
        ({"num_heads": 2, "kind": "fsq"}, "of kind fsq; set heads to grouped"),
        ({"num_heads": 5, "heads": "grouped"}, "num_heads must divide code_dim"),
    ],
)
def test_heads_that_make_no_sense_get_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**settings)

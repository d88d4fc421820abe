"""The useful work of a step, counted by formula, by hand and by the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.flops import count_flops
from benchmarks.workloads import build_mixture, build_workload, draw_tokens
from fourm.masking.mask import mask_batch
from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM
from fourm.token_space import Inputs, MaskedBatch, Targets, TokenRange, TokenSpace
from tests.fourm.tiny import change_config
from tokenizers.base import SequenceTokens

SPACE = TokenSpace(
    (
        TokenRange("grid", 50, (4, 4), None, 0, 1, 0),
        TokenRange("text", 70, (8,), SequenceTokens(0, 1, 4), 1, 51, 16),
        TokenRange("pixels", 0, (2, 2), None, 2, 121, 26, feature_width=12),
    )
)


def build_batch(shown: list[list[int]], asked: list[list[int]]) -> MaskedBatch:
    """Returns a batch of which only the modalities count; -1 is padding."""
    inputs, targets = np.array(shown), np.array(asked)

    def fields(modality):
        zeros = jnp.zeros(modality.shape, jnp.int32)
        return {
            "ids": zeros,
            "modality": jnp.asarray(np.maximum(modality, 0), jnp.int32),
            "position": zeros,
            "is_real": jnp.asarray(modality >= 0),
        }

    previous = jnp.zeros(targets.shape, jnp.int32)
    return MaskedBatch(Inputs(**fields(inputs)), Targets(**fields(targets), previous=previous))


def test_the_count_is_the_one_made_by_hand():
    config = ModelConfig(dim=8, num_heads=2, encoder_layers=2, decoder_layers=1, activation="gelu")
    # Four tokens are shown, of which one is of pixels; two of a grid and two of a text are asked.
    batch = build_batch([[0, 0, 1, 2, -1]], [[0, 0, 1, 1, -1, -1]])
    projection, mlp = 2 * 8 * 8, 2 * (2 * 8 * 32)
    encoder = 4 * (4 * projection + mlp) + 4 * 4 * (2 * 2 * 8)
    # Grid targets see each other; of a text's the second sees the first.
    pairs = 4 + 3
    decoder = 4 * (4 * projection + mlp) + pairs * (2 * 2 * 8)
    decoder += (4 + 4) * 2 * projection + 4 * 4 * (2 * 2 * 8)
    head = 2 * 8 * (50 + 50 + 70 + 70)
    pixels = 2 * 12 * 8
    # All tokens are of position 0, so every target reads all that is shown: the mean, and, as the
    # grids differ in size, three means weighted by offsets.
    same_place = 4 * (4 * projection + 4 * 4 * (2 * 8))
    by_hand = 3 * (2 * encoder + decoder + same_place + 4 * projection + head + pixels)
    assert count_flops(SPACE, config, batch) == by_hand


@pytest.mark.slow
def test_padding_costs_nothing():
    config = ModelConfig(dim=8, num_heads=2)
    short = build_batch([[0, 1]], [[0, 1]])
    padded = build_batch([[0, 1, -1, -1], [-1] * 4], [[0, 1, -1], [-1] * 3])
    assert count_flops(SPACE, config, padded) == count_flops(SPACE, config, short)


def test_registers_are_tokens_of_the_encoder():
    batch = build_batch([[0, 1]], [[0]])
    plain, registered, kept = (
        count_flops(SPACE, change_config(ModelConfig(dim=8, num_heads=2), **settings), batch)
        for settings in (
            {},
            {"num_registers": 3},
            {"num_registers": 3, "registers_in_context": True},
        )
    )
    assert plain < registered < kept


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_the_compiler_counts_little_more_where_nothing_is_padding(activation):
    config = ModelConfig(dim=128, num_heads=4, activation=activation, norm="layernorm")
    batch = build_batch([[0] * 64] * 2, [[0] * 64] * 2)
    model = nnx.eval_shape(lambda: FourM(SPACE, config, nnx.Rngs(0)))
    graph, state = nnx.split(model)
    lowered = jax.jit(lambda state, batch: nnx.merge(graph, state)(batch)).lower(state, batch)
    no_head = TokenSpace((TokenRange("grid", 0, (4, 4), None, 0, 1, 0), *SPACE.ranges[1:]))
    forward = count_flops(no_head, config, batch) / 3
    # Beside matrix products the compiler counts norms, softmax and activations.
    assert 1 < lowered.cost_analysis()["flops"] / forward < 1.1


@pytest.mark.slow
def test_the_small_model_needs_24_gigaflops_a_sample():
    space, config = build_workload("tiny")
    assert (config.dim, config.encoder_layers, len(space.ranges)) == (384, 6, 7)
    tokens = draw_tokens(space, 2)
    masked = jax.jit(lambda: mask_batch(jax.random.key(0), tokens, space, build_mixture(space)))()
    assert bool(masked.inputs.is_real.all() & masked.targets.is_real.all())
    # 12 layers, 128 tokens on either side, about 14,000 logits a target.
    assert 22e9 < count_flops(space, config, masked) / 2 < 26e9

"""Which parts of the picture tokens stand for, and what is read there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ModelConfig
from fourm.model.positions import cells_of, shares_of_cells
from fourm.model.transformer import FourM
from fourm.token_space import Inputs, Targets, TokenSpace
from tests.fourm.tiny import Shape
from tokenizers.base import SequenceTokens

GRIDS = {"coarse": (2, 3), "fine": (4, 6), "odd": (3, 2), "whole": (1, 1)}
SPACE = TokenSpace.build(
    {name: Shape(5, shape) for name, shape in GRIDS.items()}
    | {"words": Shape(20, (7,), SequenceTokens(0, 10, 4)), "number": Shape(9, (1,))}
)
FINEST = 12  # Every grid divides it.


def covers(position: int) -> np.ndarray:
    """Returns the part of the picture that a position stands for, pixel by pixel."""
    picture = np.zeros((FINEST, FINEST), bool)
    for entry in SPACE.ranges:
        place = position - entry.first_position
        if entry.name in GRIDS and 0 <= place < entry.num_tokens:
            height, width = (FINEST // size for size in entry.token_shape)
            row, column = divmod(place, entry.token_shape[1])
            picture[row * height :, column * width :][:height, :width] = True
    return picture


PIXELS = np.stack([covers(position) for position in range(SPACE.num_positions)]).astype(float)
SHARES = np.einsum("iyx,jyx->ij", PIXELS, PIXELS) / FINEST**2


def test_cells_share_what_their_pixels_share():
    every = jnp.arange(SPACE.num_positions)[None]
    shares = shares_of_cells(cells_of(SPACE), every, every)
    np.testing.assert_allclose(shares[0], SHARES, atol=1e-6)


def random_batch(seed: int, batch: int = 3, asked: int = 30, shown: int = 20):
    rng = np.random.default_rng(seed)
    modality_of = np.concatenate([np.full(e.num_positions, e.index) for e in SPACE.ranges])

    def draw(count):
        position = jnp.asarray(rng.integers(0, SPACE.num_positions, (batch, count)), jnp.int32)
        ids = jnp.asarray(rng.integers(1, SPACE.vocab_size, (batch, count)), jnp.int32)
        is_real = jnp.asarray(rng.random((batch, count)) < 0.8)
        return ids, jnp.asarray(modality_of, jnp.int32)[position], position, is_real

    targets = draw(asked)
    return Inputs(*draw(shown)), Targets(targets[0], *targets)


@pytest.fixture(scope="module")
def model() -> FourM:
    config = ModelConfig(dim=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    return nnx.jit(lambda: FourM(SPACE, config, nnx.Rngs(0)))()


def test_a_target_starts_from_the_mean_of_what_is_shown_at_its_place(model):
    inputs, targets = random_batch(0)
    context = jax.random.normal(jax.random.key(0), (3, 20, 8))
    found = np.asarray(model.gather_same_place(targets, context, inputs))
    has_nothing = 0
    for sample, token in np.ndindex(*targets.position.shape):
        weights = SHARES[targets.position[sample, token]][np.asarray(inputs.position[sample])]
        weights = weights * np.asarray(inputs.is_real[sample])
        has_nothing += weights.sum() == 0
        expected = weights @ np.asarray(context[sample]) / max(weights.sum(), 1e-9)
        np.testing.assert_allclose(found[sample, token], expected, atol=1e-5)
    assert 0 < has_nothing < found.shape[0] * found.shape[1]


def test_registers_have_no_place(model):
    inputs, targets = random_batch(1)
    context = jax.random.normal(jax.random.key(0), (3, 20, 8))
    with_registers = jnp.concatenate([jnp.full((3, 2, 8), jnp.nan), context], axis=1)
    np.testing.assert_array_equal(
        model.gather_same_place(targets, with_registers, inputs),
        model.gather_same_place(targets, context, inputs),
    )


@pytest.mark.slow
def test_the_decoder_reads_its_own_place_before_it_attends(model):
    """With attention and MLP silenced, only what shares the target's cell has an influence."""
    inputs, targets = random_batch(2)
    context = jax.random.normal(jax.random.key(1), (3, 20, 8))
    silent = nnx.clone(model)
    layers = silent.decoder.layers
    for layer in (layers.self_attention.out, layers.cross_attention.out, layers.mlp.down):
        layer.kernel[...] = jnp.zeros_like(layer.kernel[...])

    def influence(at):
        changed = context.at[:, at].add(1.0)
        before, after = (silent.decode(targets, c, inputs) for c in (context, changed))
        return np.abs(np.asarray(after - before)).max(-1) > 1e-6

    for at in range(4):
        position = np.asarray(inputs.position[:, at])
        shares = np.stack([SHARES[np.asarray(targets.position[i]), position[i]] for i in range(3)])
        expected = (shares > 0) & np.asarray(inputs.is_real[:, at, None])
        np.testing.assert_array_equal(influence(at), expected)

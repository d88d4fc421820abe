"""Which parts of the picture tokens stand for, and what is read there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ModelConfig
from fourm.model.positions import (
    cells_of,
    offsets_of_cells,
    rows_of_positions,
    shares_of_cells,
)
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
    every = jnp.asarray(cells_of(SPACE))[None]
    shares = shares_of_cells(every, every)
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
    """A model that shows the mean of what is shown, and nothing of offsets."""
    config = ModelConfig(dim=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    built = nnx.jit(lambda: FourM(SPACE, config, nnx.Rngs(0)))()
    built.same_place.kernel[...] = jnp.eye(8)
    return built


def test_offsets_are_of_the_middles_of_cells():
    every = jnp.asarray(cells_of(SPACE))[None]
    below, right = offsets_of_cells(every, every)
    row, column = np.mgrid[:FINEST, :FINEST] + 0.5
    sizes = PIXELS.any(2).sum(1), PIXELS.any(1).sum(1)
    for found, coordinate, size in zip((below, right), (row, column), sizes, strict=True):
        middle = (PIXELS * coordinate).sum((1, 2)) / np.maximum(PIXELS.sum((1, 2)), 1)
        longer = np.maximum(size[:, None], size[None])
        expected = 4 * (middle[:, None] - middle[None]) / np.maximum(longer, 1)
        shares = SHARES > 0  # Elsewhere nothing is read.
        np.testing.assert_allclose(found[0][shares], expected[shares], atol=1e-5)


def test_a_fine_grid_tells_the_quarters_of_a_coarse_cell_apart(model):
    """Each quarter can be made to read a part of its own of what is shown there."""
    coarse, fine = SPACE["coarse"], SPACE["fine"]
    one = jnp.array([[coarse.first_position]])
    places = jnp.array([0, 1, 6, 7])[None]  # Its quarters, of a grid of twice as many columns.
    asked = fine.first_position + places
    inputs = Inputs(one, jnp.full_like(one, coarse.index), one, jnp.ones_like(one, bool))
    targets = Targets(
        *[jnp.zeros_like(asked)] * 2, jnp.full_like(asked, fine.index), asked, asked > 0
    )
    signs = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1]])
    patterns = np.stack([np.ones(4), *signs, signs.prod(0)])
    chooser = nnx.clone(model)
    # The quarter q reads numbers 2 q and 2 q + 1: a sum of the four patterns chooses them.
    kernels = [np.zeros((8, 8)) for _ in patterns]
    for kernel, pattern in zip(kernels, patterns, strict=True):
        for quarter in range(4):
            for number in range(2):
                kernel[2 * quarter + number, number] = pattern[quarter] / 4
    chooser.same_place.kernel[...] = jnp.asarray(kernels[0], jnp.float32)
    chooser.within_place.kernel[...] = jnp.asarray(np.concatenate(kernels[1:]), jnp.float32)
    context = jnp.arange(1.0, 9.0)[None, None]
    found = chooser.gather_same_place(targets, context, inputs)[0]
    np.testing.assert_allclose(found[:, :2], [[1, 2], [3, 4], [5, 6], [7, 8]], atol=1e-5)


def test_rows_of_separate_positions_are_found_by_position():
    space = TokenSpace.build({"a": Shape(5, (2, 2)), "b": Shape(5, (3,)), "c": Shape(5, (1,))})
    rows = rows_of_positions(space, ("c", "b"))
    found = {e.name: rows[e.first_position :][: e.num_positions].tolist() for e in space.ranges}
    assert found == {"a": [-1] * 4, "b": [1, 2, 3], "c": [0]}


def test_grids_of_one_size_need_no_offsets():
    space = TokenSpace.build({name: Shape(5, (2, 2)) for name in "ab"})
    config = ModelConfig(dim=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    assert nnx.eval_shape(lambda: FourM(space, config, nnx.Rngs(0))).within_place is None


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

"""Transformers and perceptrons on grids of patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenizers.images.vit import (
    NetworkConfig,
    PatchDecoder,
    PatchEncoder,
    cubic_matrix,
    resize_positions,
    sincos_positions,
)


@nnx.jit
def apply(module: nnx.Module, x: jax.Array) -> jax.Array:
    """One compiled call, which is much faster than one operation after the other."""
    return module(x)


TINY = NetworkConfig(width=8, depth=1, num_heads=2)
MLP = NetworkConfig(kind="mlp", width=8, depth=2)


def cubic_by_hand(samples: list[float], new: int) -> list[float]:
    """Interpolates one value at a time, from the definition of the kernel with slope -0.75."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    old, values = len(samples), []
    for place in range(new):
        middle = (place + 0.5) * old / new - 0.5
        taps = range(int(np.floor(middle)) - 1, int(np.floor(middle)) + 3)
        values.append(sum(kernel(middle - t) * samples[min(max(t, 0), old - 1)] for t in taps))
    return values


@pytest.mark.parametrize(("old", "new"), [(4, 6), (4, 7), (7, 4), (1, 3), (5, 5), (3, 28)])
def test_interpolation_is_that_of_the_definition(old, new):
    samples = np.random.default_rng(0).normal(size=old)
    found = cubic_matrix(old, new) @ samples
    np.testing.assert_allclose(found, cubic_by_hand(list(samples), new), atol=1e-6)


def test_positions_at_their_own_grid_are_untouched():
    positions = jax.random.normal(jax.random.key(0), (3, 5, 4))
    assert resize_positions(positions, (3, 5)) is positions
    np.testing.assert_array_equal(cubic_matrix(5, 5), np.eye(5))


def test_positions_are_interpolated_along_their_own_axis():
    positions = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 3, 2))
    larger = resize_positions(positions, (8, 6))
    assert larger.shape == (8, 6, 2)
    np.testing.assert_allclose(larger[:, 0, 0], larger[:, 5, 1], atol=1e-6)
    assert (np.diff(larger[:, 0, 0]) > 0).all()


def test_positions_say_the_row_first_and_then_the_column():
    positions = np.asarray(sincos_positions((3, 5), 8))
    assert positions.shape == (3, 5, 8)
    frequencies = [1, 10000**-0.5]
    row, column = [2 * f for f in frequencies], [4 * f for f in frequencies]
    by_hand = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)])
    np.testing.assert_allclose(positions[2, 4], by_hand, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "changed"), [(TINY, 6), (MLP, 1)])
def test_a_vit_sees_the_whole_picture_and_an_mlp_one_patch(config, changed):
    encoder = PatchEncoder(config, 3, 4, (2, 3), nnx.Rngs(0))
    pictures = jax.random.normal(jax.random.key(1), (1, 8, 12, 3))
    difference = apply(encoder, pictures.at[0, 0, 0, 0].add(1)) - apply(encoder, pictures)
    assert difference.shape == (1, 2, 3, 8)
    assert int((jnp.abs(difference).max(axis=-1) > 0).sum()) == changed


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, MLP])
def test_a_decoder_draws_a_patch_per_place(config):
    decoder = PatchDecoder(config, 5, 4, (2, 3), nnx.Rngs(0), convolutions=2)
    assert apply(decoder, jnp.ones((2, 2, 3, 8))).shape == (2, 8, 12, 5)
    assert apply(decoder, jnp.ones((1, 4, 4, 8))).shape == (1, 16, 16, 5)


@pytest.mark.slow
def test_convolutions_start_as_nothing_and_mix_neighbouring_patches():
    bare = PatchDecoder(TINY, 2, 4, (2, 2), nnx.Rngs(0))
    smooth = PatchDecoder(TINY, 2, 4, (2, 2), nnx.Rngs(0), convolutions=1)
    codes = jax.random.normal(jax.random.key(1), (1, 2, 2, 8))
    np.testing.assert_allclose(apply(smooth, codes), apply(bare, codes), atol=1e-5)
    smooth.convolutions[0].scale[...] = jnp.ones(2)
    assert np.abs(apply(smooth, codes) - apply(bare, codes)).max() > 1e-3


def test_options_add_and_remove_what_they_say():
    def names(config: NetworkConfig) -> set[str]:
        encoder = nnx.eval_shape(lambda: PatchEncoder(config, 1, 2, (2, 2), nnx.Rngs(0)))
        state = nnx.state(encoder)
        return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}

    full = names(TINY)
    no_bias = names(dataclasses.replace(TINY, qkv_bias=False))
    assert full - no_bias == {"layers/blocks/0/attention/qkv/bias"}
    no_mlp = names(dataclasses.replace(TINY, final_mlp=False))
    assert {name.split("/")[1] for name in full - no_mlp} == {"final_norm", "final_mlp"}


def test_positions_are_not_trained():
    encoder = nnx.eval_shape(lambda: PatchEncoder(TINY, 1, 2, (2, 2), nnx.Rngs(0)))
    trained = nnx.to_flat_state(nnx.state(encoder, nnx.Param))
    assert not any("positions" in path for path, _ in trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "width is 8 and num_heads 3; of a vit, width must be a multiple"),
        (
            {"width": 6, "num_heads": 2},
            "width is 6 and num_heads 2; of a vit, width must be a multiple",
        ),
        ({"depth": -1}, "depth -1"),
        ({"expansion": 0.0}, r"expansion 0\.0; widths must be at least 1"),
    ],
)
def test_wrong_sizes_get_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)

"""The U-net, on sizes small enough to check against plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenizers.images.unet import Activations, UNet, UNetConfig, resize_nearest, time_features

TINY = UNetConfig(
    patch_size=2, width=4, multipliers=(1, 2), attention_at=(2,), num_heads=2, num_groups=2
)
TIMES = jnp.asarray([3, 700])


def random_picture(seed: int, *shape: int) -> jnp.ndarray:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def unet() -> UNet:
    """No weight is 0, as some are at first."""
    unet = nnx.eval_shape(lambda: UNet(TINY, channels=3, code_dim=5, rngs=nnx.Rngs(0)))
    leaves, tree = jax.tree.flatten(nnx.state(unet))
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32) for leaf in leaves]
    nnx.update(unet, jax.tree.unflatten(tree, leaves))
    return unet


@nnx.jit
def run(unet: UNet, noisy: jax.Array, times: jax.Array, codes: jax.Array) -> Activations:
    return unet.activations(noisy, times, codes)


@pytest.mark.slow
def test_activations_have_the_sizes_of_their_levels(unet):
    found = run(unet, random_picture(1, 2, 8, 16, 3), TIMES, random_picture(2, 2, 2, 4, 5))
    assert found.time.shape == (2, 16)
    fine, coarse = (2, 4, 8, 4), (2, 2, 4, 8)
    assert [x.shape for x in found.down] == [fine, fine, (2, 2, 4, 4), coarse]
    assert found.middle.shape == coarse
    assert [x.shape for x in found.up] == [coarse, (2, 4, 8, 8), fine, fine]
    assert found.output.shape == (2, 8, 16, 3)


@pytest.mark.slow
def test_a_new_network_answers_zero():
    unet = nnx.jit(lambda: UNet(TINY, channels=3, code_dim=5, rngs=nnx.Rngs(0)))()
    answer = run(unet, random_picture(1, 2, 8, 16, 3), TIMES, random_picture(2, 2, 2, 4, 5)).output
    assert not answer.any()


@pytest.mark.slow
def test_noise_times_and_codes_all_matter_and_samples_do_not_mix(unet):
    noisy, codes = random_picture(1, 2, 8, 16, 3), random_picture(2, 2, 2, 4, 5)
    answer = run(unet, noisy, TIMES, codes).output
    for changed in (
        run(unet, noisy.at[0].add(1.0), TIMES, codes).output,
        run(unet, noisy, TIMES.at[0].set(4), codes).output,
        run(unet, noisy, TIMES, codes.at[0].add(1.0)).output,
    ):
        assert np.abs(changed[0] - answer[0]).max() > 1e-3
        assert np.allclose(changed[1], answer[1], atol=1e-5)


def group_norm(x: np.ndarray, groups: int) -> np.ndarray:
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height * width, groups, channels // groups)
    mean = parts.mean(axis=(1, 3), keepdims=True)
    variance = parts.var(axis=(1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1] // stride, x.shape[2] // stride
    rows, columns = stride * np.arange(height), stride * np.arange(width)
    return sum(
        padded[:, rows + i][:, :, columns + j] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.slow
def test_a_residual_block_is_what_it_is_in_plain_numpy(unet):
    block = unet.down[3][0]  # From 4 channels to 8.
    x, time = np.asarray(random_picture(3, 2, 4, 4, 4)), np.asarray(random_picture(4, 2, 16))
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(block)))

    def affine(x, name):
        return x * p[name]["scale"] + p[name]["bias"]

    y = convolve(silu(affine(group_norm(x, 2), "norm1")), p["conv1"]["kernel"])
    y = (
        y
        + p["conv1"]["bias"]
        + (silu(time) @ p["time"]["kernel"] + p["time"]["bias"])[:, None, None]
    )
    y = convolve(silu(affine(group_norm(y, 2), "norm2")), p["conv2"]["kernel"])
    y = y + p["conv2"]["bias"] + x @ p["shortcut"]["kernel"][0, 0] + p["shortcut"]["bias"]
    assert np.allclose(block(jnp.asarray(x), jnp.asarray(time)), y, atol=1e-4)


@pytest.mark.slow
def test_attention_is_what_it_is_one_head_and_one_query_at_a_time(unet):
    attention = unet.middle[1]
    x = np.asarray(random_picture(5, 1, 2, 3, 8))
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(attention)))
    rows = (group_norm(x, 2) * p["norm"]["scale"] + p["norm"]["bias"]).reshape(6, 8)
    qkv = rows @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    mixed = np.zeros((6, 8))
    for head in range(2):
        query, key, value = np.split(qkv[:, 12 * head : 12 * head + 12], 3, axis=1)
        for position in range(6):
            weight = np.exp(key @ query[position] / np.sqrt(4))
            mixed[position, 4 * head : 4 * head + 4] = weight / weight.sum() @ value
    expected = x + (mixed @ p["out"]["kernel"] + p["out"]["bias"]).reshape(x.shape)
    assert np.allclose(attention(jnp.asarray(x), jnp.zeros((1, 16))), expected, atol=1e-4)


def test_halving_starts_at_the_edge_and_doubling_repeats(unet):
    x, time = np.asarray(random_picture(6, 2, 4, 6, 4)), jnp.zeros((2, 16))
    down = unet.down[2][0]
    expected = convolve(x, np.asarray(down.conv.kernel[...]), 2) + np.asarray(down.conv.bias[...])
    assert np.allclose(down(jnp.asarray(x), time), expected, atol=1e-4)
    x = np.asarray(random_picture(7, 2, 2, 3, 8))
    up = unet.up[1][-1]
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    expected = convolve(doubled, np.asarray(up.conv.kernel[...])) + np.asarray(up.conv.bias[...])
    assert np.allclose(up(jnp.asarray(x), time), expected, atol=1e-4)


def test_time_features_are_cosines_then_sines():
    features = np.asarray(time_features(jnp.asarray([0, 5]), 7))
    assert features.shape == (2, 7)
    assert features[0].tolist() == [1, 1, 1, 0, 0, 0, 0]
    for frequency in range(3):
        angle = 5 * 10000 ** (-frequency / 3)
        pair = [np.cos(angle), np.sin(angle)]
        assert np.allclose(features[1, [frequency, 3 + frequency]], pair, atol=1e-6)


def test_codes_are_spread_to_the_nearest_positions_of_any_grid():
    codes = jnp.arange(6.0).reshape(1, 2, 3, 1)
    assert resize_nearest(codes, 4, 3)[0, :, :, 0].tolist() == [
        [0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5],
    ]  # fmt: skip
    assert resize_nearest(codes, 2, 5)[0, 0, :, 0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_blocks": 0}, "each must be at least 1"),
        ({"multipliers": ()}, "each must be at least 1"),
        ({"num_groups": 3}, r"levels of \[4, 8\] channels, which num_groups=3"),
        ({"num_heads": 8}, "and num_heads=8 must divide"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_pictures_that_levels_do_not_divide_are_refused(unet):
    with pytest.raises(ValueError, match="need multiples of 4"):
        unet(jnp.zeros((2, 8, 6, 3)), TIMES, jnp.zeros((2, 2, 2, 5)))

"""What a model in half precision keeps for its backward pass, and that the pass is right."""

from collections import Counter
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.workloads import build_mixture, build_workload, draw_tokens
from fourm.masking.mask import mask_batch
from fourm.model.config import ModelConfig
from fourm.model.norms import LayerNorm, RMSNorm
from fourm.model.projections import apply_all, dense
from fourm.model.transformer import FourM
from tests.fourm.masking.test_mask import MIXTURE
from tests.fourm.tiny import SPACE, build_model, change_config, make_tokens

HALF = jnp.bfloat16


def build(kind, dtype, dim=32, **options):
    layer = kind(dim, epsilon=1e-6, dtype=dtype, rngs=nnx.Rngs(0), **options)
    for name in ("scale", "bias"):
        value = getattr(layer, name, None)
        if value is not None:
            value[...] = 1 + 0.3 * jax.random.normal(jax.random.key(len(name)), (dim,))
    return layer


def gradients(layer, x, weights):
    graph, state = nnx.split(layer)

    def scalar(state, x):
        return (nnx.merge(graph, state)(x).astype(jnp.float32) * weights).sum()

    return jax.tree.leaves(jax.grad(scalar, argnums=(0, 1))(state, x))


@pytest.mark.parametrize(
    ("kind", "options"), [(RMSNorm, {}), (LayerNorm, {}), (LayerNorm, {"use_bias": False})]
)
def test_norms_in_half_precision_are_rounded_once_and_so_are_their_gradients(kind, options):
    x = 2 * jax.random.normal(jax.random.key(0), (5, 7, 32)) + 0.5
    weights = jax.random.normal(jax.random.key(1), x.shape)
    theirs = kind.__bases__[0]
    half = x.astype(HALF)
    own, full = build(kind, HALF, **options), build(theirs, jnp.float32, **options)
    # In between everything is float32: the result is the exact one, rounded once.
    wide = half.astype(jnp.float32)
    np.testing.assert_array_equal(own(half), full(wide).astype(HALF))
    exact = gradients(full, wide, weights)
    for found, expected in zip(gradients(own, half, weights), exact, strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.02 * scale)


def test_norms_in_float32_are_flaxs():
    x = jax.random.normal(jax.random.key(0), (5, 32))
    for kind in (RMSNorm, LayerNorm):
        own, flaxs = build(kind, jnp.float32), build(kind.__bases__[0], jnp.float32)
        np.testing.assert_array_equal(own(x), flaxs(x))


def test_projections_in_half_precision_have_gradients_in_full():
    config = ModelConfig(dim=32, compute_dtype="bfloat16")
    layer = dense(config, 32, 16, nnx.Rngs(0), use_bias=True)
    x = jax.random.normal(jax.random.key(0), (6, 5, 32), HALF)
    weights = jax.random.normal(jax.random.key(1), (6, 5, 16))
    found = gradients(layer, x, weights)
    exact = gradients(
        dense(change_config(config, compute_dtype="float32"), 32, 16, nnx.Rngs(0), True),
        x.astype(jnp.float32),
        weights,
    )
    assert [each.dtype for each in found] == [jnp.float32, jnp.float32, HALF]
    for own, expected in zip(found, exact, strict=True):
        np.testing.assert_allclose(own.astype(jnp.float32), expected, rtol=0.03, atol=0.05)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_kernels_side_by_side_give_what_they_give_apart(precision):
    config = ModelConfig(dim=32, compute_dtype=precision)
    layers = [dense(config, 32, width, nnx.Rngs(width), False) for width in (16, 8)]
    x = jax.random.normal(jax.random.key(0), (6, 5, 32), precision)
    weights = [jax.random.normal(jax.random.key(1), (6, 5, width)) for width in (16, 8)]
    graph, state = nnx.split(nnx.List(layers))

    def run(is_joined):
        def scalar(state, x):
            found = apply_all(list(nnx.merge(graph, state)), x, is_joined)
            terms = zip(found, weights, strict=True)
            return sum((y.astype(jnp.float32) * w).sum() for y, w in terms), found

        slopes, found = jax.grad(scalar, argnums=(0, 1), has_aux=True)(state, x)
        return jax.tree.leaves((slopes, found))

    for joined, apart in zip(run(True), run(False), strict=True):
        assert joined.dtype == apart.dtype
        wide = joined.astype(jnp.float32), apart.astype(jnp.float32)
        np.testing.assert_allclose(*wide, rtol=0.02, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("joined", [False, True])
def test_a_model_in_half_precision_has_about_the_gradient_of_one_in_float32(joined):
    batch = mask_batch(jax.random.key(0), make_tokens(), SPACE, MIXTURE)

    def gradient(dtype):
        model = build_model(compute_dtype=dtype, joined_products=joined)
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def scalar(params):
            features = nnx.merge(graph, params, rest)(batch).astype(jnp.float32)
            weights = jax.random.normal(jax.random.key(1), features.shape)
            return (features * weights * batch.targets.is_real[..., None]).mean()

        leaves = jax.tree.leaves(jax.jit(jax.grad(scalar))(params))
        return jnp.concatenate([leaf.reshape(-1).astype(jnp.float32) for leaf in leaves])

    half, full = gradient("bfloat16"), gradient("float32")
    assert float(jnp.linalg.norm(half - full) / jnp.linalg.norm(full)) < 0.05


def count_kept(config: ModelConfig, space, batch) -> float:
    """Returns the MiB that the backward pass of a model keeps, beside its arguments."""
    model = nnx.eval_shape(lambda: FourM(space, config, nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def pull_back(params, rest, batch):
        return jax.vjp(lambda p: nnx.merge(graph, p, rest)(batch), params)[1]

    def key(leaf):
        return leaf.shape, str(leaf.dtype)

    given = Counter(map(key, jax.tree.leaves((params, rest, batch))))
    total = 0
    for leaf in jax.tree.leaves(jax.eval_shape(pull_back, params, rest, batch)):
        if given[key(leaf)]:
            given[key(leaf)] -= 1
        else:
            total += prod(leaf.shape) * leaf.dtype.itemsize
    return total / 2**20


@pytest.mark.slow
def test_a_model_of_size_base_keeps_less_than_700_mib_for_a_batch_of_8():
    """What autodiff keeps by itself is 2,040 MiB, as float32 does not spare it."""
    space, config = build_workload("b", "7", scan_layers=True, dtype="bfloat16")
    mixture = build_mixture(space)
    batch = jax.eval_shape(
        lambda: mask_batch(jax.random.key(0), draw_tokens(space, 8), space, mixture)
    )
    assert 300 < count_kept(config, space, batch) < 700
    assert count_kept(change_config(config, joined_products=True), space, batch) < 750
    assert count_kept(change_config(config, compute_dtype="float32"), space, batch) > 2000

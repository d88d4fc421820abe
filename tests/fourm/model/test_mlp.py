import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ACTIVATIONS, ModelConfig
from fourm.model.mlp import Mlp, gate

GATED = sorted(name for name, (_, is_gated) in ACTIVATIONS.items() if is_gated)


@pytest.mark.slow
@pytest.mark.parametrize("name", GATED)
def test_values_and_gradients_are_those_of_the_product(name):
    activate, _ = ACTIVATIONS[name]
    gates, values, slope = jax.random.normal(jax.random.key(0), (3, 5, 7))
    gated, pull_back = jax.vjp(lambda a, b: gate(activate, a, b), gates, values)
    expected, pull_back_product = jax.vjp(lambda a, b: activate(a) * b, gates, values)
    np.testing.assert_array_equal(gated, expected)
    for got, wanted in zip(pull_back(slope), pull_back_product(slope), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_backward_pass_keeps_the_arguments_alone():
    _, pull_back = jax.vjp(lambda a, b: gate(nnx.silu, a, b), jnp.ones((5, 7)), jnp.ones((5, 7)))
    assert sum(kept.size for kept in jax.tree.leaves(pull_back)) == 2 * 5 * 7


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_is_its_activation_between_two_projections(name):
    mlp = Mlp(ModelConfig(dim=8, num_heads=2, activation=name), nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    up, down = np.asarray(mlp.up.kernel[...]), np.asarray(mlp.down.kernel[...])
    inner = x @ (up if mlp.gate is None else np.asarray(mlp.gate.kernel[...]))
    kinds = {
        "gelu": lambda a: a * (1 + np.vectorize(math.erf)(a / math.sqrt(2))) / 2,
        "silu": lambda a: a / (1 + np.exp(-a)),
        "relu": lambda a: np.maximum(a, 0),
    }
    is_gated = name.endswith("glu")
    assert is_gated == (mlp.gate is not None)
    inner = kinds[{"geglu": "gelu", "swiglu": "silu", "reglu": "relu"}.get(name, name)](inner)
    expected = (inner * (x @ up) if is_gated else inner) @ down
    np.testing.assert_allclose(mlp(jnp.asarray(x)), expected, atol=1e-4)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ACTIVATIONS
from fourm.model.mlp import gate

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

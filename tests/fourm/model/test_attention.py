import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.model.attention import attend_heads, attend_in_parts


def draw(batch, heads, tokens):
    rng = np.random.default_rng(0)
    shape = (batch, tokens, heads, 4)
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]
    return *arrays, jnp.asarray(rng.random((batch, tokens, tokens)) < 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "heads", "tokens", "parts"), [(6, 3, 128, 2), (1, 4, 256, 4), (3, 5, 160, 1)]
)
def test_large_batches_are_attended_in_parts_of_samples_or_of_heads(batch, heads, tokens, parts):
    arrays = draw(batch, heads, tokens)
    # Each part has two products.
    assert str(jax.make_jaxpr(attend_in_parts)(*arrays)).count("dot_general[") == 2 * parts
    np.testing.assert_allclose(attend_in_parts(*arrays), attend_heads(*arrays), atol=1e-5)


def test_small_batches_are_attended_at_once():
    assert str(jax.make_jaxpr(attend_in_parts)(*draw(8, 2, 16))).count("dot_general[") == 2

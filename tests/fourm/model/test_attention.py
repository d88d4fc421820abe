import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.model.attention import attend, attend_fused, attend_heads, attend_in_parts, can_fuse


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


def test_fused_attention_is_the_same_and_gives_zeros_where_nothing_is_attended_to():
    queries, keys, values, can_attend = draw(3, 2, 16)
    can_attend = can_attend.at[1].set(False)
    for mask in (can_attend, can_attend[:, :1]):
        arrays = queries, keys, values, mask
        found = attend_fused(*arrays, implementation="xla")
        np.testing.assert_allclose(found, attend_heads(*arrays), atol=1e-5)
        assert not found[1].any()


def test_without_cudnn_attention_goes_on_unfused(monkeypatch):
    queries, keys, values, can_attend = draw(3, 2, 16)
    arrays = [jnp.pad(each, [(0, 0)] * 3 + [(0, 4)]).astype("bfloat16") for each in (queries, keys)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert can_fuse("gpu", *arrays)
    values = values.astype("bfloat16")
    arrays.append(jnp.pad(values, [(0, 0)] * 3 + [(0, 4)]))
    with pytest.warns(UserWarning, match="Attention is not fused: cuDNN is not detected"):
        found = attend(*arrays, can_attend)
    np.testing.assert_array_equal(found, attend_heads(*arrays, can_attend))
    np.testing.assert_array_equal(attend(*arrays, can_attend, may_fuse=False), found)


@pytest.mark.parametrize(
    ("backend", "dtype", "t", "s", "width", "allowed"),
    [
        ("gpu", "bfloat16", 8, 6, 64, True),
        ("gpu", "float16", 8, 6, 128, True),
        ("cpu", "bfloat16", 8, 6, 64, False),
        ("gpu", "float32", 8, 6, 64, False),
        ("gpu", "bfloat16", 7, 6, 64, False),
        ("gpu", "bfloat16", 8, 5, 64, False),
        ("gpu", "bfloat16", 1, 6, 64, False),
        ("gpu", "bfloat16", 8, 6, 60, False),
        ("gpu", "bfloat16", 8, 6, 136, False),
    ],
)
def test_attention_is_fused_where_the_rules_hold(backend, dtype, t, s, width, allowed):
    queries, keys = (jnp.zeros((2, n, 3, width), dtype) for n in (t, s))
    assert can_fuse(backend, queries, keys) == allowed

"""Settings and inputs of generation that are refused, and the edges of what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.inference.settings import GenerationConfig
from fourm.token_space import TokenRange
from tests.fourm.inference.test_generate_tokens import (
    SPACE,
    grid,
    model,  # noqa: F401  Fixtures.
    run,
)

pytestmark = pytest.mark.xdist_group("fourm/inference/test_generate_tokens")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_steps", 0),
        ("num_steps", 10_001),
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("guidance", float("nan")),
        ("choice_noise", -0.1),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ValueError, match=rf"GenerationConfig.{setting} is {value}; allowed is"):
        GenerationConfig(**{setting: value})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("picture", "pass 1"), ("text", "token 1")])
@pytest.mark.parametrize(
    ("bad", "settings"),
    [(jnp.nan, {}), (jnp.nan, {"temperature": 0.0, "top_k": 2}), (jnp.inf, {"top_p": 0.5})],
)
def test_logits_that_are_not_finite_are_an_error(model, name, step, bad, settings):
    graph, state = nnx.split(model)
    spoilt = nnx.merge(graph, jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(bad), state))
    message = f"The logits of {name} are not finite in {step}: weights or inputs are not"
    with pytest.raises(ValueError, match=message):
        run(spoilt, {"map": grid("map")}, [name], **settings)


@pytest.mark.slow
def test_a_temperature_that_float32_can_not_divide_by_counts_as_0(model):
    known = {"map": grid("map")}
    for name in ("picture", "text"):
        coldest, cold = (
            run(model, known, [name], temperature=temperature).ids[name]
            for temperature in (0.0, 1e-40)
        )
        assert np.array_equal(coldest, cold)
        hottest = run(model, known, [name], temperature=1e39, top_k=3).ids[name]
        assert not np.array_equal(coldest, hottest)


@pytest.mark.slow
def test_every_pass_fixes_a_token_and_passes_without_work_change_nothing(model):
    """Many more passes than tokens are as one token a pass, by the same keys."""
    known = {"map": grid("map")}
    tokens = SPACE["picture"].num_tokens
    each, many, one = (
        run(model, known, ["picture"], temperature=0.0, num_steps=steps, schedule=how).ids
        for steps, how in ((tokens, "linear"), (50 * tokens, "cosine"), (1, "linear"))
    )
    assert np.array_equal(each["picture"], many["picture"])
    assert not np.array_equal(each["picture"], one["picture"])


def test_an_unknown_temperature_schedule_is_refused():
    with pytest.raises(
        ValueError, match=r"GenerationConfig.temperature_schedule: .* 'steep'; there are constant"
    ):
        GenerationConfig(temperature_schedule="steep")


def test_tokens_of_another_shape_are_refused(model):
    with pytest.raises(ValueError, match=r"tokens of map have shape \(5, 4\); \(5, 6\) is needed"):
        run(model, {"map": np.zeros((5, 4), np.int32)}, ["picture"])


def test_ranges_are_hashable_so_that_compilation_is_reused():
    assert isinstance(hash(SPACE["text"]), int)
    assert isinstance(SPACE["text"], TokenRange)

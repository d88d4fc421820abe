"""Conditions with weights: one pass combines what each of them alone would say."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.inference import sequences
from fourm.inference.conditions import Condition, apply_guidance
from fourm.inference.generate_tokens import generate_tokens
from fourm.inference.settings import GenerationConfig, split_settings
from tests.fourm.inference.test_generate_tokens import (  # noqa: F401  A fixture.
    SPACE,
    TEXT,
    grid,
    keys,
    model,
    run,
)
from tokenizers.base import PADDING

pytestmark = [pytest.mark.xdist_group("fourm/inference/test_generate_tokens"), pytest.mark.slow]
MAP = {"map": grid("map")}
NUMBER = {"number": grid("number", seed=4)}


def guided(model, known, targets, conditions, seed=0, **settings):
    config = GenerationConfig(**{"num_steps": 2} | settings)
    return generate_tokens(
        model, known, targets, keys(seed), dict.fromkeys(targets, config), conditions
    )


def test_logits_are_combined_by_weight():
    logits = jnp.arange(8.0).reshape(4, 1, 2) ** 2
    inputs, nothing, first, second = np.asarray(logits)
    found = apply_guidance(logits, 3.0, [0.5, -1.0])
    expected = nothing + 3 * (inputs - nothing) + 0.5 * (first - nothing) - (second - nothing)
    np.testing.assert_allclose(np.asarray(found)[0], expected)
    found = apply_guidance(logits[1:], 3.0, [0.5, -1.0], has_inputs=False)
    np.testing.assert_allclose(
        np.asarray(found)[0], nothing + 0.5 * (first - nothing) - (second - nothing)
    )


@pytest.mark.parametrize("target", ["picture", "text"])
def test_a_condition_of_weight_w_is_an_input_with_guidance_w(model, target):
    settings = dict(temperature=0.0, decode="expected" if target == "picture" else "sample")
    as_input = run(model, MAP, [target], guidance=1.7, **settings)
    as_condition = guided(model, {}, [target], [Condition(MAP, 1.7)], **settings)
    assert (np.asarray(as_input.ids[target]) == np.asarray(as_condition.ids[target])).all()
    if target == "picture":
        np.testing.assert_allclose(
            as_input.probabilities[target], as_condition.probabilities[target], atol=1e-4
        )


@pytest.mark.parametrize("target", ["picture", "text"])
def test_the_weight_0_changes_nothing_and_others_do(model, target):
    plain = run(model, MAP, [target]).ids[target]
    assert (guided(model, MAP, [target], [Condition(NUMBER, 0.0)]).ids[target] == plain).all()
    for weight in (4.0, -4.0):
        changed = guided(model, MAP, [target], [Condition(NUMBER, weight)]).ids[target]
        assert (changed != plain).any()


def test_a_negative_weight_takes_back_what_the_same_positive_one_adds(model):
    both = [Condition(NUMBER, 2.0), Condition(NUMBER, -2.0)]
    plain = run(model, MAP, ["picture"], temperature=0.0).ids["picture"]
    assert (guided(model, MAP, ["picture"], both, temperature=0.0).ids["picture"] == plain).all()


def test_two_conditions_of_one_modality_and_others_at_once_are_what_the_formula_says(model):
    """One pass over a grid of which nothing is given, computed by hand."""
    texts = TEXT, np.roll(TEXT, 1, axis=0)
    conditions = [Condition({"text": texts[0]}, 3.0), Condition({"text": texts[1]}, -1.0)]
    settings = dict(num_steps=1, temperature=0.0, decode="expected", guidance=1.5)
    found = guided(model, MAP, ["picture"], conditions, **settings).probabilities["picture"]

    def probabilities(known):
        one = run(model, known, ["picture"], num_steps=1, temperature=0.0, decode="expected")
        return np.log(np.asarray(one.probabilities["picture"]))

    empty = {"picture": np.full((5, 12), PADDING, np.int32)}
    inputs, nothing = probabilities(MAP), probabilities(empty)
    first, second = (probabilities({"text": text}) for text in texts)
    logits = nothing + 1.5 * (inputs - nothing) + 3 * (first - nothing) - (second - nothing)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_outside_of_its_interval_guidance_is_off(model):
    settings = dict(num_steps=4, temperature=0.0, guidance=6.0)
    plain = run(model, MAP, ["picture"], **settings | {"guidance": 1.0}).ids["picture"]
    never = run(model, MAP, ["picture"], guidance_interval=(0.5, 0.5), **settings)
    always = run(model, MAP, ["picture"], guidance_interval=(0.0, 1.0), **settings)
    late = run(model, MAP, ["picture"], guidance_interval=(0.5, 1.0), **settings)
    assert (never.ids["picture"] == plain).all()
    for other in (plain, always.ids["picture"]):
        assert (late.ids["picture"] != other).any()


def test_the_interval_is_of_the_passes_that_there_are_not_of_those_that_are_allowed(model):
    """A grid of 12 tokens takes at most 12 passes, however many there may be."""
    settings = dict(temperature=0.0, guidance=6.0, schedule="linear", num_steps=40)
    late = run(model, MAP, ["picture"], guidance_interval=(0.5, 1.0), **settings).ids["picture"]
    never = run(model, MAP, ["picture"], guidance_interval=(1.0, 1.0), **settings).ids["picture"]
    assert (np.asarray(late) != np.asarray(never)).any()


def test_settings_that_change_nothing_share_a_program():
    entry = SPACE["picture"]
    plain = split_settings(GenerationConfig(), entry)[0]
    assert split_settings(GenerationConfig(guidance_interval=(0.2, 0.7)), entry)[0] == plain
    noisy = GenerationConfig(scheme="halton", choice_noise=2.0)
    assert (
        split_settings(noisy, entry)[0]
        == split_settings(replace(noisy, choice_noise=0.0), entry)[0]
    )


def test_a_sequence_without_inputs_is_not_computed_twice_given_nothing(model, monkeypatch):
    """What is given nothing stands for the inputs that there are not."""
    rows = []
    whole = sequences.start_cache

    def start_cache(model, context, *rest):
        rows.append(len(context))
        return whole(model, context, *rest)

    monkeypatch.setattr(sequences, "start_cache", start_cache)
    jax.clear_caches()
    guided(model, {}, ["text"], [Condition(MAP, 2.0)])
    guided(model, {}, ["text"], [], guidance=3.0)
    assert rows == [10, 5]


def test_a_text_that_has_begun_is_continued_under_conditions_too(model):
    begun = np.full_like(TEXT, PADDING)
    begun[:, :2] = [[4, 5]]
    found = guided(model, {"text": begun}, ["text"], [Condition(MAP, 2.0)]).ids["text"]
    assert (np.asarray(found)[:, :2] == [4, 5]).all()


def test_conditions_that_can_not_be_followed_are_one_sentence(model):
    with pytest.raises(ValueError, match="A condition shows picture, which is to be generated"):
        guided(model, MAP, ["picture"], [Condition({"picture": grid("picture")}, 2.0)])
    with pytest.raises(ValueError, match="no input besides the conditions"):
        guided(model, {}, ["picture"], [Condition(MAP, 2.0)], guidance_interval=(0.0, 0.5))

"""Sampling: what may be drawn, how often, and which tokens go first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.inference.sampling import add_gumbel, choose_best, keep_likeliest, sample_tokens
from fourm.inference.schedules import (
    group_passes,
    step_table,
    temperature_table,
    temperatures_per_step,
    tokens_per_step,
)


def some_keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    probabilities = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        logits = jnp.broadcast_to(jnp.log(probabilities), (4, 5000, 5))
    ids = np.asarray(sample_tokens(some_keys(4), logits).ids)
    counts = np.bincount(ids.ravel(), minlength=5) / ids.size
    deviation = np.sqrt(probabilities * (1 - probabilities) / ids.size)
    assert (np.abs(counts - probabilities) <= 4 * deviation).all()
    assert counts[1] == 0


@pytest.mark.slow
def test_temperature_raises_probabilities_to_its_inverse():
    logits = jnp.log(jnp.array([[[0.6, 0.3, 0.1]]]))
    drawn = sample_tokens(some_keys(1), logits, temperature=0.5).probabilities[0, 0]
    expected = np.array([0.36, 0.09, 0.01]) / 0.46
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)


def test_temperature_zero_takes_the_likeliest_with_its_true_probability_as_confidence():
    logits = jnp.log(jnp.array([[[0.6, 0.3, 0.1], [0.2, 0.35, 0.45]]]))
    draw = sample_tokens(some_keys(1), logits, temperature=0.0)
    assert draw.ids.tolist() == [[0, 2]]
    np.testing.assert_allclose(jnp.exp(draw.confidence), [[0.6, 0.45]], rtol=1e-5)


@pytest.mark.slow
def test_confidence_is_the_log_probability_of_what_was_drawn():
    logits = jax.random.normal(jax.random.key(1), (3, 7, 11))
    draw = sample_tokens(some_keys(3), logits, temperature=0.7, top_k=5)
    taken = jnp.take_along_axis(draw.probabilities, draw.ids[..., None], -1)[..., 0]
    np.testing.assert_allclose(jnp.exp(draw.confidence), taken, rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_keeps_k_ids(top_k):
    logits = jax.random.normal(jax.random.key(2), (2, 5, 10))
    kept = jnp.isfinite(keep_likeliest(logits, top_k, 1.0))
    assert (kept.sum(-1) == top_k).all()
    assert (
        jnp.where(kept, logits, jnp.inf).min(-1) >= jnp.where(kept, -jnp.inf, logits).max(-1)
    ).all()


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, [1, 0, 0, 0]), (0.55, [1, 1, 0, 0]), (0.9, [1, 1, 1, 0])]
)
def test_top_p_keeps_ids_until_what_came_before_exceeds_it(top_p, kept):
    logits = jnp.log(jnp.array([[[0.5, 0.3, 0.15, 0.05]]]))
    assert jnp.isfinite(keep_likeliest(logits, 0, top_p)).astype(int).tolist() == [[kept]]


def test_top_p_counts_probability_among_those_that_top_k_kept():
    logits = jnp.log(jnp.array([[[0.4, 0.3, 0.2, 0.1]]]))
    # Of the two kept the first has 0.57, so a nucleus of 0.5 needs no second.
    assert jnp.isfinite(keep_likeliest(logits, 2, 0.5)).sum() == 1
    assert jnp.isfinite(keep_likeliest(logits, 0, 0.5)).sum() == 2


@pytest.mark.parametrize(
    ("probabilities", "top_k", "top_p", "kept"),
    [
        ([0.5, 0.25, 0.25], 0, 0.5, [1, 0, 0]),
        ([0.25, 0.25, 0.5], 0, 0.75, [1, 0, 1]),
        ([0.25, 0.25, 0.25, 0.25], 0, 0.5, [1, 1, 0, 0]),
        ([0.25, 0.25, 0.25, 0.25], 0, 0.51, [1, 1, 1, 0]),
        ([0.2, 0.2, 0.2, 0.4], 2, 1.0, [1, 0, 0, 1]),
        ([0.2, 0.2, 0.2, 0.4], 3, 0.6, [1, 0, 0, 1]),
        ([0.1, 0.2, 0.7], 0, 0.7, [0, 0, 1]),
        ([0.1, 0.2, 0.7], 0, 0.9, [0, 1, 1]),
    ],
)
def test_the_fewest_ids_are_kept_and_of_equals_the_first(probabilities, top_k, top_p, kept):
    logits = jnp.log(jnp.array([[probabilities]]))
    found = keep_likeliest(logits, top_k, top_p)
    assert jnp.isfinite(found).astype(int).tolist() == [[kept]]
    as_arrays = keep_likeliest(logits, jnp.int32(top_k), jnp.float32(top_p), 4 if top_k else 0)
    assert np.array_equal(found, as_arrays)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_no_step_is_idle_while_a_token_is_open(schedule):
    for num_tokens in (1, 2, 7, 64, 196):
        for num_steps in (1, 2, 5, 8, 25, 63, 64, 200, 700):
            counts = tokens_per_step(schedule, num_steps, num_tokens)
            assert counts.sum() == num_tokens and counts.min() >= 0
            assert (counts > 0).sum() <= num_tokens
            is_open = np.cumsum(counts) - counts < num_tokens
            assert (counts[is_open] > 0).all(), (num_tokens, num_steps)


@pytest.mark.slow
def test_the_likeliest_id_survives_any_filter():
    logits = jax.random.normal(jax.random.key(3), (2, 4, 9)) * 10
    kept = jnp.isfinite(keep_likeliest(logits, 1, 1e-9))
    assert (jnp.argmax(kept, -1) == jnp.argmax(logits, -1)).all()


@pytest.mark.slow
def test_a_sample_draws_the_same_whoever_its_neighbours_are():
    logits = jax.random.normal(jax.random.key(4), (4, 6, 8))
    keys = some_keys(4)
    together = sample_tokens(keys, logits).ids
    reverse = sample_tokens(keys[::-1], logits[::-1]).ids[::-1]
    alone = sample_tokens(keys[2:3], logits[2:3]).ids
    assert (together == reverse).all()
    assert (together[2:3] == alone).all()


def test_exactly_the_count_of_open_tokens_is_chosen_per_sample():
    score = jnp.array([[3.0, -jnp.inf, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 5.0, 1.0, 2.0]])
    is_open = jnp.array([[True, True, False, True], [True] * 4, [False] * 4])
    chosen = choose_best(score, is_open, jnp.array([3, 2, 4]))
    assert chosen.tolist() == [[True, True, False, True], [True, True, False, False], [False] * 4]


def test_gumbel_noise_of_scale_one_makes_the_best_a_fair_draw():
    probabilities = np.array([0.6, 0.3, 0.1])
    log_probabilities = jnp.broadcast_to(jnp.log(probabilities), (4000, 3))
    best = np.argmax(add_gumbel(some_keys(4000), log_probabilities, 1.0), -1)
    counts = np.bincount(best, minlength=3) / 4000
    np.testing.assert_allclose(counts, probabilities, atol=0.035)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("num_steps", [1, 2, 8, 25, 70])
def test_schedules_hand_out_every_token_and_never_a_negative_number(schedule, num_steps):
    table = step_table(schedule, num_steps, 64)
    assert table.shape == (65, num_steps)
    assert (table >= 0).all()
    assert (table.sum(axis=1) == np.arange(65)).all()


def test_schedules_are_those_of_the_published_models():
    assert tokens_per_step("cosine", 8, 196).tolist() == [7, 21, 32, 38, 38, 32, 21, 7]
    assert tokens_per_step("cosine", 6, 9).tolist() == [1, 2, 2, 2, 2, 0]
    assert tokens_per_step("cosine", 25, 7).tolist() == [1] * 7 + [0] * 18
    assert tokens_per_step("cosine", 8, 2).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert tokens_per_step("cosine", 4, 64).tolist() == [9, 23, 23, 9]
    assert tokens_per_step("linear", 8, 196).tolist() == [25] * 4 + [24] * 4


def test_passes_are_grouped_with_the_sizes_that_they_need_at_most():
    early, middle, late = group_passes("cosine", 8, 196, 3, is_given=False)
    assert early[:5] == (0, 3, 7 + 21, 196, 32)
    assert middle[:5] == (3, 6, 196 - 60, 196 - 60, 38)
    # Of few missing tokens, rounding may leave the last passes more than of 196.
    assert late[:3] == (6, 8, 196 - 7) and late.most_unknown >= 28
    given = group_passes("linear", 8, 196, 3, is_given=True)
    assert [passes.most_known for passes in given] == [196] * 3
    assert [passes.most_unknown for passes in given] == [196, 196 - 75, 48]
    assert len(group_passes("linear", 2, 9, 3, is_given=False)) == 2


def test_temperatures_fall_as_the_schedule_says():
    counts = tokens_per_step("cosine", 8, 196)
    linear = temperatures_per_step("linear", 3.0, counts)
    np.testing.assert_allclose(linear, 3 * (1 - (np.cumsum(counts) - counts) / 196))
    falling = temperatures_per_step("onex:0.5:0.5", 3.0, counts)
    # Recorded from ml-4m.
    np.testing.assert_allclose(
        falling[[0, 1, 2, 7]], [2.910714, 2.200979, 1.664949, 0.5], rtol=1e-6
    )
    assert temperatures_per_step("constant", 0.7, counts).tolist() == [0.7] * 8
    assert (temperatures_per_step("linear", 0.0, counts) == 1e-9).all()


@pytest.mark.parametrize("schedule", ["steep", "onex", "onex:a:b", "onex:0.5", "onex:nan:1"])
def test_an_unknown_temperature_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="constant, linear and onex"):
        temperatures_per_step(schedule, 1.0, np.ones(2, np.int32))


def test_the_table_of_temperatures_has_a_row_for_every_number_of_unknown_tokens():
    table = temperature_table("linear", 2.0, "linear", 4, 12)
    assert table.shape == (13, 4)
    np.testing.assert_allclose(table[12], [2.0, 1.5, 1.0, 0.5])
    np.testing.assert_allclose(table[2, :2], [2.0, 1.0])


@pytest.mark.slow
def test_every_sample_may_have_its_own_temperature():
    logits = jax.random.normal(jax.random.key(1), (2, 7, 11))
    keys = some_keys(2)
    both = sample_tokens(keys, logits, jnp.array([0.5, 2.0]))
    for row, temperature in enumerate((0.5, 2.0)):
        alone = sample_tokens(keys, logits, temperature)
        assert (both.ids[row] == alone.ids[row]).all()
        np.testing.assert_allclose(both.probabilities[row], alone.probabilities[row], rtol=1e-6)

"""Span corruption loses nothing and fits its budget, whatever the text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.masking.spans import (
    argsort_draws,
    choose_window,
    corrupt_by_chance,
    corrupt_spans,
    count_starts,
    cut_window,
    pack,
)


def corrupt_naively(draws, ids, budget, keep, first_sentinel, num_sentinels):
    """Tries ever fewer kept tokens until they fit; returns inputs and targets."""
    order = np.argsort(draws[: len(ids)], kind="stable")
    for count in range(int((draws[: len(ids)] <= keep).sum()), -1, -1):
        kept = set(order[:count].tolist())
        inputs, targets, sentinel = [], [], 0
        for place, token in enumerate(ids):
            if place in kept:
                inputs.append(token)
                continue
            if place == 0 or place - 1 in kept:
                inputs.append(first_sentinel + sentinel)
                targets.append(first_sentinel + sentinel)
                sentinel += 1
            targets.append(token)
        targets.append(first_sentinel + sentinel)
        if len(inputs) <= budget and sentinel < num_sentinels:
            return inputs, targets
    return [], targets


def corrupt_many(count=400, tokens=14, sentinels=5, seed=0, keep=None, budget=None):
    """Random texts of ids from 20 on, corrupted; sentinels are 3, 4, ..."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(20, 60, (count, tokens)).astype(np.int32)
    lengths = rng.integers(0, tokens + 1, count).astype(np.int32)
    budgets = rng.integers(0, tokens + 1, count) if budget is None else np.full(count, budget)
    keeps = rng.choice([0.0, 0.2, 0.7, 1.0], count) if keep is None else np.full(count, keep)
    draws = rng.random((count, tokens), np.float32)
    corrupt = jax.jit(jax.vmap(lambda *row: corrupt_spans(*row, 3, sentinels)))
    found = corrupt(
        jnp.asarray(draws),
        jnp.asarray(ids),
        jnp.asarray(lengths),
        jnp.asarray(budgets, jnp.int32),
        jnp.asarray(keeps, jnp.float32),
    )
    found = jax.device_get(found)
    for row in range(count):
        text = ids[row, : lengths[row]].tolist()
        inputs = found.inputs[row, : found.num_inputs[row]].tolist()
        targets = found.targets[row, : found.num_targets[row]].tolist()
        marks = found.is_sentinel[row]
        yield text, inputs, targets, marks, budgets[row], keeps[row], draws[row]


@pytest.mark.parametrize("tokens", [1, 2, 196, 256])
def test_draws_are_put_in_the_order_of_a_stable_sort(tokens):
    draws = jax.random.uniform(jax.random.key(tokens), (tokens,))
    draws = draws.at[tokens // 2 :].set(draws[: tokens - tokens // 2])  # Ties, and the largest.
    draws = draws.at[-1].set(1.0)
    assert jnp.array_equal(argsort_draws(draws), jnp.argsort(draws, stable=True))


@pytest.mark.slow
def test_long_streams_are_put_in_an_order_in_which_only_near_ties_are_swapped():
    draws = jax.random.uniform(jax.random.key(0), (3000,))
    order = argsort_draws(draws)
    assert jnp.array_equal(jnp.sort(order), jnp.arange(3000))
    assert jnp.diff(draws[order]).min() > -(2.0**-18)


def test_chosen_values_are_moved_to_the_front_in_their_order():
    rng = np.random.default_rng(0)
    values = np.arange(1, 7)
    for is_chosen in [*(rng.random((20, 6)) < 0.5), np.zeros(6, bool), np.ones(6, bool)]:
        expected = [*values[is_chosen], *[0] * int((~is_chosen).sum())]
        assert pack(jnp.asarray(values), jnp.asarray(is_chosen)).tolist() == expected


@pytest.mark.slow
def test_spans_are_those_of_trying_ever_fewer_kept_tokens():
    for text, inputs, targets, _, budget, keep, draws in corrupt_many():
        expected = corrupt_naively(draws, text, budget, np.float32(keep), 3, 5)
        assert (inputs, targets) == (expected[0], expected[1])


def test_inputs_and_targets_merge_to_the_text_and_respect_the_budget():
    for text, inputs, targets, marks, budget, _, _ in corrupt_many(seed=1):
        assert len(inputs) <= budget
        sentinels = [token for token in targets if token < 20]
        assert sentinels == list(range(3, 3 + len(sentinels)))
        assert len(sentinels) <= 5
        assert np.flatnonzero(marks).tolist() == [i for i, t in enumerate(targets) if t < 20]
        if budget == 0:
            assert (inputs, targets[1:-1]) == ([], text)
            continue
        spans, current = {}, None
        for token in targets:
            if token < 20:
                current = spans[token] = []
            else:
                current.append(token)
        merged = [spans[token] if token < 20 else [token] for token in inputs]
        assert sum(merged, []) == text  # noqa: RUF017


def test_keeping_all_shows_the_whole_text_where_it_fits():
    for text, inputs, targets, _, budget, _, _ in corrupt_many(keep=1.0, seed=2):
        if len(text) <= budget:
            assert inputs == text
            assert targets == [3]


def test_keeping_nothing_leaves_one_sentinel_and_asks_for_the_text():
    for text, inputs, targets, _, _, _, _ in corrupt_many(keep=0.0, budget=14, seed=3):
        assert inputs == ([3] if text else [])
        assert targets == ([3, *text, 4] if text else [3])


def test_windows_begin_at_every_sentinel_after_which_the_stream_is_long_enough():
    draws = jnp.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])  # drops every second token
    text = jnp.arange(20, 28)
    corrupt = jax.jit(corrupt_spans, static_argnums=(5, 6))
    spans = corrupt(draws, text, jnp.array(8), jnp.array(8), jnp.array(0.5), 3, 6)
    assert spans.targets[: int(spans.num_targets)].tolist() == [3, 20, 4, 22, 5, 24, 6, 26, 7]
    choose = jax.jit(jax.vmap(choose_window, in_axes=(0, None, None)))
    draws = jnp.linspace(0, 0.999, 40)
    starts = {budget: np.asarray(choose(draws, spans, jnp.array(budget))) for budget in range(1, 9)}
    assert [sorted(set(starts[budget].tolist())) for budget in (1, 2, 5, 8)] == [
        [0, 2, 4, 6],
        [0, 2, 4, 6],
        [0, 2],
        [0],
    ]
    assert np.bincount(starts[2])[[0, 2, 4, 6]].tolist() == [10, 10, 10, 10]


# By the rules of ml-4m


def corrupt_again_and_again(tries, ids, budget, keep, first_sentinel, chunk=None):
    """Drops units by chance until the rest fits; returns inputs, targets and the tries taken."""
    chunk = list(range(len(ids))) if chunk is None else chunk
    for number, draws in enumerate(tries):
        limit = 0.0 if budget == 0 else keep * 0.9**number
        inputs, targets, sentinel, is_open = [], [], first_sentinel, False
        for token, unit in zip(ids, chunk, strict=True):
            if draws[unit] <= limit:
                inputs.append(token)
                is_open = False
                continue
            if not is_open:
                inputs.append(sentinel)
                targets.append(sentinel)
                sentinel, is_open = sentinel + 1, True
            targets.append(token)
        targets.append(sentinel)
        if budget == 0:
            return [], targets, number
        if len(inputs) <= budget:
            return inputs, targets, number
    raise AssertionError("not enough tries")


def test_spans_by_chance_are_those_of_trying_again_and_again():
    rng = np.random.default_rng(4)
    count, tokens, tries = 300, 12, 80
    ids = rng.integers(20, 60, (count, tokens)).astype(np.int32)
    lengths = rng.integers(0, tokens + 1, count).astype(np.int32)
    budgets = rng.integers(0, tokens + 1, count).astype(np.int32)
    keeps = rng.choice([0.0, 0.3, 0.7, 1.0], count).astype(np.float32)
    draws = rng.random((count, tries, tokens), np.float32)
    chunk = np.sort(rng.integers(0, tokens, (count, tokens)), axis=1)
    corrupt = jax.jit(
        jax.vmap(
            lambda draws, ids, real, budget, keep, chunk: corrupt_by_chance(
                lambda number: draws[number], ids, real, budget, keep, 3, 15, chunk
            )
        )
    )
    found = jax.device_get(corrupt(draws, ids, lengths, budgets, keeps, chunk))
    numbers = set()
    for row in range(count):
        own = slice(0, lengths[row])
        expected = corrupt_again_and_again(
            draws[row], ids[row][own].tolist(), budgets[row], keeps[row], 3, chunk[row][own]
        )
        inputs = found.inputs[row, : found.num_inputs[row]].tolist()
        targets = found.targets[row, : found.num_targets[row]].tolist()
        assert (inputs, targets) == expected[:2]
        numbers.add(expected[2])
    assert len(numbers) > 10


@pytest.mark.slow
def test_spans_by_chance_respect_the_number_of_sentinels():
    draws = jnp.tile(jnp.array([0.8, 0.05] * 6), (100, 1))
    spans = corrupt_by_chance(
        lambda number: draws[number] * 0.95**number,
        jnp.arange(20, 32),
        jnp.array(12),
        jnp.array(12),
        jnp.array(0.5),
        3,
        4,
    )
    assert int(spans.is_sentinel.sum()) <= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sentinel", "budget", "expected"),
    [
        (0, 20, [3, 20, 4, 22, 5, 24, 6, 26, 7]),  # it fits
        (0, 9, [3, 20, 4, 22, 5, 24, 6, 26, 7]),
        (0, 4, [3, 20, 4, 22]),
        (1, 4, [4, 22, 5, 24]),
        (3, 3, [6, 26, 7]),
        (3, 4, [6, 26, 7]),  # too little follows; the earliest from which the rest fits
        (3, 8, [4, 22, 5, 24, 6, 26, 7]),
        (2, 1, [5]),
        (0, 0, []),
    ],
)
def test_a_window_is_cut_where_it_was_drawn_or_where_the_rest_fits(sentinel, budget, expected):
    draws = jnp.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])  # drops every second token
    spans = corrupt_spans(
        draws, jnp.arange(20, 28), jnp.array(8), jnp.array(8), jnp.array(0.5), 3, 6
    )
    assert int(count_starts(spans)) == 4
    start, length = cut_window(jnp.array(sentinel), spans, jnp.array(budget))
    assert spans.targets[int(start) : int(start + length)].tolist() == expected


@pytest.mark.slow
def test_the_only_sentinel_may_be_drawn():
    spans = corrupt_spans(
        jnp.zeros(3), jnp.arange(20, 23), jnp.array(3), jnp.array(3), jnp.array(1.0), 3, 6
    )
    assert spans.targets[: int(spans.num_targets)].tolist() == [3]
    assert int(count_starts(spans)) == 1

"""Budgets are feasible, spent in full, and distributed as Dirichlet draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fourm.masking import budgets as module
from fourm.masking.budgets import (
    draw_log_gammas,
    draw_log_shares,
    fill_in_proportion,
    split_budget,
    split_by_chance,
)
from tests.paths import SHARED

DRAW = jax.jit(
    jax.vmap(lambda key, alphas, *limits: split_budget(draw_log_shares(key, alphas), *limits))
)
STATISTICS = SHARED / "parity/goldens/masking/stats.json"


def draw_budgets(alphas, capacity, total, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(total))
    arrays = jnp.asarray(alphas, jnp.float32), jnp.asarray(capacity, jnp.int32), jnp.asarray(total)
    return np.asarray(DRAW(keys, *arrays))


@pytest.mark.slow
def test_budgets_are_feasible_and_spent_in_full_whatever_the_alphas_and_capacities():
    rng = np.random.default_rng(0)
    count, modalities = 6000, 7
    alphas = rng.choice([0.0, 1e-3, 0.01, 0.1, 1.0, 10.0, 1000.0], (count, modalities))
    capacity = rng.choice([0, 1, 2, 7, 40, 256, 784], (count, modalities))
    total = rng.integers(0, 600, count)
    budgets = draw_budgets(alphas, capacity, total)
    available = np.where(alphas > 0, capacity, 0)
    assert (budgets >= 0).all()
    assert (budgets <= available).all()
    np.testing.assert_array_equal(budgets.sum(1), np.minimum(total, available.sum(1)))


def fill_naively(shares, capacity, total):
    """Hands out what is left, again and again, to those that are not full; in float64."""
    shares = shares.astype(np.float64)
    exact = np.zeros(len(shares))
    left = min(total, capacity[shares > 0].sum())
    while left > 1e-9:
        is_open = (exact < capacity - 1e-9) & (shares > 0)
        if not is_open.any():
            break
        given = np.where(is_open, shares, 0) / shares[is_open].sum() * left
        new = np.minimum(exact + given, capacity)
        left -= (new - exact).sum()
        exact = new
    return exact


def test_filling_in_proportion_agrees_with_handing_out_the_rest_again_and_again():
    rng = np.random.default_rng(1)
    count, modalities = 1500, 6
    shares = rng.dirichlet(np.ones(modalities) * 0.3, count).astype(np.float32)
    shares[rng.random(shares.shape) < 0.2] = 0
    capacity = rng.choice([0, 1, 5, 30, 200], (count, modalities)).astype(np.int32)
    total = rng.integers(0, 300, count).astype(np.int32)
    fill = jax.jit(jax.vmap(fill_in_proportion))
    budgets = np.asarray(fill(jnp.asarray(shares), jnp.asarray(capacity), jnp.asarray(total)))
    for row in range(count):
        exact = fill_naively(shares[row], capacity[row], total[row])
        assert np.abs(budgets[row] - exact).max() < 1.01, (shares[row], capacity[row], total[row])
        assert budgets[row].sum() == round(exact.sum())


def test_what_clipping_frees_goes_to_the_others_in_proportion():
    shares = jnp.array([0.5, 0.1, 0.2, 0.2, 0.0])
    budgets = fill_in_proportion(shares, jnp.array([2, 100, 100, 100, 100]), jnp.array(22))
    assert budgets.tolist() == [2, 4, 8, 8, 0]


@pytest.mark.slow
def test_the_largest_remainders_get_what_rounding_leaves():
    shares = jnp.array([0.26, 0.38, 0.36])
    budgets = fill_in_proportion(shares, jnp.array([50, 50, 50]), jnp.array(10))
    assert budgets.tolist() == [2, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("alphas", [(0.5, 1.0, 2.0), (20.0, 20.0, 60.0), (0.05, 0.05, 0.1)])
def test_shares_have_the_mean_and_the_spread_of_a_dirichlet(alphas):
    count, total = 20_000, 1000
    budgets = draw_budgets(
        np.tile(alphas, (count, 1)), np.full((count, 3), total), np.full(count, total)
    )
    alphas, whole = np.array(alphas), sum(alphas)
    std = np.sqrt(alphas * (whole - alphas) / (whole**2 * (whole + 1)))
    assert np.abs(budgets.mean(0) / total - alphas / whole).max() < 5 * std.max() / count**0.5
    np.testing.assert_allclose(budgets.std(0) / total, std, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("tries", [1, 4])
def test_logarithms_of_gammas_are_distributed_as_such(tries, monkeypatch):
    monkeypatch.setattr(module, "GAMMA_TRIES", tries)
    alphas = np.repeat([0.01, 0.3, 1.0, 2.5, 100.0], 20_000).reshape(5, -1)
    drawn = np.asarray(draw_log_gammas(jax.random.key(3), jnp.asarray(alphas, jnp.float32)))
    for alpha, values in zip(alphas[:, 0], drawn, strict=True):
        assert scipy.stats.kstest(values, scipy.stats.loggamma(alpha).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_gammas_are_the_same_alone_and_among_others_that_need_more_rounds(monkeypatch):
    monkeypatch.setattr(module, "GAMMA_TRIES", 1)
    keys = jax.random.split(jax.random.key(0), 64)
    alphas = jnp.array([0.1, 1.0, 5.0])
    together = jax.vmap(lambda key: draw_log_gammas(key, alphas))(keys)
    alone = jnp.stack([draw_log_gammas(key, alphas) for key in keys[:4]])
    np.testing.assert_allclose(together[:4], alone, rtol=1e-5, atol=1e-6)
    assert len(jnp.unique(together)) == together.size


@pytest.mark.slow
def test_a_tiny_alpha_gives_one_modality_nearly_everything_and_each_equally_often():
    count = 4000
    budgets = draw_budgets(np.full((count, 4), 0.01), np.full((count, 4), 64), np.full(count, 64))
    assert (budgets.max(1) == 64).mean() > 0.85
    assert np.abs(budgets.mean(0) - 16).max() < 4 * 28 / count**0.5


@pytest.mark.slow
def test_a_huge_alpha_gives_equal_shares():
    budgets = draw_budgets(np.full((500, 4), 1e5), np.full((500, 4), 64), np.full(500, 64))
    assert np.abs(budgets - 16).max() <= 1


@pytest.mark.slow
@pytest.mark.skipif(not STATISTICS.exists(), reason="needs the recorded statistics")
@pytest.mark.parametrize(
    "setting", ["mod7_alpha1_128_128", "mod7_alpha10_128_64_keepall", "mod7_mix6_128_128"]
)
def test_input_budgets_are_distributed_as_in_the_published_implementation(setting):
    # Where nothing is clipped both hand out the same shares; they differ in how they round.
    recorded = json.loads(STATISTICS.read_text())[setting]
    names = recorded["modalities"]
    frequency = np.array(recorded["component_freq"], float)
    count = 4000
    means = []
    for component in range(len(frequency)):
        alphas = [recorded["alphas"][name]["input"][component] for name in names]
        capacity = [recorded["max_tokens"][name] for name in names]
        total = np.full(count, recorded["input_tokens_range"][1])
        means.append(
            draw_budgets(np.tile(alphas, (count, 1)), np.tile(capacity, (count, 1)), total).mean(0)
        )
    mean = frequency @ np.array(means) / frequency.sum()
    theirs = np.array([recorded["input_budget"][name]["mean"] for name in names])
    assert np.abs(mean - theirs).max() < 1.6  # four standard errors of the widest


SPLIT = jax.jit(jax.vmap(split_by_chance, in_axes=(0, None, None)))


def split_many(alphas, total, count=4000, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(SPLIT(keys, jnp.array(alphas, jnp.float32), jnp.array(total)))


@pytest.mark.slow
@pytest.mark.parametrize("alphas", [(0.01,) * 8, (1.0, 10.0, 0.0), (1000.0, 0.0, 0.0), (1e-4,) * 3])
@pytest.mark.parametrize("total", [1, 7, 128, 512])
def test_splitting_by_chance_hands_out_everything(alphas, total):
    budgets = split_many(alphas, total, 500)
    assert (budgets >= 0).all()
    assert (budgets.sum(1) == total).all()


@pytest.mark.slow
def test_splitting_by_chance_gives_nothing_to_those_without_a_share():
    budgets = split_many((1000.0, 0.0, 5.0, 0.0), 128)
    assert not budgets[:, [1, 3]].any()
    assert budgets[:, 2].any()


@pytest.mark.slow
def test_splitting_by_chance_draws_the_last_token_of_who_wins_everything_anew():
    # One of eight wins all but one token; it gets the last one, too, in one case of eight.
    budgets = split_many((0.001,) * 8, 128)
    wins = np.sort(budgets, axis=1)[:, ::-1]
    is_one_hot = wins[:, :2].sum(1) == 128
    assert is_one_hot.mean() > 0.9
    assert abs((wins[is_one_hot, 0] == 128).mean() - 1 / 8) < 0.03


@pytest.mark.slow
def test_splitting_by_chance_without_any_share_is_even():
    # All gammas are the smallest number, as in the original.
    budgets = split_many((0.0,) * 4, 64, 20)
    assert (budgets == 16).all()

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fourm.evaluation.metrics.distributions import compare, frechet_distance, share_among


def draws(count, mean=0.0, scale=1.0, seed=0, dim=6):
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(1).normal(size=(dim, dim))
    return mean + scale * random.normal(size=(count, dim)) @ mix


def test_the_distance_is_what_its_formula_says():
    a, b = draws(300), draws(200, mean=0.7, scale=1.6, seed=3)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1])
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected = apart + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + 2.0) == pytest.approx(4 * 6)
    assert frechet_distance(a[:, :1], 3 * a[:, :1]) > 0


def test_fewer_samples_than_dimensions_do_no_harm():
    a, b = draws(10, dim=40), draws(12, seed=2, dim=40)
    assert np.isfinite(frechet_distance(a, b)) and frechet_distance(a, a) < 1e-6


def test_precision_falls_with_samples_that_no_true_one_is_near_and_recall_with_those_missing():
    true = draws(300)
    same = compare(draws(300, seed=5), true)
    assert same.precision > 0.8 and same.recall > 0.8
    far = compare(np.concatenate([draws(150, seed=5), draws(150, mean=50.0, seed=6)]), true)
    assert far.precision == pytest.approx(same.precision / 2, abs=0.08) and far.recall > 0.6
    one = compare(true[:1] + 1e-3 * draws(300, seed=7), true)
    assert one.precision > 0.9 and one.recall < 0.1 and one.frechet > same.frechet


def test_among_means_within_the_distance_to_the_third_neighbour():
    others = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
    # Radii 3, 2, 2, 3 and 9.
    samples = np.array([[-3.0], [-3.1], [5.5], [20.0]])
    assert share_among(samples, others) == 0.5
    assert share_among(np.array([[19.0]]), others) == 1.0
    # Copies are at a distance of 0 however long their vectors are.
    copies = np.repeat(np.random.default_rng(0).normal(size=(1, 40)) * 1e6, 5, axis=0)
    assert share_among(copies, copies) == 1.0 and share_among(copies + 1e-3, copies) == 0.0


def test_too_few_and_broken_features_are_refused():
    with pytest.raises(ValueError, match="There are 4 generated samples; 5 are needed"):
        compare(draws(4), draws(20))
    broken = draws(20)
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="A feature of a true sample is not finite"):
        compare(draws(20), broken)

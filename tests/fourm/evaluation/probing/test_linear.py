"""Linear probes, and how strongly they are regularised."""

import math

import numpy as np
import pytest

from fourm.evaluation.probing.linear import (
    LEAST_C,
    MOST_C,
    agreement,
    best_inside,
    fit_linear,
    folds_of,
)


@pytest.mark.parametrize("best", [1e-5, 0.01, 1.0, 1e4])
def test_the_grid_grows_until_its_best_lies_inside(best):
    tried = []

    def score(c):
        tried.append(c)
        return -abs(math.log10(c / best))

    assert best_inside([0.001, 0.01, 0.1], score) == pytest.approx(best)
    assert len(tried) == len(set(tried))
    assert min(tried) >= LEAST_C * 0.99 and max(tried) <= MOST_C * 1.01


def test_the_grid_does_not_grow_where_candidates_are_equally_good():
    tried = []
    assert best_inside([0.001, 0.01, 0.1], lambda c: tried.append(c) or 1.0) == 0.01
    assert len(tried) == 3


@pytest.mark.parametrize("folds", [1, 5])
@pytest.mark.parametrize("kind", ["class", "several", "number"])
def test_what_lies_linearly_in_features_is_read(kind, folds):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6))
    labels = {
        "class": np.array(["a", "b"])[(features[:, 0] > 0).astype(int)],
        "several": np.stack([features[:, 0] > 0, features[:, 1] > 1, np.ones(200, bool)], axis=1),
        "number": 5 * features[:, 0] + 2,
    }[kind]
    fitted = fit_linear(features[:150], labels[:150], kind, (0.01, 0.1), folds)
    assert agreement(fitted.predict(features[150:]), labels[150:], kind) > 0.9
    assert np.isnan(fitted.score) == (folds == 1)


def test_every_sample_is_chosen_on_once():
    parts = folds_of(23, 5)
    assert sorted(np.concatenate([chosen for _, chosen in parts])) == list(range(23))
    assert all(set(fitted).isdisjoint(chosen) for fitted, chosen in parts)
    ((fitted, chosen),) = folds_of(10, 1)
    assert len(fitted) == 8 and len(chosen) == 2

"""A decomposition gives the matrix back, also where the faster algorithm gives up."""

import numpy as np
import pytest

from tokenizers.decomposition import decompose


@pytest.mark.parametrize("converges", [True, False])
def test_the_factors_give_the_matrix_back(monkeypatch, converges):
    def give_up(*_, **__):
        raise np.linalg.LinAlgError("SVD did not converge")

    if not converges:
        monkeypatch.setattr(np.linalg, "svd", give_up)
    rows = np.random.default_rng(0).normal(size=(30, 4)) @ np.eye(4, 12)
    left, spread, directions = decompose(rows)
    assert left.shape == (30, 12) and spread.shape == (12,) and directions.shape == (12, 12)
    assert (np.diff(spread) <= 0).all() and (spread[4:] < 1e-12).all()
    np.testing.assert_allclose((left * spread) @ directions, rows, atol=1e-12)
    np.testing.assert_allclose(directions @ directions.T, np.eye(12), atol=1e-12)

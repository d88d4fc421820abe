"""Patches described by principal components on one scale."""

import numpy as np
import pytest

from tokenizers.images.patch_features import NOISE, PATCHES, fit_components

RNG = np.random.default_rng(0)


def low_rank(count: int, rank: int, numbers: int, noise: float = 0.0) -> np.ndarray:
    strengths = 10.0 * 0.7 ** np.arange(rank)
    patches = (RNG.normal(size=(count, rank)) * strengths) @ RNG.normal(size=(rank, numbers))
    return (patches + noise * RNG.normal(size=patches.shape) + 3.0).astype(np.float32)


def test_features_keep_what_varies_and_have_one_scale():
    patches = low_rank(PATCHES, 5, 40)
    mean, components = fit_components(patches, 5)
    features = (patches - mean) @ components
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)
    covariance = np.cov(features.T)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-3)
    assert (np.diag(covariance) > 0.4).all() and (np.diag(covariance) < 1.0).all()
    again = features @ np.linalg.lstsq(features, patches - mean, rcond=None)[0]
    np.testing.assert_allclose(again, patches - mean, atol=1e-2)


def test_noise_stays_small():
    patches = low_rank(PATCHES, 3, 40, noise=0.1)
    mean, components = fit_components(patches, 12)
    variance = ((patches - mean) @ components).var(axis=0)
    assert variance[0] > 0.9 and (variance[3:] < 0.02).all()
    raw = np.sort(np.linalg.eigvalsh(np.cov(patches.T)))[::-1][:12]
    np.testing.assert_allclose(variance, raw / (raw + NOISE * raw.mean()), rtol=0.02)


@pytest.mark.parametrize("patches", [low_rank(3, 2, 40), np.full((50, 40), 7.0, np.float32)])
def test_fewer_patches_than_features_and_patches_all_alike_give_finite_numbers(patches):
    mean, components = fit_components(patches, 12)
    assert components.shape == (40, 12)
    assert np.isfinite(mean).all() and np.isfinite(components).all()
    assert np.abs((patches - mean) @ components).max() < 10

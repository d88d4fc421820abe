"""Input without ids: what the encoder gets of pixels and of vectors."""

import numpy as np
import pytest

from tokenizers.base import Crop, Tokenizer
from tokenizers.features import (
    PixelTokenizer,
    Vectors,
    VectorsTokenizerConfig,
    VectorTokenizer,
)
from tokenizers.modality import load_tokenizer

RNG = np.random.default_rng(0)
VECTORS = Vectors(width=3, longest=4)


def test_squares_are_in_reading_order_and_so_are_their_pixels():
    tokenizer = PixelTokenizer(4, 2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    features = tokenizer.encode(picture[None])
    assert features.shape == (1, 2, 2, 12) and tokenizer.feature_width == 12
    np.testing.assert_allclose(features[0, 0, 1] * 255, picture[:2, 2:].ravel(), rtol=1e-6)


def test_colours_are_normalised_per_channel():
    tokenizer = PixelTokenizer(2, 2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    white = tokenizer.encode(np.full((1, 2, 2, 3), 255, np.uint8))[0, 0, 0]
    np.testing.assert_allclose(white, [1.0, 1.0, 0.0] * 4)


def test_vectors_are_padded_with_nan_and_cut_at_the_longest():
    raw = [VECTORS.check(RNG.normal(size=(length, 3)), "x") for length in (2, 9)]
    features = VectorTokenizer(VECTORS).encode(raw)
    assert features.shape == (2, 4, 3)
    assert np.isnan(features[0, 2:]).all() and np.isfinite(features[1]).all()
    np.testing.assert_array_equal(features[0, :2], raw[0])


@pytest.mark.parametrize("tokenizer", [PixelTokenizer(8, 4), VectorTokenizer(VECTORS)])
def test_features_survive_the_disk_and_have_nothing_to_decode(tokenizer, tmp_path):
    assert isinstance(tokenizer, Tokenizer) and tokenizer.vocab_size == 0
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    raw = RNG.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    if isinstance(tokenizer, VectorTokenizer):
        raw = [np.ones((2, 3), np.float32)]
    np.testing.assert_array_equal(loaded.encode(raw), tokenizer.encode(raw))
    with pytest.raises(ValueError, match="only ever input"):
        loaded.decode(np.zeros((1, *loaded.token_shape), np.int32))


def test_wrong_sizes_and_numbers_are_refused():
    with pytest.raises(ValueError, match="Squares of 3 pixels do not tile pictures of 8"):
        PixelTokenizer(8, 3)
    with pytest.raises(ValueError, match="8 by 8 pixels and 3 channels"):
        PixelTokenizer(8, 4).encode(np.zeros((1, 4, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(2, 4\); \[length, 3\]"):
        VECTORS.check(np.zeros((2, 4)), "x")
    with pytest.raises(ValueError, match="not finite"):
        VECTORS.check(np.full((2, 3), np.nan), "x")


def test_vectors_are_scored_by_their_angle():
    truth = [np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 2.0, 0.0]])]
    assert VECTORS.score([t * 3 for t in truth], truth)["cosine"] == pytest.approx(1.0)
    assert VECTORS.score(truth[::-1], truth)["cosine"] == pytest.approx(0.0)
    assert VECTORS.floor(truth, truth)["cosine"] == pytest.approx((1 + 2) / 5**0.5 / 2)
    assert VECTORS.crop(truth[0], Crop(0.0, 0.0, 0.5, 0.5, flip=True), (8, 8)) is truth[0]


def test_vectors_need_no_saved_tokenizer():
    tokenizer = VectorsTokenizerConfig().fit(VECTORS, [np.ones((2, 3))])
    assert tokenizer.token_shape == (4,) and tokenizer.feature_width == 3

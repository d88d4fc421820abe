"""What a probe may read of samples beside the encoder's features."""

import numpy as np

from fourm.evaluation.probing.views import raw_features, token_histogram


def test_pictures_are_averaged_down_whatever_their_size():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    small = raw_features(pictures).reshape(2, 16, 16, 3)
    np.testing.assert_allclose(small[1, 2, 3], pictures[1, 4:6, 9:12].mean((0, 1)), rtol=1e-5)
    assert raw_features(pictures[:, :30, :17]).shape == (2, 16 * 16 * 3)
    assert raw_features(pictures[:, :8, :8]).shape == (2, 8 * 8 * 3)
    np.testing.assert_array_equal(raw_features([1.5, 2.0]), [[1.5], [2.0]])


def test_histograms_count_ids_and_leave_out_padding():
    ids = np.array([[0, 2, 2, -1], [1, -1, -1, -1]])
    np.testing.assert_array_equal(token_histogram(ids, 3), [[1, 0, 2], [0, 1, 0]])

"""Rivals of the judge answer in the form that is scored, and learn what is easy."""

import numpy as np

from benchmarks.rivals import answer_by_trees, answer_by_unet
from tokenizers.values import Classes, Distances, Reals

BANDS, COVER = Reals(channels=3), Classes(names=("low", "high"))


def make_task(count: int, seed: int):
    """Half a picture is of another class, and darker."""
    rng = np.random.default_rng(seed)
    border = rng.integers(4, 12, count)
    cover = (np.arange(16)[None, None, :] >= border[:, None, None]).repeat(16, axis=1)
    bands = cover[..., None] * 2.0 + rng.normal(0, 0.3, (count, 16, 16, 3))
    bands[0, :4] = np.nan
    return bands.astype(np.float32), cover.astype(np.uint8)


def test_trees_learn_what_is_easy():
    (seen, known), (shown, truth) = make_task(60, 0), make_task(20, 1)
    found = answer_by_trees(seen, known, shown, BANDS, COVER)
    assert found.dtype == truth.dtype and found.shape == truth.shape
    assert COVER.score(found, truth)["pixel_accuracy"] > 0.9


def test_a_unet_answers_in_the_form_that_is_scored():
    (seen, known), (shown, truth) = make_task(20, 0), make_task(5, 1)
    found = answer_by_unet(seen, known, shown, BANDS, COVER, seconds=0.0)
    assert found.dtype == truth.dtype and found.shape == truth.shape
    metres = Distances()
    depth = 2.0 + known.astype(np.float32)
    far = answer_by_unet(seen, depth, shown, BANDS, metres, seconds=0.0)
    assert far.shape == truth.shape and np.isfinite(far).all()

"""Changes to what is shown of pictures, on numbers."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from data_pipeline.augment import (
    AugmentConfig,
    augment_picture,
    blend,
    blur_known,
    draws_of,
    turn_hue,
    window_of,
)
from data_pipeline.crops import CropConfig, TransformedSource
from data_pipeline.doctor.examination import examine
from tests.data_pipeline.test_crops import Places
from tokenizers.base import AUGMENTED
from tokenizers.values import Classes, Colors, Distances, Reals

KEY = (0, 3, 1)
EVERYTHING = AugmentConfig(
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, blur=0.5, cut_out=0.1
)


def random_colors(shape=(16, 20), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def change(picture, config, values=None, key=KEY) -> np.ndarray:
    return augment_picture(picture, values or Colors(), config, "rgb", key)


def keys(count=64):
    return [(0, number, 1) for number in range(count)]


def test_off_by_default_and_then_nothing_changes():
    assert not AugmentConfig().is_on and AugmentConfig().names({"rgb": Colors()}) == ()
    picture = random_colors()
    np.testing.assert_array_equal(change(picture, AugmentConfig()), picture)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 1 / 3, 0.5])
def test_hues_turn_as_in_colorsys(turn):
    colors = random_colors((8, 8)).astype(float)
    colors[0] = 77.0  # Grey has no hue.
    turned = turn_hue(colors, turn)
    for before, after in zip(colors.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        np.testing.assert_allclose(after, 255 * np.array(expected), atol=1e-9)


@pytest.mark.parametrize("knob", ["brightness", "contrast", "saturation"])
def test_colors_change_as_in_pil(knob):
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }[knob]
    picture = random_colors()
    factors = []
    for key in keys(16):
        changed = change(picture, AugmentConfig(**{knob: 0.5}), key=key).astype(int)
        errors = {
            factor: np.abs(
                np.asarray(enhance(Image.fromarray(picture)).enhance(factor)).astype(int) - changed
            ).max()
            for factor in np.linspace(0.5, 1.5, 201)
        }
        factors.append(min(errors, key=errors.get))
        # PIL rounds grey, and the factors tried are up to 0.0025 off.
        assert errors[factors[-1]] <= 2
    assert min(factors) < 0.7 and max(factors) > 1.3


def test_factors_are_not_negative_and_reach_their_limits():
    colors = np.full((2, 2, 3), 100.0)
    assert blend(colors, np.zeros(3), 3.0, -1.0).max() == 0
    assert blend(colors, np.zeros(3), 0.5, 1.0).min() == 150
    assert blend(colors, np.zeros(3), 0.5, -1.0).min() == 50


def test_a_blur_is_a_gaussian():
    picture = random_colors().astype(float)
    known = np.ones(picture.shape, bool)
    expected = np.stack([gaussian_filter(picture[..., c], 1.5) for c in range(3)], axis=-1)
    np.testing.assert_allclose(blur_known(picture, known, 1.5), expected, atol=1e-9)
    config = AugmentConfig(blur=0.25, blur_sigma=(1.5, 1.5))
    changed = [change(random_colors(), config, key=key) for key in keys(200)]
    are_blurred = [not np.array_equal(each, random_colors()) for each in changed]
    assert 0.15 < np.mean(are_blurred) < 0.35
    expected = np.clip(np.round(expected), 0, 255)
    assert all(np.array_equal(changed[row], expected) for row in np.flatnonzero(are_blurred))


def test_what_is_unknown_stays_so_and_has_no_part_in_a_blur_or_mean():
    depth = np.full((16, 16), 2.0, np.float32)
    depth[:4] = 0.0
    config = AugmentConfig(blur=1.0, cut_out=0.3, modalities=("rgb",))
    np.testing.assert_allclose(change(depth, config, Distances()), depth, rtol=1e-6)
    bands = np.full((16, 16, 2), -3.0, np.float32)
    bands[:, :5, 1] = np.nan
    changed = change(bands, config, Reals(channels=2))
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed, bands, rtol=1e-6)


def test_noise_has_the_deviation_asked_for_in_the_modality_s_unit():
    config = AugmentConfig(noise={"rgb": 5.0})
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert change(grey, config).astype(float).std() == pytest.approx(5.0, rel=0.05)
    depth = np.full((64, 64), 4.0, np.float32)
    noisy = change(depth, AugmentConfig(noise={"rgb": 0.1}), Distances())
    assert noisy.std() == pytest.approx(0.1, rel=0.05) and noisy.dtype == np.float32
    near = np.full((64, 64), 0.1, np.float32)
    assert change(near, AugmentConfig(noise={"rgb": 1.0}), Distances()).min() > 0


def test_a_hole_has_its_area_and_the_mean():
    picture = random_colors((40, 60))
    starts = set()
    for key in keys(32):
        changed = change(picture, AugmentConfig(cut_out=0.25), key=key)
        rows, columns = np.nonzero((changed != picture).any(axis=-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (height, width) == (20, 30)
        hole = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        mean = np.round(picture.reshape(-1, 3).mean(axis=0))
        assert (hole == mean).all()
        starts.add((rows.min(), columns.min()))
    assert len(starts) > 20


def test_no_knob_changes_what_another_draws():
    picture = random_colors((40, 60))
    alone = change(picture, AugmentConfig(cut_out=0.25))
    noisy = change(picture, AugmentConfig(cut_out=0.25, noise={"rgb": 2.0}))
    hole = (alone == np.round(picture.reshape(-1, 3).mean(axis=0))).all(axis=-1)
    assert np.ptp(noisy[hole].astype(int), axis=0).max() == 0  # Also there, in the same place.


class Pictures(Places):
    """Pictures in colour, with distances and classes of the same."""

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        return {
            "rgb": rng.integers(0, 256, (48, 64, 3)).astype(np.uint8),
            "depth": rng.uniform(1, 5, (48, 64)).astype(np.float32),
            "labels": rng.integers(0, 2, (48, 64)).astype(np.uint8),
        }


VALUES = {"rgb": Colors(), "depth": Distances(), "labels": Classes(("a", "b"))}


def open_views(augment=EVERYTHING, views=3, values=VALUES) -> TransformedSource:
    return TransformedSource(Pictures(4), values, (16, 16), views=views, augment=augment)


def test_views_show_changed_pictures_by_their_key_and_keep_their_own():
    plain, source = open_views(AugmentConfig()), open_views()
    assert source.augmented == ("rgb",) and plain.augmented == ()
    together = source.__getitems__(range(12))
    for index, view in enumerate(together):
        before = plain[index]
        assert AUGMENTED not in before
        for name, value in before.items():
            np.testing.assert_array_equal(view[name], value)
        assert (AUGMENTED in view) == (index % 3 > 0)
        if index % 3:
            assert set(view[AUGMENTED]) == {"rgb"}
            again = source[index][AUGMENTED]["rgb"]
            np.testing.assert_array_equal(view[AUGMENTED]["rgb"], again)
            assert not np.array_equal(again, view["rgb"])


def test_other_modalities_do_not_change_what_one_draws():
    few = open_views(EVERYTHING, values={"rgb": Colors()})[1][AUGMENTED]
    many = open_views(replace(EVERYTHING, modalities=("depth", "rgb")))[1][AUGMENTED]
    assert list(many) == ["depth", "rgb"]
    np.testing.assert_array_equal(many["rgb"], few["rgb"])


def test_samples_in_one_view_are_never_changed():
    config = CropConfig(size=16, views=0, augment=EVERYTHING)
    source = config.apply(Pictures(2), VALUES, dict.fromkeys(VALUES, (16, 16)), 0, False)
    assert source.augmented == () and AUGMENTED not in source[0]


MIXED = AugmentConfig(cut_mix=0.25)


def test_a_patch_shows_what_another_sample_shows_there():
    """In its place of the picture, a quarter of it, in all modalities that are changed alike."""
    names = ("rgb", "depth")
    source = open_views(replace(MIXED, modalities=names), views=2)
    firsts = source.__getitems__(range(0, len(source), 2))
    places = set()
    for number in range(len(source.source)):
        other = source._other_of(2 * number + 1)
        assert other is not None and other != number
        seen = source[2 * number + 1]
        top, left, _ = draws_of(0, number, 1, "cut_mix").random(3)
        for name in names:
            own, shown = seen[name], seen[AUGMENTED][name]
            window = window_of(own.shape, 0.25, (top, left))
            np.testing.assert_array_equal(shown[window], firsts[other][name][window])
            expected = own.copy()
            expected[window] = shown[window]
            np.testing.assert_array_equal(shown, expected)
        places.add((top, left))
    assert len(places) == len(source.source)


def test_a_batch_of_views_is_what_its_views_are_by_themselves():
    source = open_views(MIXED, views=3)
    indices = [4, 1, 4, 0, 11]
    for batch, index in zip(source.__getitems__(indices), indices, strict=True):
        alone = source[index]
        assert batch.keys() == alone.keys()
        if AUGMENTED in alone:
            np.testing.assert_array_equal(batch[AUGMENTED]["rgb"], alone[AUGMENTED]["rgb"])


def test_a_patch_changes_nothing_of_what_other_knobs_draw():
    both = replace(EVERYTHING, cut_mix=0.25)
    seen, mixed = (open_views(each)[1][AUGMENTED]["rgb"] for each in (EVERYTHING, both))
    top, left, _ = draws_of(0, 0, 1, "cut_mix").random(3)
    window = window_of(seen.shape, 0.25, (top, left))
    expected = seen.copy()
    expected[window] = mixed[window]
    np.testing.assert_array_equal(mixed, expected)


def test_a_modality_that_the_other_lacks_shows_no_patch():
    sample = {"rgb": random_colors()}
    changed = MIXED.apply(sample, {"rgb": Colors()}, KEY, other={})
    np.testing.assert_array_equal(changed["rgb"], sample["rgb"])


def test_a_single_sample_shows_no_patch():
    assert MIXED.other_of(KEY, 1) is None


def test_partners_are_every_other_sample_alike():
    counts = np.bincount([MIXED.other_of((0, 2, view), 5) for view in range(4000)], minlength=5)
    assert counts[2] == 0 and counts[[0, 1, 3, 4]].min() > 900


def test_the_doctor_shows_changed_views_below_their_own():
    health = examine({"train": open_views()}, VALUES, {}, 2)
    names = [key for key, _ in health.splits[0].shown]
    assert names[:3] == ["0", "0, view 1", "0, view 1, as it is shown"]
    shown = dict(health.splits[0].shown)
    assert set(shown["0, view 1"]) == set(VALUES)
    assert set(shown["0, view 1, as it is shown"]) == {"rgb"}


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"hue": 0.6}, "hue is 0.6; it must be 0 to 0.5"),
        ({"brightness": -1.0}, "brightness is -1.0; it must be finite and not negative"),
        ({"blur": 2.0}, "blur is 2.0; it must be 0 to 1.0"),
        ({"blur_sigma": (2.0, 1.0)}, "the smaller first"),
        ({"noise": {"rgb": float("nan")}}, "noise.rgb is nan"),
        ({"cut_out": 1.0}, "cut_out is 1.0; it must be a share"),
    ],
    ids=["hue", "brightness", "blur", "sigma", "noise", "cut_out"],
)
def test_impossible_knobs_are_refused(knobs, told):
    with pytest.raises(ValueError, match=told):
        AugmentConfig(**knobs)


@pytest.mark.parametrize(
    ("config", "values", "told"),
    [
        (AugmentConfig(hue=0.1, modalities=("rbg",)), VALUES, "names 'rbg'; the modalities are"),
        (AugmentConfig(hue=0.1, modalities=("labels",)), VALUES, "are Classes; only Colors"),
        (AugmentConfig(noise={"depth": 1.0}), VALUES, "names 'depth'; the modalities that are"),
        (AugmentConfig(hue=0.1), {"depth": Distances()}, "no modality is in colour"),
    ],
    ids=["unknown", "kind", "noise", "none"],
)
def test_modalities_that_can_not_be_changed_are_refused(config, values, told):
    with pytest.raises(ValueError, match=told):
        open_views(config, values=values)


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="views is 1; the first view is never changed"):
        CropConfig(views=1, augment=EVERYTHING)

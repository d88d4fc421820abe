"""Palettes: the colours of pictures, and how they become tokens."""

import numpy as np
import pytest

from tokenizers.base import PADDING, Crop
from tokenizers.modality import load_tokenizer, tokenizer_for
from tokenizers.palettes import Palette, PaletteTokenizerConfig, extract, to_lab

HUES, PLAIN = Palette(colors=3), Palette(colors=3, shares=False)
RED_BLUE = np.array([[255, 0, 0, 0.75], [0, 0, 255, 0.25]], np.float32)


def striped(red: int, width: int = 40) -> np.ndarray:
    """A picture that is red on the left, and else blue."""
    picture = np.full((20, width, 3), (0, 0, 255), np.uint8)
    picture[:, :red] = 255, 0, 0
    return picture


def palettes(seed: int, count: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shades = rng.uniform(0, 255, (count, 3, 3))
    shares = rng.dirichlet([2, 2, 2], count)[..., None]
    stacked = np.concatenate([shades, shares], axis=2)
    return [HUES.check(each, "hues") for each in stacked]


@pytest.mark.parametrize("given", [RED_BLUE, RED_BLUE[::-1], "#ff0000:0.75 #0000ff:0.25"])
def test_a_palette_begins_with_the_largest_share(given):
    np.testing.assert_array_equal(HUES.check(given, "hues"), RED_BLUE)


def test_too_many_colours_lose_the_smallest_shares():
    four = np.array([[0, 0, 0, 0.1], [9, 9, 9, 0.3], [99, 99, 99, 0.4], [200, 200, 200, 0.2]])
    found = HUES.check(four, "hues")
    assert found[:, 0].tolist() == [99, 9, 200] and found[:, 3].sum() == pytest.approx(1)
    assert PLAIN.check(four[:, :3], "hues")[:, 0].tolist() == [0, 9, 99]


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (HUES, RED_BLUE[:, :3], "hues has no shares of colours; set Palette.shares to False"),
        (HUES, RED_BLUE * [1, 1, 1, 100], "shares from 25 on that add up to 100; they must be"),
        (HUES, RED_BLUE * [2, 1, 1, 1], "colours from 0 to 510; 0 to 255 is allowed"),
        (HUES, RED_BLUE[0], r"hues has shape \(4,\); \[colors, 4\] is allowed, or a picture"),
        (PLAIN, RED_BLUE, r"hues has shape \(2, 4\); \[colors, 3\] is allowed"),
        (HUES, "red", "hues is 'red'; colours such as"),
        (HUES, RED_BLUE * np.nan, "not finite"),
    ],
)
def test_what_is_no_palette_gets_one_sentence(values, given, message):
    with pytest.raises(ValueError, match=message):
        values.check(given, "hues")


def test_a_palette_of_a_picture_is_that_of_what_is_seen():
    picture = HUES.check(striped(30), "hues")
    whole = HUES.crop(picture, Crop(0.0, 0.0, 1.0, 1.0, flip=True, quarter_turns=1), (8, 8))
    np.testing.assert_allclose(whole, RED_BLUE, atol=0.02 * 255)
    assert whole[0, 3] == pytest.approx(0.75, abs=0.02)
    seen = HUES.crop(picture, Crop(0.0, 0.5, 1.0, 0.5, flip=False), (8, 8))
    assert seen[0, 3] == pytest.approx(0.5, abs=0.02)
    assert len(HUES.crop(picture, Crop(0.0, 0.0, 1.0, 0.5, flip=False), (8, 8))) == 1
    stored = HUES.check(RED_BLUE, "hues")
    assert HUES.crop(stored, Crop(0.0, 0.5, 1.0, 0.5, flip=False), (8, 8)) is stored


def test_colours_found_are_those_that_were_put_there():
    rng = np.random.default_rng(0)
    colors = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [220, 220, 220]])
    which = rng.choice(4, (40, 40), p=[0.4, 0.3, 0.2, 0.1])
    picture = (colors[which] + rng.integers(-8, 9, (40, 40, 3))).astype(np.uint8)
    found = extract(picture, 4)
    np.testing.assert_allclose(found[:, :3], colors, atol=2)
    np.testing.assert_allclose(found[:, 3], np.bincount(which.ravel()) / which.size, atol=1e-6)
    np.testing.assert_array_equal(extract(picture, 4), found)
    assert len(extract(np.zeros((5, 5, 3), np.uint8), 4)) == 1


def test_lab_is_that_of_the_standard():
    # CIE 15 by the matrix of IEC 61966-2-1, as colour calculators print it.
    expected = [
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
        [53.59, 0, 0],
    ]
    given = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]])
    np.testing.assert_allclose(to_lab(given), expected, atol=0.02)


def test_colours_move_as_little_as_they_must():
    gray = [[0, 0, 0, 0.5], [255, 255, 255, 0.5]]
    other = [[255, 255, 255, 0.75], [0, 0, 0, 0.25]]
    scores = HUES.score([HUES.check(other, "a")], [HUES.check(gray, "b")])
    assert scores["color_distance"] == pytest.approx(25, abs=0.1)
    assert scores["close_share"] == 0.75
    none = np.zeros((0, 4), np.float32)
    assert HUES.score([none], [HUES.check(gray, "b")]) == {"color_distance": 100, "close_share": 0}


@pytest.mark.parametrize("values", [HUES, PLAIN])
def test_the_truth_scores_best_and_a_training_palette_is_the_floor(values):
    truth, training = ([each[:, : values.width] for each in palettes(seed)] for seed in (0, 1))
    best, floor = values.score(truth, truth), values.floor(training, truth)
    assert best == {"color_distance": 0, "close_share": 1}
    one = values.score([training[3]] * len(truth), truth)
    assert 0 < floor["color_distance"] <= one["color_distance"] + 5
    assert floor["close_share"] < 1
    assert values.vectors(truth).shape == (12, 3 + 3 * values.width)


@pytest.mark.parametrize("values", [HUES, PLAIN])
def test_palettes_become_a_sequence_and_come_back(values, tmp_path):
    tokenizer = tokenizer_for(values).fit(values, [])
    raw = [each[:, : values.width] for each in palettes(2)] + [RED_BLUE[:, : values.width]]
    ids = tokenizer.encode(raw)
    assert ids.shape == (13, 3 * values.width + 1) and ids.max() < tokenizer.vocab_size
    assert (ids[-1] == PADDING).sum() == values.width
    back = tokenizer.decode(ids)
    scores = values.score(back, raw)
    assert scores["color_distance"] < 3 and scores["close_share"] > 0.95
    if values.shares:
        np.testing.assert_allclose([each[:, 3].sum() for each in back], 1, atol=1e-5)
    np.testing.assert_array_equal(tokenizer.encode([striped(30)] * 2)[0][:3], ids[-1][:3])
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.values == values
    np.testing.assert_array_equal(again.encode(raw), ids)


def test_nonsense_is_skipped():
    tokenizer = PaletteTokenizerConfig(4, 4, 1).fit(HUES, [])
    # end 0, sentinel 1, red 2 to 5, green 6 to 9, blue 10 to 13, shares 14 to 17
    rng = np.random.default_rng(0)
    for found in tokenizer.decode(rng.integers(0, 18, (300, 13))):
        if len(found):
            HUES.check(found, "found")
    row = np.array([[2, 6, 10, 2, 6, 10, 14, 5, 9, 13, 17, 0, -1]])
    assert tokenizer.decode(row)[0].tolist() == [[255, 255, 255, 1]], "one without a share is none"
    assert tokenizer.code_features().shape[0] == 18


def test_stripes_are_as_wide_as_their_shares():
    drawn = HUES.draw(RED_BLUE, (4, 40))
    np.testing.assert_array_equal(drawn, striped(30)[:4])
    assert HUES.draw(np.zeros((0, 4), np.float32), (4, 4)).min() == 255

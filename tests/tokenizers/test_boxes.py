import itertools

import numpy as np
import pytest

from tokenizers.base import Boxes, Crop, Tokenizer
from tokenizers.boxes import BoxList, BoxTokenizer, BoxTokenizerConfig

NAMES = ("cat", "dog", "cow")
VALUES = BoxList(NAMES, max_boxes=4)
CONFIG = BoxTokenizerConfig(num_bins=50, num_sentinels=3)
NOTHING = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))


def make_boxes(*rows):
    corners = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Boxes(corners, np.array([row[4] for row in rows], np.int32))


def sample_boxes(seed, largest=4):
    random = np.random.default_rng(seed)
    points = random.random((random.integers(0, largest + 1), 2, 2))
    corners = np.hstack([points.min(1), points.max(1)]).astype(np.float32)
    return Boxes(corners, random.integers(0, 3, len(corners)).astype(np.int32))


SAMPLES = [NOTHING, *(sample_boxes(seed) for seed in range(200))]


def fit():
    return CONFIG.fit(VALUES, SAMPLES)


def test_it_keeps_the_contract():
    tokenizer = fit()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.token_shape == (21,)
    assert tokenizer.vocab_size == 1 + 3 + 4 * 50 + 3
    ids = tokenizer.encode(SAMPLES)
    assert ids.shape == (201, 21) and ids.dtype == np.int32
    assert ids.min() == -1 and ids.max() < tokenizer.vocab_size


def test_boxes_survive_within_half_a_bin_in_their_order():
    tokenizer = fit()
    for boxes, decoded in zip(SAMPLES, tokenizer.decode(tokenizer.encode(SAMPLES)), strict=True):
        np.testing.assert_array_equal(decoded.classes, boxes.classes)
        np.testing.assert_allclose(decoded.corners, boxes.corners, atol=0.5 / 49 + 1e-6, rtol=0)
        VALUES.check(decoded, "decoded")


def test_decoding_then_encoding_gives_the_same_ids():
    tokenizer = fit()
    ids = tokenizer.encode(SAMPLES)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_no_box_is_only_an_end():
    ids = fit().encode([NOTHING])
    assert ids[0].tolist() == [0] + [-1] * 20


def test_each_corner_and_the_class_have_their_own_ids():
    ids = fit().encode([make_boxes((0, 0, 1, 1, 2))])
    assert ids[0, :6].tolist() == [4, 54, 104 + 49, 154 + 49, 204 + 2, 0]


def test_nonsense_between_boxes_is_skipped_and_corners_are_sorted():
    tokenizer = fit()
    one = [4 + 40, 54 + 10, 104 + 20, 154 + 30, 204 + 1]  # x_min is right of x_max
    junk = [204, 4, 54, 104, 1, -1]  # a class alone, an unfinished box, a sentinel, padding
    rows = [
        [*junk, *one, 4, *one, 0, *one[:3]],
        [*one[:2], 2, *one[2:], *one[:4], 0, *[-1] * 10],
        [-1] * 21,
    ]
    decoded = tokenizer.decode(np.array([row + [-1] * (21 - len(row)) for row in rows]))
    assert [len(boxes.classes) for boxes in decoded] == [2, 1, 0]
    expected = np.array([20, 10, 40, 30]) / 49
    for boxes in decoded[:2]:
        np.testing.assert_allclose(boxes.corners[0], expected, rtol=1e-6)
        assert boxes.classes[0] == 1


def test_any_ids_decode_to_valid_boxes():
    tokenizer = fit()
    ids = np.random.default_rng(0).integers(-1, tokenizer.vocab_size, (500, 21))
    for boxes in tokenizer.decode(ids):
        VALUES.check(boxes, "decoded")


@pytest.mark.parametrize("token", [-2, 207])
def test_a_token_out_of_range_is_one_sentence(token):
    with pytest.raises(ValueError, match=rf"Token {token} is out of range: .* ids 0 to 206"):
        fit().decode(np.full((1, 21), token))


def test_too_many_boxes_lose_the_last_with_a_warning():
    many = make_boxes(*[(0, 0, 1, 1, 0)] * 4, (0, 0, 1, 1, 2))
    with pytest.warns(UserWarning, match=r"50.0% .* more than 4 boxes .* raise max_boxes"):
        tokenizer = CONFIG.fit(VALUES, [many, NOTHING])
    (decoded,) = tokenizer.decode(tokenizer.encode([many]))
    assert decoded.classes.tolist() == [0, 0, 0, 0]


def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = fit()
    tokenizer.save(tmp_path / "t")
    loaded = BoxTokenizer.load(tmp_path / "t")
    ids = loaded.encode(SAMPLES)
    np.testing.assert_array_equal(ids, tokenizer.encode(SAMPLES))
    for a, b in zip(loaded.decode(ids), tokenizer.decode(ids), strict=True):
        np.testing.assert_array_equal(a.corners, b.corners)
    assert (loaded.vocab_size, loaded.special) == (tokenizer.vocab_size, tokenizer.special)
    (tmp_path / "t" / "description.json").write_text("{")
    with pytest.raises(ValueError, match=r"^Damaged folder .*\.$"):
        BoxTokenizer.load(tmp_path / "t")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"objects is a NoneType; Boxes"),
        ((np.zeros((2, 4)), np.zeros(1, int)), r"corners of shape \(2, 4\) and classes of shape"),
        ((np.zeros((1, 4)), np.zeros(1)), r"classes of dtype float64; numbers and integers"),
        (([[0, 0, 640, 480]], [0]), r"corners between 0 and 640; fractions"),
        (([[0, 0, np.nan, 1]], [0]), r"corners between nan and nan; fractions"),
        (([[0.5, 0, 0.2, 1]], [0]), r"ends before it begins; .* order x_min, y_min, x_max, y_max"),
        (([[0, 0, 1, 1]], [3]), r"classes between 3 and 3; 0 to 2 is allowed"),
    ],
)
def test_what_is_no_allowed_box_is_refused(value, message):
    with pytest.raises(ValueError, match=rf"^objects .*{message.removeprefix('objects ')}"):
        VALUES.check(value, "objects")


def test_checked_boxes_have_their_canonical_form():
    boxes = VALUES.check(([[0, 0, 1.00001, 1]], [2]), "objects")
    assert boxes.corners.dtype == np.float32 and boxes.classes.dtype == np.int32
    assert boxes.corners.max() == 1
    assert VALUES.check(([], []), "objects").corners.shape == (0, 4)


def test_wrong_settings_name_the_knob():
    with pytest.raises(ValueError, match=r"class_names must be different"):
        BoxList(("a", "a"))
    with pytest.raises(ValueError, match=r"iou_threshold is 0.0 .* more than 0"):
        BoxList(NAMES, iou_threshold=0.0)
    with pytest.raises(ValueError, match=r"num_bins is 1 .* at least 2"):
        BoxTokenizerConfig(num_bins=1)
    with pytest.raises(ValueError, match=r"classes 0 to 2 are allowed; got 7 to 7"):
        fit().encode([make_boxes((0, 0, 1, 1, 7))])
    with pytest.raises(ValueError, match=r"fractions .* got 0.0 to 9.0"):
        fit().encode([make_boxes((0, 0, 9, 1, 0))])


def test_a_crop_moves_boxes_as_it_moves_pixels():
    size = 64
    window = Crop(top=0.25, left=0.125, height=0.5, width=0.5, flip=True)
    picture = np.zeros((size, size), bool)
    picture[20:40, 12:28] = True
    boxes = make_boxes((12 / 64, 20 / 64, 28 / 64, 40 / 64, 1))
    cut = picture[16:48, 8:40][:, ::-1]
    rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
    expected = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 32
    cropped = VALUES.crop(boxes, window, (32, 32))
    np.testing.assert_allclose(cropped.corners[0], expected, atol=1e-6)
    VALUES.check(cropped, "cropped")


def test_a_crop_drops_boxes_that_mostly_left_it():
    left_half = Crop(0.0, 0.0, 1.0, 0.5, flip=False)
    boxes = make_boxes(
        (0.4, 0, 0.6, 1, 0),  # half inside
        (0.45, 0, 0.95, 1, 1),  # a tenth inside
        (0.6, 0, 0.9, 1, 2),  # outside
        (0.2, 0.5, 0.2, 0.5, 2),  # a point
    )
    cropped = VALUES.crop(boxes, left_half, (64, 64))
    np.testing.assert_allclose(cropped.corners, [[0.8, 0, 1, 1]], atol=1e-6)
    assert cropped.classes.tolist() == [0]
    assert len(VALUES.crop(NOTHING, left_half, (64, 64)).classes) == 0


def test_flipping_twice_changes_nothing():
    mirror = Crop(0.0, 0.0, 1.0, 1.0, flip=True)
    for boxes in SAMPLES[:50]:
        twice = VALUES.crop(VALUES.crop(boxes, mirror, (64, 64)), mirror, (64, 64))
        np.testing.assert_allclose(twice.corners, boxes.corners, atol=1e-6)


def test_only_enough_overlap_with_the_right_class_counts_once():
    true = make_boxes((0, 0, 0.5, 0.5, 0), (0.5, 0.5, 1, 1, 1))
    assert VALUES.score([true], [true]) == {"f1_iou50": 1.0, "f1_any_class": 1.0}
    renamed = true._replace(classes=np.array([0, 2], np.int32))
    assert VALUES.score([renamed], [true]) == {"f1_iou50": 0.5, "f1_any_class": 1.0}
    twice = make_boxes((0, 0, 0.5, 0.5, 0), (0, 0, 0.5, 0.5, 0))
    assert VALUES.score([twice], [true])["f1_iou50"] == 0.5
    half = make_boxes((0, 0, 0.5, 0.25, 0))
    assert VALUES.score([half], [true])["f1_iou50"] == pytest.approx(2 / 3)
    less = make_boxes((0, 0, 0.5, 0.24, 0))
    assert VALUES.score([less], [true])["f1_iou50"] == 0.0
    assert VALUES.score([NOTHING], [NOTHING])["f1_iou50"] == 1.0
    assert list(BoxList(NAMES, iou_threshold=0.75).metrics) == ["f1_iou75", "f1_any_class"]


def test_the_score_equals_the_best_of_all_assignments():
    def overlap(a, b):
        extent = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        both = np.prod(np.maximum(extent, 0))
        return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)

    values = BoxList(NAMES, max_boxes=4, iou_threshold=0.2)
    predicted, truth = SAMPLES[1:60], SAMPLES[60:119]
    right = total = 0
    for found, true in zip(predicted, truth, strict=True):
        few, many = sorted((found.corners, true.corners), key=len)
        total += len(few) + len(many)
        right += max(
            sum(overlap(a, b) >= 0.2 for a, b in zip(few, order, strict=True))
            for order in itertools.permutations(many, len(few))
        )
    assert right > 10
    assert values.score(predicted, truth)["f1_any_class"] == pytest.approx(2 * right / total)


def test_the_floor_finds_the_constant_answer():
    always = make_boxes((0, 0, 0.5, 0.5, 0), (0.5, 0.5, 1, 1, 2))
    assert VALUES.floor([always] * 5, [always] * 3) == {"f1_iou50": 1.0, "f1_any_class": 1.0}
    assert VALUES.floor([NOTHING], [always]) == {"f1_iou50": 0.0, "f1_any_class": 0.0}


@pytest.mark.slow
def test_no_training_sample_beats_the_floor_as_a_constant():
    # Boxes near one of two places, so that a constant answer is worth something.
    random = np.random.default_rng(1)
    places = np.array([[0.1, 0.1, 0.5, 0.5], [0.4, 0.3, 0.9, 0.9]])
    samples = []
    for _ in range(100):
        shown = np.flatnonzero(random.random(2) < 0.7)
        corners = np.clip(places[shown] + random.normal(0, 0.05, (len(shown), 4)), 0, 1)
        samples.append(Boxes(corners.astype(np.float32), shown.astype(np.int32)))
    floor = VALUES.floor(samples, samples)
    best = max(VALUES.score([one] * 100, samples)["f1_iou50"] for one in samples)
    assert floor["f1_iou50"] >= best - 0.02
    assert floor["f1_iou50"] > 0.5


def test_a_drawing_shows_outlines_in_colours_of_their_class():
    picture = VALUES.draw(make_boxes((0.1, 0.1, 0.9, 0.9, 0), (0.2, 0.3, 0.6, 0.6, 1)), (64, 64))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert (VALUES.draw(NOTHING, (64, 64)) == 255).all()
    first, second = picture[32, 6], picture[37, 13]
    assert (first != 255).any() and (second != 255).any() and (first != second).any()

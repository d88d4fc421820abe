"""What the dense kinds promise: canonical form, symmetry, masks, honest scores and floors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenizers.base import Crop
from tokenizers.values import KINDS, Classes, Colors, DenseValues, Directions, Distances, Reals

NAMES = ("sky", "ground", "tree")
WHOLE, MIRROR = Crop(0, 0, 1, 1, flip=False), Crop(0, 0, 1, 1, flip=True)
KIND_NAMES = ["colors", "reals", "distances", "directions", "classes"]


def kind(name: str) -> DenseValues:
    return {
        "colors": Colors(),
        "reals": Reals(channels=2, picture=(1,)),
        "distances": Distances(min_distance=0.5, max_distance=50.0),
        "directions": Directions(),
        "classes": Classes(NAMES),
    }[name]


def samples(name: str, count: int = 6, size: int = 16, seed: int = 0) -> np.ndarray:
    """Random values in canonical form, about a fifth of their pixels unknown."""
    rng = np.random.default_rng(seed)
    shape = (count, size, size)
    unknown = rng.random(shape) < 0.2
    match name:
        case "colors":
            return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        case "reals":
            values = rng.normal(3, 2, (*shape, 2)).astype(np.float32)
            values[unknown] = np.nan
            return values
        case "distances":
            return np.where(unknown, 0, rng.uniform(1, 20, shape)).astype(np.float32)
        case "directions":
            vectors = rng.normal((0, 1, 2), size=(*shape, 3))
            vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
            return np.where(unknown[..., None], 0, vectors).astype(np.float32)
        case "classes":
            return np.where(unknown, 255, rng.integers(0, 3, shape)).astype(np.uint8)
    raise ValueError(name)


@pytest.fixture(params=KIND_NAMES)
def name(request):
    return request.param


def test_every_kind_can_be_named_by_a_saved_tokenizer():
    assert {type(kind(name)).__name__ for name in KIND_NAMES} == set(KINDS)


def test_canonical_values_pass_the_check_unchanged(name):
    value = samples(name)[0]
    checked = kind(name).check(value, name)
    assert checked.dtype == value.dtype
    np.testing.assert_allclose(checked, value, atol=1e-6)
    np.testing.assert_array_equal(kind(name).check(checked, name), checked)


def test_flipping_twice_is_the_identity(name):
    value = samples(name)[0]
    flipped = kind(name).crop(value, MIRROR, (16, 16))
    assert not np.array_equal(flipped, value, equal_nan=name != "classes")
    np.testing.assert_array_equal(kind(name).crop(flipped, MIRROR, (16, 16)), value)
    np.testing.assert_array_equal(kind(name).crop(value, WHOLE, (16, 16)), value)


def test_a_crop_keeps_dtype_and_canonical_form(name):
    cut = kind(name).crop(samples(name)[0], Crop(0.1, 0.3, 0.45, 0.6, flip=True), (8, 8))
    assert cut.shape[:2] == (8, 8)
    np.testing.assert_allclose(kind(name).check(cut, name), cut, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 10), (10, 6), (40, 24)])
def test_a_crop_has_the_height_and_width_asked_for(name, size):
    window = Crop(0.0, 0.125, 0.75, 0.5, flip=False)
    cut = kind(name).crop(samples(name)[0], window, size)
    assert cut.shape[:2] == size
    mirrored = kind(name).crop(samples(name)[0], window._replace(flip=True), size)
    twice = kind(name).crop(mirrored, MIRROR, size)
    np.testing.assert_array_equal(twice, cut)


def test_crops_of_all_kinds_show_the_same_window():
    columns = np.mgrid[:32, :32][1]
    left = columns < 20
    pictures = {
        "colors": np.where(left[..., None], 250, 5).astype(np.uint8).repeat(3, -1),
        "classes": np.where(left, 0, 1).astype(np.uint8),
        "distances": np.where(left, 2, 9).astype(np.float32),
        "reals": np.stack([np.where(left, 4.0, 8.0)] * 2, -1).astype(np.float32),
    }
    crop = Crop(0.25, 0.5, 0.5, 0.5, flip=False)  # Columns 16 to 32: a quarter is left of 20.
    cut = {name: kind(name).crop(value, crop, (16, 16)) for name, value in pictures.items()}
    expected = np.arange(16) < 4
    np.testing.assert_array_equal(cut["classes"][8] == 0, expected)
    np.testing.assert_array_equal(cut["distances"][8] == 2, expected)
    np.testing.assert_array_equal(cut["colors"][8, :, 0] > 128, expected)
    np.testing.assert_array_equal(cut["reals"][8, :, 0] < 6, expected)


def test_mirrored_normals_face_the_other_way():
    value = np.zeros((2, 2, 3), np.float32)
    value[0, 0] = [0.6, 0.0, 0.8]
    flipped = Directions().crop(value, MIRROR, (2, 2))
    np.testing.assert_allclose(flipped[0, 1], [-0.6, 0.0, 0.8])


def test_turning_four_times_is_the_identity(name):
    value = samples(name)[0]
    once = kind(name).crop(value, WHOLE._replace(quarter_turns=1), (16, 16))
    assert not np.array_equal(once, value, equal_nan=name != "classes")
    for _ in range(3):
        once = kind(name).crop(once, WHOLE._replace(quarter_turns=1), (16, 16))
    np.testing.assert_array_equal(once, value)


def test_turned_normals_face_where_the_picture_went():
    value = np.zeros((2, 2, 3), np.float32)
    value[0, 0] = [0.6, 0.0, 0.8]  # Top left, facing right.
    turned = Directions().crop(value, WHOLE._replace(quarter_turns=1), (2, 2))
    np.testing.assert_allclose(turned[1, 0], [0.0, 0.6, 0.8], atol=1e-7)
    # The picture is mirrored first, then turned.
    both = Directions().crop(value, MIRROR._replace(quarter_turns=1), (2, 2))
    np.testing.assert_allclose(both[0, 0], [0.0, -0.6, 0.8], atol=1e-7)


def test_real_values_beside_a_hole_keep_their_level():
    value = np.full((8, 8, 1), 5.0, np.float32)
    value[2:4, 2:4] = np.nan
    cut = Reals().crop(value, WHOLE, (4, 4))
    np.testing.assert_allclose(cut[np.isfinite(cut)], 5.0, rtol=1e-5)
    assert np.isnan(cut).any()


def test_drawing_gives_a_picture_of_the_wanted_size(name):
    for size in ((8, 8), (40, 40), (12, 40)):
        picture = kind(name).draw(samples(name)[0], size)
        assert picture.shape == (*size, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize("name", KIND_NAMES[1:])
def test_unknown_pixels_are_drawn_black(name):
    value = samples(name)[0]
    known = np.asarray(kind(name).is_valid(value[None]))[0]
    picture = kind(name).draw(value, (16, 16))
    assert not picture[~known].any() and not known.all()
    assert picture[known].any(axis=-1).mean() > 0.9


def test_two_hundred_classes_have_colours():
    values = Classes(tuple(str(i) for i in range(200)))
    drawn = values.draw(np.arange(200, dtype=np.uint8).reshape(10, 20).repeat(2, 0), (20, 20))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 60


# What the autoencoder needs.


def test_normalised_values_are_standardised_and_zero_where_unknown(name):
    values, raw = kind(name), samples(name)
    statistics = values.fit_statistics(raw)
    normal = np.asarray(values.normalize(jnp.asarray(raw), statistics))
    valid = np.asarray(values.is_valid(raw))
    assert normal.shape == (*raw.shape[:3], values.num_inputs) and normal.dtype == np.float32
    assert np.isfinite(normal).all()
    if name != "colors":
        assert not normal[~valid].any()
    if name != "classes":
        assert np.abs(normal[valid].mean()) < 0.5 and 0.3 < normal[valid].std() < 2


def test_unknown_pixels_change_neither_loss_nor_gradient(name):
    if name == "colors":
        pytest.skip("Every pixel of a picture is known.")
    values, raw = kind(name), samples(name)
    statistics = values.fit_statistics(raw)
    unknown = ~np.asarray(values.is_valid(raw))
    output = jax.random.normal(jax.random.key(0), (*raw.shape[:3], values.num_outputs))
    # The channel that says what is known is learned everywhere, so it is left as it is.
    answers = 1 if name == "distances" else 3
    other = output.at[..., :answers].set(
        jnp.where(unknown[..., None], 100.0, output[..., :answers])
    )
    run = jax.jit(
        jax.value_and_grad(lambda output: values.loss(output, jnp.asarray(raw), statistics))
    )
    (first, gradient), (second, _) = run(output), run(other)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[..., :answers][unknown].any()
    assert np.asarray(gradient)[..., :answers][~unknown].any()


@pytest.mark.slow
def test_a_batch_without_any_truth_costs_no_answer(name):
    empty = {
        "reals": np.full((1, 4, 4, 2), np.nan, np.float32),
        "distances": np.zeros((1, 4, 4), np.float32),
        "directions": np.zeros((1, 4, 4, 3), np.float32),
        "classes": np.full((1, 4, 4), 255, np.uint8),
    }
    if name in empty:
        values = kind(name)
        statistics = values.fit_statistics(samples(name))
        output = jnp.ones((1, 4, 4, values.num_outputs))
        loss, gradient = jax.value_and_grad(values.loss)(
            output, jnp.asarray(empty[name]), statistics
        )
        assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.slow
def test_the_perfect_answer_denormalises_to_the_truth(name):
    values, raw = kind(name), samples(name)
    statistics = values.fit_statistics(raw)
    perfect = values.target_output(jnp.asarray(raw), statistics)
    assert perfect.shape == (*raw.shape[:3], values.num_outputs)
    known = np.asarray(values.is_valid(raw))
    has_unknown = not known.all()
    assert np.isnan(perfect[~known]).any() == has_unknown and np.isfinite(perfect[known]).all()
    perfect = jnp.nan_to_num(perfect)
    back = np.asarray(values.denormalize(perfect, statistics))
    assert back.dtype == raw.dtype
    np.testing.assert_allclose(back[known], raw[known], rtol=1e-4, atol=1e-5)
    worse = perfect + 1.0 * (jnp.arange(perfect.shape[-1]) == 0)
    costs = [values.loss(output, jnp.asarray(raw), statistics) for output in (perfect, worse)]
    assert costs[0] < costs[1]


def test_rarer_classes_weigh_more():
    raw = np.zeros((2, 8, 8), np.uint8)
    raw[:, 0, 0], raw[:, 1] = 1, 2
    weight = Classes(NAMES).fit_statistics(raw)["weight"]
    assert weight[1] > weight[2] > weight[0]


# Scores.


def test_scores_of_the_truth_are_perfect(name):
    scores = kind(name).score(samples(name), samples(name))
    assert list(scores) == list(kind(name).metrics)
    for metric, better in kind(name).metrics.items():
        if metric == "psnr":
            assert scores[metric] > 100
        else:
            expected = 0 if better == "lower" else 1
            np.testing.assert_allclose(scores[metric], expected, atol=0.02)


def test_scores_do_not_depend_on_how_the_set_is_cut(name, monkeypatch):
    truth, answer = samples(name, 10), samples(name, 10, seed=1)
    answer = np.nan_to_num(answer) if name == "reals" else answer
    whole = kind(name).score(answer, truth)
    monkeypatch.setattr("tokenizers.values.dense.CHUNK", 3)
    parts = kind(name).score(answer, list(truth))
    assert whole == pytest.approx(parts)


def test_scores_over_a_region_see_only_the_region(name):
    truth, answer = samples(name), samples(name).copy()
    answer[:, 8:] = samples(name, seed=1)[:, 8:]
    region = np.zeros(truth.shape[:3], bool)
    region[:, :8] = True
    values = kind(name)
    assert values.score(answer, truth, region) == values.score(truth, truth, region)
    assert values.score(answer, truth) != values.score(truth, truth)
    nowhere = values.score(answer, truth, region & False)
    assert set(nowhere) == set(values.metrics) and all(np.isnan(list(nowhere.values())))


def test_psnr_is_of_the_pooled_squared_error():
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    answer = truth.copy()
    answer[0] = 10
    expected = 10 * np.log10(255**2 / 50)
    assert Colors().score(answer, truth)["psnr"] == pytest.approx(expected)


def test_distance_scores_are_those_of_the_formulas():
    truth = np.array([[[2.0, 4.0, 0.0, 10.0]]], np.float32)
    answer = np.array([[[2.2, 3.0, 7.0, 0.0]]], np.float32)  # No answer counts as 0 metres.
    scores = kind("distances").score(answer, truth)
    assert scores["abs_rel"] == pytest.approx((0.1 + 0.25 + 1) / 3, rel=1e-5)
    assert scores["delta1"] == pytest.approx(1 / 3)
    assert scores["rmse"] == pytest.approx(np.sqrt((0.04 + 1 + 100) / 3), rel=1e-5)


def test_no_direction_counts_as_ninety_degrees():
    truth = np.zeros((1, 1, 2, 3), np.float32)
    truth[..., 2] = 1
    answer = truth.copy()
    answer[0, 0, 1] = 0
    scores = Directions().score(answer, truth)
    assert scores == pytest.approx({"mean_angle": 45.0, "within_11": 0.5})


def test_iou_is_over_classes_in_the_truth_and_counts_answers_that_are_no_class():
    truth = np.array([[[0, 0, 0, 0, 1, 1, 255]]], np.uint8)
    answer = np.array([[[0, 0, 2, 255, 1, 0, 1]]], np.uint8)
    scores = Classes(NAMES).score(answer, truth)
    assert scores["miou"] == pytest.approx((2 / 5 + 1 / 2) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(3 / 6)


def test_r2_ignores_the_unit_and_rmse_has_it():
    truth, answer = samples("reals"), np.nan_to_num(samples("reals", seed=1))
    values = kind("reals")
    small, large = values.score(answer, truth), values.score(answer * 100, truth * 100)
    assert small["r2"] == pytest.approx(large["r2"], rel=1e-4)
    assert small["rmse"] * 100 == pytest.approx(large["rmse"], rel=1e-4)


def test_mismatched_shapes_are_refused(name):
    with pytest.raises(ValueError, match="score takes equal shapes"):
        kind(name).score(samples(name, 3), samples(name, 4))
    with pytest.raises(ValueError, match="score takes equal shapes"):
        kind(name).score(samples(name, 3, 8), samples(name, 3, 16))


# Floors.


@pytest.mark.parametrize("constant", ["picture", "value"])
def test_no_other_constant_beats_the_floor(name, constant):
    values, training = kind(name), samples(name, 9, 4)
    floor = values.floor(training, training, constant=constant)
    assert list(floor) == list(values.metrics)
    rng = np.random.default_rng(0)
    for trial in range(40):
        picture = training[rng.integers(9)].copy()
        if constant == "value":
            picture[:] = picture[rng.integers(4), rng.integers(4)]
        if trial % 2 and name in ("reals", "distances"):
            picture = picture * np.float32(rng.uniform(0.7, 1.4))
        picture = np.nan_to_num(picture)
        scores = values.score(np.broadcast_to(picture, training.shape), training)
        for metric, better in values.metrics.items():
            if metric in ("miou", "within_11"):
                continue  # The commonest class and the median direction are the best known.
            gain = scores[metric] - floor[metric]
            assert (gain if better == "higher" else -gain) <= 1e-3, metric


def test_a_constant_picture_is_a_stronger_floor_than_a_constant_value(name):
    values = kind(name)
    training = np.repeat(samples(name, 1), 5, axis=0)
    for metric, better in values.metrics.items():
        per_pixel = values.floor(training, training)[metric]
        overall = values.floor(training, training, constant="value")[metric]
        assert per_pixel > overall if better == "higher" else per_pixel < overall


def test_floors_come_from_training_and_scores_from_the_truth():
    near, far = np.full((3, 4, 4), 2, np.float32), np.full((5, 4, 4), 4, np.float32)
    assert kind("distances").floor(near, far)["abs_rel"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="a constant picture takes equal shapes, or use"):
        kind("distances").floor(near, np.full((5, 8, 8), 4, np.float32))


# Refusals.


@pytest.mark.parametrize(
    ("values", "value", "message"),
    [
        (Colors(), np.zeros((4, 4, 4), np.uint8), r"rgb has shape \(4, 4, 4\); colours must be"),
        (Colors(), np.zeros((4, 4, 3), np.float32), "rgb has dtype float32; colours must be uint8"),
        (
            Distances(),
            np.zeros((4, 4, 3)),
            r"shape \(4, 4, 3\); distances must be \[height, width\]",
        ),
        (Distances(), -np.arange(1.0, 5).reshape(2, 2), "distances of -4 m and none above 0"),
        (Distances(), np.array([["a"]]), "rgb has dtype <U1; distances must be numbers"),
        (Directions(), np.zeros((4, 4)), r"directions must be \[height, width, 3\]"),
        (
            Directions(),
            np.zeros((4, 4, 3), np.int32),
            "directions must be float vectors or a uint8",
        ),
        (Classes(NAMES), np.full((2, 2), 7), "class index 7; allowed are 0 to 2, and 255"),
        (Classes(NAMES), np.full((2, 2), 0.5), "dtype float64; class maps must be integers"),
        (Classes(NAMES), np.zeros((0, 4), int), r"shape \(0, 4\); class maps must be"),
        (Reals(channels=12), np.zeros((4, 4, 3)), r"real values must be \[height, width, 12\]"),
    ],
)
def test_values_that_cannot_be_are_refused_in_a_sentence(values, value, message):
    with pytest.raises(ValueError, match=message):
        values.check(value, "rgb")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Distances(max_distance=0.05), "the first must be above 0 and below"),
        (lambda: Classes(("sky",)), "give at least 2 names"),
        (lambda: Classes(NAMES, ignore=1), "ignore is 1; give at least 2 names, and an index"),
        (lambda: Reals(channels=0), "channels is 0; give at least 1"),
        (lambda: Reals(channels=2, picture=(0, 1, 2)), "name one or three of its channels, 0 to 1"),
        (
            lambda: Distances().fit_statistics(np.zeros((2, 4, 4), np.float32)),
            "No training sample has a valid distance",
        ),
    ],
)
def test_kinds_that_cannot_be_are_refused_in_a_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_common_storage_forms_are_understood():
    assert Colors().check(np.full((2, 2), 7, np.uint8), "rgb").shape == (2, 2, 3)
    millimetres = np.array([[1500, 0]], np.uint16)
    np.testing.assert_allclose(Distances().check(millimetres, "depth"), [[1.5, 0]])
    holes = np.array([[np.nan, np.inf, 3.0, 1e6]])
    np.testing.assert_allclose(Distances().check(holes, "depth"), [[0, 0, 3, 0]])
    stored = np.array([[[255, 128, 128], [0, 0, 0], [128, 128, 128]]], np.uint8)
    vectors = Directions().check(stored, "normals")
    np.testing.assert_allclose(vectors, [[[1, 0, 0], [0, 0, 0], [0, 0, 0]]], atol=0.01)
    assert Reals(channels=12).check(np.zeros((12, 5, 5), np.int16), "bands").shape == (5, 5, 12)
    assert Reals().check(np.zeros((5, 5), np.float16), "height").dtype == np.float32
    many = Classes(tuple(str(i) for i in range(300)), ignore=-1)
    assert many.check(np.array([[299, -1]]), "classes").dtype == np.int32


def test_a_regions_floor_is_fitted_to_the_regions_training_pixels():
    depth = np.full((4, 8, 8), 10, np.float32)
    region = np.zeros((4, 8, 8), bool)
    region[:, 2:4, 2:4] = True
    depth[region] = 2
    values = kind("distances")
    assert values.floor(depth, depth, region, region)["abs_rel"] == pytest.approx(0, abs=1e-6)
    moved = np.roll(region, 4, axis=1)
    shifted = np.where(moved, 2, 10).astype(np.float32)
    # A constant picture looks where objects were; the value knows only how far they are.
    assert values.floor(depth, shifted, moved)["abs_rel"] == pytest.approx(4)
    assert values.floor(depth, shifted, moved, region)["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_distances_that_are_none_are_unknown():
    stored = np.array([[-1, -1e-7, np.inf], [np.nan, 0, 2]], np.float32)
    assert Distances().check(stored, "depth").tolist() == [[0, 0, 0], [0, 0, 2]]
    assert not Distances().check(np.full((2, 2), -1.0), "depth").any()
    assert Distances().check(np.array([[1e300, 2.0]]), "depth").tolist() == [[0, 2]]


def test_masked_integers_are_unknown_and_keep_their_unit():
    masked = np.ma.MaskedArray(np.array([[1, 2]], np.uint16), [[True, False]])
    assert Distances(integer_unit=1.0).check(masked, "depth").tolist() == [[0, 2]]
    np.testing.assert_array_equal(Reals().check(masked, "x")[..., 0], [[np.nan, 2]])
    assert Classes(("a", "b", "c")).check(masked, "map").tolist() == [[255, 2]]
    normals = np.ma.MaskedArray(np.full((1, 2, 3), 200, np.uint8), False)
    normals[0, 0, 1] = np.ma.masked
    assert (np.linalg.norm(Directions().check(normals, "n"), axis=-1) > 0.5).tolist() == [
        [False, True]
    ]


def test_the_index_minus_one_is_no_class():
    assert Classes(("a", "b"), ignore=9).check(np.array([[-1, 1, 9]]), "map").tolist() == [
        [9, 1, 9]
    ]


@pytest.mark.parametrize("shape", [(1, 16_000, 1), (16_000, 1), (1, 16_000)])
def test_a_signal_is_not_taken_for_a_picture(shape):
    for values in (Reals(), Distances()):
        with pytest.raises(ValueError, match=r"a single row; .* give what is a signal"):
            values.check(np.ones(shape, np.float32), "sound")
    assert Reals().check(np.ones((1, 1)), "pixel").shape == (1, 1, 1)
    assert Reals().check(np.ones((3, 600)), "strip").shape == (3, 600, 1)


def test_maps_of_one_channel_may_have_it_first_or_last():
    for shape in ((1, 4, 6), (4, 6, 1)):
        assert Distances().check(np.ones(shape, np.float32), "depth").shape == (4, 6)
        assert Classes(("a", "b")).check(np.ones(shape, np.uint8), "map").shape == (4, 6)
    with pytest.raises(ValueError, match="class maps must be"):
        Classes(("a", "b")).check(np.ones((1, 6, 3), np.uint8), "row of colours")


def test_by_channel_a_network_reads_which_channels_are_known():
    values, whole = Reals(channels=3, by_channel=True), Reals(channels=3)
    raw = np.random.default_rng(0).normal(5, 2, (4, 6, 6, 3)).astype(np.float32)
    raw[0, ..., 1] = np.nan
    raw[1] = np.nan
    statistics = values.fit_statistics(raw)
    read = np.asarray(values.normalize(jnp.asarray(raw), statistics))
    assert read.shape[-1] == values.num_inputs == 6 and whole.num_inputs == 4
    np.testing.assert_array_equal(read[..., 3:], np.isfinite(raw))
    np.testing.assert_array_equal(
        read[..., :3], np.asarray(whole.normalize(jnp.asarray(raw), statistics))[..., :3]
    )
    assert np.asarray(values.is_valid(raw)).tolist() == np.isfinite(raw).any(axis=-1).tolist()
    assert not np.asarray(whole.is_valid(raw))[0].any()


def test_channels_that_are_unknown_are_not_scored():
    values = Reals(channels=2, by_channel=True)
    truth = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
    truth[0, ..., 1] = np.nan
    found = np.where(np.isnan(truth), 1e6, truth)
    assert values.score(found, truth) == {"r2": 1.0, "rmse": 0.0}
    floor = values.floor(truth, truth)
    assert np.isfinite(list(floor.values())).all() and floor["rmse"] > 0

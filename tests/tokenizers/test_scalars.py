import numpy as np
import pytest

from tokenizers.base import Crop, ExpectedDecoder, Tokenizer
from tokenizers.scalars import Scalar, ScalarTokenizer, ScalarTokenizerConfig

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(10, 3, 2000)
FLIP = Crop(0.0, 0.0, 1.0, 1.0, flip=True)


def fit(training, num_bins=32):
    return ScalarTokenizerConfig(num_bins).fit(Scalar(), training)


def test_it_keeps_the_contract():
    tokenizer = fit(NORMAL)
    assert isinstance(tokenizer, Tokenizer) and isinstance(tokenizer, ExpectedDecoder)
    assert tokenizer.special is None and tokenizer.token_shape == (1,)
    ids = tokenizer.encode(NORMAL)
    assert ids.shape == (2000, 1) and ids.dtype == np.int32
    assert ids.min() == 0 and ids.max() == tokenizer.vocab_size - 1


def test_bins_hold_equal_shares_and_decode_to_their_median():
    tokenizer = fit(NORMAL)
    ids = tokenizer.encode(NORMAL)[:, 0]
    counts = np.bincount(ids, minlength=32)
    assert counts.min() >= 60 and counts.max() <= 65
    decoded = tokenizer.decode(ids[:, None])
    for i in range(32):
        assert (decoded[ids == i] == np.median(NORMAL[ids == i])).all()


def test_decoding_then_encoding_gives_the_same_ids():
    tokenizer = fit(NORMAL)
    ids = np.arange(tokenizer.vocab_size, dtype=np.int32)[:, None]
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_few_different_values_survive_exactly():
    counts = RANDOM.integers(1, 5, 500)
    tokenizer = fit(counts)
    assert tokenizer.vocab_size == 4
    np.testing.assert_array_equal(tokenizer.decode(tokenizer.encode(counts)), counts)


@pytest.mark.parametrize("frequent", [0.0, 0.5, 1.0], ids=["smallest", "in the middle", "largest"])
def test_every_id_is_used_when_one_value_is_frequent(frequent):
    values = np.concatenate([np.full(900, frequent), RANDOM.random(100)])
    tokenizer = fit(values)
    used = np.unique(tokenizer.encode(values))
    np.testing.assert_array_equal(used, np.arange(tokenizer.vocab_size))
    assert tokenizer.decode(tokenizer.encode(np.array([frequent]))) == frequent


def test_constant_training_data_gives_one_id():
    tokenizer = fit([3.0, 3.0])
    assert tokenizer.vocab_size == 1
    assert tokenizer.decode(tokenizer.encode([-1.0, 3.0, 9.0])).tolist() == [3.0, 3.0, 3.0]


def test_numbers_outside_the_training_range_go_to_the_outermost_bins():
    ids = fit(NORMAL).encode([-1e9, 1e9])
    assert ids.tolist() == [[0], [31]]


def test_the_expected_number_lies_between_its_bins():
    tokenizer = fit(NORMAL)
    probabilities = np.zeros((2, 1, 32), np.float32)
    probabilities[0, 0, 5] = 1
    probabilities[1, 0, [5, 6]] = 0.5
    low, high = tokenizer.decode(np.array([[5], [6]]))
    np.testing.assert_allclose(
        tokenizer.decode_expected(probabilities), [low, (low + high) / 2], rtol=1e-6
    )


def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = fit(NORMAL)
    tokenizer.save(tmp_path / "t")
    loaded = ScalarTokenizer.load(tmp_path / "t")
    ids = loaded.encode(NORMAL)
    np.testing.assert_array_equal(ids, tokenizer.encode(NORMAL))
    np.testing.assert_array_equal(loaded.decode(ids), tokenizer.decode(ids))
    assert loaded.vocab_size == tokenizer.vocab_size
    (tmp_path / "t" / "arrays.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^Damaged folder .*\.$"):
        ScalarTokenizer.load(tmp_path / "t")


@pytest.mark.parametrize("token", [-1, 32])
def test_a_token_out_of_range_is_one_sentence(token):
    with pytest.raises(ValueError, match=rf"Token {token} is out of range: .* ids 0 to 31"):
        fit(NORMAL).decode(np.array([[token]]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "age is nan; finite numbers"),
        (float("inf"), "age is inf; finite numbers"),
        (10**400, "age is 1000.*; one number per sample"),
        ("old", "age is 'old'; one number"),
        (None, "age is None; one number"),
        (np.zeros(3), r"age is an array of shape \(3,\); one number"),
        (-1, r"age is -1.0; 0.0 to 120.0 is allowed \(Scalar.lowest"),
    ],
)
def test_what_is_no_allowed_number_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        Scalar("years", lowest=0.0, highest=120.0).check(value, "age")


def test_numbers_in_any_form_become_floats():
    for value in (3, np.float32(3), np.array([3]), np.array(3)):
        checked = Scalar().check(value, "x")
        assert type(checked) is float and checked == 3.0


def test_fitting_refuses_no_numbers_and_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="no training number"):
        fit([])
    with pytest.raises(ValueError, match="training number is nan"):
        fit([1.0, float("nan")])
    with pytest.raises(ValueError, match="nan has no bin"):
        fit(NORMAL).encode([float("nan")])
    with pytest.raises(ValueError, match="num_bins is 0; at least 1"):
        ScalarTokenizerConfig(num_bins=0)


def test_perfect_predictions_score_best_and_the_mean_explains_nothing():
    scalar = Scalar()
    assert scalar.score(NORMAL, NORMAL) == {"mae": 0.0, "r2": 1.0}
    assert list(scalar.metrics) == ["mae", "r2"]
    mean = np.full_like(NORMAL, NORMAL.mean())
    assert scalar.score(mean, NORMAL)["r2"] == pytest.approx(0)
    assert scalar.score([1.0, 2.0], [2.0, 4.0])["mae"] == 1.5
    assert scalar.score([2.0, 2.0], [2.0, 2.0])["r2"] == 1.0
    assert scalar.score([2.0, 3.0], [2.0, 2.0])["r2"] == 0.0


def test_no_constant_beats_the_floor_on_the_training_data():
    scalar = Scalar()
    skewed = np.exp(NORMAL / 5)
    floor = scalar.floor(skewed, skewed)
    for constant in np.quantile(skewed, np.linspace(0, 1, 50)):
        score = scalar.score(np.full_like(skewed, constant), skewed)
        assert score["mae"] >= floor["mae"] - 1e-9 and score["r2"] <= floor["r2"] + 1e-9


def test_mirroring_negates_only_what_it_should():
    assert Scalar().crop(0.5, FLIP, (64, 64)) == 0.5
    assert Scalar(flip_negates=True).crop(0.5, FLIP, (64, 64)) == -0.5
    assert Scalar(flip_negates=True).crop(0.5, FLIP._replace(flip=False), (64, 64)) == 0.5


def test_a_number_to_which_sides_matter_means_nothing_in_a_turned_picture():
    turned = Crop(0.0, 0.0, 1.0, 1.0, flip=False, quarter_turns=1)
    assert Scalar().crop(0.5, turned, (64, 64)) == 0.5
    assert Scalar(flip_negates=True).crop(0.5, turned, (64, 64)) is None


def test_a_person_sees_the_number_and_its_unit():
    assert Scalar("m").draw(3.2041, (64, 64)) == "3.2 m"
    assert Scalar().draw(12.0, (64, 64)) == "12"

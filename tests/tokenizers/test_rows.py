"""Rows of a table: numbers and categories, any of which may be missing."""

import numpy as np
import pytest

from tokenizers.base import Crop
from tokenizers.rows import Row, RowTokenizer, RowTokenizerConfig

PATIENTS = Row(numbers=("age", "weight"), categories={"sex": ("f", "m"), "ward": ("a", "b", "c")})
NAN = np.nan


def same(found, wanted):
    np.testing.assert_array_equal(np.asarray(found, float), np.asarray(wanted, float))


@pytest.mark.parametrize(
    "given",
    [
        {"age": 34, "sex": "m", "weight": None},
        {"age": "34", "sex": 1, "weight": ""},
        {"age": 34, "sex": "m", "ward": -1},
        [34, NAN, 1, NAN],
        ["34", None, "m", ""],
        '{"age": 34, "sex": "m"}',
    ],
)
def test_a_row_is_a_mapping_or_a_list_and_may_lack_cells(given):
    row = PATIENTS.check(given, "row")
    same(row, [34, NAN, 1, NAN])
    assert PATIENTS.as_dict(row) == {"age": 34.0, "weight": None, "sex": "m", "ward": None}
    assert PATIENTS.draw(row, (8, 8)) == "age 34, sex m"
    assert PATIENTS.crop(row, Crop(0, 0, 1, 1, flip=True), (8, 8)) is row


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 3}, "row has a column 'size'; allowed are age, weight, sex, ward"),
        ({"age": "old"}, "row has age 'old'; a number is allowed"),
        ({"age": 10**400}, "row has age '1000.*'; a number is allowed"),
        ({"age": np.inf}, "row has age inf; a finite number is allowed"),
        ({"sex": "x"}, "row has sex 'x'; allowed are f, m"),
        ({"ward": 3}, "row has ward 3; 0 to 2 is allowed, for a, b, c"),
        ({}, "row has no value in any column"),
        ([1, 2, 3], r"row has shape \(3,\); one value for each of the columns"),
        ("{age", "row is '{age', which is no JSON object"),
    ],
)
def test_what_is_no_row_gets_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        PATIENTS.check(given, "row")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    rows = np.stack(
        [rng.normal(50, 10, 60), rng.integers(0, 5, 60), rng.integers(0, 2, 60), np.zeros(60)], 1
    )
    rows[::7, 0] = rows[::5, 3] = NAN
    return rows


def test_every_column_has_ids_of_its_own_and_what_is_missing_comes_back_missing(rows, tmp_path):
    tokenizer = RowTokenizerConfig(num_bins=8).fit(PATIENTS, rows)
    ids = tokenizer.encode(rows)
    assert ids.shape == (60, 4) and tokenizer.token_shape == (4,)
    assert tokenizer.vocab_size == (1 + 8) + (1 + 5) + (1 + 2) + (1 + 3)
    assert (np.diff(ids, axis=1) > 0).all(), "ids of a column lie above those before it"
    back = tokenizer.decode(ids)
    same(np.isnan(back), np.isnan(rows))
    same(back[:, 1:], rows[:, 1:])
    assert np.nanmean(np.abs(back[:, 0] - rows[:, 0])) < 2
    tokenizer.save(tmp_path / "saved")
    loaded = RowTokenizer.load(tmp_path / "saved")
    same(loaded.encode(rows), ids)
    same(loaded.decode(ids), back)
    same(tokenizer.decode(ids[:, ::-1]), np.full((60, 4), NAN))


def test_an_answer_is_never_that_a_cell_is_missing(rows):
    tokenizer = RowTokenizerConfig(num_bins=8).fit(PATIENTS, rows)
    ids = tokenizer.encode(rows)
    shares = np.full((60, 4, tokenizer.vocab_size), 0.01, np.float32)
    missing = tokenizer.encode(np.full((60, 4), NAN))
    np.put_along_axis(shares, missing[..., None], 0.9, axis=2)
    np.put_along_axis(shares, ids[..., None], 0.5, axis=2)
    answer = tokenizer.decode_expected(shares)
    assert np.isfinite(answer).all()
    known = ~np.isnan(rows)
    same(answer[:, 2:][known[:, 2:]], rows[:, 2:][known[:, 2:]])


def test_scores_are_means_over_columns_of_what_is_known(rows):
    assert PATIENTS.score(rows, rows) == {"error": 0.0, "number_error": 0.0, "accuracy": 1.0}
    median = np.tile(np.append(np.nanmedian(rows[:, :2], axis=0), [0, 0]), (60, 1))
    scores = PATIENTS.score(median, rows)
    assert scores["number_error"] == pytest.approx(1.0), "what a constant reaches"
    floor = PATIENTS.floor(rows, rows)
    assert floor["number_error"] == pytest.approx(1.0) and floor["accuracy"] >= 0.5
    unknown = PATIENTS.score(np.full((60, 4), NAN), rows)
    assert unknown["number_error"] == pytest.approx(1.0) and unknown["accuracy"] == 0.0


def test_a_column_without_any_number_is_refused(rows):
    rows[:, 1] = NAN
    with pytest.raises(ValueError, match="The column weight is missing in all 60 training rows"):
        RowTokenizerConfig().fit(PATIENTS, rows)


def test_columns_must_differ():
    with pytest.raises(ValueError, match=r"name the columns age, age; give at least one, each"):
        Row(numbers=("age",), categories={"age": ("old", "young")})

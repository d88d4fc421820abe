"""Ids as values: what goes in comes out, and nothing else is taken."""

import numpy as np
import pytest

from tokenizers.base import PADDING, Crop, SequenceTokens, Tokenizer
from tokenizers.codes import Codes, CodesTokenizerConfig, CodeTokenizer
from tokenizers.modality import load_tokenizer

GRID = Codes(10, (2, 3))
SEQUENCE = Codes(10, (4,), is_sequence=True)
SPECIAL = SequenceTokens(end=3, first_sentinel=5, num_sentinels=2)
WHOLE = Crop(0.0, 0.0, 1.0, 1.0, flip=False)


@pytest.mark.parametrize(
    "tokenizer", [CodeTokenizer(GRID), CodeTokenizer(SEQUENCE, SPECIAL)], ids=["grid", "sequence"]
)
def test_ids_come_back_and_survive_the_disk(tokenizer, tmp_path):
    assert isinstance(tokenizer, Tokenizer)
    is_grid = tokenizer.special is None
    raw = (
        [np.arange(6).reshape(2, 3)] * 2 if is_grid else [np.array([1, 3]), np.array([9, 8, 7, 3])]
    )
    raw = [tokenizer.values.check(value, "x") for value in raw]
    ids = tokenizer.encode(raw)
    assert ids.dtype == np.int32 and ids.shape == (2, *tokenizer.token_shape)
    assert is_grid or ids[0].tolist() == [1, 3, PADDING, PADDING]
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.special == tokenizer.special and loaded.values == tokenizer.values
    for value, decoded in zip(raw, loaded.decode(ids), strict=True):
        np.testing.assert_array_equal(value, decoded)


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (GRID, np.zeros((3, 2), int), r"shape \(3, 2\) .* shape \(2, 3\)"),
        (GRID, np.zeros((2, 3)), "of float64; whole numbers"),
        (GRID, np.full((2, 3), 10), "the id 10; 0 to 9"),
        (SEQUENCE, np.zeros(5, int), "or fewer"),
        (
            Codes(10, (4,)),
            np.zeros(3, int),
            r"shape \(3,\) of int64; whole numbers of shape \(4,\) are",
        ),
        (SEQUENCE, np.array([-1]), "the id -1"),
    ],
)
def test_other_values_are_refused_in_one_sentence(values, given, message):
    with pytest.raises(ValueError, match=message):
        values.check(given, "x")


@pytest.mark.parametrize(("values", "special"), [(GRID, SPECIAL), (SEQUENCE, None)])
def test_sequences_need_special_ids_and_grids_have_none(values, special):
    with pytest.raises(ValueError, match="sequences need special ids, and others have none"):
        CodeTokenizer(values, special)


def test_ids_are_not_cropped():
    ids = np.zeros((2, 3), np.int32)
    assert GRID.crop(ids, WHOLE, (64, 64)) is ids
    with pytest.raises(ValueError, match="can't be cropped"):
        GRID.crop(ids, WHOLE._replace(flip=True), (64, 64))


def test_the_score_counts_right_ids_and_the_floor_is_the_commonest():
    truth = [np.array([1, 2, 3]), np.array([1, 5])]
    assert SEQUENCE.score([np.array([1, 2]), np.array([4, 5])], truth) == {"accuracy": 3 / 5}
    training = [np.array([1, 2]), np.array([1, 5]), np.array([7, 5])]
    assert SEQUENCE.floor(training, truth) == {"accuracy": 3 / 5}


def test_different_ids_look_different():
    picture = GRID.draw(np.arange(6).reshape(2, 3), (12, 12))
    assert picture.shape == (12, 12, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 6
    assert SEQUENCE.draw(np.array([1, 3]), (12, 12)) == "1 3"


def test_grids_need_no_saved_tokenizer_and_sequences_do():
    ids = [np.arange(6).reshape(2, 3)]
    tokenizer = CodesTokenizerConfig().fit(GRID, ids)
    np.testing.assert_array_equal(tokenizer.encode(ids), ids)
    with pytest.raises(ValueError, match="nobody knows which of them are its end"):
        CodesTokenizerConfig().fit(SEQUENCE, [np.arange(3)])

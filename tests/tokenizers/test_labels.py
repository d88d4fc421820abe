"""Labels: one of several names, or several of them."""

import numpy as np
import pytest

from tokenizers.base import PADDING, Crop
from tokenizers.labels import Label, LabelTokenizer, LabelTokenizerConfig

ANIMALS = Label(names=("cat", "dog", "fish"))
GENRES = Label(names=("war", "love", "crime", "space"), several=True)
TURNED = Crop(0.1, 0.2, 0.5, 0.5, flip=True, quarter_turns=1)


@pytest.mark.parametrize("given", [1, "dog", np.int64(1), np.array([1], np.uint8), " dog ", "1"])
def test_a_label_is_an_index_or_a_name(given):
    assert ANIMALS.check(given, "label") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"label is 3; 0 to 2 is allowed, for cat, dog, fish, and -1 for none"),
        ("cow", r"label is 'cow'; allowed are cat, dog, fish"),
        (0.5, r"label is 0\.5; one index or name is allowed"),
        ([0, 1], r"label is an array of shape \(2,\); one index or name is allowed"),
    ],
)
def test_what_is_no_label_gets_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        ANIMALS.check(given, "label")


def test_a_crop_leaves_labels_as_they_are_and_no_label_is_no_value():
    assert ANIMALS.crop(2, TURNED, (8, 8)) == 2
    assert ANIMALS.crop(ANIMALS.check(-1, "label"), TURNED, (8, 8)) is None
    flags = GENRES.check([], "genres")
    assert GENRES.crop(flags, TURNED, (8, 8)) is flags


@pytest.mark.parametrize(
    "given",
    [
        *(["love", "space"], [1, 3], "love, space", np.array([False, True, False, True])),
        *([0, 1, 0, 1], np.array([0, 1, 0, 1], np.uint8), np.array([0.0, 1.0, 0.0, 1.0])),
    ],
)
def test_several_labels_are_names_indices_or_flags(given):
    assert GENRES.check(given, "genres").tolist() == [False, True, False, True]
    assert GENRES.draw(GENRES.check(given, "genres"), (8, 8)) == "love, space"


@pytest.mark.parametrize("given", [[1.5], [-1], ["musical"], [[1, 2]], np.ones(3, bool)])
def test_what_are_no_labels_gets_one_sentence(given):
    with pytest.raises(ValueError, match="genres "):
        GENRES.check(given, "genres")


def test_one_label_is_one_id_and_comes_back(tmp_path):
    tokenizer = LabelTokenizerConfig().fit(ANIMALS, [0, 1])
    ids = tokenizer.encode([2, 0])
    assert ids.tolist() == [[2], [0]] and tokenizer.vocab_size == 3
    assert tokenizer.decode(ids).tolist() == [2, 0]
    shares = np.array([[[0.2, 0.5, 0.3]]], np.float32)
    assert tokenizer.decode_expected(shares).tolist() == [1], "names have no mean"
    tokenizer.save(tmp_path / "saved")
    assert LabelTokenizer.load(tmp_path / "saved").values == ANIMALS
    with pytest.raises(ValueError, match="there is no label -1; 0 to 2 are allowed"):
        tokenizer.encode([-1])


def test_several_labels_are_a_sequence_whose_order_means_nothing():
    tokenizer = LabelTokenizerConfig(num_sentinels=2).fit(GENRES, [])
    flags = np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
    ids = tokenizer.encode(flags)
    assert ids.tolist() == [[4, 6, 0, PADDING, PADDING], [0, *[PADDING] * 4]]
    np.testing.assert_array_equal(tokenizer.decode(ids), flags)
    np.testing.assert_array_equal(tokenizer.decode(ids[:, [1, 0, 2, 3, 4]]), flags)
    assert LabelTokenizerConfig(most=2).most_tokens(GENRES) == 3


def test_scores_of_one_label_and_their_floor():
    truth = [0, 0, 0, 1]
    assert ANIMALS.score([0, 0, 1, 1], truth) == {
        "accuracy": 0.75,
        "macro_recall": pytest.approx((2 / 3 + 1) / 2),
    }
    assert ANIMALS.floor([0, 0, 2], truth) == {"accuracy": 0.75, "macro_recall": 0.5}


def test_scores_of_several_labels_and_their_floor():
    truth = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool)
    found = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], bool)
    assert GENRES.score(found, truth) == {"f1": pytest.approx(2 * 2 / 6), "f1_macro": 0.5}
    assert GENRES.score(truth, truth) == {"f1": 1.0, "f1_macro": 1.0}
    nothing = np.zeros((2, 4), bool)
    assert GENRES.score(nothing, nothing)["f1"] == 1.0
    best = max(
        GENRES.score(np.tile(np.array(answer, bool), (2, 1)), truth)["f1"]
        for answer in np.ndindex(2, 2, 2, 2)
    )
    assert GENRES.floor(truth, truth)["f1"] == pytest.approx(best)


def test_names_must_differ():
    with pytest.raises(ValueError, match=r"Label\.names are 2, 1 of them different"):
        Label(names=("cat", "cat"))

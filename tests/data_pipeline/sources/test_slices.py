"""Splits by names and parts of them."""

import pytest

from data_pipeline.sources.slices import rows_of_slice, split_of_path, usual_splits


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001", "train"),
        ("default/valid/0000", "validation"),
        ("training_data/val_1", "validation"),
        ("trainer/latest", ""),
        ("TEST", "test"),
    ],
)
def test_the_last_word_of_a_path_that_means_a_split_counts(path, split):
    assert split_of_path(path) == split


def test_parts_of_a_split_do_not_overlap():
    names = usual_splits(["test"])
    parts = [rows_of_slice(name, 33) for name in names.values()]
    assert sorted(row for part in parts for row in part) == list(range(33))
    assert [*names] == ["train", "validation"] and rows_of_slice("a[2:5]", 4) == range(2, 4)


@pytest.mark.parametrize("text", ["", "a[", "a[1]", "a[:x%]"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(ValueError, match="is no split; allowed are NAME and NAME"):
        rows_of_slice(text, 3)

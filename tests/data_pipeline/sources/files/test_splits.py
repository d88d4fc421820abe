from collections import Counter
from itertools import chain

import pytest

from data_pipeline.sources.files.splits import SplitByColumn, SplitByFolder, SplitByFraction
from data_pipeline.sources.files.tables import Table

KEYS = [f"frame_{i:04d}" for i in range(600)]
SCENES = Table({key: {"scene": f"scene_{i % 97}"} for i, key in enumerate(KEYS)}, ("scene",))


def parts(splits, keys=KEYS, table=SCENES):
    return {name: splits.select(name, keys, table) for name in splits.names}


def test_fractions_share_out_every_key_once():
    chosen = parts(SplitByFraction(validation=0.2, test=0.1))
    assert sorted(chain.from_iterable(chosen.values())) == KEYS
    assert {name: len(keys) for name, keys in chosen.items()} == {
        "train": 420,
        "validation": 120,
        "test": 60,
    }


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_splits_and_sizes_are_near_the_fractions(seed):
    chosen = parts(SplitByFraction(group_column="scene", validation=0.2, test=0.1, seed=seed))
    scenes = {name: {SCENES.rows[key]["scene"] for key in keys} for name, keys in chosen.items()}
    assert sum(len(each) for each in scenes.values()) == 97
    assert sorted(chain.from_iterable(chosen.values())) == KEYS
    assert abs(len(chosen["test"]) - 60) <= 7 and abs(len(chosen["validation"]) - 120) <= 7


def test_the_split_depends_on_the_seed_but_not_on_the_order_of_keys():
    splits = SplitByFraction(group_column="scene")
    backwards = parts(splits, KEYS[::-1])
    assert {name: keys[::-1] for name, keys in backwards.items()} == parts(splits)
    assert parts(SplitByFraction(group_column="scene", seed=1)) != parts(splits)


def test_every_split_gets_a_group_even_if_groups_are_few_and_unequal():
    groups = Counter(a=97, b=2, c=1)
    names = [name for name, count in groups.items() for _ in range(count)]
    rows = {str(i): {"scene": name} for i, name in enumerate(names)}
    for seed in range(10):
        splits = SplitByFraction(group_column="scene", seed=seed)
        assert all(parts(splits, list(rows), Table(rows, ("scene",))).values())


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="2 groups of samples can't be split into train"):
        SplitByFraction().select("train", KEYS[:2], None)


def test_shares_that_leave_nothing_for_training_are_refused():
    with pytest.raises(ValueError, match=r"validation is 0\.5 and SplitByFraction.test 0\.5"):
        SplitByFraction(validation=0.5, test=0.5)


def test_a_split_of_share_zero_does_not_exist():
    assert SplitByFraction(test=0.0).names == ("train", "validation")


def test_an_unknown_group_is_refused():
    splits = SplitByFraction(group_column="scene")
    with pytest.raises(ValueError, match="no row for the key 'x'"):
        splits.select("train", ["x"], SCENES)
    with pytest.raises(ValueError, match="there is no table"):
        splits.select("train", KEYS, None)


def test_folders_are_taken_as_they_are():
    splits = SplitByFolder({"train": "train", "test": "val"})
    assert splits.names == ("train", "test")
    assert splits.folder_of("test") == "val"
    assert splits.select("test", KEYS, None) == KEYS


def test_a_column_may_say_which_split_a_sample_is_of():
    rows = {"a": {"part": 0}, "b": {"part": 1}, "c": {"part": 0}, "d": {}}
    table = Table(rows, ("part",))
    splits = SplitByColumn("part", {"train": "0", "test": "1", "validation": "2"})
    assert splits.names == ("train", "test", "validation") and splits.grouping == "part"
    assert splits.select("train", ["a", "b", "c", "d", "e"], table) == ["a", "c"]
    assert splits.select("test", ["a", "b"], table) == ["b"]
    with pytest.raises(ValueError, match=r"No sample has '2' in the column 'part'.*are: 0, 1"):
        splits.select("validation", ["a"], table)
    with pytest.raises(ValueError, match="there is no table"):
        splits.select("train", ["a"], None)

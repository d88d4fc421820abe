"""Several data sets as one."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest

from configs.command_line import parse_command_line
from configs.presets.scenes import scenes
from configs.schema import RunConfig
from data_pipeline.sources.mixed import MixedData
from data_pipeline.sources.scenes.data import ScenesData
from data_pipeline.sources.source import METADATA, NOTES, DataConfig, Note
from tokenizers.settings.plain import from_plain, to_plain


class Letters:
    def __init__(self, data: "LettersData", split: str):
        self.data = data
        self.metadata_names = {"word": data.words}
        self.notes = [Note("ignored", "", "", f"{split}.txt", "is empty")]

    def __len__(self):
        return self.data.size

    def __getitem__(self, index):
        note = Note("unreadable", "x", str(index), "", "is damaged")
        return {self.data.modality: index, METADATA: {"word": index % 2}, NOTES: [note]}

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@dataclass(frozen=True)
class LettersData:
    size: int
    modality: str
    words: tuple[str, ...] = ("a", "b")
    splits: tuple[str, ...] = ("train", "test")

    def open(self, split):
        return Letters(self, split)


FEW = LettersData(4, "few")
MANY = LettersData(10, "many", words=("b", "c"), splits=("train", "validation"))


def mixed(**changes) -> MixedData:
    return MixedData(**({"sources": {"few": FEW, "many": MANY}} | changes))


def counts(source, modality: str) -> Counter:
    samples = source.__getitems__(range(len(source)))
    return Counter(sample[modality] for sample in samples if modality in sample)


def test_without_weights_every_sample_is_in_once():
    data = mixed()
    assert isinstance(data, DataConfig) and data.splits == ("train", "test", "validation")
    source = data.open("train")
    assert len(source) == 14 and len(data.open("test")) == 4 and len(data.open("validation")) == 10
    assert counts(source, "few") == dict.fromkeys(range(4), 1)
    assert counts(source, "many") == dict.fromkeys(range(10), 1)


def test_weights_repeat_what_is_rare_as_evenly_as_can_be():
    data = mixed(weights={"few": 1.0, "many": 1.0})
    source = data.open("train")
    assert len(source) == 20 and counts(source, "many") == dict.fromkeys(range(10), 1)
    assert sorted(counts(source, "few").values()) == [2, 2, 3, 3]
    assert len(set(source.keys)) == 20 and "few/3 (repeat 1)" in source.keys
    assert counts(data.open("train"), "few") == counts(source, "few")
    others = [counts(replace(data, seed=seed).open("train"), "few") for seed in range(1, 9)]
    assert any(each != counts(source, "few") for each in others)
    assert len(data.open("test")) == 4


def test_an_epoch_may_be_shorter():
    data = mixed(weights={"few": 3.0, "many": 1.0}, num_train=8)
    source = data.open("train")
    assert sorted(counts(source, "few").values()) == [1, 1, 2, 2]
    assert list(counts(source, "many").values()) == [1, 1]


def test_samples_are_the_same_in_any_order_and_facts_mean_the_same():
    source = mixed().open("train")
    assert source.metadata_names == {"word": ("a", "b", "c")}
    picked = source.__getitems__([13, 0, 13, 5])
    assert [sample.get("many") for sample in picked] == [9, None, 9, 1]
    assert picked[0] == source[13] and picked[1][METADATA] == {"word": 0}
    assert picked[0][METADATA] == {"word": 2}
    assert picked[0][NOTES][0].key == "many/9" and source.keys[13] == "many/9"
    assert [note.file for note in source.notes] == ["train.txt", "train.txt"]
    with pytest.raises(IndexError, match=r"Index 14 is not in \[0, 14\)"):
        source[14]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, "sources is empty; name at least one"),
        ({"weights": {"few": 1.0}}, "weights is of few; the data sets are few, many"),
        ({"weights": {"few": 1.0, "many": 0.0}}, r"weights\.many is 0\.0; it must be positive"),
        ({"num_train": -1}, "num_train is -1 and .*seed 0; neither"),
        ({"weights": {"few": 1e6, "many": 1.0}}, "would be in an epoch 2500000 times"),
        ({"sources": {"one": ScenesData()}, "weights": {}}, "no split 'nowhere'; there are train"),
    ],
)
def test_what_can_not_be_mixed_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mixed(**changes).open("nowhere" if "one" in changes.get("sources", {}) else "train")


def test_a_data_set_that_can_not_be_opened_is_named():
    from data_pipeline.sources.parquet import ParquetData

    data = mixed(sources={"few": FEW, "pets": ParquetData("nowhere")})
    with pytest.raises(ValueError, match="The data set pets can't be used: There is no parquet"):
        data.open("train")


def test_a_mixture_is_written_down_and_has_knobs(tmp_path):
    parts = {"a": ScenesData(num_train=3), "b": ScenesData(seed=1)}
    data = MixedData(sources=parts, weights={"a": 1.0, "b": 2.0})
    config = replace(scenes(), data=data)
    assert from_plain(to_plain(config), RunConfig) == config
    file = tmp_path / "mixture.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from configs import MixedData, ScenesData\n"
        "from configs.presets.scenes import scenes\n"
        "parts = {'a': ScenesData(num_train=3), 'b': ScenesData(seed=1)}\n"
        "config = replace(scenes(), data=MixedData(sources=parts, weights={'a': 1.0, 'b': 2.0}))\n"
    )
    read, _ = parse_command_line([str(file), "--data.sources.a.num-train", "5"])
    assert read.data == replace(data, sources=parts | {"a": ScenesData(num_train=5)})

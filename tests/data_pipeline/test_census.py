import json

import numpy as np
import pytest

from data_pipeline.census import Census, TooDamagedError, write_notes
from data_pipeline.sources.source import NOTES, Note, max_damaged_of
from data_pipeline.sources.tfds import TfdsData
from data_pipeline.tokens.index import StoreIndex
from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.writer import missing_shards, plan_store
from tests.data_pipeline.token_samples import Grid, Letters, Samples, write
from tokenizers.settings.checked import check_all


def left_out(index: int, name: str = "grid") -> Note:
    return Note("unreadable", name, str(index), f"{index}.png", f"{index}.png is damaged.")


class Damaged(Samples):
    """Samples of which some have lost their picture, and one everything; all have files."""

    damaged = (1, 2)
    state = "as at first"

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        if index in self.damaged:
            del sample["grid"]
            sample[NOTES] = [left_out(index)]
        if index == 7:
            return {NOTES: [left_out(index, "")]}
        return sample

    def state_of(self, index: int) -> str:
        return f"{index}: {self.state if index in self.damaged else 'good'}"


TOKENIZERS = {"grid": Grid(), "text": Letters()}


def test_a_census_counts_what_is_there_and_what_was_left_out():
    samples = [{"rgb": 1, "metadata": {}}, {"rgb": 1, "caption": "a", NOTES: [left_out(1, "b")]}]
    census = Census.of(samples)
    assert census == Census(2, {"caption": 1, "rgb": 2}, (left_out(1, "b"),))
    both = census + Census(3, {"rgb": 3}, (left_out(1, "b"), left_out(2, "b")))
    assert both.samples == 5 and both.present == {"caption": 1, "rgb": 5}
    assert both.left_out == {"b": 2}
    assert both.say_left_out() == "2 of 8 values were left out; noted: 2 unreadable b."
    assert Census().say_left_out() == ""


@pytest.mark.parametrize(
    ("count", "share", "is_allowed"),
    [(1, 0.01, True), (2, 0.01, False), (2, 0.02, True), (1, 0.0, False), (100, 1.0, True)],
)
def test_a_share_of_a_modality_may_be_damaged_and_one_value_always_may(count, share, is_allowed):
    notes = tuple(left_out(index, "rgb") for index in range(count))
    census = Census(100, {"rgb": 100 - count, "depth": 100}, notes)
    if is_allowed:
        return census.check(share, "the split train")
    with pytest.raises(TooDamagedError, match=rf"{count} of 100 values of rgb in the split train "):
        census.check(share, "the split train")


def test_the_error_names_some_reasons_and_the_knob():
    notes = tuple(left_out(index, "rgb") for index in range(5))
    with pytest.raises(TooDamagedError) as error:
        Census(10, {"rgb": 5}, notes).check(0.01, "the split train")
    assert "0.png is damaged; 1.png is damaged; 2.png is damaged; and 2 more." in str(error.value)
    assert "--data.max-damaged, now 0.01" in str(error.value)


def test_only_a_share_is_allowed_as_the_knob():
    assert max_damaged_of(TfdsData(max_damaged=0.2)) == 0.2
    with pytest.raises(ValueError, match=r"--data\.max-damaged is 2\.0; a share from 0 to 1"):
        check_all(TfdsData(max_damaged=1.0), "--data")
        object.__setattr__(data := TfdsData(), "max_damaged", 2.0)
        check_all(data, "--data")


def test_notes_are_written_as_lines_of_json(tmp_path):
    file = tmp_path / "left_out.jsonl"
    write_notes(file, {"train": [left_out(1)], "test": [left_out(2, "ä")]})
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "test"]
    assert lines[1]["modality"] == "ä" and lines[1]["reason"] == "2.png is damaged."
    write_notes(file, {"train": []})
    assert not file.exists()


def test_a_store_knows_what_its_samples_lack_and_leaves_out_empty_ones(tmp_path):
    write(tmp_path, Damaged(), tokenizers=TOKENIZERS)
    store = TokenStore.open(tmp_path)
    assert len(store) == 21 and store.index.samples == 23
    census = store.index.census
    assert census.samples == 23
    assert census.present["grid"] == 15 - 3 and census.present["text"] == 18 - 1
    assert [note.key for note in census.notes] == ["1", "2", "7"]
    np.testing.assert_array_equal(store.index.filled, np.delete(np.arange(23), [7, 12]))
    batch = store.batch(np.arange(21))
    assert (sum(batch.num_real.values()) > 0).all()
    np.testing.assert_array_equal(batch.ids["grid"][7], Samples()[8]["grid"].ravel())


def test_a_store_too_much_of_which_is_damaged_is_not_completed_until_it_is_repaired(tmp_path):
    source = Damaged()
    with pytest.raises(TooDamagedError, match=r"2 of 14 values of grid in the samples of"):
        write(tmp_path, source, tokenizers=TOKENIZERS, max_damaged=0.05)
    with pytest.raises(ValueError, match="run again what computes them"):
        TokenStore.open(tmp_path)
    source.reads.clear()
    with pytest.raises(TooDamagedError):  # Nothing was repaired, so nothing is read again.
        write(tmp_path, source, tokenizers=TOKENIZERS, max_damaged=0.05)
    assert not source.reads
    write(tmp_path, source, tokenizers=TOKENIZERS, max_damaged=0.2)
    assert not source.reads and len(TokenStore.open(tmp_path)) == 21


def test_repaired_files_are_read_again_with_those_of_their_shard_alone(tmp_path):
    source = Damaged()
    with pytest.raises(TooDamagedError):
        write(tmp_path, source, tokenizers=TOKENIZERS, max_damaged=0.05)
    source.reads.clear()
    source.state = "repaired"
    write(tmp_path, source, tokenizers=TOKENIZERS, max_damaged=0.2)
    assert source.reads == [0, 1, 2, 3]


def test_changed_files_are_noticed_when_asked_for(tmp_path):
    source = Damaged()
    write(tmp_path, source, tokenizers=TOKENIZERS, max_damaged=0.2)
    plan = StoreIndex.read(tmp_path)
    source.state = "another"
    assert missing_shards(source, tmp_path, plan, range(5)) == []
    assert missing_shards(source, tmp_path, plan, range(5), check=True) == [0]
    fingerprints = {name: name for name in TOKENIZERS}
    assert plan_store(source, TOKENIZERS, fingerprints, {"data": "a"}, 5).differing_from(plan) == []

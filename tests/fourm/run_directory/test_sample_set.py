import json
import shutil

import numpy as np
import pytest

from fourm.run_directory.sample_set import SampleSet, load_heldout, save_heldout
from tests.fourm.fakes import MODALITIES, make_sample, make_set
from tokenizers.base import REFERENCES, Boxes, Choices, Instances


def test_saved_samples_come_back_exactly(tmp_path):
    samples = make_set(7)
    samples.save(tmp_path / "s")
    loaded = SampleSet.load(tmp_path / "s")
    assert loaded.size == 7
    assert tuple(loaded.columns) == MODALITIES
    for name, column in samples.columns.items():
        np.testing.assert_array_equal(loaded.columns[name].index, column.index)
        for found, true in zip(loaded.columns[name].values, column.values, strict=True):
            if isinstance(true, Boxes):
                np.testing.assert_array_equal(found.corners, true.corners)
                np.testing.assert_array_equal(found.classes, true.classes)
            else:
                np.testing.assert_array_equal(found, true)
    rows = np.arange(7)
    for fact in ("number", "is_pink", "word"):
        np.testing.assert_array_equal(loaded.labels(fact, rows), samples.labels(fact, rows))


def test_several_texts_of_a_sample_are_kept_beside_the_first(tmp_path):
    samples = [make_sample(number) for number in (0, 1, 2)]
    texts = Choices(["a pink thing", "something pink"])
    samples[2] |= {"caption": texts[0], REFERENCES: {"caption": texts}}
    SampleSet.collect(samples, MODALITIES).save(tmp_path / "s")
    kept = SampleSet.load(tmp_path / "s")
    rows = np.array([1, 2])
    assert kept.take("caption", rows) == [samples[1]["caption"], "a pink thing"]
    assert kept.take_all("caption", rows) == [samples[1]["caption"], texts]
    assert isinstance(kept.take_all("caption", rows)[1], Choices)
    assert kept.take_all("depth", rows) is not None and "depth" not in kept.references


def test_samples_may_lack_modalities_and_facts(tmp_path):
    samples = [make_sample(number) for number in (0, 1, 2, 3)]
    del samples[1]["caption"], samples[0]["depth"], samples[2]["metadata"]
    kept = SampleSet.collect(samples, MODALITIES)
    kept.save(tmp_path / "s")
    kept = SampleSet.load(tmp_path / "s")
    assert kept.rows(["caption"]).tolist() == [0, 2, 3]
    assert kept.rows(["caption", "depth"]).tolist() == [2, 3]
    assert kept.take("caption", np.array([2, 3])) == ["a green thing", "a pink thing"]
    assert kept.take("depth", np.array([1, 3]))[:, 0, 0].tolist() == [2.0, 4.0]
    assert kept.metadata["number"].index.tolist() == [0, 1, 3]
    assert kept.labels("number", np.array([1, 3])).tolist() == [1, 3]


def test_pictures_without_boxes_and_numbers_are_kept(tmp_path):
    none = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    one = make_sample(1)["boxes"]
    samples = [{"boxes": none, "x": 0.5}, {"boxes": one, "x": 1.5}, {"boxes": none, "x": 2.5}]
    SampleSet.collect(samples, ["boxes", "x", "rgb"]).save(tmp_path / "s")
    loaded = SampleSet.load(tmp_path / "s")
    boxes = loaded.take("boxes", np.arange(3))
    assert [len(each.classes) for each in boxes] == [0, 1, 0]
    np.testing.assert_array_equal(boxes[1].corners, one.corners)
    assert loaded.take("x", np.array([0, 2])).tolist() == [0.5, 2.5]
    assert loaded.rows(["rgb"]).tolist() == []


def test_points_and_outlines_are_kept(tmp_path):
    lists = [
        Instances.of([], []),
        Instances.of([[(0.1, np.nan)], [(0.2, 0.3), (0.4, 0.5)]], [3, 1]),
        Instances.of([[(0.6, 0.7)]], [0]),
    ]
    SampleSet.collect([{"parts": each} for each in lists], ["parts"]).save(tmp_path / "set")
    loaded = SampleSet.load(tmp_path / "set").take("parts", np.arange(3))
    for found, given in zip(loaded, lists, strict=True):
        for one, other in zip(found, given, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_unknown_modality_is_one_sentence():
    with pytest.raises(ValueError, match=r"modality 'heat' were kept; there are rgb, depth"):
        make_set(2).rows(["heat"])


def test_an_unknown_split_names_those_that_there_are(tmp_path):
    save_heldout(tmp_path, "test", make_set(2))
    save_heldout(tmp_path, "train_reference", make_set(2))
    assert load_heldout(tmp_path, "test").size == 2
    with pytest.raises(ValueError, match=r"no samples of a split 'tset'; it has test\.$"):
        load_heldout(tmp_path, "tset")


def test_pictures_of_different_sizes_are_refused():
    samples = [{"rgb": np.zeros((4, 4, 3), np.uint8)}, {"rgb": np.zeros((4, 5, 3), np.uint8)}]
    with pytest.raises(ValueError, match=r"rgb have different shapes.*crop them to one size"):
        SampleSet.collect(samples, ["rgb"])


@pytest.mark.parametrize("width", [(), (3,)])
def test_sequences_of_different_lengths_survive_the_disk(tmp_path, width):
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 9, (length, *width)) for length in (4, 1, 6)]
    samples = [{"ids": values[0]}, {}, {"ids": values[1]}, {"ids": values[2]}]
    SampleSet.collect(samples, ["ids"]).save(tmp_path / "set")
    loaded = SampleSet.load(tmp_path / "set")
    assert loaded.rows(["ids"]).tolist() == [0, 2, 3]
    for found, value in zip(
        loaded.take("ids", np.array([0, 3])), (values[0], values[2]), strict=True
    ):
        np.testing.assert_array_equal(found, value)


def test_a_few_samples_lie_spread_over_all_and_no_modality_is_missing():
    samples = [{"rgb": np.zeros((2, 2, 3), np.uint8)} for _ in range(100)]
    for number in (41, 43, 45):
        samples[number]["caption"] = "a thing"
    kept = SampleSet.collect(samples, ("rgb", "caption"))
    assert kept.spread_rows(10, 2).tolist() == [0, 10, 20, 30, 40, 41, 43, 50, 60, 70, 80, 90]
    assert {41, 43, 45} <= set(kept.spread_rows(10, 50).tolist())
    everywhere = SampleSet.collect([{"rgb": 0.0, "caption": "a"}] * 100, ("rgb", "caption"))
    assert everywhere.spread_rows(10, 10).tolist() == list(range(0, 100, 10))


@pytest.mark.parametrize("content", ["{}", "[]", '"x"', "null", "3", "{"])
def test_a_description_that_is_none_is_one_sentence(tmp_path, content):
    save_heldout(tmp_path, "test", make_set(2))
    (tmp_path / "heldout" / "test" / "description.json").write_text(content)
    with pytest.raises(ValueError, match=r"Damaged folder .*heldout/test: description\.json"):
        load_heldout(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 10**12}, "its size is 1000000000000, which must be 0 to 10000000"),
        ({"size": 4}, "it has 4 samples, and values of rgb beyond them"),
        ({"size": "7"}, "its size is '7'"),
        ({"size": True}, "its size is True"),
        ({"size": None}, "its size is None"),
        ({"modalities": "rgb"}, "TypeError"),
        ({"modalities": None}, "TypeError"),
        ({"modalities": [{"name": "rgb"}]}, "KeyError: 'kind'"),
        ({"modalities": [{"name": "rgb", "kind": "text"}]}, "can't be used"),
        ({"modalities": [{"name": "rgb", "kind": "sound"}]}, "of a newer version"),
    ],
)
def test_a_description_that_does_not_fit_is_one_sentence_with_the_folder(tmp_path, change, reason):
    save_heldout(tmp_path, "test", make_set(7))
    file = tmp_path / "heldout" / "test" / "description.json"
    record = json.loads(file.read_text())
    record["description"] |= change
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"The samples in .*heldout/test can't be used") as error:
        load_heldout(tmp_path, "test")
    assert reason in str(error.value)


def test_samples_of_another_run_are_refused_once_they_are_known(tmp_path):
    for run, seed in (("ours", 0), ("theirs", 1)):
        save_heldout(tmp_path / run, "test", make_set(7, seed))
    load_heldout(tmp_path / "ours", "test")  # They get their entry.
    shutil.rmtree(tmp_path / "ours" / "heldout")
    shutil.copytree(tmp_path / "theirs" / "heldout", tmp_path / "ours" / "heldout")
    with pytest.raises(ValueError, match=r"ours/heldout/test is not .* belongs to another run"):
        load_heldout(tmp_path / "ours", "test")

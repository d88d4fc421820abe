import dataclasses

import numpy as np
import pytest

from fourm.evaluation.probes import ProbeConfig, format_probes, probe, why_not_probed
from fourm.run_directory.sample_set import Column, SampleSet
from tests.fourm.fakes import MODALITIES, FakeModel, make_sample, make_set

CONFIG = ProbeConfig(tasks=("number", "is_pink", "word"))


def run(config=CONFIG, training=None, heldout=None):
    training, heldout = training or make_set(200), heldout or make_set(80, seed=1)
    return probe(FakeModel(), FakeModel("constant"), training, heldout, config)


def test_separable_features_beat_chance_and_features_of_noise():
    rows, notes = run()
    assert notes == []
    assert [row["task"] for row in rows] == ["number", "is_pink", "word"]
    for row in rows:
        assert row["metric"] == "accuracy"
        assert row["value"] > 0.95 > row["chance"]
        assert row["untrained"] < row["chance"] + 0.15
        assert row["raw_pixels"] > 0.95 and row["token_histogram"] > 0.95


def test_rows_have_the_fields_of_the_report():
    for row in run()[0]:
        assert {"task", "value", "raw_pixels", "untrained"} <= set(row)
        assert set(row) == {
            "task", "metric", "value", "raw_pixels", "untrained", "token_histogram", "chance",
            "inverse_regularization", "interval", "knn", "knn_k",
        }  # fmt: skip
        others = set(row) - {"task", "metric", "interval", "knn_k"}
        assert all(isinstance(row[name], float) for name in others)
        low, high = row["interval"]
        assert low <= row["value"] <= high


def test_the_tasks_that_are_named_are_read_by_an_attentive_probe_too():
    rows, notes = run(dataclasses.replace(CONFIG, attentive=("word", "age")))
    assert notes == [] and [("attentive" in row) for row in rows] == [False, False, True]
    assert rows[2]["attentive"] > 0.85 and rows[2]["attentive_interval"][0] > 0.75
    assert rows[2]["knn"] > 0.85
    assert f"{rows[2]['attentive']:.3f}" in format_probes(rows)


def test_chance_is_the_share_of_the_commonest_training_label():
    samples = [make_sample(number) for number in (3, 3, 3, 0, 1) * 8]
    training = SampleSet.collect(samples, MODALITIES)
    heldout = SampleSet.collect([make_sample(n) for n in (3, 0, 0, 0)], MODALITIES)
    rows, _ = run(ProbeConfig(tasks=("number",)), training, heldout)
    assert rows[0]["chance"] == 0.25


@pytest.mark.slow
def test_probing_twice_gives_the_same_numbers():
    assert run() == run()


def test_a_constant_label_is_left_out_with_a_note():
    training = SampleSet.collect([make_sample(number % 3) for number in range(30)], MODALITIES)
    rows, notes = run(training=training)
    assert [row["task"] for row in rows] == ["number", "word"]
    assert notes == [
        "The probe of is_pink could not be measured: its label is the same in all training samples."
    ]


def test_samples_without_the_input_or_the_fact_are_left_out():
    samples = [make_sample(number % 4) for number in range(240)]
    for sample in samples[:10]:
        del sample["rgb"]
    for sample in samples[10:20]:
        sample["metadata"] = {"word": sample["metadata"]["word"]}
    some = SampleSet.collect(samples, MODALITIES)
    rows, _ = run(training=some, heldout=some)
    assert all(row["value"] > 0.95 for row in rows)


def test_a_fact_that_is_none_of_several_classes_is_said_and_the_others_are_probed():
    samples = [make_sample(number % 4) for number in range(120)]
    for number, sample in enumerate(samples):
        sample["metadata"]["height"] = 0.1 + number
        sample["metadata"]["place"] = np.array([1.0, 2.0])
        sample["metadata"]["count"] = float(number % 4)  # whole numbers are classes
    some = SampleSet.collect(samples, MODALITIES)
    tasks = ("age", "height", "place", "count", "word")
    rows, notes = run(ProbeConfig(tasks=tasks), some, some)
    assert [row["task"] for row in rows] == ["count", "word"]
    assert "probe of age could not be measured: the data's metadata has number" in notes[0]
    assert "probe of height could not be measured: it is a number, such as 0.1" in notes[1]
    assert "array of shape (2,)" in notes[2] and len(notes) == 3
    assert [each.split()[2] for each in why_not_probed(some, tasks)] == [
        "'age'",
        "'height'",
        "'place'",
    ]


@pytest.mark.parametrize("name", ["caption", "boxes"])
def test_inputs_that_are_no_pictures_are_probed_without_the_rival_on_pixels(name):
    rows, notes = run(ProbeConfig(input=name, tasks=("number",)))
    assert rows[0]["value"] > 0.95 and rows[0]["raw_pixels"] is None
    assert len(notes) == 1 and "Of the probes, raw_pixels could not be measured" in notes[0]
    assert "-" in format_probes(rows)


def test_samples_that_lie_by_class_are_probed_in_all_classes():
    numbers = np.repeat(np.arange(4), 50)
    by_class = SampleSet.collect([make_sample(int(number)) for number in numbers], MODALITIES)
    rows, _ = run(ProbeConfig(tasks=("number",), num_train=40, num_test=8), by_class, by_class)
    assert rows[0]["chance"] == 0.25 and rows[0]["value"] == 1.0


def test_without_a_sample_of_the_input_the_probes_are_left_out_with_a_note():
    none = make_set(8)
    none = dataclasses.replace(none, columns={**none.columns, "rgb": Column(np.zeros(0, int), [])})
    rows, notes = run(ProbeConfig(tasks=("number",)), heldout=none)
    assert rows == [] and "no held-out sample that was kept has rgb" in notes[0]


def test_without_tasks_there_are_no_probes():
    assert run(ProbeConfig()) == ([], [])

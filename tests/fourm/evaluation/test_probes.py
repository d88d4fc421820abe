import dataclasses
import math

import numpy as np
import pytest

from fourm.evaluation.probes import (
    LEAST_C,
    MOST_C,
    ProbeConfig,
    best_inside,
    format_probes,
    probe,
    raw_features,
    token_histogram,
    why_not_probed,
)
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
            "inverse_regularization",
        }  # fmt: skip
        assert all(isinstance(row[name], float) for name in set(row) - {"task", "metric"})


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


@pytest.mark.parametrize("best", [1e-5, 0.01, 1.0, 1e4])
def test_the_grid_grows_until_its_best_lies_inside(best):
    tried = []

    def score(c):
        tried.append(c)
        return -abs(math.log10(c / best))

    assert best_inside([0.001, 0.01, 0.1], score) == pytest.approx(best)
    assert len(tried) == len(set(tried))
    assert min(tried) >= LEAST_C * 0.99 and max(tried) <= MOST_C * 1.01


def test_the_grid_does_not_grow_where_candidates_are_equally_good():
    tried = []
    assert best_inside([0.001, 0.01, 0.1], lambda c: tried.append(c) or 1.0) == 0.01
    assert len(tried) == 3


def test_without_tasks_there_are_no_probes():
    assert run(ProbeConfig()) == ([], [])


def test_pictures_are_averaged_down_whatever_their_size():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    small = raw_features(pictures).reshape(2, 16, 16, 3)
    np.testing.assert_allclose(small[1, 2, 3], pictures[1, 4:6, 9:12].mean((0, 1)), rtol=1e-5)
    assert raw_features(pictures[:, :30, :17]).shape == (2, 16 * 16 * 3)
    assert raw_features(pictures[:, :8, :8]).shape == (2, 8 * 8 * 3)
    np.testing.assert_array_equal(raw_features([1.5, 2.0]), [[1.5], [2.0]])


def test_histograms_count_ids_and_leave_out_padding():
    ids = np.array([[0, 2, 2, -1], [1, -1, -1, -1]])
    np.testing.assert_array_equal(token_histogram(ids, 3), [[1, 0, 2], [0, 1, 0]])

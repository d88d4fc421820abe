import numpy as np
import pytest

from fourm.probing import ProbeConfig, probe, raw_features, token_histogram
from fourm.sample_set import SampleSet
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
            "task", "metric", "value", "raw_pixels", "untrained", "token_histogram", "chance"
        }  # fmt: skip
        assert all(isinstance(row[name], float) for name in set(row) - {"task", "metric"})


def test_chance_is_the_share_of_the_commonest_training_label():
    samples = [make_sample(number) for number in (3, 3, 3, 0, 1) * 8]
    training = SampleSet.collect(samples, MODALITIES)
    heldout = SampleSet.collect([make_sample(n) for n in (3, 0, 0, 0)], MODALITIES)
    rows, _ = run(ProbeConfig(tasks=("number",)), training, heldout)
    assert rows[0]["chance"] == 0.25


def test_probing_twice_gives_the_same_numbers():
    assert run() == run()


def test_a_constant_label_is_left_out_with_a_note():
    training = SampleSet.collect([make_sample(number % 3) for number in range(30)], MODALITIES)
    rows, notes = run(training=training)
    assert [row["task"] for row in rows] == ["number", "word"]
    assert notes == ["is_pink was not probed: its label is the same in all samples."]


def test_samples_without_the_input_or_the_fact_are_left_out():
    samples = [make_sample(number % 4) for number in range(240)]
    for sample in samples[:10]:
        del sample["rgb"]
    for sample in samples[10:20]:
        sample["metadata"] = {"word": sample["metadata"]["word"]}
    some = SampleSet.collect(samples, MODALITIES)
    rows, _ = run(training=some, heldout=some)
    assert all(row["value"] > 0.95 for row in rows)


def test_an_unknown_task_is_one_sentence():
    with pytest.raises(ValueError, match="no fact 'age' to probe; the data's metadata has number"):
        run(ProbeConfig(tasks=("age",)))


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

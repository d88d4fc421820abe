"""All probes of a label, on a model that nobody trained: its features still tell what is shown."""

import dataclasses

import numpy as np
import pytest

from fourm.evaluation.probes import untrained_like
from fourm.evaluation.probing.heads import HeadConfig
from fourm.evaluation.probing.material import StudyConfig
from fourm.evaluation.probing.study import format_study, study
from fourm.run_directory.sample_set import SampleSet
from tests.fourm.tiny_run import SIDE, make_run

CONFIG = StudyConfig(
    label="place",
    shares=(0.5, 1.0),
    folds=2,
    weight_decays=(0.1,),
    head=HeadConfig(queries=2, epochs=2, batch_size=16),
)


@pytest.fixture(scope="module")
def run():
    return make_run()


def make_set(count: int, seed: int) -> SampleSet:
    """One of the four corners of a picture is bright, and near."""
    rng = np.random.default_rng(seed)
    samples = []
    for place in rng.integers(0, 4, count):
        is_there = np.zeros((SIDE, SIDE), bool)
        down, across = divmod(int(place), 2)
        is_there[4 * down : 4 * down + 4, 4 * across : 4 * across + 4] = True
        pixels = np.where(is_there[..., None], 230, 10) + rng.integers(0, 10, (SIDE, SIDE, 3))
        depth = np.where(is_there, 1.0, 5.0).astype(np.float32)
        facts = {"place": int(place), "height": float(place) + 0.5}
        samples.append({"rgb": pixels.astype(np.uint8), "depth": depth, "metadata": facts})
    return SampleSet.collect(samples, ["rgb", "depth"])


def measure(run, **changes):
    values = {name: each.values for name, each in run.tokenizers.items()}
    sets = make_set(48, 0), make_set(24, 1)
    return study(run, untrained_like(run), *sets, values, dataclasses.replace(CONFIG, **changes))


@pytest.mark.slow
def test_a_class_is_read_by_all_probes_and_rivals(run):
    rows, notes = measure(run)
    assert notes == []
    probes = {(row["probe"], row["features"]) for row in rows}
    linear = ("encoder", "best_layer", "raw_pixels", "untrained", "token_histogram", "tokenizer")
    assert probes == {
        *(("linear", name) for name in linear),
        ("attentive", "encoder"),
        ("neighbours", "encoder"),
    }
    by_name = {(row["probe"], row["features"], row["share"]): row for row in rows}
    assert by_name["linear", "raw_pixels", 1.0]["value"] == 1.0
    assert by_name["linear", "encoder", 1.0]["value"] > by_name["linear", "encoder", 1.0]["floor"]
    assert by_name["linear", "best_layer", 1.0]["chosen"]["layer"] in (0, 1)
    assert by_name["neighbours", "encoder", 0.5]["num_train"] == 24
    for row in rows:
        low, high = row["interval"]
        assert low <= row["value"] <= high and row["metric"] == "accuracy"
    lines = format_study(rows).splitlines()
    assert len(lines) == len(probes) + 2 and "50% of labels" in lines[0]
    assert measure(run, rivals=False)[0] == [row for row in rows if row["features"] == "encoder"]


@pytest.mark.slow
def test_numbers_and_maps_are_read_too(run):
    rows, notes = measure(run, label="height", rivals=False, shares=(1.0,))
    assert notes == [] and {row["metric"] for row in rows} == {"r2"}
    head = HeadConfig(epochs=60, batch_size=16, learning_rate=0.05)
    rows, notes = measure(run, label="depth", shares=(1.0,), head=head)
    assert notes == [] and {row["metric"] for row in rows} == {"abs_rel"}
    by_features = {row["features"]: row["value"] for row in rows}
    assert set(by_features) == {"encoder", "best_layer", "raw_pixels", "untrained", "tokenizer"}
    assert by_features["raw_pixels"] < rows[0]["floor"] / 2


def test_what_cant_be_probed_is_said(run):
    with pytest.raises(ValueError, match="rgb is both the label and an input"):
        measure(run, label="rgb")
    with pytest.raises(ValueError, match="shares is"):
        measure(run, shares=(0.0,))

import json
import re
import shutil

import pytest

from fourm.evaluate import configs_of_run, main
from fourm.evaluation.config import EvaluationConfig, RegionConfig
from fourm.evaluation.probes import ProbeConfig
from fourm.run_directory.sample_set import TRAINING, save_heldout
from tests.fourm.fakes import FakeModel, make_set

CONFIG = {
    "evaluation": {
        "class": "EvaluationConfig",
        "pairs": ["rgb->depth", "caption->rgb->caption"],
        "num_samples": 9,
    },
    "probes": {"class": "ProbeConfig", "tasks": ["number"]},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory with held-out samples, whose model is a fake."""
    save_heldout(tmp_path, "test", make_set(12, seed=1))
    save_heldout(tmp_path, TRAINING, make_set(40))
    model = FakeModel()
    model.config = CONFIG

    def load(folder, use="last"):
        if not folder.exists():
            raise ValueError(f"There is no run in {folder}.")
        return model

    monkeypatch.setattr("fourm.evaluate.load", load)
    monkeypatch.setattr("fourm.evaluate.untrained_like", lambda model: FakeModel("constant"))
    return tmp_path


@pytest.mark.slow
def test_a_run_is_scored_as_its_configuration_says(run, capsys):
    assert main([str(run)]) == 0
    written = json.loads((run / "evaluation_test.json").read_text())
    assert written["split"] == "test" and written["config"]["num_samples"] == 9
    metrics = [(row["inputs"], row["target"], row["metric"]) for row in written["results"]]
    assert (["rgb"], "depth", "abs_rel") in metrics
    assert (["caption"], "rgb", "readback_f1_color") in metrics
    assert written["probes"][0]["value"] > written["probes"][0]["untrained"]
    printed = capsys.readouterr().out
    assert (
        "rgb -> depth" in printed
        and "token_histogram" in printed
        and "evaluation_test.json" in printed
    )


def test_the_command_line_overrides_the_configuration(run):
    arguments = [str(run), "--pairs", "depth->semseg", "--num-samples", "3", "--seed", "5"]
    assert main([*arguments, "--matrix", "--no-probes"]) == 0
    written = json.loads((run / "evaluation_test.json").read_text())
    assert {row["target"] for row in written["results"]} == {"semseg"}
    assert written["config"]["num_samples"] == 3 and written["config"]["seed"] == 5
    assert len(written["matrix"]) == 25 and "probes" not in written
    assert (run / "matrix_test.md").exists() and (run / "matrix_test.png").exists()


def test_scoring_twice_writes_the_same_bytes(run):
    main([str(run)])
    first = (run / "evaluation_test.json").read_bytes()
    main([str(run)])
    assert (run / "evaluation_test.json").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "tset"], r"no samples of a split 'tset'; it has test\."),
        (["--pairs", "rgb"], "'rgb' is not a direction"),
        (["--pairs", "rgb->heat"], "no modality 'heat' in this run"),
        (["--num-samples", "0"], "--num-samples is 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, capsys, arguments, message):
    assert main([str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("error: ")
    assert error.count("\n") == 1
    assert main([str(run / "absent")]) == 2


def test_a_runs_configuration_is_read_back_from_json():
    stored = {
        "evaluation": {
            "class": "EvaluationConfig",
            "pairs": ["rgb->depth"],
            "num_samples": 5,
            "region": {"class": "RegionConfig", "modality": "semseg", "classes": ["a"]},
        },
        "probes": {"class": "ProbeConfig", "tasks": ["x"], "inverse_regularization": [0.5]},
    }
    evaluation, probes = configs_of_run(stored)
    assert evaluation.pairs == ("rgb->depth",) and evaluation.num_samples == 5
    assert evaluation.region == RegionConfig("semseg", ("a",))
    assert probes == ProbeConfig(tasks=("x",), inverse_regularization=(0.5,))
    # Runs of versions without simple methods are measured without them.
    assert configs_of_run({}) == (EvaluationConfig(rivals=False), ProbeConfig())
    with pytest.raises(ValueError, match="EvaluationConfig has no knob 'colour' in this version"):
        configs_of_run({"evaluation": {"colour": 1}})


def test_help_explains_every_knob(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    for sentence in (
        "Run directory.",
        "Which of the run's held-out samples.",
        "Seed of generation",
    ):
        assert sentence in printed


def test_a_matrix_is_compared_with_that_of_another_run_of_the_same_samples(run, capsys):
    other = run.parent / "other"
    shutil.copytree(run, other)
    cells = ["--no-probes", "--pairs", "rgb->depth", "--cells.no-all-others"]
    assert main([str(run), "--matrix", "--compare", str(other), *cells]) == 2
    assert "--matrix writes it" in capsys.readouterr().err
    assert main([str(other), "--matrix", *cells]) == 0
    assert main([str(run), "--matrix", "--compare", str(other), *cells]) == 0
    compared = json.loads((run / "evaluation_test.json").read_text())["compared"]
    assert len(compared) == 20 and {row["winner"] for row in compared} == {0}
    assert "difference, 95 %" in capsys.readouterr().out
    assert main([str(other), "--matrix", "--matrix-samples", "3", *cells]) == 0
    assert main([str(run), "--compare", str(other), *cells]) == 2
    assert "differ in their num_samples" in capsys.readouterr().err


def test_the_spread_of_draws_is_measured_on_demand(run, monkeypatch, capsys):
    asked = []

    def measure(evaluator, pairs, config):
        asked.append((len(pairs), config.num_draws))
        numbers = dict.fromkeys(("rank_correlation", "of_samples", "within_samples", "ratio"), 0.5)
        bins = [{"spread": 1.0, "error": 2.0}]
        row = {"inputs": ["rgb"], "target": "depth", "draws": 4, "interval": None, "bins": bins}
        return [row | numbers]

    monkeypatch.setattr("fourm.evaluate.measure_calibration", measure)
    arguments = ["--no-probes", "--num-samples", "3", "--calibration", "--draws.num-draws", "4"]
    assert main([str(run), *arguments]) == 0
    assert asked == [(2, 4)] and (run / "calibration_test.png").exists()
    written = json.loads((run / "evaluation_test.json").read_text())
    assert written["calibration"][0]["rank_correlation"] == 0.5
    assert "rank correlation" in capsys.readouterr().out
    assert main([str(run), *arguments[:-1], "1"]) == 2
    assert "num-draws is 1; it must be at least 2" in capsys.readouterr().err

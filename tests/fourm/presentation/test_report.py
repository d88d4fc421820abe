import dataclasses
import json
import math
import re

import jax
import numpy as np

from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.probes import ProbeConfig, probe
from fourm.evaluation.results import (
    beats_floor,
    format_table,
    share_of_way,
    write_json,
)
from fourm.presentation.report import Report, format_report, say_overfitted, write_report
from tests.fourm.fakes import FakeModel, make_set

ROW = {
    "inputs": ["rgb"],
    "target": "depth",
    "metric": "abs_rel",
    "better": "lower",
    "floor": 0.4,
    "value": 0.2,
    "ceiling": 0.1,
}


def make_report() -> Report:
    model, training, heldout = FakeModel(), make_set(60), make_set(20, seed=1)
    config = EvaluationConfig(pairs=("rgb->depth", "rgb->caption", "caption->rgb->caption"))
    evaluator = Evaluator(model, heldout, training, config)
    probes, notes = probe(
        model, FakeModel("constant"), training, heldout, ProbeConfig(tasks=("number",))
    )
    return Report(
        seconds={"tokenizer rgb": 61.5, "model": 4000.0, "evaluation": 3.0},
        tokenizers=evaluator.tokenizers(),
        results=evaluator.evaluate(),
        probes=probes,
        device="cpu (4 cores)",
        config={"seed": np.int64(3), "evaluation": dataclasses.asdict(config)},
        command="python train.py scenes",
        split="test",
        num_samples=20,
        notes=notes,
    )


def test_report_json_has_the_agreed_schema(tmp_path):
    write_report(tmp_path, make_report())
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(content) == {"seconds", "tokenizers", "results", "probes", "device", "config"}
    assert content["seconds"]["model"] == 4000.0
    for entry in content["tokenizers"].values():
        assert {"metric", "value", "floor", "codebook_usage"} <= set(entry)
        assert 0 < entry["codebook_usage"] <= 1
    assert content["results"]
    for row in content["results"]:
        assert set(row) - {"simple", "method"} == set(ROW)
        assert row["better"] in ("lower", "higher")
        assert isinstance(row["inputs"], list) and isinstance(row["target"], str)
    for row in content["probes"]:
        assert {"task", "value", "raw_pixels", "untrained"} <= set(row)
    assert isinstance(content["device"], str)
    assert content["config"]["seed"] == 3
    assert content["config"]["evaluation"]["pairs"][0] == "rgb->depth"


def test_numbers_that_could_not_be_measured_are_null_and_a_dash(tmp_path):
    missing = ROW | {"value": math.nan, "ceiling": math.inf}
    write_report(tmp_path, dataclasses.replace(make_report(), results=[missing]))
    row = json.loads((tmp_path / "report.json").read_text())["results"][0]
    assert row["value"] is None and row["ceiling"] is None and row["floor"] == 0.4
    assert "| 0.400 | **-** | - | - |" in (tmp_path / "report.md").read_text()


def test_report_md_tells_results_probes_times_and_how_to_get_them(tmp_path):
    (tmp_path / "samples.png").write_bytes(b"")
    report = dataclasses.replace(
        make_report(), results=[ROW], notes=["age was left out."], other_splits={"unseen": [ROW]}
    )
    write_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    assert "| rgb → depth | abs_rel ↓ | 0.400 | **0.200** | 0.100 | 67% |" in text
    assert "Trained in 1 h 7 min on cpu (4 cores). In 1 of 1 directions" in text
    assert "](samples.png)" in text and "](curves.png)" not in text
    assert "| tokenizer rgb | 1 min 2 s |" in text
    assert "| number | **" in text
    assert "### On unseen" in text and "- age was left out." in text
    assert "python train.py scenes" in text and "python -m fourm.evaluate" in text
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["other_splits"] == {"unseen": [ROW]}


def test_every_table_of_the_report_has_rows_of_equal_length(tmp_path):
    text = format_report(tmp_path, make_report())
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_reports_replace_each_other_and_leave_nothing_else(tmp_path):
    write_report(tmp_path, make_report())
    write_report(tmp_path, dataclasses.replace(make_report(), device="gpu"))
    assert json.loads((tmp_path / "report.json").read_text())["device"] == "gpu"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_a_run_without_results_or_probes_still_has_a_report(tmp_path):
    report = dataclasses.replace(make_report(), results=[], probes=[], tokenizers={}, seconds={})
    write_report(tmp_path, report)
    assert "Trained in 0.0 s" in (tmp_path / "report.md").read_text()


def test_a_run_without_data_says_so_in_place_of_empty_tables(tmp_path):
    text = format_report(tmp_path / "mine", Report(seconds={"model": 2.0}, config={}))
    assert "without data to evaluate it on" in text
    assert f"python train.py {tmp_path / 'mine'} files --data.path PATH" in text
    for word in ("held-out samples", "Tokenizers", "fourm.evaluate", "floor"):
        assert word not in text


def test_the_share_runs_from_floor_to_ceiling_in_either_direction():
    assert share_of_way(ROW) == (0.2 - 0.4) / (0.1 - 0.4)
    assert share_of_way(ROW | {"value": 0.4}) == 0
    assert math.isnan(share_of_way(ROW | {"ceiling": 0.4}))
    assert math.isnan(share_of_way(ROW | {"value": None}))


def test_a_tokenizer_worse_than_a_constant_leaves_no_share(tmp_path):
    broken = ROW | {"value": 0.9, "ceiling": 0.8}
    assert math.isnan(share_of_way(broken)) and not beats_floor(broken)
    assert beats_floor(ROW) and not beats_floor(ROW | {"better": "higher"})
    text = format_report(tmp_path, dataclasses.replace(make_report(), results=[broken, ROW]))
    assert "In 0 of 1 directions" in text and "mean share" not in text


def test_tables_for_the_terminal_are_aligned():
    rows = [ROW, ROW | {"inputs": ["caption", "rgb"], "target": "semseg", "value": math.nan}]
    lines = format_table(rows).splitlines()
    assert lines[1].split() == ["rgb", "->", "depth", "abs_rel", "0.400", "0.200", "0.100", "67%"]
    assert "nan" not in lines[2] and lines[2].split().count("-") == 2


def test_the_device_is_named_by_default():
    report = Report(seconds={}, config={})
    if jax.default_backend() == "cpu":
        assert re.fullmatch(r"cpu, \d+ cores", report.device)
    else:
        assert jax.devices()[0].device_kind in report.device


def test_json_is_written_whatever_numpy_is_in_it(tmp_path):
    write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.arange(2), "c": (True, None)})
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": 0.5,
        "b": [0, 1],
        "c": [True, None],
    }


def test_a_held_out_loss_that_rose_is_said():
    def lines(*losses):
        measured = [
            {"stage": "model", "step": 250 * (number + 1), "heldout_loss": loss}
            for number, loss in enumerate(losses)
        ]
        others = [{"stage": "tokenizer/rgb", "step": 1, "heldout_loss": 0.1}]
        return [*others, {"stage": "model", "step": 10, "loss": 1.0}, *measured]

    assert say_overfitted(lines()) == "" == say_overfitted(lines(3.0))
    assert say_overfitted(lines(4.0, 3.5, 3.51)) == "" == say_overfitted(lines(4.0, math.nan))
    said = say_overfitted(lines(4.0, 3.5, 3.6))
    assert "lowest after 500 steps, 3.50, and is 3.60 at the end" in said

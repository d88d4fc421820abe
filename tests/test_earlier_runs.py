"""A run directory that an earlier version made is used, resumed and forked by this one.

`fixtures/earlier_run/run.tar.xz` was made by `python train.py config.py`, with the `config.py`
beside it, before knobs that came later. It has tokens, the checkpoint of step 6 of 12, and the
model; checkpoints of tokenizers and pictures were taken out. `expected.json` says what that version
made of it: generated ids, the metrics of a fork up to step 14, and held-out results.
"""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fourm
from configs.schema import RunConfig
from fourm.evaluate import Command, evaluate_run
from fourm.run_directory.run_log import read_metrics
from tests.paths import FIXTURES
from tokenizers.settings.plain import classes_of, up_to_date
from tokenizers.storage.folders import load_folder
from train import main

FIXTURE = FIXTURES / "earlier_run"
CONFIG = str(FIXTURE / "config.py")
EXPECTED = json.loads((FIXTURE / "expected.json").read_text())


@pytest.fixture
def run(tmp_path) -> Path:
    with tarfile.open(FIXTURE / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "earlier"


def metrics_of(run: Path) -> list[dict]:
    """Returns what was logged while the model trained, without the times."""
    lines = [line for line in read_metrics(run) if line["stage"] == "model"]
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


def assert_same_metrics(found: list[dict], expected: list[dict]) -> None:
    # Another kind of processor rounds differently.
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for ours, theirs in zip(found, expected, strict=True):
        numbers = {k: v for k, v in theirs.items() if isinstance(v, float)}
        assert {k: ours[k] for k in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)


def generate(run: Path) -> dict[str, list]:
    made = fourm.load(run).generate({}, ["rgb", "caption", "boxes"], num_samples=2, seed=1)
    return {name: ids.tolist() for name, ids in made.ids.items()}


@pytest.mark.slow
def test_it_generates_the_same_ids(run):
    assert generate(run) == EXPECTED["ids"]


@pytest.mark.slow
def test_its_results_are_the_same(run):
    """Metrics that came later stand beside them."""

    def key(row: dict[str, Any]) -> str:
        return str({k: v for k, v in row.items() if not isinstance(v, float)})

    found = {key(row): row for row in evaluate_run(Command(run, probes=False))["results"]}
    for theirs in EXPECTED["results"]:
        numbers = {k: v for k, v in theirs.items() if isinstance(v, float)}
        ours = found[key(theirs)]
        assert {k: ours[k] for k in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_the_same_command_resumes_it_with_the_tokens_that_it_has(run, capsys):
    resume(run, capsys)


def without_defaults(plain: Any, classes: dict[str, type]) -> Any:
    """Returns what a version would have written that did not know any knob with a default."""
    if isinstance(plain, list):
        return [without_defaults(entry, classes) for entry in plain]
    if not isinstance(plain, dict):
        return plain
    cls = classes.get(plain.get("class"))
    bare = up_to_date({"class": plain["class"]}, classes) if cls else {}
    return {
        name: without_defaults(value, classes)
        for name, value in plain.items()
        if name == "class" or name not in bare or bare[name] != value
    }


@pytest.mark.slow
def test_knobs_that_came_later_have_their_defaults(run, capsys):
    classes = classes_of(RunConfig)
    removed = 0
    for name in ("config.json", "report.json"):
        plain = json.loads((run / name).read_text())
        fewer = without_defaults(plain, classes)
        removed += len(json.dumps(plain)) - len(json.dumps(fewer))
        (run / name).write_text(json.dumps(fewer))
    assert removed > 4000
    index = json.loads((run / "tokens" / "index.json").read_text())
    assert index["made_from"]["data"].startswith("ScenesData(")
    (run / "pieces.json").unlink()  # Files were changed.
    assert_done(run)
    resume(run, capsys)


def resume(run: Path, capsys: pytest.CaptureFixture) -> None:
    """Resumes the run from its checkpoint and asserts that it ends as it did, on its tokens."""
    kept = metrics_of(run)
    weights = load_folder(run / "model")[1]
    for name in ("model", "report.json"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    stores = {file: file.stat().st_mtime_ns for file in run.glob("*tokens/*.array_record")}
    assert main([CONFIG, "--run-dir", str(run)]) == 0
    assert "computed again" not in capsys.readouterr().err
    assert len(stores) == 2
    assert {file: file.stat().st_mtime_ns for file in run.glob("*tokens/*.array_record")} == stores
    assert_same_metrics(metrics_of(run), kept)
    resumed = load_folder(run / "model")[1]
    for name, array in weights.items():
        np.testing.assert_allclose(resumed[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_same_command_finds_a_finished_run_done(run):
    assert_done(run)


def assert_done(run: Path) -> None:
    report = (run / "report.json").read_bytes()
    for name in ("report.md", "samples.png", "curves.png"):  # not in the fixture
        (run / name).touch()
    assert main([CONFIG, "--run-dir", str(run)]) == 0
    assert (run / "report.json").read_bytes() == report


@pytest.mark.slow
def test_it_can_be_forked(run):
    fork = run.with_name("fork")
    more = ["--fork", str(run), "--training.steps", "14"]
    assert main([CONFIG, "--run-dir", str(fork), *more]) == 0
    assert_same_metrics(metrics_of(fork), EXPECTED["fork"])
    for name in ("tokens", "heldout_tokens"):
        (store,) = (fork / name).glob("*.array_record")
        assert (run / name / store.name).read_bytes() == store.read_bytes()

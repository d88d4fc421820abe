"""One run from nothing to its report, then again, interrupted, and over other data."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fourm
from benchmarks.kill import kill_once
from data_pipeline.tokens.store import TokenStore
from fourm.training.masked_loss import masked_loss
from tests.paths import ROOT
from train import main

CONFIG = str(ROOT / "tests" / "fixtures" / "tiny_scenes.py")
SATELLITE = ROOT / "tests" / "fixtures" / "eo"
NYU = ROOT.parent / "shared" / "data" / "nyuv2"

ONE_LAYER = [
    *("--model.dim", "32", "--model.encoder-layers", "1", "--model.decoder-layers", "1"),
    *("--loss.tile", "1"),
]
"""The least to compile."""

# Tests of one group run in one process, which makes the run that they share once.
shares_run = pytest.mark.xdist_group("tiny run")


@pytest.fixture(scope="module")
def run(tiny_scenes_run) -> Path:
    return tiny_scenes_run


def report_of(folder: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def check_report(report: dict, modalities) -> None:
    """Checks a report against what programs may rely on."""
    required = {"seconds", "tokenizers", "results", "probes", "device", "config"}
    assert required <= set(report) <= required | {"other_splits", "data"}
    assert all(isinstance(s, float) and s >= 0 for s in report["seconds"].values())
    assert list(report["tokenizers"]) == list(modalities)
    for entry in report["tokenizers"].values():
        assert {"metric", "value", "floor", "codebook_usage"} <= set(entry)
        assert 0 < entry["codebook_usage"] <= 1
    assert report["results"]
    for rows in (report["results"], *report.get("other_splits", {}).values()):
        for row in rows:
            keys = {"inputs", "target", "metric", "better", "floor", "value", "ceiling"}
            assert set(row) - {"simple", "method"} == keys
            assert row["better"] in ("lower", "higher")
            assert row["target"] in modalities and set(row["inputs"]) <= set(modalities)
    for row in report["probes"]:
        assert {"task", "value", "raw_pixels", "untrained"} <= set(row)
        assert all(0 <= row[name] <= 1 for name in ("value", "raw_pixels", "untrained"))
    assert isinstance(report["device"], str) and report["device"]
    assert report["config"]["class"] == "RunConfig"


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """Returns every array of a saved model."""
    found = {}
    for file in sorted((folder / "model").rglob("*")):
        if file.suffix in (".npz", ".npy"):
            loaded = np.load(file, allow_pickle=False)
            named = loaded if file.suffix == ".npz" else {"": loaded}
            found |= {f"{file.name}/{name}": np.asarray(named[name]) for name in named}
    assert found
    return found


def tensors_of(folder: Path) -> list[np.ndarray]:
    return list(arrays_of(folder).values())


def losses_of(folder: Path) -> list[dict]:
    """Returns the lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("samples_per_second", "seconds", "time")
    return [{name: line[name] for name in line if name not in clock} for line in lines]


@shares_run
def test_a_run_reaches_its_report(run):
    report = report_of(run)
    check_report(report, ("rgb", "semseg", "caption", "boxes", "distance"))
    directions = {(*row["inputs"], row["target"]) for row in report["results"]}
    assert directions >= {("rgb", "semseg"), ("caption", "rgb"), ("rgb", "boxes")}
    metrics = {row["metric"] for row in report["results"]}
    assert "miou" in metrics and "psnr" in metrics
    assert any(name.startswith("readback_") for name in metrics)
    assert any(name.endswith("_objects") for name in metrics)
    assert [row["task"] for row in report["probes"]] == ["object_count"]
    assert list(report["other_splits"]) == ["test_unseen_pairs"]


@shares_run
def test_a_run_directory_has_everything_to_look_at(run):
    for name in ("samples.png", "curves.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 100
            assert len(set(picture.convert("L").resize((64, 64)).getdata())) > 4
    text = (run / "report.md").read_text()
    for word in ("samples.png", "curves.png", "floor", "ceiling", "object_count", "miou"):
        assert word in text
    lines = losses_of(run)
    model = [line for line in lines if line["stage"] == "model"]
    assert [line["step"] for line in model] == [2, 4, 6, 8, 10, 12]
    assert all(np.isfinite(line["loss"]) for line in lines)
    for name in ("rgb", "semseg", "caption", "boxes", "distance"):
        assert f"loss/{name}" in model[-1] and f"entropy/{name}" in model[-1]
    # All four held-out samples, in a batch with room for eight.
    heldout = {line["step"]: line for line in model if "heldout_loss" in line}
    assert list(heldout) == [6, 12]
    assert all(np.isfinite(line["heldout_loss"]) for line in heldout.values())
    assert {name for name in heldout[12] if name.startswith("heldout_loss/")} == {
        f"heldout_loss/{name}" for name in ("rgb", "semseg", "caption", "boxes", "distance")
    }
    assert TokenStore.open(run / "heldout_tokens").index.samples == 4
    assert {"tokenizer/rgb", "tokenizer/semseg"} <= {line["stage"] for line in lines}
    assert list(run.rglob("events.out.tfevents.*"))
    assert json.loads((run / "config.json").read_text())["training"]["steps"] == 12
    assert not [path for path in run.rglob("*") if "partial" in path.name]
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".pickle")]


@shares_run
def test_run_again_it_finds_everything_done(run, capsys):
    made = {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*")) if path.is_file()}
    assert main([CONFIG, "--run-dir", str(run)]) == 0
    assert str(run / "report.md") in capsys.readouterr().out
    again = {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*")) if path.is_file()}
    kept = {path for path in made if path.name != "config.json"}
    assert {path: again.get(path) for path in kept} == {path: made[path] for path in kept}
    assert set(again) == set(made)


@shares_run
def test_other_settings_are_refused_with_their_names_and_nothing_is_lost(run, capsys):
    before = (run / "config.json").read_bytes()
    changed = ("--model.dim", "64", "--training.optimizer.learning-rate", "0.5")
    assert main([CONFIG, "--run-dir", str(run), *changed]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("error: ")
    assert "model.dim" in told and "training.optimizer.learning_rate" in told
    assert f"--run-dir another folder, with --fork {run} to go on from there" in told
    assert "seed" not in told
    assert (run / "config.json").read_bytes() == before


@pytest.mark.slow
@shares_run
def test_what_is_measured_may_change_and_only_that_is_done_again(run, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(run, folder)
    model = (folder / "model").stat().st_mtime_ns
    changed = ("--evaluation.pairs", "semseg->distance", "--evaluation.num-samples", "3")
    changed += ("--evaluation.num-samples-elsewhere", "3")
    assert main([CONFIG, "--run-dir", str(folder), *changed]) == 0
    directions = {(*row["inputs"], row["target"]) for row in report_of(folder)["results"]}
    assert directions == {("semseg", "distance")}
    assert (folder / "model").stat().st_mtime_ns == model


def without_its_model(run: Path, folder: Path) -> Path:
    """Copies a run as it was before its model was trained."""
    later = ("model", "report.*", "*.png", "*.tfevents.*")
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(*later))
    lines = [line for line in losses_of(run) if line["stage"] != "model"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def assert_same_end(run: Path, resumed: Path) -> None:
    """Checks that two runs have the same model, to the bit, and measured the same."""
    expected, found = arrays_of(run), arrays_of(resumed)
    assert list(expected) == list(found)
    for name, array in expected.items():
        assert array.dtype == found[name].dtype
        assert array.tobytes() == found[name].tobytes(), name
    assert losses_of(resumed) == losses_of(run)
    assert report_of(resumed)["results"] == report_of(run)["results"]


@pytest.mark.slow
@shares_run
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(run, tmp_path):
    # benchmarks/kill.py does so more often.
    folder = without_its_model(run, tmp_path / "killed")
    arguments = [CONFIG, "--run-dir", str(folder)]
    often = [sys.executable, str(ROOT / "train.py"), *arguments, "--training.checkpoint-every", "1"]
    for moment in ("step", "save"):
        assert kill_once(often, folder, moment, random.Random(0))
    assert not (folder / "model").exists()
    assert main(arguments) == 0
    assert_same_end(run, folder)


@pytest.mark.slow
@shares_run
def test_two_tasks_of_slurm_train_together_what_one_process_trains(run, tmp_path):
    folder, source = tmp_path / "together", without_its_model(run, tmp_path / "source")
    command = [sys.executable, str(ROOT / "train.py"), CONFIG, "--run-dir", str(folder)]
    command += ["--fork", str(source)]  # made by one of them, read by both
    command += ["--mesh.fsdp", "4", "--evaluation.pairs", "rgb->distance", "--probes.tasks"]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    # What SLURM tells the tasks of a step of two on this machine; JAX takes the port from the job.
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}
    step["SLURM_JOB_ID"] = str(os.getpid())
    started = [
        subprocess.Popen(
            [*command, "--distributed"],
            env=dict(
                os.environ,
                **step,
                SLURM_PROCID=index,
                SLURM_LOCALID=index,
                JAX_PLATFORMS="cpu",
                XLA_FLAGS=flags,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in ("0", "1")
    ]
    try:
        (told, errors), (other, other_errors) = [each.communicate(timeout=600) for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0, 0], errors[-2000:] + other_errors[-2000:]
    # One process says what is done, and logs it.
    assert "evaluation ->" in told and "->" not in other
    assert "step/s" in errors and "step/s" not in other_errors
    together, alone = [losses_of(each) for each in (folder, run)]
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    for here, there in zip(together, alone, strict=True):
        for name in ("loss", "heldout_loss"):
            assert here.get(name) == pytest.approx(there.get(name), abs=1e-5)
    # What was saved by all is used by one.
    expected, found = arrays_of(run), arrays_of(folder)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-3)
    assert [path.name for path in sorted((folder / "checkpoints" / "model").iterdir())][-1] == "8"


@pytest.mark.slow
@shares_run
@pytest.mark.parametrize("stage", ["samples", "tokens", "model"])
def test_sigterm_exits_with_a_code_to_requeue_on_and_saves_a_step_that_is_under_way(
    run, tmp_path, capsys, monkeypatch, stage
):
    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    folder = without_its_model(run, tmp_path / "run")
    with monkeypatch.context() as patched:
        match stage:
            case "samples":
                patched.setattr("train.open_sources", terminate)
            case "tokens":
                patched.setattr("train.make_tokens", terminate)
            case "model":
                patched.setattr(
                    "fourm.training.masked_loss.masked_loss",
                    lambda *a: terminate() or masked_loss(*a),
                )
        assert main([CONFIG, "--run-dir", str(folder)]) == 75
    told = capsys.readouterr().err
    assert told.endswith("Terminated by SIGTERM; the same command resumes it.\n")
    assert not (folder / "model").exists()
    saved = [path.name for path in (folder / "checkpoints").glob("model/*")]
    assert saved == (["1"] if stage == "model" else [])


@pytest.mark.slow
@shares_run
def test_a_run_is_used_from_python(run):
    model = fourm.load(run)
    made = model.generate({"caption": ["a large red matt sphere"]}, ["rgb", "semseg"], seed=3)
    assert made.values["rgb"].shape == (1, 32, 32, 3) and made.values["rgb"].dtype == np.uint8
    assert made.values["semseg"].shape == (1, 32, 32)
    again = fourm.load(run).generate(
        {"caption": ["a large red matt sphere"]}, ["rgb", "semseg"], seed=3
    )
    assert (again.values["rgb"] == made.values["rgb"]).all()


def satellite_data(folder: Path) -> Path:
    """Copies the five satellite samples, of which one lacks radar and another land cover."""
    shutil.copytree(SATELLITE, folder)
    keys = sorted(path.stem for path in (folder / "val" / "S2RGB" / "all").iterdir())
    (folder / "val" / "S1RTC" / "all" / f"{keys[0]}.npy").unlink()
    (folder / "val" / "LULC" / "all" / f"{keys[3]}.png").unlink()
    return folder


@pytest.mark.slow
def test_the_satellite_example_runs_with_modalities_missing(tmp_path):
    data, folder = satellite_data(tmp_path / "eo"), tmp_path / "run"
    names = ("rgb", "bands", "radar", "elevation", "land_cover")
    small = [
        argument
        for name in names
        for knob, value in (("steps", "2"), ("width", "32"), ("codebook-size", "16"))
        for argument in (f"--modalities.{name.replace('_', '-')}.tokenizer.{knob}", value)
    ]
    arguments = [
        *(str(ROOT / "docs" / "satellite.py"), "--data.path", str(data), *small, *ONE_LAYER),
        *("--run-dir", str(folder), "--crops.views", "4", "--training.steps", "3"),
        *("--training.batch-size", "4", "--evaluation.pairs", "radar->bands", "bands->land_cover"),
    ]
    assert main(arguments) == 0
    report = report_of(folder)
    check_report(report, names)
    directions = {(*row["inputs"], row["target"]) for row in report["results"]}
    assert directions == {("radar", "bands"), ("bands", "land_cover")}


@pytest.mark.slow
@pytest.mark.skipif(not NYU.is_dir(), reason="the NYU Depth v2 shards are not here")
def test_nyuv2_runs_to_its_report(tmp_path):
    folder = tmp_path / "nyuv2"
    small = [
        argument
        for name in ("rgb", "depth", "normals", "semseg")
        for knob, value in (("steps", "2"), ("width", "32"), ("codebook-size", "32"))
        for argument in (f"--modalities.{name}.tokenizer.{knob}", value)
    ]
    arguments = [
        *("nyuv2", "--data.path", str(NYU), "--run-dir", str(folder), *small, *ONE_LAYER),
        *("--crops.size", "32", "--crops.views", "1", "--tokenizer-samples", "16"),
        *("--probes.num-train", "16", "--probes.num-test", "16", "--training.steps", "2"),
        *("--evaluation.num-samples", "4", "--evaluation.pairs", "rgb->depth", "rgb->boxes"),
        *("--training.evaluate-every", "0"),
    ]
    assert main(arguments) == 0
    check_report(report_of(folder), ("rgb", "depth", "normals", "semseg", "caption", "boxes"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["scene"], "did you mean scenes?"),
        (["missing.py"], "no configuration file missing.py"),
        (["nyuv2"], "--data.path"),
        (["nyuv2", "--data.path", "no/such/folder"], "no/such/folder"),
        (["--training.batch-size", "-1"], "--training.batch-size is -1"),
        (["--evaluation.pairs", "rgb->dept"], "dept"),
        (["--probes.input", "rbg"], "rbg"),
        (["--probes.tasks", "object_cuont", "--tokenizer-samples", "8"], "object_cuont"),
        (["--data.num-train", "0"], "no samples"),
        (["--modalities.rgb.tokenizer.patch-size", "10"], "patch-size is 10"),
        (["--start-from", "nowhere"], "--start-from is 'nowhere', which has no model"),
        (["--loss.tile", "-3"], "--loss.tile is -3"),
        (["--loss.weights.caption", "-1"], "--loss.weights.caption is -1.0"),
        (["--masking.components.0.weight", "nan"], "--masking.components.0.weight is nan"),
        (["--crops.size", "100"], "does not divide --crops.size, 100"),
        (["--seed", str(2**63)], "--seed is 9223372036854775808; it must be 0 to"),
        (["--use", "best"], "--use best says where a fork begins; add --fork RUN"),
        (["--model.num-heads", "0"], "--model.num-heads is 0; it must be 1 to 4096"),
        (["--model.encoder-layers", "1000000000"], "--model.encoder-layers is 1000000000; it must"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(arguments, reason, tmp_path, capsys):
    folder = tmp_path / "run"
    gc.collect()  # Else what earlier tests left may warn meanwhile.
    capsys.readouterr()
    assert main([*arguments, "--run-dir", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and reason in told
    assert told.count("\n") == 1
    assert not folder.exists() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["not json", "[]", ""])
def test_a_run_directory_that_is_none_is_one_sentence(content, tmp_path, capsys):
    (tmp_path / "config.json").write_text(content)
    assert main(["--run-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path}") and told.count("\n") == 1


def test_a_first_attempt_without_its_data_does_not_bind_the_next(tmp_path, capsys):
    folder = tmp_path / "run"
    wrong = ("--data.path", str(tmp_path / "nowhere"))
    satellite = str(ROOT / "docs" / "satellite.py")
    assert main([satellite, "--run-dir", str(folder), *wrong]) == 2
    data = shutil.copytree(SATELLITE, tmp_path / "eo")
    (damaged,) = (data / "val" / "LULC" / "all").glob("38D*")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:40])
    capsys.readouterr()
    strict = ("--data.path", str(data), "--data.max-damaged", "0")
    assert main([satellite, "--run-dir", str(folder), *strict]) == 2
    told = capsys.readouterr().err
    assert str(damaged) in told and "land_cover" in told and told.count("\n") == 1
    assert not (folder / "config.json").exists()

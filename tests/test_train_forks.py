"""Runs are forked, and used with the parameters of any of their checkpoints."""

import jax
import numpy as np
import pytest
from flax import nnx

import fourm
from fourm.evaluate import main as evaluate
from fourm.run_directory.saved_checkpoints import list_steps
from fourm.training.train_state import OptimizerConfig, build_schedule
from tests.test_train import (
    CONFIG,
    losses_of,
    run,  # noqa: F401  Fixtures.
    shares_run,
    tensors_of,
)
from train import main

pytestmark = pytest.mark.xdist_group("tiny run")


@pytest.mark.slow
@shares_run
@pytest.mark.parametrize("data", ["same", "other"])
def test_a_fork_goes_on_with_other_settings_from_the_newest_checkpoint(
    run, tmp_path, monkeypatch, data
):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    folder = tmp_path / "fork"
    changed = ["--training.steps", "14", "--training.optimizer.learning-rate", "0.0004"]
    changed += ["--training.log-every", "1"]
    if data == "other":
        changed += ["--data.num-train", "40", "--training.batch-size", "4"]
    arguments = [CONFIG, "--run-dir", str(folder), *changed]
    with monkeypatch.context() as patched:
        patched.setattr("train.evaluate", lambda *_: None)
        assert main([*arguments, "--fork", str(run)]) == 0
        assert main(arguments) == 0  # the same without --fork, which the run directory knows
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    lines = [line for line in losses_of(folder) if line["stage"] == "model"]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 13, 14]
    schedule = build_schedule(OptimizerConfig(learning_rate=4e-4), 14)
    assert [line["learning_rate"] for line in lines[-2:]] == [schedule(12), schedule(13)]
    for name in ("rgb", "caption"):
        own, theirs = (root / "tokenizers" / name / "arrays.npz" for root in (folder, run))
        assert own.samefile(theirs)
    taken = [
        path for path in (folder / "tokens").iterdir() if (run / "tokens" / path.name).exists()
    ]
    shared = {path.samefile(run / "tokens" / path.name) for path in taken}
    assert shared == ({True} if data == "same" else {False})
    assert sorted(path.name for path in (folder / "checkpoints" / "model").iterdir()) == [
        "12",
        "14",
    ]
    assert any((a != b).any() for a, b in zip(*map(tensors_of, (run, folder)), strict=True))


@pytest.mark.slow
@shares_run
def test_a_fork_needs_a_folder_and_weights_of_its_own(run, tmp_path, capsys):
    folder = tmp_path / "fork"
    tiny = [CONFIG, "--fork", str(run)]
    assert main([*tiny, "--run-dir", str(run)]) == 2
    assert f"is a run already, and not forked from {run}" in capsys.readouterr().err
    assert main([*tiny, "--run-dir", str(folder), "--model.dim", "64"]) == 2
    told = capsys.readouterr().err
    assert "other values of model.dim: " in told and told.count("\n") == 1
    assert not folder.exists()


@pytest.mark.slow
@shares_run
def test_a_run_is_used_with_the_parameters_of_any_of_its_checkpoints(run, tmp_path, capsys):
    last, best = (fourm.load(run, use) for use in ("last", "best"))
    checkpoints = run / "checkpoints" / "model"
    *earlier, end = list_steps(checkpoints)

    def arrays(model):
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model.model))]

    for a, b in zip(arrays(last), arrays(fourm.load(run, str(end))), strict=True):
        np.testing.assert_array_equal(a, b)
    before = arrays(fourm.load(run, str(earlier[0])))
    assert any((a != b).any() for a, b in zip(arrays(last), before, strict=True))
    assert all(np.isfinite(leaf).all() for leaf in arrays(best))
    arguments = [str(run), "--no-probes", "--num-samples", "2", "--out", str(tmp_path)]
    assert evaluate([*arguments, "--use", str(earlier[0])]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"evaluation_test_{earlier[0]}.json"]
    assert evaluate([*arguments, "--use", "7777"]) == 2
    assert "There is no checkpoint of step 7777 in" in capsys.readouterr().err

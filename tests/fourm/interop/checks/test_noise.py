"""Noise schedules, lists of time steps and single steps as recorded."""

import json
import shutil

import numpy as np
import pytest

from fourm.interop.checks import noise as module
from fourm.interop.checks.noise import check_schedules, compare_times
from tests.paths import GOLDENS

RECORDED = GOLDENS / "diffusion_schedules"


def test_every_recorded_schedule_step_and_list_of_times_agrees():
    found = list(check_schedules(RECORDED))
    assert [comparison for comparison in found if not comparison.is_equal] == []
    recorded = set(np.load(RECORDED / "outputs.npz").files)
    times = json.loads((RECORDED / "timesteps.json").read_text())
    assert {comparison.name for comparison in found} == recorded | {f"timesteps/{n}" for n in times}


def test_a_step_that_differs_is_found(monkeypatch):
    def lazy_step(config, output, sample, signal, next_signal):
        return module.Step(sample, output)

    monkeypatch.setattr(module, "ddim_step", lazy_step)
    wrong = {c.name for c in check_schedules(RECORDED) if not c.is_equal}
    assert wrong and all(name.startswith("ddim/") for name in wrong)


def test_long_lists_are_compared_by_length_beginning_and_end():
    recorded = {"n": 4, "first": [9, 7], "last": [5, 0]}
    assert compare_times("x", np.array([9, 7, 5, 0]), recorded).is_equal
    assert not compare_times("x", np.array([9, 7, 6, 5, 0]), recorded).is_equal
    assert not compare_times("x", np.array([9, 7, 5, 1]), recorded).is_equal


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alphas_cumprod/cubic/zero_terminal_snr=True", "schedule is 'cubic'"),
        ("alphas_cumprod/linear/zero_terminal_snr=Maybe", "must say True or False"),
        ("betas/linear", "neither a schedule nor a step"),
    ],
)
def test_recordings_of_unknown_options_are_refused(tmp_path, name, message):
    folder = tmp_path / "recorded"
    shutil.copytree(RECORDED, folder)
    np.savez(folder / "outputs.npz", **{name: np.ones(10, np.float32)})
    with pytest.raises(ValueError, match=message):
        list(check_schedules(folder))

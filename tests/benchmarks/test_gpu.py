"""The measurements of an accelerator: what fails or takes too long leaves the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import TASKS, Gpu, format_table, main, measure, work
from tests.paths import ROOT


def test_what_fails_is_told_and_the_others_are_made(tmp_path, monkeypatch):
    def fail(size):
        raise MemoryError("too large")

    def fail_outside(size):
        raise subprocess.CalledProcessError(3, ["x"], stderr=b"first\nlast words\n")

    tasks = {"a": fail, "b": fail_outside, "c": lambda size: {"size": size}}
    monkeypatch.setattr(gpu, "TASKS", {name: gpu.Task(9, each) for name, each in tasks.items()})
    file = tmp_path / "lines"
    work(list(tasks), Gpu(size="tiny", worker=str(file)))
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert found[0] == {"error": "MemoryError: too large"}
    assert "last words" in found[1]["error"] and found[2].pop("device")
    assert found[2] == {"size": "tiny"}


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"no measurement 'pek'; there are peak"):
        main(Gpu(only=("pek",)))


def test_programs_of_their_own_come_last():
    kinds = [task.is_program for task in TASKS.values()]
    assert kinds == sorted(kinds) and {True, False} == set(kinds)


def test_no_time_is_said_and_written(tmp_path):
    out = tmp_path / "gpu.json"
    assert main(Gpu(minutes=0.0, out=out, only=("peak",))) == 1
    written = json.loads(out.read_text())
    assert written["results"] == {"peak": {"left_out": "no time"}} and "jax" in written["about"]


def test_the_table_has_a_row_each():
    table = format_table({"peak": {"tflops": 1.23456, "parts": {"a": 1}}})
    assert table.splitlines()[-1] == "| peak | tflops 1.235, parts (a 1) |"


@pytest.mark.slow
def test_a_process_brings_figures_and_ends_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "gpu.json"
    options = Gpu(minutes=5.0, out=out, size="tiny", only=("peak", "masking"))
    assert main(options) == 0
    results = json.loads(out.read_text())["results"]
    assert results["peak"]["peak_tflops"] > 0 and results["masking"]["samples_per_second"] > 0
    late = {name: task._replace(limit=0.0) for name, task in TASKS.items()}
    monkeypatch.setattr(gpu, "TASKS", late)
    found = dict(measure(["peak", "masking"], options, end=float("inf")))
    assert found == {"peak": {"error": "took too long"}}


def wait_until(is_so):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_whatever_ends_it_nothing_is_left_on_the_device(tmp_path, number):
    out = tmp_path / "gpu.json"
    words = ["--size", "tiny", "--only", "peak", "masking", "--out", str(out)]
    program = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, stdout=subprocess.PIPE
    )
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    wait_until(lambda: out.exists() and children.read_text())
    worker = int(children.read_text().split()[0])
    wait_until(lambda: b"--worker" in Path(f"/proc/{worker}/cmdline").read_bytes())
    time.sleep(0.5)
    os.kill(program.pid, number)
    told = program.communicate(timeout=60)[0].decode()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    assert json.loads(out.read_text())["results"].keys() == {"peak", "masking"}
    if number == signal.SIGTERM:
        assert program.returncode == 1
        assert told.splitlines()[-1] == "| masking | left_out no time |"

"""A run directory has one writer; who comes second is told who is first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
from fourm.run_directory.lock import locked, undone_if_refused
from tests.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from fourm.run_directory.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "runs" / "mine")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_writes(holder, tmp_path):
    message = rf"mine is being written to by process {holder.pid} on .* \(.*mine\); wait for it"
    with pytest.raises(ValueError, match=message), locked(tmp_path / "runs" / "mine"):
        pass
    with locked(tmp_path / "runs" / "other"):
        pass


def test_a_second_train_py_is_told_who_writes(holder, tmp_path, capsys):
    folder = tmp_path / "runs" / "mine"
    assert train.main(["scenes", "--run-dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"is being written to by process {holder.pid} on " in said
    assert "Traceback" not in said
    assert not folder.exists()


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "runs" / "mine"):
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [".mine.lock"]
    assert not list((tmp_path / "runs").iterdir())


def test_nothing_is_left_of_a_run_that_was_refused(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with pytest.raises(ValueError, match="no data"), locked(folder), undone_if_refused(folder):
        folder.mkdir()
        (folder / "metrics.jsonl").touch()
        raise ValueError("no data")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("settings", ["config.json", None])
def test_a_run_that_has_its_settings_or_was_there_before_stays(tmp_path, settings):
    folder = tmp_path / "mine"
    if settings is None:
        folder.mkdir()
    with pytest.raises(ValueError, match="later"), undone_if_refused(folder):
        folder.mkdir(exist_ok=True)
        if settings:
            (folder / settings).touch()
        raise ValueError("later")
    assert folder.is_dir()


def test_where_nothing_can_be_locked_nothing_is(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fourm.run_directory.lock.fcntl.flock", refuse)
    with locked(tmp_path / "mine"):
        pass
    with locked(Path("/proc/no/such/place")):
        pass

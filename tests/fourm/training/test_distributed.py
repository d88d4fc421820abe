"""Several processes of one run. That they train alike is tested with the meshes and the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourm.run_log import SilentLog
from fourm.training.distributed import initialize, is_main, run_on_main, wait_for_all
from tests.fourm.training.test_sharding import FAST, ROOT, free_port

PROGRAM = """
import sys, time
import jax
from fourm.training.distributed import initialize, is_main, run_on_main, wait_for_all
address, index, seconds = sys.argv[1:]
initialize(address, 2, int(index))

def work():
    assert is_main()
    time.sleep(float(seconds))
    return "made"

print(run_on_main(work))
wait_for_all()

def fail():
    raise OSError("disk full")

try:
    run_on_main(fail)
except (OSError, ValueError) as error:
    print(type(error).__name__, error)
"""


def test_one_process_does_everything_at_once():
    assert is_main()
    assert run_on_main(lambda: 3) == 3
    with pytest.raises(OSError, match="disk full"):
        run_on_main(lambda: (_ for _ in ()).throw(OSError("disk full")))
    wait_for_all()


def test_two_processes_wait_for_the_first_and_hear_of_its_failures():
    address = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, index, "2"],
            cwd=ROOT,
            env=dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=FAST, PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in ("0", "1")
    ]
    try:
        told = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], told
    first, second = (
        [line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in told
    )
    assert first == ["made", "OSError disk full"]
    assert second == ["None", "ValueError Process 0 stopped, for a reason that it tells."]


def test_without_a_cluster_the_missing_options_are_named():
    # In this process JAX is in use already, which is as fatal as an unknown cluster.
    with pytest.raises(ValueError, match=r"do not find each other \(.*\); give --coordinator"):
        initialize("", None, None)


def test_a_silent_log_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SilentLog() as log:
        log.rewind("model", 3)
        log.write("model", 4, {"loss": 1.0})
    assert not list(Path(tmp_path).iterdir())

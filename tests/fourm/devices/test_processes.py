"""Several processes of one run. That they train alike is tested with the meshes and the run."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fourm.devices.processes import (
    initialize,
    is_main,
    run_on_main,
    wait_for_all,
    wait_for_coordinator,
)
from fourm.run_directory.run_log import SilentLog
from tests.paths import ROOT

PROGRAM = """
import sys, time
import jax
from fourm.devices.processes import initialize, is_main, run_on_main, wait_for_all
address, index = sys.argv[1:]
initialize(*((address, 2, 1) if index == "1" else ("", None, None)))
print(jax.config.read("jax_cuda_visible_devices"))

def work():
    assert is_main()
    time.sleep(2)
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


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_coordinator_is_waited_for_until_it_answers(family):
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip("This machine has no such addresses.")
        shown = host if family == socket.AF_INET else f"[{host}]"
        address = f"{shown}:{server.getsockname()[1]}"
        message = rf"Nothing answers at --coordinator {re.escape(address)} after 0 seconds"
        with pytest.raises(ValueError, match=message):  # It is bound, but does not listen.
            wait_for_coordinator(address, seconds=0.3)
        server.listen()
        wait_for_coordinator(address, seconds=30.0)


@pytest.mark.slow
def test_two_processes_wait_for_the_first_and_hear_of_its_failures():
    # SLURM says who the first is, the one task of its node. The second is told on its command
    # line, though SLURM would know it as the sixth of its node.
    job = os.getpid()
    address = f"localhost:{61440 + job % 4096}"  # where JAX makes the tasks of a job meet
    step = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "0"}
    told_by_slurm = {
        "0": {**step, "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"},
        "1": {**step, "SLURM_LOCALID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "1"},
    }
    quick = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, index],
            cwd=ROOT,
            env={**os.environ, **quick, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, variables in told_by_slurm.items()
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
    # Both may use all GPUs that they see.
    assert first == ["all", "made", "OSError disk full"]
    assert second == ["all", "None", "ValueError Process 0 stopped, for a reason that it tells."]


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

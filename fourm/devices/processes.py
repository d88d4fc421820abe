"""Several processes of one run, by JAX's own runtime."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from orbax.checkpoint import multihost

Result = TypeVar("Result")
BARRIER_MILLISECONDS = 30 * 24 * 3600 * 1000
"""Milliseconds for which processes wait for each other; the runtime tells them if one dies."""
COORDINATOR_SECONDS = 60.0
"""For how long process 0 may take to start."""
_barriers = count()


def initialize(coordinator: str, num_processes: int | None, process_index: int | None) -> None:
    """Joins the other processes of the run, before anything else is asked of JAX.

    Args:
        coordinator: HOST:PORT of process 0; "" where the cluster (SLURM, Open MPI, Cloud TPU)
            knows it and the other two.
        num_processes: Processes of the run.
        process_index: Which of them this one is.

    Raises:
        ValueError: One sentence, if they can't be found.
    """
    # JAX would take SIGTERM for itself; the training loop answers it, in all processes alike.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator and process_index:
        wait_for_coordinator(coordinator)
    # Else a cluster would have its say beside what is given.
    method = "deactivate" if coordinator else None
    try:
        jax.distributed.initialize(
            coordinator or None, num_processes, process_index, cluster_detection_method=method
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"The processes of the run do not find each other ({reason}); give --coordinator "
            "HOST:PORT, --num-processes and --process-index."
        ) from error
    if has_own_gpus(os.environ):
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")


def wait_for_coordinator(address: str, seconds: float = COORDINATOR_SECONDS) -> None:
    """Returns when process 0 can be reached at HOST:PORT.

    JAX itself would wait for minutes, and then end the process without an exception.

    Raises:
        ValueError: One sentence, if that takes longer than so many seconds.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"Nothing answers at --coordinator {address} after {seconds:.0f} seconds "
                    f"({error.strerror or error}); start process 0 there, or give its address."
                ) from error
        time.sleep(0.2)


def has_own_gpus(environment: Mapping[str, str]) -> bool:
    """True if SLURM shows this task no GPU that another one is to use.

    JAX takes the third GPU for the third task of a node, and so on. That leaves GPUs idle where a
    node has one task, and fails where `--gpus-per-task` shows each task its own GPUs alone.

    Example:
        >>> has_own_gpus({"SLURM_NTASKS": "16", "SLURM_STEP_NUM_NODES": "2"})
        False
        >>> has_own_gpus({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"})
        True
    """
    tasks, nodes = (environment.get(name) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES"))
    return "SLURM_GPUS_PER_TASK" in environment or (tasks is not None and tasks == nodes)


def is_main() -> bool:
    """True in the one process that prepares, writes logs and evaluates."""
    return jax.process_index() == 0


def wait_for_all() -> None:
    """Returns when all processes of the run have called this, however long that takes."""
    if jax.process_count() > 1:
        # Not by a collective over the devices, which would give up after half a minute.
        barrier = multihost.get_barrier_sync_fn()
        barrier(key=f"run-{next(_barriers)}", timeout_ms=BARRIER_MILLISECONDS)


def run_on_main(work: Callable[[], Result]) -> Result | None:
    """Does something in process 0 alone, while the others wait.

    Returns:
        What `work` returns, in process 0; None in the others.

    Raises:
        ValueError: In the others, if it failed in process 0, which raises what stopped it.
    """
    result, error = None, None
    if is_main():
        try:
            result = work()
        except BaseException as raised:  # Raised again, when the others know.
            error = raised
    wait_for_all()
    has_failed = bool(broadcast_one_to_all(np.asarray(error is not None)))
    if error is not None:
        raise error
    if has_failed:
        raise ValueError("Process 0 stopped, for a reason that it tells.")
    return result

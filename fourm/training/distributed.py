"""Several processes of one run, by JAX's own runtime."""

from collections.abc import Callable
from itertools import count
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from orbax.checkpoint import multihost

Result = TypeVar("Result")
PATIENCE = 30 * 24 * 3600 * 1000
"""Milliseconds for which processes wait for each other; the runtime tells them if one dies."""
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
    try:
        jax.distributed.initialize(coordinator or None, num_processes, process_index)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"The processes of the run do not find each other ({reason}); give --coordinator "
            "HOST:PORT, --num-processes and --process-index."
        ) from error


def is_main() -> bool:
    """True in the one process that prepares, writes logs and evaluates."""
    return jax.process_index() == 0


def wait_for_all() -> None:
    """Returns when all processes of the run have called this, however long that takes."""
    if jax.process_count() > 1:
        # Not by a collective over the devices, which would give up after half a minute.
        barrier = multihost.get_barrier_sync_fn()
        barrier(key=f"run-{next(_barriers)}", timeout_ms=PATIENCE)


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

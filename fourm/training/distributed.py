"""Several processes of one run, by JAX's own runtime."""

import jax


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

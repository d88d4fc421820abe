"""Checkpoints of a training run, by orbax."""

import logging
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from fourm.train_state import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save


class Checkpoints:
    """The last checkpoints of one stage of a run.

    A checkpoint holds parameters, their average, optimizer state and other variables, each as a
    part of its own, and the progress: the next step and the seed. Batches and random keys are
    functions of the two, so that this is the state of the data iterator and of all randomness.
    orbax writes to a temporary folder and renames it, so that a killed save leaves the previous
    checkpoint as the latest.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self._checkpointer = ocp.training.Checkpointer(
            Path(folder).absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, seed: int) -> None:
        """Writes `state` in the background; a second call waits for the first."""
        step = int(state.step)
        if step == self.latest_step:
            return
        parts = dict(state._asdict())
        del parts["step"]
        parts = {name: part for name, part in parts.items() if jax.tree.leaves(part)}
        parts["progress"] = {"next_step": step, "seed": seed}
        self._checkpointer.save_checkpointables_async(step, parts)

    def restore(self, state: TrainState, seed: int) -> TrainState:
        """Returns the newest checkpoint in the shape of `state`, or `state` if there is none.

        Raises:
            ValueError: If it was written by a run of another shape or seed.
        """
        step = self.latest_step
        if step is None:
            return state
        parts = {name: part for name, part in state._asdict().items() if jax.tree.leaves(part)}
        del parts["step"]
        parts["progress"] = {"next_step": 0, "seed": 0}
        try:
            loaded = self._checkpointer.load_checkpointables(step, parts)
        except Exception as error:  # orbax names the mismatch only in the cause
            raise ValueError(
                f"The checkpoint in {self._checkpointer.directory} was written by a model or an "
                "optimizer of another shape; restore the old settings, or choose a new "
                f"--run-dir ({error.__cause__ or error})."
            ) from error
        progress = loaded.pop("progress")
        if progress["seed"] != seed:
            raise ValueError(
                f"The checkpoint in {self._checkpointer.directory} was made with --seed "
                f"{progress['seed']}, this run has --seed {seed}; use the same, or a new --run-dir."
            )
        step_array = jax.numpy.asarray(progress["next_step"], state.step.dtype)
        return state._replace(step=step_array, **loaded)

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._checkpointer.wait()

    def close(self) -> None:
        self._checkpointer.close()

"""Checkpoints of a training run, by orbax."""

import logging
from pathlib import Path

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from fourm.training.train_state import TrainState

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
        # orbax silently skips a save that begins during another, unless it waits and is forced.
        self.wait()
        if step == self.latest_step:
            return
        parts = dict(state._asdict())
        del parts["step"]
        parts = {name: part for name, part in parts.items() if jax.tree.leaves(part)}
        parts["progress"] = {"next_step": step, "seed": seed}
        self._checkpointer.save_checkpointables_async(step, parts, force=True)

    def restore(self, state: TrainState, seed: int) -> TrainState:
        """Returns the newest checkpoint in the shape of `state`, or `state` if there is none.

        Raises:
            ValueError: If it was written by a run of another shape or seed, or can't be read.
        """
        step = self.latest_step
        if step is None:
            return state
        parts = {name: part for name, part in state._asdict().items() if jax.tree.leaves(part)}
        del parts["step"]
        parts["progress"] = {"next_step": 0, "seed": 0}
        folder = self._checkpointer.directory
        try:
            saved = self._checkpointer.checkpointables_metadata(step).metadata
            # orbax names a mismatch only in a cause of a cause, and casts types silently.
            difference = describe_difference(saved, parts)
            loaded = None if difference else self._checkpointer.load_checkpointables(step, parts)
        except Exception as error:
            raise ValueError(
                f"The checkpoint of step {step} can't be read; delete {folder / str(step)} to "
                "continue from the one before it."
            ) from error
        if loaded is None:
            raise ValueError(
                f"The checkpoint in {folder} was written by a model or an optimizer of another "
                f"shape: {difference}; restore the old settings, or choose a new --run-dir."
            )
        progress = loaded.pop("progress")
        if progress["seed"] != seed:
            raise ValueError(
                f"The checkpoint in {folder} was made with --seed {progress['seed']}, this run "
                f"has --seed {seed}; use the same, or a new --run-dir."
            )
        step_array = jax.numpy.asarray(progress["next_step"], state.step.dtype)
        return state._replace(step=step_array, **loaded)

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._checkpointer.wait()

    def close(self) -> None:
        self._checkpointer.close()


def describe_difference(saved: PyTree, wanted: PyTree) -> str:
    """Returns the first array that differs in name, type or shape; "" if there is none."""
    there, here = describe_arrays(saved), describe_arrays(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return (
                f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
            )
    return ""


def describe_arrays(tree: PyTree) -> dict[str, str]:
    """Returns type and shape of every array of a tree, or of what orbax knows of a saved one."""

    def join(path: tuple) -> str:
        return ".".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        )

    return {
        join(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "shape")
    }

"""Checkpoints of a training run, by orbax."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from fourm.training.train_state import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save


# Beside the copy of the state, which training may change meanwhile. As fast as without a limit.
WRITING = {"write_concurrent_bytes": 2**30}
# Devices that hold the same array write a slice each, if it is large. Every slice is a program, and
# to compile those of small arrays takes longer than to take over a whole state.
SAVING = {"min_slice_bytes_for_replica_parallel": 2**20}
TOKENIZERS = "tokenizers"
"""Which part of an origin says what tokens mean."""


class Checkpoints:
    """The checkpoints of one stage of a run that are kept: the newest, and the best.

    A checkpoint holds parameters, their average, optimizer state and other variables, each as a
    part of its own and sharded as it is; and as JSON the step, what the run follows from (seed and
    data), and its progress (the iterator of batches, the metrics of the last steps). Random keys
    are functions of seed and step, so this is all that a run is. orbax writes to a temporary
    folder and renames it: a killed save leaves the previous checkpoint as the newest.

    Training continues from the newest checkpoint, and its end is what a run uses. The best, that
    of the lowest loss it was saved with, is for a person who finds that a training went wrong
    later: `restore` returns it if the newer ones are deleted.
    """

    def __init__(self, folder: Path, keep: int = 2, best_by: str = "loss"):
        """Opens the checkpoints in a folder, new or not.

        Args:
            folder: Of this stage alone; one subfolder per step.
            keep: How many of the newest are kept.
            best_by: Which loss the best is chosen by; checkpoints saved with another are not it.
        """
        self._best_by = best_by
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            Path(folder).absolute(),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    # orbax takes the last in order, so reversed, for the lowest.
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics.get(best_by, math.inf),
                        reverse=True,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
            context=ocp.Context(
                memory_options=ocp.options.MemoryOptions(**WRITING),
                array_options=ocp.options.ArrayOptions(
                    saving=ocp.options.ArrayOptions.Saving(**SAVING)
                ),
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None if there is none."""
        self.wait()
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best_step(self) -> int | None:
        """The step of the complete checkpoint with the lowest loss, None if none has a loss."""
        self.wait()
        losses = {
            c.step: c.metrics[self._best_by]
            for c in self._checkpointer.checkpoints
            if c.metrics and self._best_by in c.metrics
        }
        return min(losses, key=losses.get) if losses else None

    def save(
        self,
        state: TrainState,
        origin: Mapping[str, Any],
        progress: Mapping[str, Any] | None = None,
        loss: float = math.nan,
    ) -> None:
        """Writes `state` in the background; a second call waits for the first.

        Args:
            state: May be given away (donated) as soon as this returns.
            origin: What the run follows from, such as the seed, as JSON can hold it.
            progress: What else it takes to continue, as JSON can hold it.
            loss: What `best_by` names, by which the best is chosen; not finite = none.
        """
        step = int(state.step)
        # orbax silently skips a save that begins during another, unless it waits and is forced.
        if step == self.latest_step:
            return
        self._checkpointer.save_checkpointables_async(
            step,
            split_state(state),
            force=True,
            # A metric that is not a number would be taken for the best.
            metrics={self._best_by: loss} if math.isfinite(loss) else None,
            custom_metadata={"origin": dict(origin), "progress": dict(progress or {})},
        )

    def restore(
        self, like: TrainState, origin: Mapping[str, Any], forked_at: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest checkpoint and its progress, or `like` and {} if there is none.

        Args:
            like: Says types, shapes and, by their shardings, on which devices the arrays go: as
                many as there are now, however many wrote them. Arrays or `jax.ShapeDtypeStruct`s.
            origin: As it would be saved by this run.
            forked_at: A step whose checkpoint may have another origin; the iterator's state in
                its progress is left out then.

        Raises:
            ValueError: If it was written by a run of another shape or origin, or can't be read.
        """
        step = self.latest_step
        if step is None:
            return like, {}
        folder = self._checkpointer.directory
        parts = jax.tree.map(to_abstract, split_state(like))
        try:
            described = self._checkpointer.checkpointables_metadata(step)
            saved = described.custom_metadata["origin"], described.custom_metadata["progress"]
            # orbax names a mismatch only in a cause of a cause, and casts types silently.
            difference = describe_difference(described.metadata, parts)
            differing = describe_origins(saved[0], origin)
            is_usable = not difference and (not differing or step == forked_at)
            loaded = self._checkpointer.load_checkpointables(step, parts) if is_usable else None
        except Exception as error:
            raise ValueError(
                f"The checkpoint of step {step} can't be read; delete {folder / str(step)} to "
                "continue from the one before it."
            ) from error
        if difference:
            raise ValueError(
                f"The checkpoint in {folder} was written by a model or an optimizer of another "
                f"shape: {difference}; restore the old settings, or choose a new --run-dir."
            )
        if loaded is None:
            raise ValueError(
                f"The checkpoint in {folder} was made with another {differing}; use the same, or "
                "continue in a new --run-dir with --fork."
            )
        progress = {n: v for n, v in saved[1].items() if n != "batches" or not differing}
        at = jax.device_put(np.asarray(step, like.step.dtype), getattr(like.step, "sharding", None))
        return like._replace(step=at, **loaded), progress

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._checkpointer.wait()

    def close(self) -> None:
        self._checkpointer.close()


def newest_steps(folder: Path) -> dict[str, int]:
    """Returns the step of the newest complete checkpoint of each stage that has a subfolder."""
    steps = {
        stage.name: [int(p.name) for p in stage.iterdir() if p.name.isdecimal() and p.is_dir()]
        for stage in (sorted(folder.iterdir()) if folder.exists() else [])
        if stage.is_dir()
    }
    return {stage: max(found) for stage, found in steps.items() if found}


def split_state(state: TrainState) -> dict[str, PyTree]:
    """Returns the parts that are saved one by one; orbax can't save an empty one."""
    parts = state._replace(step=None)._asdict()
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def to_abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns type, shape and devices of an array, the default device if it names none."""
    sharding = leaf.sharding or SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def describe_origins(saved: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Returns what differs, as "seed (3 there, 4 here)"; "" if nothing does.

    Checkpoints of before tokenizers were written down say nothing of them, and are passed over.
    """
    there, here = saved, json.loads(json.dumps(here))
    return ", ".join(
        f"{name} ({there.get(name)} there, {here.get(name)} here)"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and (name != TOKENIZERS or name in there)
    )


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

"""Checkpoints of a training run, by orbax."""

import errno
import json
import logging
import math
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from fourm.devices.processes import is_main, run_on_main
from fourm.training.checksums import find_damage, has_checksums, write_checksums
from fourm.training.train_state import TrainState
from tokenizers.process.command import describe_error, is_debugging

# Beside the copy of the state, which training may change meanwhile. As fast as without a limit.
WRITING = {"write_concurrent_bytes": 2**30}
# Devices that hold the same array write a slice each, if it is large. Every slice is a program, and
# to compile those of small arrays takes longer than to take over a whole state.
SAVING = {"min_slice_bytes_for_replica_parallel": 2**20}
METRICS = "metrics/metrics"
"""Where orbax keeps the loss that a checkpoint was saved with."""
AVERAGE = "average"
"""The part of a state that a model is used with."""
TOKENIZERS = "tokenizers"
"""Which part of an origin says what tokens mean."""


class Checkpoints:
    """The checkpoints of one stage of a run that are kept: the newest, and the best.

    A checkpoint holds parameters, their average, optimizer state and other variables, each as a
    part of its own and sharded as it is; and as JSON the step, what the run follows from (seed and
    data), and its progress (the iterator of batches, the metrics of the last steps). Random keys
    are functions of seed and step, so this is all that a run is. orbax writes to a temporary
    folder and renames it: a killed save leaves the previous checkpoint as the newest. Checksums of
    all files follow in the background, and are verified before a checkpoint is restored.

    Training continues from the newest checkpoint, and its end is what a run uses. The best, that
    of the lowest loss it was saved with, is for a person who finds that a training went wrong
    later, see `choose_checkpoint`.
    """

    def __init__(self, folder: Path, keep: int = 2, best_by: str = "loss", last: int | None = None):
        """Opens the checkpoints in a folder, new or not.

        A checkpoint that is damaged, or of a step beyond `last`, is moved aside with a warning, so
        that the one before it is the newest.

        Args:
            folder: Of this stage alone; one subfolder per step.
            keep: How many of the newest are kept.
            best_by: Which loss the best is chosen by; checkpoints saved with another are not it.
            last: The last step of the training, if it has an end.

        Raises:
            ValueError: If no checkpoint that is there can be used, or one can't be moved.
        """
        if not is_debugging():
            # orbax narrates every save, and what goes wrong before it raises it.
            for name in ("absl", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        self._best_by = best_by
        self._folder = Path(folder).absolute()
        run_on_main(lambda: _move_unusable(self._folder, last))
        self._background = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
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

        Raises:
            OSError: If this one, or the one before it, can't be written.
        """
        step = int(state.step)
        # orbax silently skips a save that begins during another, unless it waits and is forced.
        if step == self.latest_step:
            return
        try:
            saving = self._checkpointer.save_checkpointables_async(
                step,
                split_state(state),
                force=True,
                # A metric that is not a number would be taken for the best.
                metrics={self._best_by: loss} if math.isfinite(loss) else None,
                custom_metadata={"origin": dict(origin), "progress": dict(progress or {})},
            )
        except Exception as error:
            raise self._explain(error) from error

        def finish() -> None:
            saving.result()  # Which also ends the thread that orbax began for this save.
            if is_main():
                _add_checksums(self._folder / str(step))

        self._saving = self._background.submit(finish)

    def restore(
        self, like: TrainState, origin: Mapping[str, Any], forked_at: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest checkpoint and its progress, or `like` and {} if there is none.

        One that can't be read is moved aside with a warning if there is another before it.

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
        parts = jax.tree.map(to_abstract, split_state(like))
        try:
            described = self._checkpointer.checkpointables_metadata(step)
            saved = [dict(described.custom_metadata[name]) for name in ("origin", "progress")]
            # orbax names a mismatch only in a cause of a cause, and casts types silently.
            difference = describe_difference(described.metadata, parts)
            differing = describe_origins(saved[0], origin)
            is_usable = not difference and (not differing or step == forked_at)
            loaded = self._checkpointer.load_checkpointables(step, parts) if is_usable else None
        except Exception as error:
            # Several processes can't know whether the others could read it.
            if len(self._checkpointer.checkpoints) == 1 or jax.process_count() > 1:
                raise ValueError(
                    f"The checkpoint {self._folder / str(step)} can't be read; put it right, or "
                    "delete it to continue from the one before it, if there is one."
                ) from error
            _move_aside(self._folder / str(step), "it can't be read")
            self._checkpointer.reload()
            return self.restore(like, origin, forked_at)
        if difference:
            raise ValueError(
                f"The checkpoint {self._folder / str(step)} was written by a model or an "
                f"optimizer of another shape: {difference}; restore the old settings, or choose a "
                "new --run-dir."
            )
        if loaded is None:
            raise ValueError(
                f"The checkpoint {self._folder / str(step)} was made with another {differing}; "
                "use the same, or continue in a new --run-dir with --fork."
            )
        progress = {n: v for n, v in saved[1].items() if n != "batches" or not differing}
        if is_main():
            _add_checksums(self._folder / str(step))
        at = jax.device_put(np.asarray(step, like.step.dtype), getattr(like.step, "sharding", None))
        return like._replace(step=at, **loaded), progress

    def wait(self) -> None:
        """Returns when no save is under way, and the last one has its checksums."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except Exception as error:
                raise self._explain(error) from error

    def _explain(self, error: Exception) -> OSError:
        """Returns why a checkpoint could not be written; libraries tell it at any length."""
        told = str(error)
        for cause in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EMFILE):
            if os.strerror(cause) in told:
                return OSError(cause, os.strerror(cause), str(self._folder))
        return OSError(f"A checkpoint can't be written to {self._folder}: {describe_error(error)}")

    def close(self) -> None:
        """Waits for the last save and gives back threads and files."""
        try:
            self.wait()
        except BaseException:
            with suppress(Exception):  # The same once more.
                self._close()
            raise
        self._close()

    def _close(self) -> None:
        self._background.shutdown()
        self._checkpointer.close()


def list_steps(folder: Path) -> list[int]:
    """Returns the steps of all checkpoints of a stage, ascending; strays are passed over."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if is_checkpoint(path))


def is_checkpoint(path: Path) -> bool:
    """True for a folder that is named by a step, as orbax names it."""
    return path.name.isdecimal() and path.name == str(int(path.name)) and path.is_dir()


def choose_checkpoint(folder: Path, use: str = "last", last: int | None = None) -> int:
    """Returns the step of a checkpoint of a stage, which is whole; nothing is written.

    Args:
        folder: Of the stage.
        use: "last", "best" (that of the lowest held-out loss it was saved with, or of the lowest
            training loss if it was never measured), or a step.
        last: The last step that may be chosen, if not all may.

    Raises:
        ValueError: If there is no such checkpoint, or it is damaged.
    """
    steps = [step for step in list_steps(folder) if last is None or step <= last]

    def require_intact(step: int, is_whole: bool = True) -> None:
        # Taking another one unasked would make another model.
        if damage := find_damage(folder / str(step), is_whole):
            intact = [each for each in reversed(steps) if not find_damage(folder / str(each))]
            remedy = f", or give --use {intact[0]} for that of step {intact[0]}" if intact else ""
            raise ValueError(
                f"The checkpoint {folder / str(step)} is damaged ({damage}); put it right{remedy}."
            )

    if use.isdecimal():
        if int(use) not in steps:
            raise ValueError(
                f"There is no checkpoint of step {use} in {folder}; it has "
                f"{', '.join(map(str, steps)) or 'none'}, and best and last can be named."
            )
        ranked = [int(use)]
    elif use == "best":
        for step in steps:
            require_intact(step, is_whole=False)
        losses = {step: read_loss(folder / str(step)) for step in steps}
        kinds = {name for found in losses.values() for name in found}
        name = "heldout_loss" if "heldout_loss" in kinds else "loss"
        ranked = sorted((s for s in steps if name in losses[s]), key=lambda s: losses[s][name])
    elif use == "last":
        ranked = steps[::-1]
    else:
        raise ValueError(f"{use!r} names no checkpoint; take best, last, or a step.")
    if not ranked:
        limit = "" if last is None else f" at or before step {last}"
        raise ValueError(f"There is no checkpoint{limit} in {folder}.")
    require_intact(ranked[0])
    return ranked[0]


def newest_intact(folder: Path) -> int | None:
    """Returns the step of a stage's newest checkpoint that is not damaged; None if there is none.

    From whichever of them training resumes, it ends with the same bits.
    """
    for step in reversed(list_steps(folder)):
        damage = find_damage(folder / str(step))
        if not damage:
            return step
        warnings.warn(
            f"The checkpoint {folder / str(step)} is damaged ({damage}), so it is not used.",
            stacklevel=2,
        )
    return None


def read_loss(checkpoint: Path) -> dict[str, float]:
    """Returns the losses that a checkpoint was saved with, by name; {} if it has none."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        losses = json.loads((checkpoint / METRICS).read_text(encoding="utf-8"))
        return {name: loss for name, loss in losses.items() if isinstance(loss, float)}
    return {}


def load_average(checkpoint: Path, like: PyTree) -> PyTree:
    """Returns the averaged parameters of a checkpoint.

    Args:
        checkpoint: As `choose_checkpoint` chose it.
        like: Says types and shapes; arrays or `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: If it can't be read, or was written by a model of another shape.
    """
    parts = {AVERAGE: jax.tree.map(to_abstract, like)}
    try:
        saved = ocp.checkpointables_metadata(checkpoint).metadata[AVERAGE]
        difference = describe_difference(saved, parts[AVERAGE])
        average = None if difference else ocp.load_checkpointables(checkpoint, parts)[AVERAGE]
    except Exception as error:
        raise ValueError(f"The checkpoint {checkpoint} can't be read; use another one.") from error
    if difference:
        raise ValueError(
            f"The checkpoint {checkpoint} was written by a model of another shape: {difference}."
        )
    return average


def check_tokenizers(checkpoint: Path, fingerprint: str) -> None:
    """Checks that a checkpoint was made over the tokenizers that it is to be used with.

    Those that say nothing of them are from before they did, and are passed over.

    Raises:
        ValueError: If it was made over others.
    """
    described = ocp.checkpointables_metadata(checkpoint).custom_metadata or {}
    if described.get("origin", {}).get(TOKENIZERS, fingerprint) != fingerprint:
        raise ValueError(
            f"The checkpoint {checkpoint} was made over other tokenizers than those of the run; "
            "one of the two belongs to another run, or was changed; put the right one back."
        )


def _move_unusable(folder: Path, last: int | None) -> None:
    """Moves checkpoints aside that can't be used; arrays are read of the newest usable one."""
    reasons: dict[int, str] = {}
    for step in reversed(steps := list_steps(folder)):
        if last is not None and step > last:
            reasons[step] = f"the training ends at step {last}"
            continue
        # To know the best, its metrics are needed, and no more.
        is_newest = len(reasons) == len([s for s in steps if s > step])
        if damage := find_damage(folder / str(step), is_whole=is_newest):
            reasons[step] = damage
    if reasons and len(reasons) == len(steps):
        step = max(reasons)
        raise ValueError(
            f"The checkpoint {folder / str(step)} can't be used ({reasons[step]}), and there is "
            "none before it; put it right, or delete it to begin this stage again."
        )
    for step, reason in reasons.items():
        _move_aside(folder / str(step), reason)


def _move_aside(checkpoint: Path, reason: str) -> None:
    """Gives a checkpoint a name under which nobody looks for it, and says so."""
    names = (f"{checkpoint.name}.unused-{number}" for number in count(1))
    aside = next(path for path in map(checkpoint.with_name, names) if not path.exists())
    checkpoint.rename(aside)
    warnings.warn(
        f"The checkpoint {checkpoint} is not used ({reason}); it is now {aside.name}, and training "
        "goes on from the one before it.",
        stacklevel=2,
    )


def _add_checksums(checkpoint: Path) -> None:
    """Gives a checkpoint checksums if it has none, where it may be written to."""
    if not has_checksums(checkpoint):
        with suppress(OSError):
            write_checksums(checkpoint)


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

    What an earlier version did not write down is passed over: a run goes on with the settings that
    it was begun with, which are compared by themselves.
    """
    there, here = saved, json.loads(json.dumps(here))
    return ", ".join(
        f"{name} ({there[name]} there, {here.get(name)} here)"
        for name in sorted(there)
        if there[name] != here.get(name)
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

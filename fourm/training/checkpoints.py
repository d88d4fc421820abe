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
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from fourm.devices.processes import is_main, run_on_main
from fourm.run_directory.checksums import find_damage, has_checksums, write_checksums
from fourm.run_directory.saved_checkpoints import describe_difference, list_steps, to_abstract
from fourm.training.train_state import TrainState
from tokenizers.process.command import describe_error, is_debugging

# Beside the copy of the state, which training may change meanwhile. As fast as without a limit.
WRITING = {"write_concurrent_bytes": 2**30}
# Devices that hold the same array write a slice each, if it is large. Every slice is a program, and
# to compile those of small arrays takes longer than to take over a whole state.
SAVING = {"min_slice_bytes_for_replica_parallel": 2**20}


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
    later, see `fourm.run_directory.saved_checkpoints`.
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

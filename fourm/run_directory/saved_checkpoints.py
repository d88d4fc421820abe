"""Checkpoints of a run as they lie on disk: which there are, the best of them, and its weights."""

import json
import warnings
from contextlib import suppress
from pathlib import Path

import jax
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from fourm.run_directory.checksums import find_damage
from tokenizers.storage.run_paths import TOKENIZERS

METRICS = "metrics/metrics"
"""Where orbax keeps the loss that a checkpoint was saved with."""
AVERAGE = "average"
"""The part of a state that a model is used with."""


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


def to_abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns type, shape and devices of an array, the default device if it names none."""
    sharding = leaf.sharding or SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


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

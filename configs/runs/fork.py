"""A run that goes on from another one with other settings."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree

from configs.schema import RunConfig
from fourm.devices.layout import Layout
from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM
from fourm.run_directory.saved_checkpoints import (
    choose_checkpoint,
    describe_difference,
    list_steps,
    newest_intact,
)
from fourm.token_space import TokenSpace
from fourm.training.train_state import OptimizerConfig, build_optimizer
from tokenizers.modality import load_tokenizer
from tokenizers.settings.plain import (
    classes_of,
    differing_knobs,
    part_from_plain,
    to_plain,
    up_to_date,
)
from tokenizers.storage.pieces import check_pieces
from tokenizers.storage.run_paths import (
    CHECKPOINTS,
    CONFIG,
    FORK,
    HELDOUT,
    METRICS,
    MODEL,
    TOKENIZERS,
    TOKENS,
)
from tokenizers.storage.unfinished import new_folder, write_file

# What parts of a run directory follow from; with other values they are made anew. Tokenizers stay
# whatever the data: weights mean something by their tokens alone.
FOLLOWS_FROM = {
    TOKENIZERS: (),
    TOKENS: ("data", "crops", "seed"),
    HELDOUT: ("data", "crops", "seed", "tokenizer_samples"),
}


def fork_run(source: Path, config: RunConfig, use: str = "last") -> None:
    """Makes `config.run_dir` a run that goes on from another one, finished or not.

    Tokenizers, a checkpoint of everything trained, and what was measured up to it are taken over,
    and tokens and held-out samples if the data stay the same. `fork.json` says from where, at which
    steps, and which knobs differ. Files are linked where the file system can, as none of them is
    ever written to again; the other run is only read.

    Args:
        source: Directory of the other run.
        config: Of the new one. A checkpoint beyond the end of its training is not taken.
        use: Which checkpoint of the model, see `choose_checkpoint`; the newest of tokenizers.

    Raises:
        ValueError: If there is no such run or checkpoint, or its weights can't be used under
            `config`.
    """
    folder = Path(config.run_dir)
    if folder.exists() and (folder.samefile(source) or not (folder / FORK).exists()):
        raise ValueError(f"{folder} is there already; give --fork a new --run-dir to go on in.")
    plain = up_to_date(read_config(source), classes_of(RunConfig, config))
    knobs = [
        knob for knob in differing_knobs(plain, to_plain(config)) if knob.split(".")[0] != "run_dir"
    ]
    check_pieces(source)
    steps = choose_steps(source / CHECKPOINTS, use, config.training.steps)
    check_usable(source, plain, config, knobs, has_model=MODEL in steps)
    record = {"from": str(source), "use": use, "steps": steps, "knobs": knobs, "config": plain}
    try:
        # A folder that is there was left by a first attempt whose settings did not fit the data.
        with new_folder(folder) as partial:
            for name, follows_from in FOLLOWS_FROM.items():
                is_same = not any(knob.split(".")[0] in follows_from for knob in knobs)
                if is_same and (source / name).exists():
                    link_tree(source / name, partial / name)
            for stage, step in steps.items():
                link_tree(*(root / CHECKPOINTS / stage / str(step) for root in (source, partial)))
            if (source / METRICS).exists():
                shutil.copyfile(source / METRICS, partial / METRICS)
            write_file(partial / FORK, json.dumps(record, indent=2).encode())
    except FileNotFoundError as error:
        raise ValueError(
            f"{source} changed while it was read, as a run does that goes on; try again."
        ) from error


def choose_steps(folder: Path, use: str, last: int | None) -> dict[str, int]:
    """Returns the step of the checkpoint that is taken over of each stage that has one."""
    stages = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = {stage: newest_intact(folder / stage) for stage in stages if stage != MODEL}
    chosen = {stage: step for stage, step in found.items() if step is not None}
    if MODEL in stages and list_steps(folder / MODEL):
        chosen[MODEL] = choose_checkpoint(folder / MODEL, use, last)
    if use != "last" and MODEL not in chosen:
        raise ValueError(f"--use is {use}, but {folder} has no checkpoint of a model yet.")
    return chosen


def read_fork(folder: Path) -> dict[str, Any]:
    """Returns what `fork_run` wrote down: from, use, steps by stage, knobs, config; {} if no fork.

    Raises:
        ValueError: One sentence, if the file says something else.
    """
    file = folder / FORK
    check_pieces(folder, [FORK])
    if not file.exists():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        named = record["from"], record.get("use", "last")
        is_usable = all(isinstance(name, str) for name in named) and all(
            isinstance(name, str) and type(step) is int and step >= 0
            for name, step in record["steps"].items()
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_usable = False
    if not is_usable:
        raise ValueError(
            f"{file} does not say from which run {folder} was forked, and at which steps; put it "
            "back, or fork that run again into another --run-dir."
        )
    return record


def forked_at(folder: Path, stage: str) -> int | None:
    """Returns the step at which a stage was taken over from another run, if it was."""
    return read_fork(folder).get("steps", {}).get(stage)


def read_config(source: Path) -> dict[str, Any]:
    """Returns the configuration of a run that `train.py` made.

    Raises:
        ValueError: If it is none.
    """
    try:
        plain = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        is_run = plain["class"] == RunConfig.__name__
    except (OSError, ValueError, KeyError, TypeError):
        is_run = False
    if not is_run:
        raise ValueError(
            f"--fork {source} is not a readable run directory of train.py; give one that has "
            f"its {CONFIG}."
        )
    return plain


def check_usable(
    source: Path, plain: dict[str, Any], config: RunConfig, knobs: Sequence[str], has_model: bool
) -> None:
    """Raises ValueError, in one sentence, if what was trained can't be used with these knobs."""
    wrong = [knob for knob in knobs if knob.split(".")[0] == "modalities"]
    difference = "tokens would not mean what they meant"
    if not wrong and has_model:
        saved = [source / TOKENIZERS / name for name in config.modalities]
        space = TokenSpace.build({path.name: load_tokenizer(path) for path in saved})
        parts = plain["model"], plain["training"]["optimizer"]
        before = tuple(part_from_plain(part, RunConfig) for part in parts)
        there = describe_state(space, *before)
        here = describe_state(space, config.model, config.training.optimizer)
        differences = (describe_difference(there[part], here[part]) for part in there)
        difference = next(filter(None, differences), "")
        shaping = ("model.", "training.optimizer.")
        wrong = [knob for knob in knobs if knob.startswith(shaping)] if difference else []
    if wrong:
        raise ValueError(
            f"{source} can't be forked with other values of {', '.join(wrong)}: {difference}; keep "
            f"them, or start a new run from its weights with --start-from {source}."
        )


def describe_state(space: TokenSpace, model: ModelConfig, optimizer: OptimizerConfig) -> PyTree:
    """Returns types and shapes of what is trained; nothing is computed."""
    built = nnx.eval_shape(lambda: FourM(space, model, nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(built, nnx.Param))
    opt_state = jax.eval_shape(build_optimizer(optimizer, 1, Layout.single()).init, params)
    return {"params": params, "opt_state": opt_state}


def link_tree(source: Path, folder: Path) -> None:
    """Gives a folder's files another name, or copies them where that is impossible.

    Hidden files are somebody's unfinished work and are left out.

    Raises:
        OSError: If a file is gone, or can't be copied, as onto a full disk.
    """

    for root, folders, files in os.walk(source, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = folder / Path(root).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in files:
            if not name.startswith("."):
                _link(Path(root) / name, here / name)


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:  # Another file system, or one without links.
        shutil.copyfile(old, new)


def _raise(error: OSError) -> None:
    raise error

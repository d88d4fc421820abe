"""Tiny training runs that are killed and continued on other numbers of devices, as a program.

python -m tests.fourm.training.elastic_worker FOLDER

Each run has a subfolder; the program writes `found.json` with what each measured and ended in.

python -m tests.fourm.training.elastic_worker FOLDER --processes HOST:PORT COUNT INDEX

The run `together` begins in several processes, of which only the last gets SIGTERM, at step 3.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from flax import nnx

from fourm.devices.layout import Layout, MeshConfig
from fourm.devices.processes import initialize
from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM
from fourm.run_directory.run_log import RunLog, read_metrics
from fourm.training.loop import TrainingConfig, TrainingStage, train
from fourm.training.train_state import OptimizerConfig
from tests.fourm.tiny import make_tokens
from tests.fourm.training.mesh_worker import MASKING, SPACE, make_loss
from tokenizers.process.termination import Terminated, raises_terminated

STEPS, BATCH_SIZE = 8, 8
CONFIG = TrainingConfig(
    steps=STEPS,
    batch_size=BATCH_SIZE,
    log_every=1,
    checkpoint_every=2,
    optimizer=OptimizerConfig(warmup_steps=2),
)
MODEL = ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1, scan_layers=True)
MESHES = {1: MeshConfig(), 2: MeshConfig(fsdp=2), 8: MeshConfig(fsdp=4, tensor=2)}


class Killed(Exception):
    """Stands for a process that ends."""


def kill() -> None:
    raise Killed


def terminate() -> None:
    if jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGTERM)


def run(folder: Path, devices: int, stop: int | None = None, end: Callable[[], None] = kill) -> str:
    """Trains on so many devices; returns a hash of the parameters.

    Before the batch of step `stop`, `end` is called.
    """
    layout = Layout.build(MESHES[devices], jax.devices()[:devices])
    model = layout.create_model(lambda: FourM(SPACE, MODEL, nnx.Rngs(0)))
    rows = layout.rows(BATCH_SIZE)

    def batches(first: int):
        for step in range(first, STEPS):
            if step == stop:
                end()
            batch = make_tokens(BATCH_SIZE, step, SPACE, present=0.8)
            yield layout.distribute(jax.tree.map(lambda x: np.asarray(x)[rows], batch))

    with RunLog(folder / f"process-{jax.process_index()}") as log:
        train(
            model,
            make_loss(SPACE, MASKING, layout),
            SimpleNamespace(
                open=lambda first: nullcontext(batches(first)), samples=lambda step: []
            ),
            TrainingStage("model", 0, folder / "checkpoints", CONFIG),
            log,
            layout,
        )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def run_in_parts(folder: Path, parts: list[tuple[int, int | None]]) -> dict:
    """Trains in several processes' stead: (devices, step at which it is killed)."""
    for devices, stop in parts:
        try:
            end = run(folder, devices, stop)
        except Killed:
            continue
    return {"end": end, "lines": read_metrics(folder / "process-0")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", nargs=3)
    arguments = parser.parse_args()
    folder = arguments.folder
    # The runs compile the same programs.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_num_cpu_devices", 1 if arguments.processes else 8)
    if arguments.processes:
        address, count, index = arguments.processes
        initialize(address, int(count), int(index))
        with raises_terminated():
            try:
                run(folder / "together", int(count), 3, terminate)
            except Terminated:
                sys.exit(75)
        return
    runs = {
        "whole": [(8, None)],
        "resumed": [(8, 3), (8, None)],
        "elastic": [(1, 3), (8, 5), (2, None)],
        "together": [(2, None)],
    }
    found = {name: run_in_parts(folder / name, parts) for name, parts in runs.items()}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

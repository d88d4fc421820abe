"""Measures checkpoints of a published model's training: `python -m benchmarks.checkpoint --size b`.

Parameters, their average and both moments of AdamW lie in parts on simulated devices (fsdp), are
saved, and restored on other numbers of devices. Prints one line of JSON: seconds until a save
gives control back, until it is written, and until it is restored on each number of devices, and
whether every restored bit is the saved one.
"""

import argparse
import json
import os
import resource
import tempfile
import time
import zlib
from pathlib import Path

import jax
import numpy as np

from configs.presets.published import fourm_b, fourm_l, fourm_xl
from fourm.devices.layout import Layout, MeshConfig
from fourm.interop.transformer.weights import build_abstract, count_trunk
from fourm.model.transformer import FourM
from fourm.training.checkpoints import Checkpoints
from fourm.training.train_state import (
    OptimizerConfig,
    TrainState,
    build_optimizer,
    describe_state,
)
from tokenizers.process.huge_pages import restart_with_huge_pages

SIZES = {"b": fourm_b, "l": fourm_l, "xl": fourm_xl}
ORIGIN = {"seed": 0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="b", help="of 4M-7")
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 1, 2], help="saved on first")
    parser.add_argument("--saves", type=int, default=2, help="how often to save")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; temporary if none")
    arguments = parser.parse_args()
    if jax.config.jax_platforms == "cpu" or not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_num_cpu_devices", max(arguments.devices))

    model = build_abstract(SIZES[arguments.size]("7"))
    first, *others = arguments.devices
    state = fill(describe(model, first))
    sums = checksums(state)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        saves = measure_saves(Path(folder), state, arguments.saves)
        del state
        restored, same_bits = {}, True
        for count in (first, *others):
            seconds, found = measure_restore(Path(folder), describe(model, count))
            restored[count] = round(seconds, 2)
            same_bits &= found == sums
    device = jax.devices()[0]
    result = {
        "benchmark": "checkpoint",
        "model": f"4M-7 {arguments.size.upper()}",
        "trunk_parameters": count_trunk(model),
        "state_gigabytes": round(num_bytes / 1e9, 2),
        "saved_on_devices": first,
        "seconds_until_control": [round(control, 3) for control, _ in saves],
        "seconds_until_written": [round(written, 2) for _, written in saves],
        "seconds_to_restore_on_devices": restored,
        "same_bits": same_bits,
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(result))


def describe(model: FourM, devices: int) -> TrainState:
    """Returns types, shapes and places of all that training changes, on so many devices."""
    layout = Layout.build(MeshConfig(data=1, fsdp=devices), jax.devices()[:devices])
    return describe_state(model, build_optimizer(OptimizerConfig(), 1000, layout), layout)


def fill(like: TrainState) -> TrainState:
    """Returns a state of random numbers, which no compression makes smaller than real ones."""
    rng = np.random.default_rng(0)

    def make(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        whole = rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        return jax.device_put(whole, leaf.sharding)

    return jax.block_until_ready(jax.tree.map(make, like))


def measure_saves(folder: Path, state: TrainState, count: int) -> list[tuple[float, float]]:
    """Returns the seconds until control and until the end of each save."""
    checkpoints, found = Checkpoints(folder, keep=1), []
    for step in range(1, count + 1):
        state = state._replace(step=np.asarray(step, np.int32))
        start = time.perf_counter()
        checkpoints.save(state, ORIGIN)
        control = time.perf_counter() - start
        checkpoints.wait()
        found.append((control, time.perf_counter() - start))
    checkpoints.close()
    return found


def measure_restore(folder: Path, like: TrainState) -> tuple[float, list[int]]:
    """Returns the seconds to restore the newest checkpoint, and its `checksums`."""
    checkpoints = Checkpoints(folder, keep=1)
    start = time.perf_counter()
    state, _ = checkpoints.restore(like, ORIGIN)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    checkpoints.close()
    return seconds, checksums(state)


def checksums(state: TrainState) -> list[int]:
    """Returns one number per array but the step."""

    def checksum(array: jax.Array) -> int:
        # A sharded array that is asked for its numbers would keep a copy of them.
        whole = np.empty(array.shape, array.dtype)
        for part in array.addressable_shards:
            whole[part.index] = part.data
        return zlib.crc32(whole)

    return [checksum(array) for array in jax.tree.leaves(state._replace(step=None))]


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

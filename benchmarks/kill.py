"""Kills a run again and again and compares its end with that of a run left alone.

python -m benchmarks.kill --kills 20

The run is `train.py` over a few scenes, with a tiny model and a checkpoint every few steps. Each
kill is a SIGKILL at a random moment: soon after the start, after some more steps, or while a
checkpoint is being written. The run is then started again by the same command. Prints one line of
JSON; exits with 1 if a bit of parameters, optimizer or losses differs at the end.
"""

import argparse
import hashlib
import json
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fourm.run_directory.run_log import read_metrics

MOMENTS = ("start", "step", "save")
SHRUNK = shlex.split("""
    --data.num-train 64 --data.num-validation 8 --data.num-test 8 --tokenizer-samples 32
    --modalities.rgb.tokenizer.steps 5 --modalities.depth.tokenizer.steps 5
    --modalities.normals.tokenizer.steps 5 --modalities.semseg.tokenizer.steps 5
    --model.dim 32 --model.encoder-layers 1 --model.decoder-layers 1 --training.batch-size 8
    --training.steps 300 --training.log-every 1 --training.checkpoint-every 4
    --evaluation.num-samples 4 --probes.num-train 32 --probes.num-test 8
    --generation.rgb.num-steps 2 --generation.semseg.num-steps 2
""")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="times that the run is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    command = [sys.executable, "train.py", "scenes", *SHRUNK, "--run-dir"]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        whole, killed = Path(work, "whole"), Path(work, "killed")
        chance = random.Random(arguments.seed)
        kills = []
        while len(kills) < arguments.kills:
            moment = chance.choice(MOMENTS)
            if not kill_once([*command, str(killed)], killed, moment, chance, most_lines=8):
                break
            kills.append(moment)
        run_to_end([*command, str(killed)])
        run_to_end([*command, str(whole)])
        is_same = fingerprint(whole) == fingerprint(killed)
        result = {
            "benchmark": "kill",
            "kills": len(kills),
            **{f"kills_at_{moment}": kills.count(moment) for moment in MOMENTS},
            "resumes": len(kills),
            "steps": read_metrics(whole)[-1]["step"],
            "same_bits": is_same,
            "seconds": round(time.perf_counter() - start, 1),
            "device": jax.devices()[0].device_kind,
        }
    print(json.dumps(result))
    return 0 if is_same else 1


def kill_once(
    command: Sequence[str], folder: Path, moment: str, chance: random.Random, most_lines: int = 1
) -> bool:
    """Starts a run and kills it at a moment.

    Args:
        command: What trains in `folder`.
        folder: The run directory.
        moment: "start", "step" or "save": soon after the start, after a few more lines of
            metrics.jsonl, or while a checkpoint is being written.
        chance: Draws when exactly.
        most_lines: How many lines are waited for.

    Returns:
        False if the run had ended by then.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lines, saves = count_lines(folder), set(saves_under_way(folder))
        if moment == "step":
            lines += chance.randint(1, most_lines)
        while process.poll() is None:
            if moment == "start":
                break
            if moment == "step" and count_lines(folder) >= lines:
                break
            if moment == "save" and set(saves_under_way(folder)) - saves:
                break
            time.sleep(0.001)
        time.sleep(chance.uniform(0, {"start": 8.0, "step": 0.1, "save": 0.1}[moment]))
    finally:
        process.kill()
    return process.wait() == -signal.SIGKILL


def count_lines(folder: Path) -> int:
    """Returns the lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saves_under_way(folder: Path) -> list[str]:
    """Returns the temporary folders of checkpoints, which a kill leaves behind."""
    return [str(path) for path in folder.glob("checkpoints/*/*tmp*")]


def run_to_end(command: Sequence[str]) -> None:
    """Runs a command that must not fail."""
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        raise RuntimeError(f"The run failed: {ended.stderr[-2000:]}")


def fingerprint(folder: Path) -> dict[str, str]:
    """Returns hashes of a run's newest checkpoints, saved models and measured numbers."""
    found = {}
    for stage in sorted((folder / "checkpoints").iterdir()):
        step = max((path for path in stage.iterdir() if path.name.isdigit()), key=step_of)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of restoring as many devices as saved
            parts = ocp.load_checkpointables(step)
        parts.pop("metrics", None)
        for name, part in parts.items():
            arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(part)]
            found[f"{stage.name}/{step.name}/{name}"] = hash_arrays(arrays)
    for file in sorted(folder.rglob("*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            found[str(file.relative_to(folder))] = hash_arrays([stored[n] for n in stored.files])
    lines = [
        {name: value for name, value in line.items() if name != "samples_per_second"}
        for line in read_metrics(folder)
    ]
    found["metrics"] = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    return found


def step_of(folder: Path) -> int:
    return int(folder.name)


def hash_arrays(arrays: Sequence[np.ndarray]) -> str:
    """Returns one hash of types, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())

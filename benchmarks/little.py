"""Judges what is learned of little data in little time: `python -m benchmarks.little`.

Every set is trained on for the same seconds, with several seeds; one line of JSON per set and seed
says, per direction and metric, what the model scores beside floor, ceiling and a simple method, and
beside the first seed what a U-Net on raw pixels and trees on 16 x 16 pixels make of the same ones.
Knobs of train.py may follow, as in `--sets tiles --model.same-place False`.

tiles       400 tiles of an imagined satellite, see `benchmarks/tiles.py`
scenes300   the built-in scenes, 300 samples
scenes3000  the same, 3,000 samples
nyuv2       NYU Depth v2, where `--data` has it
"""

import contextlib
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import train
from benchmarks.measure import print_line
from benchmarks.rivals import measure_rivals
from benchmarks.tiles import make_tiles
from fourm.evaluation.results import share_of_way
from fourm.run_directory.run_log import read_metrics
from tokenizers.process.huge_pages import restart_with_huge_pages
from tokenizers.storage.unfinished import new_folder

TILES = Path(__file__).with_name("tiles.py")
"""The configuration of the tiles."""
CALIBRATION = 30
"""Steps of a short training that says how many fit into the time."""


@dataclass(frozen=True)
class Little:
    """What to train on, and for how long."""

    sets: tuple[str, ...] = ("tiles", "scenes300", "scenes3000")
    """Which sets."""
    seeds: tuple[int, ...] = (0, 1)
    """One training each, of tokenizers and model."""
    seconds: float = 180.0
    """Of the model's training, evaluation and tokenizers not included."""
    steps: int = 0
    """Steps of the model; 0 takes as many as fit into the seconds."""
    data: Path = Path("../shared/data")
    """Folder with the sets that are not made here."""
    rival_seconds: float = 60.0
    """Of a U-Net's training in each direction from one picture to another, beside the first seed's
    run; 0 leaves out these rivals, which are not in reports."""
    out: Path | None = None
    """Where to keep the runs; nothing is kept by default."""


def main(options: Little, knobs: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        for name in options.sets:
            words = words_of(name, options.data, out)
            if words is None:
                print(f"{name}: no data in {options.data}; skipped", file=sys.stderr)
                continue
            words += knobs
            steps = options.steps or count_steps(words, out / f"{name}-speed", options.seconds)
            for seed in options.seeds:
                folder = out / f"{name}-{seed}"
                began = time.monotonic()
                run([*words, "--training.steps", str(steps), "--seed", str(seed)], folder)
                took = time.monotonic() - began
                settings = {"set": name, "seed": seed, "knobs": knobs, "steps": steps}
                rivals = {}
                if options.rival_seconds and seed == options.seeds[0]:
                    rivals = {"rivals": rivals_of(folder, options.rival_seconds)}
                figures = {**read_figures(folder), **rivals, "all_seconds": round(took)}
                print_line("little", settings, figures)


def words_of(name: str, data: Path, out: Path) -> list[str] | None:
    """Returns the words of a command line of train.py for a set; None where its data are not.

    Raises:
        ValueError: If there is no such set.
    """
    match name:
        case "tiles":
            folder = out / "tiles"
            if not folder.exists():
                with new_folder(folder) as unfinished:
                    make_tiles(unfinished)
            return [str(TILES), "--data.path", str(folder)]
        case "scenes300" | "scenes3000":
            return ["scenes", "--data.num-train", name.removeprefix("scenes")]
        case "nyuv2":
            folder = data / "nyuv2"
            return ["nyuv2", "--data.path", str(folder)] if folder.is_dir() else None
    raise ValueError(f"There is no set {name!r}; sets are tiles, scenes300, scenes3000, nyuv2.")


def run(words: list[str], folder: Path) -> None:
    """Trains and evaluates as `python train.py` would.

    Raises:
        RuntimeError: If it fails.
    """
    with contextlib.redirect_stdout(sys.stderr):
        code = train.main([*words, "--run-dir", str(folder)])
    if code:
        raise RuntimeError(f"train.py {' '.join(words)} ended with exit code {code}.")


def count_steps(words: list[str], folder: Path, seconds: float) -> int:
    """Returns how many training steps fit into the seconds, as a short training tells."""
    short = ["--training.steps", str(CALIBRATION), "--training.log-every", str(CALIBRATION // 3)]
    run([*words, *short, "--evaluation.num-samples", "8", "--evaluation.rivals", "False"], folder)
    config = json.loads((folder / "config.json").read_text())
    lines = [line for line in read_metrics(folder) if line.get("stage") == "model"]
    step = config["training"]["batch_size"] / lines[-1]["samples_per_second"]
    return max(CALIBRATION, round(seconds / step))


def rivals_of(folder: Path, seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    """Returns what a U-Net and trees on coarse pictures score, by direction."""
    rows = json.loads((folder / "report.json").read_text())["results"]
    directions = dict.fromkeys(f"{'+'.join(row['inputs'])}->{row['target']}" for row in rows)
    found = measure_rivals(folder, tuple(directions), seconds)
    return {
        text: {
            name: {metric: round(value, 4) for metric, value in scores.items()}
            for name, scores in each.items()
        }
        for text, each in found.items()
    }


def read_figures(folder: Path) -> dict[str, Any]:
    """Returns the figures of a report, a list per direction and metric: floor, simple method,
    value, ceiling."""
    report = json.loads((folder / "report.json").read_text())
    names = ("floor", "simple", "value", "ceiling")
    figures = {
        f"{'+'.join(row['inputs'])}->{row['target']} {row['metric']}": [
            None if row.get(name) is None else round(row[name], 4) for name in names
        ]
        for row in report["results"]
    }
    shares = [share for share in map(share_of_way, report["results"]) if math.isfinite(share)]
    seconds = {stage: round(taken, 1) for stage, taken in report["seconds"].items()}
    mean = round(sum(shares) / len(shares), 4) if shares else None
    return {"mean_share": mean, "figures": figures, "seconds": seconds}


if __name__ == "__main__":
    restart_with_huge_pages()
    main(*tyro.cli(Little, description=__doc__, return_unknown_args=True))

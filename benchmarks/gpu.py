"""Measures what is known of one accelerator only there: `python -m benchmarks.gpu --minutes 8`.

All measurements in order of worth, each within its own limit, in one process as long as none fails:
that is started anew for the others. `--out` has everything so far at any time, so that what was
measured survives being cut off. The last thing printed is a table, also where the program is asked
to end. `--size tiny` tries it all on a machine without an accelerator.
"""

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from tokenizers.process.termination import Terminated, raises_terminated
from tokenizers.storage.unfinished import write_file

Size = Literal["full", "tiny"]
Figures = dict[str, Any]
FINISH = 5.0
"""Seconds kept for the table."""
FIRST_STEP = ("--repeats", "1", "--scan-layers", "--tiles", "even")
"""How a step is timed of which only the first counts."""
SLOWER = {"full": 1, "tiny": 4}
"""Times the limits of an accelerator that measurements may take."""
POLL = 0.2
"""Seconds between looks at what another process does."""


@dataclass(frozen=True)
class Gpu:
    """What to measure, and for how long."""

    minutes: float = 8.0
    """Time for all of it."""
    out: Path = Path("gpu.json")
    """Where the figures are written."""
    size: Size = "full"
    """full: published sizes in bfloat16. tiny: the same measurements of next to nothing."""
    only: tuple[str, ...] = ()
    """Measurements to make; all of them if none is named."""
    worker: str = ""
    """Used by the program itself: the file that a process of measurements writes to."""
    parent: int = 0
    """Used by the program itself: the process that such a one ends with."""


class Task(NamedTuple):
    """One measurement.

    Attributes:
        limit: Seconds that it may take.
        measure: Returns its figures; the argument is the size.
        is_program: Whether it starts programs of its own, for which no other may hold the device.
    """

    limit: float
    measure: Callable[[Size], Figures]
    is_program: bool = False


def measure_peak(size: Size) -> Figures:
    from benchmarks.measure import build_peak_probe, time_call

    probe, flops = build_peak_probe("float32" if size == "tiny" else "bfloat16")
    best = min(time_call(probe) for _ in range(5))
    return {"peak_tflops": round(flops / best / 1e12, 2)}


def step_of(model: str, batch: int, **settings: Any) -> Callable[[Size], Figures]:
    """Returns what measures a training step."""

    def measure(size: Size) -> Figures:
        from benchmarks.train_step import TrainStep, run

        given: dict[str, Any] = {"size": model, "batch": batch, "dtype": "bfloat16", "repeats": 5}
        given |= {"scan_layers": True, "tiles": "even", **settings}
        if size == "tiny":
            given |= {"size": "nano", "batch": 2, "budget": 16, "repeats": 1, "dtype": "float32"}
        return run(TrainStep(**given))

    return measure


def generation_of(batch: int) -> Callable[[Size], Figures]:
    """Returns what measures generation."""

    def measure(size: Size) -> Figures:
        from benchmarks.generate import Generate, run

        if size == "tiny":
            return run(Generate(size="nano", batch=min(batch, 2), caption_tokens=8, repeats=1))
        return run(Generate(batch=batch, dtype="bfloat16"))

    return measure


def measure_masking(size: Size) -> Figures:
    from benchmarks.masking import Masking, run

    return run(Masking(batch=8, budget=16, repeats=1) if size == "tiny" else Masking())


def measure_first_step(size: Size) -> Figures:
    """Times whole processes up to a first step: with nothing kept of compiling, and with all."""
    words = ["--size", "b", "--batch", "64", "--dtype", "bfloat16"]
    if size == "tiny":
        words = ["--size", "nano", "--batch", "2", "--budget", "16"]
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
        for name in ("cold", "from_cache"):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.train_step", *words, *FIRST_STEP],
                env=given,
                capture_output=True,
                text=True,
                check=True,
            )
            line = json.loads(done.stdout.strip().splitlines()[-1])
            found["device"] = line["device"]
            found[f"seconds_to_first_step_{name}"] = line["seconds_to_first_step"]
    return found


def measure_scenes(size: Size) -> Figures:
    """Runs the preset `scenes_gpu`, shortened, from the command to its report."""
    words = ["scenes_gpu", "--training.steps", "1500", "--data.num-train", "20000"]
    if size == "tiny":
        words = ["scenes", "--data.num-train", "40", "--data.num-test", "8", "--model.dim", "16"]
        words += [
            "--model.encoder-layers",
            "1",
            "--model.decoder-layers",
            "1",
            "--loss.tiles",
            "even",
        ]
        words += ["--training.steps", "2", "--evaluation.rivals", "False"]
        words += ["--evaluation.pairs", "rgb->depth"]
        for name in ("rgb", "depth", "normals", "semseg"):
            words += [f"--modalities.{name}.tokenizer.steps", "2"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.monotonic()
        command = [sys.executable, "train.py", *words, "--run-dir", str(run)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        report = json.loads((run / "report.json").read_text())
    figures = {
        f"{'+'.join(row['inputs'])}->{row['target']} {row['metric']}": row["value"]
        for row in report["results"]
    }
    seconds = round(time.monotonic() - start, 1)
    return {"seconds": seconds, "stages": report["seconds"], "figures": figures}


TASKS = {
    "peak": Task(60, measure_peak),
    "step_base_256": Task(120, step_of("b", 256)),
    "step_base_256_unfused": Task(120, step_of("b", 256, fused_attention=False)),
    "generate_base_1": Task(120, generation_of(1)),
    "step_base_256_unrolled": Task(150, step_of("b", 256, scan_layers=False)),
    "step_base_256_joined": Task(150, step_of("b", 256, joined_products=True)),
    "step_base_256_fitted_tiles": Task(150, step_of("b", 256, tiles="fitted")),
    "masking": Task(60, measure_masking),
    "generate_base_16": Task(120, generation_of(16)),
    "step_large_128": Task(150, step_of("l", 128, remat="auto")),
    "step_large_256": Task(200, step_of("l", 256, remat="auto")),
    "first_step": Task(150, measure_first_step, True),
    "scenes_gpu_shortened": Task(300, measure_scenes, True),
}
"""In order of worth; programs of their own come last."""


def main(options: Gpu) -> int:
    """Makes the measurements and prints a table; 1 if one of them failed."""
    for name in options.only:
        if name not in TASKS:
            raise ValueError(f"There is no measurement {name!r}; there are {', '.join(TASKS)}.")
    wanted = [name for name in TASKS if name in options.only or not options.only]
    if options.worker:
        threading.Thread(target=_end_with_parent, args=(options.parent,), daemon=True).start()
        work(wanted, options)
        return 0
    end = time.monotonic() + 60 * options.minutes - FINISH
    found: dict[str, Figures] = {name: {"left_out": "no time"} for name in wanted}
    about = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}

    def keep() -> None:
        write_file(options.out, json.dumps({"about": about, "results": found}, indent=1).encode())

    keep()
    with suppress(Terminated, KeyboardInterrupt), raises_terminated():
        while wanted and time.monotonic() < end:
            _, group = next(itertools.groupby(wanted, lambda name: TASKS[name].is_program))
            with closing(measure(list(group), options, end)) as measured:
                for name, figures in measured:
                    about["device"] = figures.pop("device", about.get("device", "unknown"))
                    found[name] = figures
                    wanted.remove(name)
                    keep()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(format_table(found))
    return int(any("error" in figures or "left_out" in figures for figures in found.values()))


def measure(
    wanted: list[str], options: Gpu, end: float
) -> Generator[tuple[str, Figures], None, None]:
    """Yields figures as one process of measurements brings them; the last may be why it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file, told = Path(folder) / "lines", Path(folder) / "errors"
        file.touch()
        words = ["--worker", str(file), "--parent", str(os.getpid()), "--size", options.size]
        words += ["--only", *wanted]
        with told.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu", *words],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        waiting, started = list(wanted), time.monotonic()
        try:
            while waiting:
                lines = file.read_text().splitlines()[len(wanted) - len(waiting) :]
                for line in lines:
                    yield waiting.pop(0), json.loads(line)
                    started = time.monotonic()
                if not waiting:
                    return
                late = time.monotonic() - started > TASKS[waiting[0]].limit * SLOWER[options.size]
                if late or time.monotonic() > end:
                    yield waiting[0], {"error": "took too long" if late else "no time left"}
                    return
                if process.poll() is not None and not lines:
                    last = told.read_text(errors="replace").strip().splitlines()[-1:]
                    yield waiting[0], {"error": "".join(last) or f"ended with {process.returncode}"}
                    return
                time.sleep(POLL)
        finally:
            _end(process)


def work(names: list[str], options: Gpu) -> None:
    """Makes measurements one after the other, and appends a line of JSON for each."""
    from benchmarks.measure import describe_device

    for name in names:
        try:
            figures = TASKS[name].measure(options.size)
            if not TASKS[name].is_program:
                figures["device"] = describe_device()["device"]
        except subprocess.CalledProcessError as error:
            told = error.stderr or ""
            told = told.decode(errors="replace") if isinstance(told, bytes) else told
            figures = {"error": (told.strip().splitlines() or [str(error)])[-1]}
        except Exception as error:  # Whatever it is: there are others to make.
            figures = {"error": f"{type(error).__name__}: {error}"[:500]}
        with open(options.worker, "a") as file:
            file.write(json.dumps(figures) + "\n")
        _release()


def format_table(found: dict[str, Figures]) -> str:
    """Returns the figures as a table of Markdown."""
    rows = ["| measurement | figures |", "| --- | --- |"]
    for name, figures in found.items():
        shown = ", ".join(f"{key} {_brief(value)}" for key, value in figures.items())
        rows.append(f"| {name} | {shown} |")
    return "\n".join(rows)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {_brief(each)}' for key, each in value.items())})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _release() -> None:
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
    gc.collect()


def _end_with_parent(parent: int) -> None:
    """Ends this process and what it has started when its parent is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _end(process: subprocess.Popen) -> None:
    """Ends a process and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Gpu, description=__doc__)))

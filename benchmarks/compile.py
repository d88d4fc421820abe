"""Times compiling the training step: `python -m benchmarks.compile --size l`.

Tracing, lowering and compiling of layers scanned and unrolled, from shapes alone: no parameter is
made, so that any size fits any machine. Time to the first step is this and one step. Prints one
line of JSON, with the number of loops and the bytes that the step takes on each device.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import jax
import tyro

from benchmarks.measure import print_line
from benchmarks.train_step import TrainStep, build_step
from benchmarks.workloads import draw_tokens
from fourm.training.fit_memory import place


@dataclass(frozen=True)
class Compile(TrainStep):
    """What to compile."""

    both: bool = True
    """Scanned and unrolled; else as --scan-layers says."""
    repeats: int = 1
    """Of which the fastest counts."""


def measure(config: TrainStep, repeats: int) -> dict[str, float]:
    """Returns the seconds of each part, and the memory of the result."""
    parts = []
    for _ in range(repeats):
        jax.clear_caches()
        start = time.perf_counter()
        step = build_step(config)
        state = place(step.layout, step.state_shapes())
        tokens = jax.eval_shape(partial(draw_tokens, step.space, config.batch))
        built = time.perf_counter()
        lowered = step.train_step.lower(state, tokens, jax.eval_shape(lambda: jax.random.key(0)))
        traced = time.perf_counter()
        compiled = lowered.compile()
        parts.append((time.perf_counter() - start, built - start, traced - built))
    total, building, tracing = min(parts)
    memory = compiled.memory_analysis()
    return {
        "loops": lowered.as_text().count("stablehlo.while"),
        "seconds": round(total, 2),
        "seconds_to_build_shapes": round(building, 2),
        "seconds_to_trace": round(tracing, 2),
        "seconds_to_compile": round(total - building - tracing, 2),
        "gibibytes_of_arguments": round(memory.argument_size_in_bytes / 2**30, 3),
        "gibibytes_beside": round(memory.temp_size_in_bytes / 2**30, 3),
    }


def run(config: Compile) -> dict:
    """Returns the figures."""
    kinds = {"scanned": True, "unrolled": False}
    return {
        name: measure(replace(config, scan_layers=is_scanned), config.repeats)
        for name, is_scanned in kinds.items()
        if config.both or is_scanned == config.scan_layers
    }


if __name__ == "__main__":
    options = tyro.cli(Compile, description=__doc__)
    print_line("compile", asdict(options), run(options))

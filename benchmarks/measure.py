"""What all benchmarks share: clocks, the machine's name and peak, and the line they print."""

import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

PROBE = {"cpu": 2048}
"""Side of the square matrices whose product is the peak; elsewhere 8192."""
PRODUCTS = {"cpu": 1}
"""Products in a row; elsewhere 10: a GPU takes about as long to start one as to compute it."""


def describe_device() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = _read_cpu_name()
    return {
        "device": kind,
        "devices": len(devices),
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
    }


def _read_cpu_name() -> str:
    """Returns the processor's own name; Linux keeps it in a file."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def time_call(call: Callable[[], Any]) -> float:
    """Returns the seconds until a call's arrays are there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def time_calls(call: Callable[[], Any], repeats: int) -> list[float]:
    """Returns the seconds of each of `repeats` calls, after one that compiles."""
    jax.block_until_ready(call())
    return [time_call(call) for _ in range(repeats)]


def summarize(seconds: list[float], count: float) -> dict[str, float]:
    """Returns the median time, its spread, and how many of what a call does `count` of a second
    brings.

    The spread is the distance between the quartiles over the median.
    """
    median = float(np.median(seconds))
    low, high = np.percentile(seconds, [25, 75])
    return {
        "samples_per_second": round(count / median, 2),
        "seconds": round(median, 5),
        "spread": round(float(high - low) / median, 3),
    }


def build_peak_probe(dtype: str = "float32") -> tuple[Callable[[], jax.Array], float]:
    """Returns products of matrices that fill the device, one after the other, and their FLOPs.

    Its rate is the peak that others are a share of: what the same compiler gets out of the same
    device at its best.
    """
    devices = jax.devices()
    platform = devices[0].platform
    side, products = PROBE.get(platform, 8192), PRODUCTS.get(platform, 10)
    key = jax.random.key(0)
    first, other = (jax.random.normal(key, (side, side), dtype) for _ in range(2))
    other = other / side**0.5  # So that products stay as large as their factors.

    @jax.jit
    def multiply(first: jax.Array, other: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, products, lambda _, x: x @ other, first)

    jax.block_until_ready(multiply(first, other))
    return lambda: multiply(first, other), 2.0 * products * side**3


def time_beside_peak(
    call: Callable[[], Any], repeats: int, dtype: str = "float32"
) -> tuple[list[float], list[float]]:
    """Times a call and the probe of the peak in turn: a shared machine changes by the minute.

    Args:
        call: Compiled already.
        repeats: How often.
        dtype: Of the probe.

    Returns:
        Seconds of each call, and the FLOP/s of the probes, of which each is the mean of one
        before and one after the call.
    """
    probe, flops = build_peak_probe(dtype)
    seconds, around = [], [flops / time_call(probe)]
    for _ in range(repeats):
        seconds.append(time_call(call))
        around.append(flops / time_call(probe))
    return seconds, [(a + b) / 2 for a, b in itertools.pairwise(around)]


def summarize_share(seconds: list[float], peaks: list[float], flops: float) -> dict[str, float]:
    """Returns the model's rate of useful work, the peak, and the share, each a median.

    Args:
        seconds: Of each call.
        peaks: FLOP/s of one device beside each call.
        flops: Useful work of a call, on all devices.
    """
    # Simulated devices of a CPU share its cores; the probe has them all.
    devices = 1 if jax.devices()[0].platform == "cpu" else len(jax.devices())
    shares = [flops / s / (peak * devices) for s, peak in zip(seconds, peaks, strict=True)]
    return {
        "model_gflops_per_second": round(flops / float(np.median(seconds)) / 1e9, 1),
        "peak_gflops_per_second": round(float(np.median(peaks)) * devices / 1e9, 1),
        "share_of_peak": round(float(np.median(shares)), 3),
    }


def print_line(name: str, settings: dict[str, Any], figures: dict[str, Any]) -> None:
    """Prints one line of JSON: the benchmark, where it ran, of what, and the figures."""
    print(json.dumps({"benchmark": name, **describe_device(), **settings, **figures}), flush=True)

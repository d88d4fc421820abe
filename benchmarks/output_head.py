"""Measures the output head against the naive one: `python -m benchmarks.output_head`.

Value and gradients of the loss of one batch of targets: each target over its own modality's
vocabulary (`fourm.loss`), and every target over the whole token space. Prints one line of JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.masking import build_space
from fourm.loss import LossConfig, grouped_cross_entropy


def measure(function: Callable, *arrays: jax.Array, repeats: int) -> dict[str, float]:
    """Times value and gradients, and asks the compiler for the memory they need beside results."""
    compiled = jax.jit(jax.value_and_grad(function, argnums=(0, 1))).lower(*arrays).compile()
    memory = compiled.memory_analysis()
    jax.block_until_ready(compiled(*arrays))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        times.append(time.perf_counter() - start)
    return {
        "seconds": round(float(np.median(times)), 4),
        "mebibytes": round(memory.temp_size_in_bytes / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=128, help="width")
    parser.add_argument("--targets", type=int, default=2048, help="targets of the whole batch")
    parser.add_argument("--vocab-size", type=int, default=8192, help="codes of each grid")
    parser.add_argument("--tile", type=int, default=LossConfig().tile, help="targets at once")
    parser.add_argument("--repeats", type=int, default=3, help="runs to time")
    arguments = parser.parse_args()

    space = build_space(vocab_size=arguments.vocab_size)
    segments = tuple((entry.first_id, entry.vocab_size) for entry in space.ranges)
    rng = np.random.default_rng(0)
    rows = arguments.targets
    group = rng.integers(0, len(segments), rows)
    first, size = np.array(segments)[group].T
    labels = jnp.asarray(first + rng.integers(0, size), jnp.int32)
    features = jnp.asarray(rng.normal(size=(rows, arguments.dim)), jnp.float32)
    table = jnp.asarray(0.02 * rng.normal(size=(space.vocab_size, arguments.dim)), jnp.float32)
    group = jnp.asarray(group, jnp.int32)
    weights = jnp.full(rows, 1.0 / rows)

    def grouped(features, table):
        return grouped_cross_entropy(
            features, table, labels, group, weights, segments, arguments.tile
        )[0]

    def naive(features, table):
        logits = features @ table.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    own = measure(grouped, features, table, repeats=arguments.repeats)
    whole = measure(naive, features, table, repeats=arguments.repeats)
    result = {
        "benchmark": "output_head",
        "naive_over_grouped": round(whole["seconds"] / own["seconds"], 2),
        "grouped": own,
        "naive": whole,
        "targets": rows,
        "vocab_size": space.vocab_size,
        "modalities": len(segments),
        "dim": arguments.dim,
        "tile": arguments.tile,
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

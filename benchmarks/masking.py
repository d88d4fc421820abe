"""Measures how fast samples are masked: `python -m benchmarks.masking`.

Seven modalities with the sizes of 4M-7 (five grids of 196 tokens, a caption, boxes), 128 tokens
shown and 128 asked. Prints one line of JSON. 4M's masking and collation does 299 samples/s on
four CPU cores, in one process (apple/ml-4m at cda590f, measured on another machine).
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fourm.masking import MaskingComponent, MaskingConfig, mask_batch
from fourm.token_space import TokenSpace
from tokenizers.base import SequenceTokens, TokenBatch

PUBLISHED = 299.0
"""Samples per second of apple/ml-4m with seven modalities."""


@dataclass
class Shape:
    """A tokenizer of which only the shape is used."""

    vocab_size: int
    token_shape: tuple[int, ...]
    special: SequenceTokens | None = None

    def refuse(self, *_: Any) -> Any:
        raise TypeError("the benchmarks use tokens alone")

    encode = decode = save = load = refuse


def build_space(modalities: int = 7, vocab_size: int = 8192, side: int = 14) -> TokenSpace:
    """Builds a space of `modalities`, the last two of them texts of up to 256 tokens."""
    special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=200)
    shapes = {f"grid{i}": Shape(vocab_size, (side, side)) for i in range(modalities - 2)}
    shapes |= {name: Shape(30_000, (256,), special) for name in ("caption", "boxes")}
    return TokenSpace.build(shapes)


def make_tokens(space: TokenSpace, batch: int, seed: int = 0) -> TokenBatch:
    """Makes random tokens, texts of the mean lengths of 4M's data."""
    rng = np.random.default_rng(seed)
    ids, num_real = {}, {}
    for entry in space.ranges:
        shape = (batch, entry.num_tokens)
        ids[entry.name] = jnp.asarray(rng.integers(201, entry.vocab_size, shape), jnp.int32)
        length = {"caption": 26, "boxes": 41}.get(entry.name, entry.num_tokens)
        num_real[entry.name] = jnp.full(batch, length, jnp.int32)
    return TokenBatch(ids, num_real, jnp.arange(batch, dtype=jnp.int32))


def build_mixture(space: TokenSpace, alpha: float, budget: int) -> MaskingConfig:
    """Builds the mixture of one symmetric component."""
    alphas = {name: alpha for name in space.names}
    limits = (budget, budget)
    return MaskingConfig((MaskingComponent(alphas, alphas, limits, limits),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256, help="samples at once")
    parser.add_argument("--modalities", type=int, default=7, help="modalities, two of them texts")
    parser.add_argument("--budget", type=int, default=128, help="tokens shown, and tokens asked")
    parser.add_argument("--repeats", type=int, default=10, help="batches to time")
    arguments = parser.parse_args()

    space = build_space(arguments.modalities)
    config = build_mixture(space, 0.5, arguments.budget)
    tokens = make_tokens(space, arguments.batch)
    start = time.perf_counter()
    mask = jax.jit(lambda key: mask_batch(key, tokens, space, config))
    masked = jax.block_until_ready(mask(jax.random.key(0)))
    compiled = time.perf_counter()
    times = []
    for number in range(arguments.repeats):
        begin = time.perf_counter()
        jax.block_until_ready(mask(jax.random.key(number)))
        times.append(time.perf_counter() - begin)
    seconds = float(np.median(times))
    result = {
        "benchmark": "masking",
        "samples_per_second": round(arguments.batch / seconds, 1),
        "published_samples_per_second": PUBLISHED if arguments.modalities == 7 else None,
        "milliseconds_per_batch": round(seconds * 1e3, 2),
        "batch": arguments.batch,
        "modalities": arguments.modalities,
        "budget": arguments.budget,
        "share_of_slots_used": round(float(masked.inputs.is_real.mean()), 3),
        "seconds_to_compile": round(compiled - start, 2),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

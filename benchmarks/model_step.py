"""Measures training steps of the model: `python -m benchmarks.model_step --layers 6 6`.

Masking, forward and backward pass and optimizer together, with layers scanned and unrolled, on
the space of `benchmarks.masking`. Beside it, what gathering tokens before embedding them saves:
the time to embed the shown tokens against embedding every token of the batch and then gathering,
as apple/ml-4m does. Prints one line of JSON. apple/ml-4m does 7.0 samples/s at 384 wide, 6 + 6
layers, 128 + 128 tokens, batch 16, on four CPU cores (measured on another machine).
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.masking import build_mixture, build_space, make_tokens
from fourm.loss import LossConfig, masked_loss
from fourm.masking import mask_batch
from fourm.memory import restart_with_huge_pages
from fourm.model import FourM, ModelConfig
from fourm.token_space import Inputs, TokenSpace
from fourm.training.train_state import (
    OptimizerConfig,
    build_optimizer,
    create_state,
    make_train_step,
)
from tokenizers.base import TokenBatch


def measure_step(
    space: TokenSpace, config: ModelConfig, tokens: TokenBatch, budget: int, repeats: int
) -> dict[str, float]:
    """Times the first step and the median of `repeats` others."""
    mixture = build_mixture(space, 0.5, budget)

    def loss_fn(model, batch, key):
        return masked_loss(model, mask_batch(key, batch, space, mixture), LossConfig())

    model = nnx.jit(lambda: FourM(space, config, nnx.Rngs(0)))()
    optimizer = build_optimizer(OptimizerConfig(), 100)
    _, state = create_state(model, optimizer)
    step = make_train_step(model, loss_fn, optimizer, average_decay=0.99)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        state, metrics = step(state, tokens, jax.random.key(0))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times[1:]))
    return {
        "samples_per_second": round(len(tokens.index) / seconds, 2),
        "seconds_per_step": round(seconds, 4),
        "seconds_to_first_step": round(times[0], 2),
    }


def measure_embedding(
    space: TokenSpace, dim: int, tokens: TokenBatch, budget: int, repeats: int
) -> dict[str, float]:
    """Times embedding the shown tokens alone, and embedding all tokens and then gathering."""
    table = jax.random.normal(jax.random.key(0), (space.vocab_size, dim))
    positions = jax.random.normal(jax.random.key(1), (space.num_positions, dim))
    mixture = build_mixture(space, 0.5, budget)
    mask = jax.jit(lambda key, tokens: mask_batch(key, tokens, space, mixture).inputs)
    inputs = mask(jax.random.key(0), tokens)

    def gather_first(table, positions, inputs: Inputs):
        return (table[inputs.ids] + positions[inputs.position]).sum()

    def embed_first(table, positions, inputs: Inputs):
        parts = [
            table[tokens.ids[entry.name] + entry.first_id]
            + positions[entry.first_position : entry.first_position + entry.num_tokens][None]
            for entry in space.ranges
        ]
        everything = jnp.concatenate(parts, axis=1)
        # Any rows will do for the time it takes.
        place = jnp.minimum(inputs.position, everything.shape[1] - 1)
        return jnp.take_along_axis(everything, place[..., None], axis=1).sum()

    def measure(function: Callable) -> float:
        compute = jax.jit(jax.grad(function, argnums=(0, 1)))
        jax.block_until_ready(compute(table, positions, inputs))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(compute(table, positions, inputs))
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    gathered, embedded = measure(gather_first), measure(embed_first)
    return {
        "gather_then_embed_seconds": round(gathered, 4),
        "embed_then_gather_seconds": round(embedded, 4),
        "embed_then_gather_over_gather_then_embed": round(embedded / gathered, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=128, help="width")
    parser.add_argument("--heads", type=int, default=4, help="attention heads")
    parser.add_argument("--layers", type=int, nargs=2, default=(3, 3), help="encoder, decoder")
    parser.add_argument("--batch", type=int, default=16, help="samples per step")
    parser.add_argument("--budget", type=int, default=128, help="tokens shown, and tokens asked")
    parser.add_argument("--vocab-size", type=int, default=8192, help="codes of each grid")
    parser.add_argument("--repeats", type=int, default=5, help="steps to time")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()

    space = build_space(vocab_size=arguments.vocab_size)
    tokens = make_tokens(space, arguments.batch)
    result = {
        "benchmark": "model_step",
        "dim": arguments.dim,
        "layers": list(arguments.layers),
        "batch": arguments.batch,
        "budget": arguments.budget,
        "dtype": arguments.dtype,
    }
    for name, is_scanned in (("unrolled", False), ("scanned", True)):
        config = ModelConfig(
            dim=arguments.dim,
            num_heads=arguments.heads,
            encoder_layers=arguments.layers[0],
            decoder_layers=arguments.layers[1],
            scan_layers=is_scanned,
            compute_dtype=arguments.dtype,
        )
        result[name] = measure_step(space, config, tokens, arguments.budget, arguments.repeats)
    result |= measure_embedding(space, arguments.dim, tokens, arguments.budget, arguments.repeats)
    result |= {
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

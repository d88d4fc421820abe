"""How fast tokens are generated: python -m benchmarks.generation prints one line of JSON."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from fourm.generation import GenerationConfig, gather_inputs, generate_tokens
from fourm.model import FourM, ModelConfig
from fourm.token_space import Targets, TokenRange, TokenSpace
from tokenizers.base import SequenceTokens


@dataclass(frozen=True)
class Benchmark:
    """Times generation with random weights; what is generated means nothing."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The transformer."""
    batch: int = 64
    """Samples at once."""
    grid: tuple[int, int] = (8, 8)
    """Tokens of a picture."""
    vocab_size: int = 512
    """Codes of a picture."""
    text_tokens: int = 64
    """Longest caption; all are written to that length."""
    repeats: int = 5
    """Timed calls; the median counts."""


def build_space(config: Benchmark) -> TokenSpace:
    """Returns rgb and depth as grids, and a caption of 2048 ids."""
    special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=32)
    pictures = config.grid[0] * config.grid[1]
    first_caption = 1 + 2 * config.vocab_size
    return TokenSpace(
        (
            TokenRange("rgb", config.vocab_size, config.grid, None, 0, 1, 0),
            TokenRange(
                "depth", config.vocab_size, config.grid, None, 1, 1 + config.vocab_size, pictures
            ),
            TokenRange(
                "caption", 2048, (config.text_tokens,), special, 2, first_caption, 2 * pictures
            ),
        )
    )


def rewrite_caption(model: FourM, known: dict[str, jax.Array], entry: TokenRange) -> jax.Array:
    """Writes a caption greedily without a cache: the whole stream is decoded for every token."""
    inputs = gather_inputs(model.space, known)
    context = model.build_context(model.encode(inputs), inputs)
    batch, length = len(inputs.ids), entry.num_tokens
    place = jnp.broadcast_to(jnp.arange(length), (batch, length))
    first = entry.special.first_sentinel + entry.first_id

    def step(i: jax.Array, previous: jax.Array) -> jax.Array:
        targets = Targets(
            ids=previous,
            previous=previous,
            modality=jnp.full_like(previous, entry.index),
            position=place + entry.first_position,
            is_real=place <= i,
        )
        features = model.decode(targets, context, inputs.is_real)
        logits = model.logits(jax.lax.dynamic_slice_in_dim(features, i, 1, axis=1), entry)
        token = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32) + entry.first_id
        return previous.at[:, i + 1].set(token, mode="drop")

    previous = jnp.full((batch, length), first, jnp.int32)
    return jax.lax.fori_loop(0, length, step, previous)


def time_calls(call: Callable[[], object], config: Benchmark) -> dict[str, float]:
    """Returns samples per second, the spread of the calls, and the time of the first."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    seconds = []
    for _ in range(config.repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    return {
        "samples_per_second": round(config.batch / median, 2),
        "seconds": round(median, 4),
        "spread": round((max(seconds) - min(seconds)) / median, 3),
        "first_call_seconds": round(first, 2),
    }


def run(config: Benchmark) -> dict:
    """Returns all figures."""
    space = build_space(config)
    model = nnx.jit(lambda: FourM(space, config.model, nnx.Rngs(0)))()
    keys = jax.random.split(jax.random.key(0), config.batch)
    shape = (config.batch, space["rgb"].num_tokens)
    known = {"rgb": jax.random.randint(keys[0], shape, 0, config.vocab_size, jnp.int32)}

    def generate(target: str, **settings) -> Callable[[], object]:
        per_target = {target: GenerationConfig(**settings)}
        return lambda: generate_tokens(model, known, [target], keys, per_target).ids[target]

    # A sequence ends when its end is drawn; with an end that is never drawn all are full length.
    end = space["caption"].first_id
    model.output_table[...] = model.output_table[...].at[end : end + 3].set(0)
    graph, state = nnx.split(model)
    rewrite = jax.jit(
        lambda state, known: rewrite_caption(nnx.merge(graph, state), known, space["caption"])
    )
    maskgit = {"scheme": "maskgit", "num_steps": 8}
    calls = {
        "rgb_to_depth_1_step": generate("depth", num_steps=1, temperature=0.0),
        "rgb_to_depth_maskgit_8_steps": generate("depth", **maskgit),
        "rgb_to_depth_maskgit_8_steps_guided": generate("depth", **maskgit, guidance=2.0),
        "rgb_to_depth_random_8_steps": generate("depth", scheme="random", num_steps=8),
        "rgb_to_caption_cached": generate("caption", temperature=0.0),
        "rgb_to_caption_recomputed": lambda: rewrite(state, known),
    }
    return {
        "benchmark": "generation",
        "device": jax.devices()[0].device_kind,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))),
        "config": asdict(config),
        **{name: time_calls(call, config) for name, call in calls.items()},
    }


if __name__ == "__main__":
    print(json.dumps(run(tyro.cli(Benchmark))))

"""Times the training step of published models: `python -m benchmarks.train_step --size b`.

Masking, forward and backward pass, optimizer and moving average, on random tokens. Prints one
line of JSON. Its share of the peak counts useful work only (`benchmarks.flops`), and both are
measured in turn.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import jax
import tyro
from flax import nnx

from benchmarks.flops import count_flops
from benchmarks.measure import print_line, summarize, summarize_share, time_beside_peak
from benchmarks.workloads import Modalities, Size, build_mixture, build_workload, draw_tokens
from fourm.layers import Dtype
from fourm.loss import LossConfig, masked_loss
from fourm.masking import mask_batch
from fourm.memory import restart_with_huge_pages
from fourm.mixture import Rules
from fourm.model import FourM
from fourm.training.train_state import (
    OptimizerConfig,
    build_optimizer,
    create_state,
    make_train_step,
)


@dataclass(frozen=True)
class TrainStep:
    """What to train."""

    size: Size = "tiny"
    """Of the model: 384 wide with 6 + 6 layers, or a published one."""
    modalities: Modalities = "7"
    """Those of 4M-7 or 4M-21."""
    features: bool = False
    """Also pixels and T5 embeddings, which are only ever read."""
    batch: int = 16
    """Samples per step."""
    budget: int = 128
    """Tokens shown, and tokens asked."""
    rules: Rules = "ours"
    """Of masking."""
    dtype: Dtype = "float32"
    """Precision of activations."""
    scan_layers: bool = False
    """Scan over layers instead of unrolling them."""
    tile: int = LossConfig().tile
    """Targets that go through the output head at once."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Its update is part of the step."""
    repeats: int = 10
    """Steps to time."""


def run(config: TrainStep) -> dict:
    """Returns the figures."""
    space, model_config = build_workload(
        config.size, config.modalities, config.features, config.scan_layers, config.dtype
    )
    tokens = draw_tokens(space, config.batch)
    mask = partial(
        mask_batch, space=space, config=build_mixture(space, config.budget, rules=config.rules)
    )
    loss_config = LossConfig(tile=config.tile)

    def loss_fn(model, batch, key):
        return masked_loss(model, mask(key, batch), loss_config)

    model = nnx.jit(lambda: FourM(space, model_config, nnx.Rngs(0)))()
    optimizer = build_optimizer(OptimizerConfig(name=config.optimizer), 1000)
    _, state = create_state(model, optimizer)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    train_step = make_train_step(model, loss_fn, optimizer, average_decay=0.99)
    del model
    key = jax.random.key(0)
    # Masks differ from step to step, and with them the work; the mean over some is near enough.
    flops = (
        sum(
            count_flops(space, model_config, mask(jax.random.fold_in(key, step), tokens))
            for step in range(4)
        )
        / 4
    )

    def step():
        nonlocal state
        state, metrics = train_step(state, tokens, key)
        return metrics

    start = time.perf_counter()
    jax.block_until_ready(step())
    first = time.perf_counter() - start
    seconds, peaks = time_beside_peak(step, config.repeats, config.dtype)
    return {
        **summarize(seconds, config.batch),
        "gflops_per_sample": round(flops / config.batch / 1e9, 2),
        **summarize_share(seconds, peaks, flops),
        "seconds_to_first_step": round(first, 2),
        "parameters": parameters,
    }


if __name__ == "__main__":
    restart_with_huge_pages()
    options = tyro.cli(TrainStep, description=__doc__)
    print_line("train_step", asdict(options), run(options))

"""Times the training step of published models: `python -m benchmarks.train_step --size b`.

Masking, forward and backward pass, optimizer and moving average, on random tokens. Prints one
line of JSON. Its share of the peak counts useful work only (`benchmarks.flops`), and both are
measured in turn. For several devices on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import jax
import tyro
from flax import nnx

from benchmarks.flops import count_flops
from benchmarks.measure import print_line, summarize, summarize_share, time_beside_peak
from benchmarks.workloads import (
    Modalities,
    Precision,
    Size,
    build_mixture,
    build_workload,
    draw_tokens,
)
from fourm.devices.layout import Layout, MeshConfig
from fourm.masking.mask import mask_batch
from fourm.masking.mixture import Rules
from fourm.model.config import ModelConfig, Remat
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from fourm.training.fit_memory import SHARE, bytes_of, memory_of_device, place
from fourm.training.masked_loss import LossConfig, MaskedLoss
from fourm.training.train_state import (
    OptimizerConfig,
    TrainState,
    build_optimizer,
    create_state,
    make_train_step,
)
from tokenizers.process.huge_pages import restart_with_huge_pages

MASKS = 8
"""Steps whose masks the useful work is a mean of; it varies by some per cent."""


@dataclass(frozen=True)
class TrainStep:
    """What to train."""

    size: Size = "tiny"
    """Of the model: 384 wide with 6 + 6 layers, or a published one; nano is for trying it out."""
    modalities: Modalities = "7"
    """Those of 4M-7 or 4M-21."""
    features: bool = False
    """Also pixels and T5 embeddings, which are only ever read."""
    batch: int = 16
    """Samples per step, on all devices."""
    budget: int = 128
    """Tokens shown, and tokens asked."""
    rules: Rules = "ours"
    """Of masking."""
    dtype: Precision = "float32"
    """Precision of activations."""
    scan_layers: bool = False
    """Scan over layers instead of unrolling them."""
    fused_attention: bool = True
    """Attend by a fused kernel where there is one."""
    joined_products: bool = False
    """Multiply by kernels that read the same side by side."""
    remat: Remat = "none"
    """What the backward pass computes again; auto takes the least with which the step fits."""
    tile: int = LossConfig().tile
    """Targets that go through the output head at once."""
    tiles: Literal["auto", "fitted", "even"] = "auto"
    """How they are divided."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Its update is part of the step."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How the devices share the work."""
    repeats: int = 10
    """Steps to time."""


@dataclass(frozen=True)
class Step:
    """A training step, not yet compiled, and what it takes."""

    space: TokenSpace
    model: ModelConfig
    mask: Callable
    layout: Layout
    create_state: Callable[[], TrainState]
    state_shapes: Callable[[], TrainState]
    train_step: Callable


def build_step(config: TrainStep) -> Step:
    """Builds the step without any number of its state."""
    space, model_config = build_workload(
        config.size, config.modalities, config.features, config.scan_layers, config.dtype
    )
    knobs = ("remat", "fused_attention", "joined_products")
    model_config = replace(model_config, **{knob: getattr(config, knob) for knob in knobs})
    mixture = build_mixture(space, config.budget, rules=config.rules)
    mask = partial(mask_batch, space=space, config=mixture)
    layout = Layout.build(config.mesh)
    layout.check(model_config.num_heads, config.batch, 1)
    loss_fn = MaskedLoss(space, mixture, LossConfig(tile=config.tile, tiles=config.tiles), layout)

    def build() -> FourM:
        return FourM(space, model_config, nnx.Rngs(0))

    optimizer = build_optimizer(OptimizerConfig(name=config.optimizer), 1000, layout)
    like = nnx.eval_shape(build)
    train_step = make_train_step(like, loss_fn, optimizer, average_decay=0.99, layout=layout)

    def create() -> TrainState:
        return create_state(layout.create_model(nnx.jit(build)), optimizer, layout)[1]

    def shapes() -> TrainState:
        return jax.eval_shape(lambda: create_state(build(), optimizer, Layout.single())[1])

    return Step(space, model_config, mask, layout, create, shapes, train_step)


def step_bytes(step: Step, batch: int) -> int:
    """Compiles a step from shapes alone and returns the bytes it takes on each device."""
    state = place(step.layout, step.state_shapes())
    tokens = jax.eval_shape(partial(draw_tokens, step.space, batch))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return bytes_of(step.train_step.lower(state, tokens, key).compile())


def settle_remat(config: TrainStep) -> TrainStep:
    """Returns settings of which `remat` is the cheapest that fits the device, if it is auto."""
    if config.remat != "auto":
        return config
    memory = memory_of_device()
    for policy in [each for each in get_args(Remat) if each != "auto"]:
        config = replace(config, remat=policy)
        if memory is None or step_bytes(build_step(config), config.batch) <= SHARE * memory:
            break
    return config


def run(config: TrainStep) -> dict:
    """Returns the figures."""
    config = settle_remat(config)
    step = build_step(config)
    tokens = draw_tokens(step.space, config.batch)
    key = jax.random.key(0)
    mask = jax.jit(step.mask)
    flops = [
        count_flops(step.space, step.model, mask(jax.random.fold_in(key, number), tokens))
        for number in range(MASKS)
    ]
    useful = sum(flops) / MASKS
    state, tokens = step.create_state(), step.layout.distribute(tokens)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def call():
        nonlocal state
        state, metrics = compiled(state, tokens, key)
        return metrics

    start = time.perf_counter()
    compiled = step.train_step.lower(state, tokens, key).compile()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    seconds, peaks = time_beside_peak(call, config.repeats, config.dtype)
    return {
        **summarize(seconds, config.batch),
        "gflops_per_sample": round(useful / config.batch / 1e9, 2),
        **summarize_share(seconds, peaks, useful),
        "seconds_to_first_step": round(first, 2),
        "gibibytes": round(bytes_of(compiled) / 2**30, 2),
        "remat": config.remat,
        "parameters": parameters,
    }


if __name__ == "__main__":
    restart_with_huge_pages()
    options = tyro.cli(TrainStep, description=__doc__)
    print_line("train_step", asdict(options), run(options))

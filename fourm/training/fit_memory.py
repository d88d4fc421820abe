"""Which rematerialisation fits a device, by the compiled training step's own estimate."""

from dataclasses import replace
from typing import get_args

import jax
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from fourm.devices.layout import Layout
from fourm.devices.processes import is_main
from fourm.model.config import ModelConfig, Remat
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from fourm.training.heldout import Tokens
from fourm.training.loop import TrainingConfig
from fourm.training.train_state import LossFn, build_optimizer, create_state, make_train_step
from tokenizers.base import TokenBatch

SHARE = 0.92
"""Of a device's memory that a step may take: some is the runtime's, some lost between arrays."""


def memory_of_device() -> int | None:
    """Returns the bytes that arrays may take on a device; None where nobody knows, as on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def choose_remat(
    space: TokenSpace,
    config: ModelConfig,
    training: TrainingConfig,
    loss_fn: LossFn,
    tokens: Tokens,
    layout: Layout,
) -> ModelConfig:
    """Returns a shape whose `remat` is settled: if it is auto, as the cheapest that fits.

    From keeping all to keeping least, the training step is compiled until one fits; what was
    compiled is what the training then uses, where compiled programs are kept. On a device whose
    memory nobody knows, all is kept. If nothing fits, least is kept, and the training will say so.

    Args:
        space: Of the model.
        config: Its shape.
        training: Of the step.
        loss_fn: That of the training.
        tokens: That are trained on, of which only shapes count.
        layout: How the devices share the work.
    """
    if config.remat != "auto":
        return config
    policies = [policy for policy in get_args(Remat) if policy != "auto"]
    memory = memory_of_device()
    if memory is None:
        return replace(config, remat=policies[0])
    own = layout.rows(training.batch_size)
    batch = layout.distribute(tokens.batch(np.zeros(own.stop - own.start, np.int64)))
    tried = []
    for policy in policies:
        config = replace(config, remat=policy)
        needed = step_bytes(space, config, training, loss_fn, batch, layout)
        tried.append(f"{policy} {needed / 2**30:.1f}")
        if needed <= SHARE * memory:
            break
    if is_main():
        print(
            f"--model.remat auto is {config.remat}: of {memory / 2**30:.1f} GiB a device, a step "
            f"takes, in GiB: {', '.join(tried)}."
        )
    return config


def place(layout: Layout, shapes: PyTree) -> PyTree:
    """Returns shapes of arrays that lie where the layout says."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        layout.shardings(shapes),
    )


def step_bytes(
    space: TokenSpace,
    config: ModelConfig,
    training: TrainingConfig,
    loss_fn: LossFn,
    batch: TokenBatch,
    layout: Layout,
    options: dict[str, bool | int | float | str] | None = None,
) -> int:
    """Compiles a training step from shapes alone and returns the bytes it takes on each device.

    `options` are the compiler's own.
    """
    optimizer = build_optimizer(training.optimizer, training.steps, layout)

    def build() -> FourM:
        return FourM(space, config, nnx.Rngs(0))

    step = make_train_step(
        nnx.eval_shape(build),
        loss_fn,
        optimizer,
        layout,
        training.average_decay,
        training.accumulation,
    )
    shapes = jax.eval_shape(lambda: create_state(build(), optimizer, Layout.single())[1])
    state = place(layout, shapes)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return bytes_of(step.lower(state, batch, key).compile(options))


def bytes_of(step: jax.stages.Compiled) -> int:
    """Returns the bytes that a compiled training step takes on each device."""
    memory = step.memory_analysis()
    # Results take the place of the state, whose buffers are given away.
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)

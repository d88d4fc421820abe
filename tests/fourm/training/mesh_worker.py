"""Tiny training runs on meshes of simulated devices, as a program of its own.

python -m tests.fourm.training.mesh_worker DEVICES OUTPUT.json DATA,FSDP,TENSOR,ACCUMULATION ...
    [--processes HOST:PORT COUNT INDEX] [--large] [--cut-up]

Writes the metrics of every step on every mesh, and where the parameters lie. In one process, a
mesh may have fewer devices than there are.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding

from configs.presets.published import fourm_l, mixture
from fourm.devices.layout import BATCH, Layout, MeshConfig
from fourm.devices.processes import initialize
from fourm.interop.transformer.weights import build_abstract
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from fourm.training.masked_loss import LossConfig, MaskedLoss
from fourm.training.train_state import (
    IS_FINITE,
    OptimizerConfig,
    build_optimizer,
    create_state,
    make_train_step,
)
from tests.fourm.tiny import Shape, draw_model, make_tokens
from tokenizers.base import PADDING, SequenceTokens, TokenBatch

SPACE = TokenSpace.build(
    {
        "picture": Shape(16, (4, 4)),
        "text": Shape(20, (8,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=4)),
    }
)
ALPHAS = {name: 1.0 for name in SPACE.names}
MASKING = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (2, 12), (9, 9)),))
MODEL = ModelConfig(dim=32, num_heads=4, encoder_layers=2, decoder_layers=2, scan_layers=True)
BATCH_SIZE, STEPS = 16, 4


def make_loss(space: TokenSpace, masking: MaskingConfig, layout: Layout, **options) -> MaskedLoss:
    return MaskedLoss(space, masking, LossConfig(tile=1, **options), layout)  # least to compile


def build() -> FourM:
    return FourM(SPACE, MODEL, nnx.Rngs(0))


def train_on(sizes: tuple[int, int, int], accumulation: int) -> dict:
    """Trains a few steps from nothing; some samples lack a modality."""
    layout = Layout.build(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    layout.check(MODEL.num_heads, BATCH_SIZE, accumulation)
    model = layout.create_model(build)
    difference = difference_between(model, build()) if jax.process_count() == 1 else 0.0
    optimizer = build_optimizer(OptimizerConfig(name="muon", warmup_steps=1), STEPS, layout)
    _, state = create_state(model, optimizer, layout)
    places = places_of(state)
    loss_fn = make_loss(SPACE, MASKING, layout)
    step_fn = make_train_step(model, loss_fn, optimizer, layout, 0.9, accumulation)
    rows = layout.rows(BATCH_SIZE)
    found, collectives = [], []
    for step in range(STEPS):
        batch = make_tokens(BATCH_SIZE, step, SPACE, present=0.8)
        mine = jax.tree.map(lambda x: np.asarray(x)[rows], batch)
        arguments = state, layout.distribute(mine), jax.random.key(7)
        if not step:
            step_fn = step_fn.lower(*arguments).compile()
            collectives = collectives_of(step_fn.as_text())
        state, metrics = step_fn(*arguments)
        assert metrics.pop(IS_FINITE).all()
        found.append({name: float(value) for name, value in jax.device_get(metrics).items()})
    return {
        "metrics": found,
        "rows": [rows.start, rows.stop],
        "difference": difference,
        "places": places,
        "stay": places_of(state) == places,
        "collectives": collectives,
    }


CUTS = [(1, 1, 1, 1), (1, 1, 1, 2), (1, 2, 1, 8), (2, 1, 2, 4)]
"""Sizes of the mesh, and slices of the batch."""


def cut_up() -> list[dict]:
    """The metrics of one step on every mesh, and with the batch cut into so many slices.

    One sample alone has a text: all slices but one, and all devices but one, have no target of it.
    """
    length = np.where(np.arange(32) == 13, 5, 0).astype(np.int32)
    text = np.where(np.arange(8) < length[:, None], np.arange(8) + 6, PADDING).astype(np.int32)
    batch = make_tokens(32, 0, SPACE, present=0.7)
    batch.ids["text"], batch.num_real["text"] = text, length
    batch = jax.tree.map(np.asarray, batch)
    small = replace(MODEL, encoder_layers=1, decoder_layers=1)
    found = []
    for number, (*sizes, slices) in enumerate(CUTS):
        layout = Layout.build(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        model, optimizer = draw_model(SPACE, small, 0), optax.sgd(1e-2)
        _, state = create_state(model, optimizer, layout)
        averages = ("modalities", "tokens")
        for average in averages if slices == 1 else averages[number % 2 :][:1]:
            loss_fn = make_loss(SPACE, MASKING, layout, average=average, weights={"text": 3.0})
            step_fn = make_train_step(model, loss_fn, optimizer, layout, 0.9, slices)
            arguments = jax.tree.map(jnp.copy, state), layout.distribute(batch), jax.random.key(7)
            metrics = jax.device_get(step_fn(*arguments)[1])
            del metrics[IS_FINITE]
            metrics = {name: float(value) for name, value in metrics.items()}
            found.append({"at": [*sizes, slices], "average": average, "metrics": metrics})
    return found


def difference_between(model: FourM, other: FourM) -> float:
    """The largest between their parameters."""
    leaves = [jax.tree.leaves(nnx.state(each)) for each in (model, other)]
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(*leaves, strict=True)
    )


def places_of(tree) -> dict[str, list]:
    """Shape of every array of a tree, and of what one device has of it."""
    return {
        jax.tree_util.keystr(path): [leaf.shape, leaf.sharding.shard_shape(leaf.shape)]
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if isinstance(leaf.sharding, NamedSharding)
    }


def compile_large() -> dict:
    """Compiles a step of the published large model on all devices, without its numbers."""
    published = build_abstract(fourm_l("7"))
    space, config = published.space, replace(published.config, scan_layers=True, remat="blocks")
    layout = Layout.build(MeshConfig(data=1, fsdp=-1))

    def build() -> FourM:
        return FourM(space, config, nnx.Rngs(0))

    optimizer = build_optimizer(OptimizerConfig(), 100, layout)
    shapes = jax.eval_shape(lambda: create_state(build(), optimizer, Layout.single())[1])
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        layout.shardings(shapes),
    )

    def rows(*shape, dtype=np.int32):
        place = NamedSharding(layout.mesh, BATCH)
        return jax.ShapeDtypeStruct((8, *shape), dtype, sharding=place)

    batch = TokenBatch(
        {entry.name: rows(entry.num_tokens) for entry in space.ranges},
        {entry.name: rows() for entry in space.ranges},
        rows(),
        {
            entry.name: rows(entry.num_tokens, entry.feature_width, dtype=np.float32)
            for entry in space.ranges
            if entry.kind == "features"
        },
    )
    loss_fn = make_loss(space, mixture("7"), layout)
    step_fn = make_train_step(nnx.eval_shape(build), loss_fn, optimizer, layout, 0.99)
    compiled = step_fn.lower(state, batch, jax.random.key(0)).compile()
    memory = compiled.memory_analysis()
    batch_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
    return {
        "state": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)),
        "parameters": sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes.params)),
        "arguments": memory.argument_size_in_bytes - batch_bytes // 8,
        "temporary": memory.temp_size_in_bytes,
        "donated": memory.alias_size_in_bytes,
        "collectives": sorted(set(collectives_of(compiled.as_text()))),
    }


class Projections(nnx.Module):
    """Two kernels that a mesh splits in different ways, used in bfloat16."""

    def __init__(self):
        def draw(key, shape, dtype):  # whole numbers, so that nothing is rounded
            return jax.random.randint(key, shape, -1, 2).astype(dtype)

        rngs = nnx.Rngs(0)
        options = dict(use_bias=False, dtype=jnp.bfloat16, kernel_init=draw, rngs=rngs)
        self.query, self.context = nnx.Linear(4, 4, **options), nnx.Linear(4, 4, **options)


def descend_in_bfloat16(sizes: tuple[int, int, int], devices: Sequence[jax.Device]) -> dict:
    """Takes a step down the gradient; says what kernels become and what is exchanged for it."""
    layout = Layout.build(MeshConfig(*sizes), devices)

    def loss_fn(model, rows, key):
        return layout.add_up(model.context(model.query(rows)).astype(jnp.float32).sum()), {}

    model = layout.create_model(Projections)
    optimizer = optax.sgd(1.0)
    _, state = create_state(model, optimizer, layout)
    step_fn = make_train_step(model, loss_fn, optimizer, layout, 0.9)
    rows = np.random.default_rng(0).integers(-1, 2, (BATCH_SIZE, 4)).astype(np.float32)
    arguments = layout.distribute(rows), jax.random.key(0)
    # Before it is compiled: no CPU exchanges bfloat16, and its compiler takes float32 instead.
    program = step_fn.lower(state, *arguments).as_text()
    state, _ = step_fn(state, *arguments)
    exchanged = {
        name: re.findall(rf'"stablehlo.{name}".*?-> tensor<\S*x(\w+)>$', program, re.S | re.M)
        for name in ("all_gather", "reduce_scatter")
    }
    return {
        "kernels": [np.asarray(kernel).tolist() for kernel in jax.tree.leaves(state.params)],
        **exchanged,
    }


def collectives_of(program: str) -> list[tuple[str, str, str]]:
    """Returns name, result and origin of every exchange between devices."""
    names = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    found = []
    for line in program.splitlines():
        if match := re.search(rf"= (.*?) ({names})(?:-start)?\(", line):
            origin = re.search(r'op_name="([^"]*)"', line)
            found.append((match[2], match[1], origin[1] if origin else ""))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("devices", type=int)
    parser.add_argument("output", type=Path)
    parser.add_argument("meshes", nargs="*")
    parser.add_argument("--processes", nargs=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--cut-up", action="store_true")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    if arguments.processes:
        address, count, index = arguments.processes
        initialize(address, int(count), int(index))
    found = {}
    for text in arguments.meshes:
        *sizes, accumulation = map(int, text.split(","))
        found[text] = train_on(tuple(sizes), accumulation)
    if arguments.large:
        found["large"] = compile_large()
        found["bfloat16"] = {
            "one": descend_in_bfloat16((1, 1, 1), jax.devices()[:1]),
            "eight": descend_in_bfloat16((2, 2, 2), jax.devices()),
        }
    if arguments.cut_up:
        found["cut up"] = cut_up()
    arguments.output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""One training step of a small model on every mesh, as a program of its own with four devices.

python -m tests.reference.step_worker OUTPUT.npz

Writes masks, parameters before and after, gradients and metrics of every combination.
"""

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fourm.devices.layout import Layout, MeshConfig
from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.model.config import ModelConfig
from fourm.token_space import TokenSpace
from fourm.training import masked_loss
from fourm.training.masked_loss import LossConfig, MaskedLoss
from fourm.training.train_state import (
    OptimizerConfig,
    TrainState,
    build_optimizer,
    create_state,
    make_train_step,
)
from tests.fourm.tiny import Shape, draw_model, make_tokens
from tokenizers.base import PADDING, SequenceTokens, TokenBatch

SPACE = TokenSpace.build(
    {
        # Of one size, for which there is less to compile.
        "picture": Shape(13, (4, 4)),
        "text": Shape(13, (8,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=3)),
        "map": Shape(13, (2, 4)),
        "never": Shape(13, (1,)),
    }
)
MODEL = ModelConfig(
    dim=16, num_heads=4, encoder_layers=1, decoder_layers=1, mlp_ratio=2.0, compute_dtype="float32"
)
ALPHAS = {"picture": 1.0, "text": 1.0, "map": 1.0, "never": 0.1}
MASKING = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (8, 8), (8, 8)),))
WEIGHTS = {"text": 3.0, "map": 0.5}
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=4, weight_decay=0.1, clip_norm=0.5)
STEPS, AVERAGE_DECAY, BATCH = 20, 0.99, 16
MESHES = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (4, 1, 1), (1, 4, 1), (1, 1, 4))
"""Sizes of the axes data, fsdp and tensor: on 1, 2 and 4 devices."""
SLICES = (1, 4)
AVERAGES = ("modalities", "tokens")
PADDINGS = ("none", "some")
COMBINATIONS = tuple(
    (sizes, slices, average)
    for number, (sizes, slices) in enumerate(itertools.product(MESHES, SLICES))
    # On four devices whole and in slices; on two in one of the two ways, with the other average.
    if math.prod(sizes) != 2 or number % 4 in (1, 2)
    # Both on one device; elsewhere in turn, so that each is at every axis and number of slices.
    for average in (AVERAGES if sizes == (1, 1, 1) else AVERAGES[(number + number // 2) % 2 :][:1])
)


def make_batch(padding: str) -> TokenBatch:
    """Samples that fill all slots of inputs and targets; or with modalities that most lack.

    A modality that one sample alone has is in one slice and on one device. "never" is in none.
    """
    batch = make_tokens(BATCH, 3, SPACE)
    ids = {name: np.array(array) for name, array in batch.ids.items()}
    num_real = {name: np.array(array) for name, array in batch.num_real.items()}
    absent = {"never": np.ones(BATCH, bool)}
    if padding == "some":
        rng = np.random.default_rng(5)
        absent |= {name: rng.random(BATCH) < 0.6 for name in ("picture", "text")}
        absent["map"] = np.arange(BATCH) != 9
        absent["picture"][[2, 9]] = False
    for name, rows in absent.items():
        ids[name][rows], num_real[name][rows] = PADDING, 0
    return TokenBatch(ids, num_real, np.asarray(batch.index))


def begin(sizes: tuple[int, int, int]) -> tuple[Layout, optax.GradientTransformation, TrainState]:
    """A mesh, and an optimizer and the state before training on it."""
    layout = Layout.build(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    optimizer = build_optimizer(OPTIMIZER, STEPS, layout)
    return layout, optimizer, create_state(draw_model(SPACE, MODEL, 0), optimizer, layout)[1]


def plain(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by their path, separated by slashes."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    keys = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat)
    return dict(zip(keys, (np.asarray(leaf) for _, leaf in flat), strict=True))


def main(output: Path) -> None:
    found: dict[str, np.ndarray] = {}
    model = draw_model(SPACE, MODEL, 0)
    key = jax.random.key(7)
    found |= {f"before/{name}": a for name, a in plain(params_of(model)).items()}
    mask = jax.jit(lambda batch: mask_batch(jax.random.fold_in(key, 0), batch, SPACE, MASKING))
    masked = {padding: jax.device_get(mask(make_batch(padding))) for padding in PADDINGS}
    for padding, batch in masked.items():
        found |= {f"masked/{padding}/{name}": a for name, a in plain(batch).items()}
    # To compile masks takes as long as all else: from here on, batches are masked ones.
    masked_loss.mask_batch = lambda key, batch, space, masking: batch
    begun = {sizes: begin(sizes) for sizes in MESHES}
    for sizes, slices, average in COMBINATIONS:
        layout, optimizer, first = begun[sizes]
        loss_fn = MaskedLoss(SPACE, MASKING, LossConfig(average, WEIGHTS, tile=1), layout)
        step_fn = make_train_step(model, loss_fn, optimizer, layout, AVERAGE_DECAY, slices)
        for padding, batch in masked.items():
            state = jax.tree.map(jnp.copy, first)  # A step overwrites its own.
            state, metrics = step_fn(state, layout.distribute(batch), key)
            at = "/".join([*map(str, sizes), str(slices), average, padding])
            # The first moment of the first step is a tenth of the clipped gradient.
            (moments,) = (
                leaf.mu
                for leaf in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu"))
                if hasattr(leaf, "mu")
            )
            for part, tree in {
                "metrics": metrics,
                "params": state.params,
                "average": state.average,
                "moments": moments,
            }.items():
                found |= {f"after/{at}/{part}/{name}": a for name, a in plain(tree).items()}
    np.savez(output, **{name.replace("/", "|"): array for name, array in found.items()})


def params_of(model: nnx.Module) -> dict:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

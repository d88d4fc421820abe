"""Our transformer against what a published one computed, stage by stage."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree
from safetensors import safe_open

from fourm.interop.checks.comparison import (
    RELATIVE_TOLERANCE,
    Comparison,
    compare,
    compare_exactly,
)
from fourm.interop.tensors import find_weights
from fourm.interop.transformer.batch import RawBatch, group_arrays, read_batch
from fourm.interop.transformer.config import complete_config, from_ours
from fourm.interop.transformer.modalities import PADDING_TOKEN, find_published, modality_label
from fourm.interop.transformer.placement import list_tensors, to_tensors
from fourm.interop.transformer.weights import export_tensors, import_fm
from fourm.model.transformer import FourM
from fourm.token_space import MaskedBatch, TokenSpace
from fourm.training.masked_loss import LossConfig, masked_loss
from fourm.training.train_state import is_matrix, last_name

GRADIENT_TOLERANCE = 1e-3
POSITION_TOLERANCE = 1e-6
QUICK = {"xla_backend_optimization_level": 0}
"""To compile, which takes far longer than to run a few times."""

LEARNING_RATE, WEIGHT_DECAY, BETAS = 1e-3, 0.05, (0.9, 0.95)


def check_fm(folder: Path) -> Iterator[Comparison]:
    """Yields a comparison for everything recorded of a model.

    Args:
        folder: With the model's weights and configuration, a batch, and what was computed of it.

    Raises:
        ValueError: If the model can't be read.
    """
    model = import_fm(folder)
    with np.load(folder / "inputs.npz") as arrays:
        batch = group_arrays({name: arrays[name] for name in arrays.files})
    with np.load(folder / "outputs.npz") as arrays:
        outputs = {name: arrays[name] for name in arrays.files}
    yield from _check_descriptions(folder, model, batch)
    yield from _check_export(folder, model)
    ours = _compute_stages(model, batch, outputs["enc_mask"], outputs["dec_mask"])
    trunc = {name: outputs.get(f"trunc_{name}") for name in ("enc_mask", "dec_mask")}
    if all(mask is not None for mask in trunc.values()):
        stages = _compute_stages(model, batch, **trunc)
        ours |= {f"trunc_{name}": array for name, array in stages.items()}
    gradients, losses = _train(model, batch, outputs)
    ours |= {f"grad/{name}": gradient for name, gradient in gradients.items()}
    ours["train_losses"] = losses
    for name, recorded in outputs.items():
        if name in ours:
            yield _compare_output(name, ours[name], recorded, outputs)
        else:  # What we don't compute can't be right.
            yield Comparison(name, float("inf"), 0.0)
    norms = {}
    if (folder / "grad_norms.json").is_file():
        norms = json.loads((folder / "grad_norms.json").read_text(encoding="utf-8"))
    for name, recorded in norms.items():
        if name not in gradients:
            yield Comparison(f"grad_norms/{name}", float("inf"), GRADIENT_TOLERANCE)
            continue
        norm = np.asarray(np.linalg.norm(gradients[name].astype(np.float64)))
        # None: nothing depends on it.
        expected = np.array(recorded or 0.0)
        yield compare(f"grad_norms/{name}", norm, expected, tolerance=GRADIENT_TOLERANCE)


def _compare_output(
    name: str, ours: np.ndarray, recorded: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> Comparison:
    """Compares one array; of rows that are padding, only that they are."""
    if recorded.dtype.kind in "biu":
        ours, recorded = np.asarray(ours), np.asarray(recorded)
        if name == "dec_attn_mask":
            is_real = ~outputs["dec_mask"]
            return compare_exactly(name, ours[is_real], recorded[is_real])
        return compare_exactly(name, ours, recorded)
    if name == "train_losses" and ours.shape == recorded.shape:
        each = np.abs(ours - recorded) / np.abs(recorded)
        return Comparison(name, float(each.max()), RELATIVE_TOLERANCE)
    plain = name.removeprefix("trunc_")
    prefix = name[: len(name) - len(plain)]
    side = {"enc": "enc", "con": "enc", "dec": "dec", "log": "dec"}.get(plain[:3])
    is_valid = None if side is None else ~outputs[f"{prefix}{side}_mask"]
    return compare(name, ours, recorded, is_valid)


def _check_descriptions(folder: Path, model: FourM, batch: RawBatch) -> Iterator[Comparison]:
    """Yields comparisons of what is recorded as JSON."""

    def read(name: str) -> Any:
        path = folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def same(name: str, ours: Any, recorded: Any) -> Comparison:
        return compare_exactly(name, np.array(ours == recorded), np.array(True))

    space = model.space
    if (config := read("config.json")) is not None:
        recorded = complete_config(config)
        recorded["domains_in"] = sorted(recorded["domains_in"])
        recorded["domains_out"] = sorted(
            name for name in recorded["domains_out"] if find_published(name).is_predicted
        )
        again = from_ours(space, model.config)
        # Sizes follow from the modalities; dropping paths is nothing a model keeps.
        ours = {key: again[key] for key in again if not key.startswith(("image", "patch", "drop"))}
        yield same("config.json", ours, {key: recorded[key] for key in ours})
    if (shapes := read("tensors.json")) is not None:
        ours = {n: list(t.shape) for n, t in list_tensors(space, model.config).items()}
        yield same("tensors.json", ours, {name: shape for name, (shape, _) in shapes.items()})
    if (sizes := read("overrides.json")) is not None:
        ours = {name: space[name].vocab_size or space[name].feature_width for name in sizes}
        yield same("overrides.json", ours, {n: next(iter(v.values())) for n, v in sizes.items()})
    if (labels := read("ids.json")) is not None:
        yield same("ids.json", {name: modality_label(name) for name in labels}, labels)
    if (counts := read("counts.json")) is not None:
        size = sum(arrays["input_mask"].shape[1] for arrays in batch.values())
        packed = read_batch(batch, space, size, size)
        targets = packed.targets.is_real.sum(1)
        for entry in space.ranges:
            if entry.kind == "sequence" and entry.is_target and entry.name in batch:
                # The first token of a sequence counts there, though it is given.
                targets = targets + (~batch[entry.name]["target_mask"]).any(1)
        ours = {"input": packed.inputs.is_real.sum(1).tolist(), "target": targets.tolist()}
        yield same("counts.json", ours, counts)


def _check_export(folder: Path, model: FourM) -> Iterator[Comparison]:
    """Yields comparisons of what we would write with what we have read."""
    written = export_tensors(model)
    with safe_open(find_weights(folder), framework="numpy") as archive:
        for name, array in written.items():
            recorded = archive.get_tensor(name)
            label = f"export/{name}"
            if name.endswith(".pos_emb"):
                yield compare(label, array, recorded, tolerance=POSITION_TOLERANCE)
            else:
                yield compare_exactly(label, array, recorded)


def _compute_stages(
    model: FourM, raw: RawBatch, enc_mask: np.ndarray, dec_mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns everything there is to compare of a forward pass."""
    count = model.config.num_registers
    batch = read_batch(raw, model.space, enc_mask.shape[1] - count, dec_mask.shape[1])
    labels = np.array([modality_label(name) for name in model.space.names])
    first_ids = np.array([entry.first_id for entry in model.space.ranges])
    graph, state = nnx.split(model)
    run = jax.jit(lambda state: _run_stages(nnx.merge(graph, state), batch), compiler_options=QUICK)
    stages = run(state)
    found = {name: np.asarray(array) for name, array in stages.items()}
    inputs, targets = jax.tree.map(np.asarray, (batch.inputs, batch.targets))
    is_real = np.pad(inputs.is_real, ((0, 0), (count, 0)), constant_values=True)
    label = np.where(inputs.is_real, labels[inputs.modality], -1)
    found["enc_mask"], found["dec_mask"] = ~is_real, ~targets.is_real
    found["enc_mod_mask"] = np.pad(label, ((0, 0), (count, 0)), constant_values=-1)
    found["dec_mod_mask"] = np.where(targets.is_real, labels[targets.modality], -1)
    own = targets.ids - first_ids[targets.modality]
    found["target_ids"] = np.where(targets.is_real, own, 0)
    return found | _losses(found, raw, model.space)


def _run_stages(model: FourM, batch: MaskedBatch) -> dict[str, Array]:
    """Returns what each stage of the model makes of a batch."""
    inputs, targets = batch
    found = {}

    def keep_each(layer, x, context):
        x = layer(x, *context)
        return x, x

    x, is_real = model.start_encoder(inputs)
    registers = x.shape[1] - inputs.ids.shape[1]
    where = model.place(inputs.modality, inputs.position)
    where = jnp.pad(where, ((0, 0), (registers, 0), (0, 0)))
    found["enc_emb"] = where
    found["enc_tokens"] = x.at[:, registers:].set(model.embed_inputs(inputs))
    x, blocks = model.encoder.scan(lambda layer, x, _: keep_each(layer, x, (is_real[:, None],)), x)
    found |= {f"enc_block{i}": block for i, block in enumerate(blocks)}
    found["enc_out"] = model.encode(inputs)
    context = found["context"] = model.build_context(found["enc_out"], inputs)

    y, can_attend = model.start_decoder(targets)
    found["dec_tokens"] = model.embed_previous(targets.previous)
    found["dec_emb"] = model.place_targets(targets.modality, targets.position)
    found["dec_attn_mask"] = ~can_attend
    masks = (context, can_attend, is_real[:, None])
    y, blocks = model.decoder.scan(lambda layer, y, _: keep_each(layer, y, masks), y)
    found |= {f"dec_block{i}": block for i, block in enumerate(blocks)}
    features = found["dec_out"] = model.decode(targets, context, inputs)
    asked = [entry for entry in model.space.ranges if entry.is_target]
    for entry in asked:
        found[f"logits/{entry.name}"] = model.logits(features, entry)
    metrics = masked_loss(model, batch, LossConfig())[1]
    # In the peer's mean over tokens, each weighs as much as its vocabulary is large.
    weights = {entry.name: float(entry.vocab_size) for entry in asked}
    found["loss_token"], _ = masked_loss(model, batch, LossConfig("tokens", weights))
    return found | {f"mod_loss/{entry.name}": metrics[f"loss/{entry.name}"] for entry in asked}


def _losses(
    found: Mapping[str, np.ndarray], raw: RawBatch, space: TokenSpace
) -> dict[str, np.ndarray]:
    """Returns losses as the peer has them: 0 for modalities without targets, which count."""
    asked = [name for name in raw if space[name].is_target]
    losses = {f"mod_loss/{n}": np.nan_to_num(found[f"mod_loss/{n}"]).reshape(1) for n in asked}
    mean = np.mean(list(losses.values()), axis=0)
    return losses | {"loss_mod": mean, "loss_token": found["loss_token"].reshape(1)}


def _train(
    model: FourM, raw: RawBatch, outputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "steps"]]:
    """Returns the gradient of the first step, as tensors of a file, and the loss of each step."""
    space, count = model.space, model.config.num_registers
    num_inputs, num_targets = (outputs[f"{side}_mask"].shape[1] for side in ("enc", "dec"))
    batch = read_batch(raw, space, num_inputs - count, num_targets)
    names = [name for name in raw if space[name].is_target]
    shown = np.unique(np.asarray(batch.targets.modality)[np.asarray(batch.targets.is_real)])
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def compute_loss(params: nnx.State) -> Float[Array, ""]:
        loss, _ = masked_loss(nnx.merge(graph, params, rest), batch, LossConfig())
        # The peer's mean counts modalities without targets.
        return loss * len(shown) / len(names)

    def decays(params: PyTree) -> PyTree:
        # Ours and, unlike in our own runs, registers.
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: is_matrix(path, leaf) or last_name(path) == "registers", params
        )

    b1, b2 = BETAS
    optimizer = optax.adamw(LEARNING_RATE, b1, b2, weight_decay=WEIGHT_DECAY, mask=decays)

    @partial(jax.jit, compiler_options=QUICK)
    def step(params: PyTree, opt_state: PyTree):
        state = _fill_state(template, params)
        loss, gradient = jax.value_and_grad(compute_loss)(state)
        gradient = _without_padding(nnx.to_pure_dict(gradient), space)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, gradient

    template = params
    weights = nnx.to_pure_dict(params)
    opt_state = optimizer.init(weights)
    losses, first = [], None
    for _ in range(max(1, len(outputs.get("train_losses", ())))):
        weights, opt_state, loss, gradient = step(weights, opt_state)
        first = gradient if first is None else first
        losses.append(float(loss))
    flat = jax.tree_util.tree_flatten_with_path(first)[0]
    arrays = {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in flat}
    tensors = list_tensors(space, model.config)
    learned = {name: tensor for name, tensor in tensors.items() if tensor.positions is None}
    return dict(to_tensors(arrays, learned)), np.array(losses)


def _fill_state(template: nnx.State, values: PyTree) -> nnx.State:
    filled = jax.tree.map(lambda x: x, template)
    nnx.replace_by_pure_dict(filled, values)
    return filled


def _without_padding(gradient: PyTree, space: TokenSpace) -> PyTree:
    """Returns a gradient without that of looking up text's padding, of which the peer has none."""
    rows = [entry.first_id + PADDING_TOKEN for entry in space.ranges if entry.kind == "sequence"]
    cleared = {
        name: gradient[name].at[jnp.array(rows, jnp.int32)].set(0)
        for name in ("input_table", "previous_table")
    }
    return gradient | cleared

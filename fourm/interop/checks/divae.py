"""Our diffusion tokenizers against recorded outputs of ml-4m's DiVAEs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from fourm.interop.autoencoders.divae import import_divae
from fourm.interop.checks.comparison import TIE, Comparison, compare, compare_exactly
from fourm.interop.checks.noise import compare_times
from tokenizers.images.diffusion import Trajectory, add_noise, plan_sampling, signal_schedule
from tokenizers.images.diffusion_tokenizer import DiffusionTokenizer, SamplingConfig
from tokenizers.images.quantizers import VectorQuantizer

DECODE_TOLERANCE = 5e-4
"""Of what comes out of several passes through the decoder."""

STEP_PARTS = {"prev_sample": "samples", "model_output": "outputs", "pred_x0_": "cleans"}
"""What is recorded of steps, by what we call it."""

FINAL_MAX = "final_abs_max"
"""The largest number of a decoded picture, by what it is called in decode.json."""

Arrays = dict[str, np.ndarray]


def check_divae(folder: Path) -> Iterator[Comparison]:
    """Yields one comparison per array recorded of a DiVAE, and per list of time steps.

    Args:
        folder: model.safetensors, config.json, preset.json, inputs.npz, outputs.npz, and
            decode.json with steps, mode and time steps of every complete decode.
    """
    inputs, recorded = _read(folder / "inputs.npz"), _read(folder / "outputs.npz")
    tokenizer = import_divae(folder)
    size = inputs["clean"].shape[2:]
    tokenizer = tokenizer.at_grid(tuple(length // tokenizer.config.patch_size for length in size))
    decodes = json.loads((folder / "decode.json").read_text(encoding="utf-8"))

    tokens = recorded.get("tokens")
    ours, is_tie = run_encoder(tokenizer, channels_last(inputs["clean"]), tokens)
    codes = channels_last(ours["quant"])
    ours |= run_decoder(tokenizer, inputs, codes)
    for name, settings in decodes.items():
        stages, times = run_decode(tokenizer, inputs, codes, name, settings)
        ours |= {f"{name}/{stage}": value for stage, value in stages.items()}
        yield compare_times(f"decode/{name}/timesteps", times, settings["timesteps"])
        if FINAL_MAX in settings:
            found = np.abs(stages["decoded"]).max(keepdims=True).ravel()
            expected = np.array([settings[FINAL_MAX]], np.float32)
            yield compare(f"decode/{name}/{FINAL_MAX}", found, expected, None, DECODE_TOLERANCE)

    for name, expected in recorded.items():
        if name not in ours:
            yield Comparison(name, float("inf"), 0.0)
        elif expected.dtype.kind in "iu":
            found = ours[name]
            found = found.reshape(expected.shape) if found.size == expected.size else found
            yield compare_exactly(name, found, expected, is_tie.reshape(found.shape))
        elif name.split("/")[0] in decodes:
            yield compare(name, ours[name], expected, tolerance=DECODE_TOLERANCE)
        else:
            yield compare(name, ours[name], expected)


def run_encoder(
    tokenizer: DiffusionTokenizer,
    raw: Float[Array, "batch y x channels"],
    tokens: Shaped[np.ndarray, "..."] | None,
) -> tuple[Arrays, Shaped[np.ndarray, "..."]]:
    """Returns ids and codes, and which ids nearly tied: codes are the recorded ones' there."""
    graph, state = nnx.split(tokenizer)

    @jax.jit
    def encode(state, raw):
        model = nnx.merge(graph, state)
        latents = model.latents(raw)
        quantizer = model.encoder.quantizer
        ids = model.encoder.quantize(latents, jax.random.key(0), train=False).ids
        if not isinstance(quantizer, VectorQuantizer):
            return ids, jnp.zeros(ids.shape, bool)
        scores = quantizer.closeness(latents.reshape(-1, quantizer.dim))
        best = jax.lax.top_k(scores, 2)[0]
        return ids, (best[:, 0] - best[:, 1] < TIE).reshape(ids.shape)

    ids, is_tie = encode(state, raw)
    chosen = ids
    if tokens is not None and tokens.size == ids.size:
        chosen = jnp.where(is_tie, jnp.asarray(tokens.reshape(ids.shape), ids.dtype), ids)
    quant = channels_first(tokenizer.encoder.lookup(chosen))
    return {"tokens": np.asarray(ids), "quant": quant}, np.asarray(is_tie)


def run_decoder(
    tokenizer: DiffusionTokenizer, inputs: Arrays, codes: Float[Array, "batch gy gx dim"]
) -> Arrays:
    """Returns a noisy picture and everything that one pass through the decoder gives for it."""
    times = jnp.asarray(inputs["timesteps"], jnp.int32)
    signal = jnp.asarray(signal_schedule(tokenizer.config.diffusion))[times]
    noisy = add_noise(channels_last(inputs["clean"]), channels_last(inputs["noise"]), signal)
    graph, state = nnx.split(tokenizer.decoder)
    run = jax.jit(lambda state, codes: nnx.merge(graph, state).activations(noisy, times, codes))
    found = run(state, codes)
    hidden = jnp.asarray(inputs["cond_mask"])[..., None]  # True is hidden, there.
    stages = {
        "noisy": noisy,
        "pred": found.output,
        "pred_cond_masked": run(state, jnp.where(hidden, 0, codes)).output,
        "unet/middle": found.middle,
        **{f"unet/input_block{i}": block for i, block in enumerate(found.down)},
        **{f"unet/output_block{i}": block for i, block in enumerate(found.up)},
    }
    first = {name: channels_first(value) for name, value in stages.items()}
    return first | {"unet/time_embed": np.asarray(found.time)}


def run_decode(
    tokenizer: DiffusionTokenizer,
    inputs: Arrays,
    codes: Float[Array, "batch gy gx dim"],
    name: str,
    settings: dict[str, Any],
) -> tuple[Arrays, np.ndarray]:
    """Returns what every step of a complete decode gives, and the time steps.

    Args:
        tokenizer: What decodes.
        inputs: The noise it starts from, and for ddpm what is added after every step.
        codes: What to draw.
        name: Of the decode; it begins with its sampler.
        settings: Number of steps and mode.
    """
    sampler = name[:4]
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"decode.json names a decode {name!r}; it must begin with ddim or ddpm.")
    sampling = SamplingConfig(sampler, settings["steps"], settings["mode"])
    start = channels_last(inputs["init_noise"])
    step_noise = None
    if sampler == "ddpm":
        recorded = inputs.get(f"{name}/step_noise")
        if recorded is None:
            raise ValueError(f"inputs.npz lacks {name}/step_noise, the noise of every step.")
        # The last step takes none, and none is recorded for it.
        noise = jnp.zeros((settings["steps"], *start.shape))
        noise = noise.at[: len(recorded)].set(np.moveaxis(recorded, 2, -1))
        step_noise = noise.__getitem__

    @nnx.jit
    def draw(tokenizer, codes, start) -> tuple[Array, Trajectory]:
        return tokenizer.draw(codes, start, sampling, step_noise)

    decoded, trajectory = draw(tokenizer, codes, start)
    stages = {"decoded": channels_first(decoded)}
    for theirs, part in STEP_PARTS.items():
        for i, value in enumerate(getattr(trajectory, part)):
            stages[f"{theirs}{i}"] = channels_first(value)
    config = tokenizer.config.diffusion
    return stages, plan_sampling(config, sampling.num_steps, sampling.mode, sampler).times


def channels_last(array: Shaped[np.ndarray, "batch c y x"]) -> Float[Array, "batch y x c"]:
    """Returns pictures as ours lie."""
    return jnp.asarray(np.moveaxis(array, 1, -1), jnp.float32)


def channels_first(array: Shaped[Array, "batch y x c"]) -> Shaped[np.ndarray, "batch c y x"]:
    """Returns pictures as theirs lie."""
    return np.moveaxis(np.asarray(array), -1, 1)


def _read(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}

"""Our tokenizers against recorded outputs of ml-4m's VQ-VAEs."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from fourm.interop.autoencoders.vqvae import import_vqvae, vqvae_places
from fourm.interop.checks.comparison import TIE, Comparison, compare, compare_exactly
from fourm.interop.tensors import export
from tokenizers.images.code_encoder import CodeEncoder
from tokenizers.images.memcodes import Memcodes
from tokenizers.images.vit_tokenizer import ViTTokenizer

TRAINED_ON = "x"
"""The input that the step of training was recorded on."""

CODEBOOK = {"cluster_size": "counts", "embed": "codes", "embed_avg": "sums"}
"""Our names of what training moves by averages."""

Arrays = dict[str, np.ndarray]


def check_vqvae(folder: Path) -> Iterator[Comparison]:
    """Yields one comparison per array recorded of a VQ-VAE.

    Args:
        folder: model.safetensors, config.json, preset.json, inputs.npz, and outputs.npz with
            arrays INPUT/STAGE for every input, and train/... of one step of training.
    """
    tokenizer = import_vqvae(folder)
    inputs, recorded = _read(folder / "inputs.npz"), _read(folder / "outputs.npz")
    ours: Arrays = {}
    may_differ: dict[str, Bool[np.ndarray, "..."]] = {}
    for name, given in inputs.items():
        raw = channels_last(given)
        at_size = tokenizer.at_grid(_grid(tokenizer, raw))
        tokens = recorded.get(f"{name}/tokens")
        stages, may_differ[f"{name}/tokens"] = run_stages(at_size, raw, tokens)
        ours |= {f"{name}/{stage}": value for stage, value in stages.items()}
    if any(name.startswith("train/") for name in recorded):
        raw = channels_last(inputs[TRAINED_ON])
        trained = run_training(tokenizer.at_grid(_grid(tokenizer, raw)), raw)
        ours |= {f"train/{name}": value for name, value in trained.items()}
    for name, expected in recorded.items():
        if name not in ours:
            yield Comparison(name, float("inf"), 0.0)
        elif expected.dtype.kind in "iu":
            found = ours[name]
            found = found.reshape(expected.shape) if found.size == expected.size else found
            yield compare_exactly(name, found, expected, may_differ.get(name))
        else:
            yield compare(name, ours[name], expected)


def run_stages(
    tokenizer: ViTTokenizer,
    raw: Shaped[Array, "batch y x ..."],
    tokens: Shaped[np.ndarray, "..."] | None = None,
) -> tuple[Arrays, Bool[np.ndarray, "..."]]:
    """Returns every stage of a round trip, channels first, and which tokens nearly tied.

    Args:
        tokenizer: For pictures of this size.
        raw: The pictures.
        tokens: Recorded; what follows tokens goes on from these where ours nearly tied.
    """
    graph, state = nnx.split(tokenizer)

    @jax.jit
    def encode(state, raw):
        model = nnx.merge(graph, state)
        latents = model.latents(raw)
        quantized = model.encoder.quantize(latents, jax.random.key(0), train=False)
        return latents, quantized.codes, quantized.ids, _gaps(model.encoder, latents)

    @jax.jit
    def decode(state, codes):
        return nnx.merge(graph, state).reconstruct(codes)

    latents, codes, ids, gaps = encode(state, raw)
    is_tie = np.asarray(gaps < TIE)
    stages = {"latent": latents, "quant": codes}
    if tokens is not None and tokens.size == ids.size:
        theirs = jnp.asarray(tokens.reshape(ids.shape), jnp.int32)
        stages["quant_from_tokens"] = tokenizer.encoder.lookup(theirs)
        if np.any(is_tie & (theirs != ids)):
            stages["quant"] = tokenizer.encoder.lookup(jnp.where(is_tie, theirs, ids))
    else:
        stages["quant_from_tokens"] = tokenizer.encoder.lookup(ids)
    stages["recon"] = decode(state, stages["quant"])
    first = {name: np.moveaxis(np.asarray(value), -1, 1) for name, value in stages.items()}
    shape = is_tie.shape if tokens is None else tokens.shape
    is_tie = is_tie.reshape(shape) if np.prod(shape) == is_tie.size else is_tie
    return first | {"tokens": np.asarray(ids)}, is_tie


def run_training(tokenizer: ViTTokenizer, raw: Shaped[Array, "batch y x ..."]) -> Arrays:
    """Returns what one step of training gives: answers, losses, gradients, the moved codebook."""
    graph, state = nnx.split(tokenizer)

    @jax.jit
    def forward(state, raw):
        model = nnx.merge(graph, state)
        quantized = model.encoder.quantize(model.latents(raw), jax.random.key(0), train=True)
        return model.reconstruct(quantized.codes), quantized.loss

    @jax.jit
    def backward(state, raw):
        model = nnx.merge(graph, state)
        differentiate = nnx.value_and_grad(lambda m: m.loss(raw, jax.random.key(0)), has_aux=True)
        (loss, _), gradients = differentiate(model)
        return loss, gradients, nnx.state(model)

    recon, code_loss = forward(state, raw)
    loss, gradients, moved = backward(state, raw)
    after = nnx.merge(graph, moved).encoder.quantizer
    places = vqvae_places(tokenizer)
    return {
        "recon": np.moveaxis(np.asarray(recon), -1, 1),
        "code_loss": np.asarray(code_loss)[None],
        "loss": np.asarray(loss)[None],
        **{
            theirs: np.asarray(getattr(after, ours)[...])
            for theirs, ours in CODEBOOK.items()
            if hasattr(after, ours)
        },
        **{f"grad/{name}": value for name, value in export(gradients, places).items()},
    }


def channels_last(given: Shaped[np.ndarray, "..."]) -> Shaped[Array, "batch y x ..."]:
    """Returns pictures [batch, c, y, x], or class indices [batch, y, x], as ours lie."""
    if given.ndim == 4:
        return jnp.asarray(np.moveaxis(given, 1, -1), jnp.float32)
    return jnp.asarray(given, jnp.int32)


def _grid(tokenizer: ViTTokenizer, raw: Shaped[Array, "batch y x ..."]) -> tuple[int, int]:
    size = tokenizer.config.patch_size
    return raw.shape[1] // size, raw.shape[2] // size


def _gaps(
    encoder: CodeEncoder, latents: Float[Array, "batch gy gx dim"]
) -> Float[Array, "batch ty tx"]:
    """Returns how far ahead of the second-best code each choice is."""
    quantizer = encoder.quantizer
    if isinstance(quantizer, Memcodes):
        scores = jnp.moveaxis(quantizer.logits(latents), -2, 1)
    else:
        scores = quantizer.closeness(latents.reshape(-1, quantizer.dim))
    best = jax.lax.top_k(scores, 2)[0]
    return (best[..., 0] - best[..., 1]).reshape(len(latents), *encoder.token_shape)


def _read(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}

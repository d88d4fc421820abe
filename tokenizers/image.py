"""A learned tokenizer for anything dense: one id per square patch.

Encoder and decoder work patch by patch with matrix products on the token grid, which on a CPU are
many times faster than convolutions at full resolution. Neighbours still matter: the encoder sees
a window of twice the patch, and the decoder the codes around its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from tokenizers.base import RawBatch
from tokenizers.quantizers import (
    Distance,
    FiniteScalarQuantizer,
    Quantizer,
    VectorQuantizer,
)
from tokenizers.storage import load_folder, save_folder, to_tuples
from tokenizers.values import KINDS
from tokenizers.values_dense import DenseValues, evenly_spaced

CHUNK_TOKENS = 8192
"""Tokens encoded or decoded at once."""


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """A learned tokenizer of pictures and of anything shaped like them."""

    kind: ClassVar[Literal["grid"]] = "grid"

    patch_size: int = 8
    """Pixels along each side of the square that one token stands for; even."""
    quantizer: Literal["vq", "fsq"] = "vq"
    """vq learns its codes; fsq rounds to a fixed grid."""
    codebook_size: int = 512
    """Number of codes of vq. More draw finer pictures, fewer are easier to predict."""
    code_dim: int = 24
    """Length of a code of vq."""
    distance: Distance = "euclidean"
    """How vq compares."""
    decay: float = 0.98
    """Of the averages that move the codes of vq, per step."""
    rare: float = 0.03
    """A code of vq is replaced when it is used less than this share of an equal share."""
    levels: tuple[int, ...] = (8, 8, 8)
    """Levels of each number of fsq; their product is the number of codes."""
    width: int = 192
    """Numbers per token inside encoder and decoder."""
    encoder_depth: int = 1
    """Residual blocks of the encoder."""
    decoder_depth: int = 2
    """Residual blocks of the decoder."""
    code_context: int = 1
    """How many codes away, in every direction, the decoder sees."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 8
    """Pictures per training step."""
    learning_rate: float = 5e-3
    """Peak of the learning rate, reached after a short warm-up and followed by a cosine."""
    weight_decay: float = 0.01
    """Of matrices."""

    def __post_init__(self) -> None:
        if self.patch_size < 2 or self.patch_size % 2:
            raise ValueError(f"patch_size is {self.patch_size}; give an even number, at least 2.")

    def fit(self, values: DenseValues, training: RawBatch, key: Array) -> "ImageTokenizer":
        """Returns a tokenizer with fitted normalisation and untrained weights.

        Args:
            values: What the raw numbers mean.
            training: Samples that passed `values.check`, all of one size.
            key: Source of the initial weights.
        """
        shape = np.shape(training[0])[:2]
        wrong = [length for length in shape if length % self.patch_size or not length]
        if wrong:
            raise ValueError(
                f"Samples are {shape[0]} pixels high and {shape[1]} wide, which patches of "
                f"{self.patch_size} do not tile; change patch_size or the size of the samples."
            )
        grid = (shape[0] // self.patch_size, shape[1] // self.patch_size)
        init_key, code_key = jax.random.split(key)
        statistics = values.fit_statistics(training)
        tokenizer = ImageTokenizer(self, values, statistics, grid, nnx.Rngs(init_key))
        if isinstance(tokenizer.quantizer, VectorQuantizer):
            latents = _latents(*nnx.split(tokenizer), evenly_spaced(training, 64))
            tokenizer.quantizer.spread(latents.reshape(-1, tokenizer.quantizer.dim), code_key)
        return tokenizer


class Statistic(nnx.Variable):
    """A number of the normalisation."""


class ResidualBlock(nnx.Module):
    """x + W2 silu(W1 norm(x)), applied to every token by itself."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        return x + self.down(jax.nn.silu(self.up(self.norm(x))))


class ImageTokenizer(nnx.Module):
    """Raw dense values <-> a grid of ids. Built by `ImageTokenizerConfig.fit`, then trained."""

    special = None

    def __init__(
        self,
        config: ImageTokenizerConfig,
        values: DenseValues,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        self.config, self.values = config, values
        self.token_shape = grid
        self.statistics = nnx.Dict(
            {name: Statistic(jnp.asarray(value)) for name, value in statistics.items()}
        )
        self.quantizer: Quantizer = (
            VectorQuantizer(
                config.codebook_size,
                config.code_dim,
                distance=config.distance,
                decay=config.decay,
                rare=config.rare,
                rngs=rngs,
            )
            if config.quantizer == "vq"
            else FiniteScalarQuantizer(config.levels)
        )
        self.vocab_size = self.quantizer.num_codes
        pixels, width, dim = config.patch_size**2, config.width, self.quantizer.dim
        around = (2 * config.code_context + 1) ** 2
        self.encoder_in = nnx.Linear(4 * pixels * values.num_inputs, width, rngs=rngs)
        self.encoder = nnx.List([ResidualBlock(width, rngs) for _ in range(config.encoder_depth)])
        self.encoder_norm = nnx.LayerNorm(width, rngs=rngs)
        self.encoder_out = nnx.Linear(width, dim, rngs=rngs)
        self.decoder_in = nnx.Linear(around * dim, width, rngs=rngs)
        self.decoder = nnx.List([ResidualBlock(width, rngs) for _ in range(config.decoder_depth)])
        self.decoder_norm = nnx.LayerNorm(width, rngs=rngs)
        self.decoder_out = nnx.Linear(width, pixels * values.num_outputs, rngs=rngs)

    def latents(self, raw: Shaped[Array, "batch y x ..."]) -> Float[Array, "batch gy gx dim"]:
        """Returns what the encoder makes of raw values, before the quantiser."""
        inputs = self.values.normalize(raw, self._statistics)
        windows = patch_windows(inputs, self.config.patch_size)
        x = self.encoder_in(windows.reshape(-1, windows.shape[-1]))
        for block in self.encoder:
            x = block(x)
        return self.encoder_out(self.encoder_norm(x)).reshape(*windows.shape[:3], -1)

    def reconstruct(
        self, codes: Float[Array, "batch gy gx dim"]
    ) -> Float[Array, "batch y x outputs"]:
        """Returns the decoder's answer, in the channels that `values.denormalize` takes."""
        around = code_neighbourhoods(codes, self.config.code_context)
        x = self.decoder_in(around.reshape(-1, around.shape[-1]))
        for block in self.decoder:
            x = block(x)
        x = self.decoder_out(self.decoder_norm(x))
        return from_patches(x.reshape(*codes.shape[:3], -1), self.config.patch_size)

    def loss(
        self, raw: Shaped[Array, "batch y x ..."], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns what to minimise and what to log, and moves the codebook.

        Args:
            raw: Values that passed `values.check`.
            key: Source of the replacements of rare codes.
        """
        quantized = self.quantizer.quantize(self.latents(raw), key, train=True)
        error = self.values.loss(self.reconstruct(quantized.codes), raw, self._statistics)
        return error + quantized.loss, {"reconstruction": error, **quantized.metrics}

    def encode(self, values: RawBatch) -> Int[np.ndarray, "batch gy gx"]:
        if not len(values):
            return np.zeros((0, *self.token_shape), np.int32)
        size = tuple(length * self.config.patch_size for length in self.token_shape)
        shape = np.shape(values[0])
        if shape[:2] != size:
            raise ValueError(f"A value has shape {shape}; this tokenizer takes {size} pixels.")
        return self._in_chunks(_encode, values)

    def decode(self, ids: Int[np.ndarray, "batch gy gx"]) -> np.ndarray:
        ids = np.asarray(ids, np.int32)
        if ids.shape[1:] != self.token_shape:
            raise ValueError(
                f"Ids have shape {ids.shape[1:]}; this tokenizer takes {self.token_shape}."
            )
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ValueError(f"There is no id {wrong[0]}; ids are 0 to {self.vocab_size - 1}.")
        return self._in_chunks(_decode, ids)

    def decode_expected(self, probabilities: Float[np.ndarray, "batch gy gx vocab"]) -> np.ndarray:
        if probabilities.shape[1:] != (*self.token_shape, self.vocab_size):
            raise ValueError(
                f"Probabilities have shape {probabilities.shape[1:]}; this tokenizer takes "
                f"{(*self.token_shape, self.vocab_size)}."
            )
        return self._in_chunks(_decode_expected, probabilities)

    def _in_chunks(self, function: Callable, batch: RawBatch) -> np.ndarray:
        """Applies a compiled function to parts of one fixed size, so that it compiles once."""
        graph, state = nnx.split(self)
        size = max(1, CHUNK_TOKENS // int(np.prod(self.token_shape)))
        parts = []
        for start in range(0, max(len(batch), 1), size):
            part = np.asarray(batch[start : start + size])
            filler = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            answer = np.asarray(function(graph, state, np.concatenate([part, filler])))
            parts.append(answer[: len(part)])
        return np.concatenate(parts)

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns the codes: what looks alike has like codes."""
        return np.asarray(self.quantizer.codebook())

    def save(self, folder: Path) -> None:
        kind = type(self.values).__name__
        description = {
            "tokenizer": "image",
            "config": dataclasses.asdict(self.config),
            "kind": kind,
            "values": dataclasses.asdict(self.values),
            "grid": list(self.token_shape),
        }
        arrays = {name: np.asarray(variable[...]) for name, variable in _variables(self).items()}
        save_folder(folder, description, arrays)

    @classmethod
    def load(cls, folder: Path, values: DenseValues | None = None) -> "ImageTokenizer":
        """Returns the tokenizer that `save` wrote.

        Args:
            folder: Where it was saved.
            values: The meaning of the raw numbers; needed for kinds of your own.
        """
        description, arrays, _ = load_folder(folder)
        try:
            config = ImageTokenizerConfig(**to_tuples(description["config"]))
            if values is None:
                if description["kind"] not in KINDS:
                    raise ValueError(
                        f"{folder} holds a tokenizer for {description['kind']!r}, not one of "
                        f"{', '.join(KINDS)}; pass values= to load it."
                    )
                values = KINDS[description["kind"]](**to_tuples(description["values"]))
            grid = tuple(description["grid"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{folder} does not describe an image tokenizer of this version ({error}); "
                "train it again."
            ) from error
        statistics = {
            name.split("/")[1]: value
            for name, value in arrays.items()
            if name.startswith("statistics/")
        }
        tokenizer = nnx.eval_shape(lambda: cls(config, values, statistics, grid, nnx.Rngs(0)))
        expected = _variables(tokenizer)
        shapes = {name: variable.get_value().shape for name, variable in expected.items()}
        if shapes != {name: value.shape for name, value in arrays.items()}:
            raise ValueError(f"The arrays in {folder} do not fit its description; train it again.")
        for name, variable in expected.items():
            variable.set_value(jnp.asarray(arrays[name]))
        return tokenizer

    @property
    def _statistics(self) -> dict[str, Array]:
        return {name: value[...] for name, value in self.statistics.items()}


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Returns everything that makes a module what it is, by path."""
    return {"/".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(module))}


@functools.partial(jax.jit, static_argnums=0)
def _latents(graph, state, raw):
    return nnx.merge(graph, state).latents(raw)


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph, state, raw):
    model = nnx.merge(graph, state)
    return model.quantizer.quantize(model.latents(raw), jax.random.key(0), train=False).ids


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph, state, ids):
    model = nnx.merge(graph, state)
    output = model.reconstruct(model.quantizer.lookup(ids))
    return model.values.denormalize(output, model._statistics)


@functools.partial(jax.jit, static_argnums=0)
def _decode_expected(graph, state, probabilities):
    model = nnx.merge(graph, state)
    output = model.reconstruct(probabilities @ model.quantizer.codebook())
    return model.values.denormalize(output, model._statistics)


def patch_windows(
    x: Float[Array, "batch y x channels"], patch_size: int
) -> Float[Array, "batch gy gx window"]:
    """Returns for every patch the window of twice its side centred on it, zero outside."""
    half = patch_size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    cells = to_patches(padded, patch_size)
    corners = [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]]
    return jnp.concatenate(corners, axis=-1)


def code_neighbourhoods(
    codes: Float[Array, "batch gy gx dim"], reach: int
) -> Float[Array, "batch gy gx around"]:
    """Returns for every token its code and those up to `reach` away, zero outside."""
    height, width = codes.shape[1:3]
    padded = jnp.pad(codes, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifts = range(2 * reach + 1)
    parts = [padded[:, i : i + height, j : j + width] for i in shifts for j in shifts]
    return jnp.concatenate(parts, axis=-1)


def to_patches(
    x: Float[Array, "batch y x channels"], patch_size: int
) -> Float[Array, "batch gy gx pixels"]:
    """Cuts pictures into squares, each flattened in reading order, channels last."""
    batch, height, width, channels = x.shape
    gy, gx = height // patch_size, width // patch_size
    x = x.reshape(batch, gy, patch_size, gx, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, gy, gx, -1)


def from_patches(
    x: Float[Array, "batch gy gx pixels"], patch_size: int
) -> Float[Array, "batch y x channels"]:
    """Puts squares back together: the inverse of `to_patches`."""
    batch, gy, gx, _ = x.shape
    x = x.reshape(batch, gy, gx, patch_size, patch_size, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, gy * patch_size, gx * patch_size, -1)

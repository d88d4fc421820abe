"""A learned tokenizer for anything dense: one id per square patch.

Encoder and decoder work patch by patch with matrix products on the token grid, which on a CPU are
many times faster than convolutions at full resolution. Neighbours still matter: the encoder sees
a window of twice the patch, and the decoder the codes around its own.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt8

from tokenizers.base import RawBatch
from tokenizers.features import PackedFeatures
from tokenizers.images.learned_tokenizer import DenseTokenizer, Statistic
from tokenizers.images.patch_features import fit_components
from tokenizers.images.quantizers import (
    Bounding,
    Distance,
    FiniteScalarQuantizer,
    LinearlyMovedQuantizer,
    Quantizer,
    VectorQuantizer,
)
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.values.dense import DenseValues, evenly_spaced

MOST_SHOWN = 4096
"""Numbers that may describe a patch."""
PACKED = PackedFeatures("uint8", (0.5,), (1 / 16,))
"""Features between -8 and 8, in steps of 1/16."""


@dataclass(frozen=True)
class ImageTokenizerConfig(Checked):
    """A learned tokenizer of pictures and of anything shaped like them."""

    patch_size: int = 8
    """Pixels along each side of the square that one token stands for; even."""
    quantizer: Literal["vq", "simvq", "fsq"] = "vq"
    """vq learns its codes; simvq learns a linear layer that moves all codes together; fsq rounds to
    a fixed grid."""
    codebook_size: int = 512
    """Number of codes of vq and simvq. More draw finer pictures, fewer are easier to predict. 0:
    chosen when a run begins, from the number of samples."""
    code_dim: int = 24
    """Length of a code of vq and simvq."""
    distance: Distance = "euclidean"
    """How vq compares."""
    decay: float = 0.98
    """Of the averages that move the codes of vq, per step."""
    rare: float = 0.03
    """A code of vq is replaced when it is used less than this share of an equal share."""
    levels: tuple[int, ...] = (8, 8, 8)
    """Levels of each number of fsq; their product is the number of codes."""
    bounding: Bounding = "tanh"
    """What bounds latents for fsq: tanh, or 2 sigmoid(1.6 z) - 1, which uses levels alike."""
    width: int = 192
    """Numbers per token inside encoder and decoder."""
    encoder_depth: int = 1
    """Residual blocks of the encoder."""
    decoder_depth: int = 2
    """Residual blocks of the decoder."""
    code_context: int = 1
    """How many codes away, in every direction, the decoder sees."""
    shown_numbers: int = 64
    """Numbers that describe a patch to the encoder beside its id: principal components of its
    pixels, of which the id keeps little. 0 shows ids alone."""
    hidden_channels: float = 0.0
    """Share of channels that are hidden from the encoder in training, each sample's own, and have
    to be answered all the same: for `Reals.by_channel`, so that bands may be missing anywhere."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 8
    """Pictures per training step."""
    learning_rate: float = 5e-3
    """Peak of the learning rate, reached after a short warm-up and followed by a cosine."""
    weight_decay: float = 0.01
    """Of matrices."""

    EARLIER_DEFAULTS: ClassVar[dict[str, Any]] = {"shown_numbers": 0}

    def check_knobs(self, knob: str) -> None:
        if not 0 <= self.shown_numbers <= MOST_SHOWN:
            raise ValueError(
                f"{name_knob(knob, 'shown_numbers')} is {self.shown_numbers}; it must be 0 to "
                f"{MOST_SHOWN}."
            )
        if not 0 <= self.hidden_channels < 1:
            raise ValueError(
                f"{name_knob(knob, 'hidden_channels')} is {self.hidden_channels}; a share of at "
                "least 0 and less than 1 is allowed."
            )
        if self.codebook_size < 0:
            raise ValueError(
                f"{name_knob(knob, 'codebook_size')} is {self.codebook_size}; at least 1 is "
                "allowed, or 0 to have it chosen."
            )
        if self.bounding != "tanh" and self.quantizer != "fsq":
            raise ValueError(
                f"{name_knob(knob, 'bounding')} is {self.bounding}, but quantizer is "
                f"{self.quantizer}; only fsq bounds latents."
            )
        if self.patch_size < 2 or self.patch_size % 2:
            raise ValueError(
                f"{name_knob(knob, 'patch_size')} is {self.patch_size}; give an even number, at "
                "least 2."
            )

    def fit(self, values: DenseValues, training: RawBatch, key: Array) -> "ImageTokenizer":
        """Returns a tokenizer with fitted normalisation and untrained weights.

        Args:
            values: What the raw numbers mean.
            training: Samples that passed `values.check`, all of one size.
            key: Source of the initial weights.

        Raises:
            ValueError: If patches do not tile the samples, or channels are to be hidden of which
                the encoder would not see that they are.
        """
        if self.hidden_channels and not getattr(values, "by_channel", False):
            raise ValueError(
                f"hidden_channels is {self.hidden_channels}, but {type(values).__name__} does not "
                "tell which channels are known; set Reals.by_channel to True, or hidden_channels "
                "to 0."
            )
        return ImageTokenizer.fitted(self, values, training, key)


class ResidualBlock(nnx.Module):
    """x + W2 silu(W1 norm(x)), applied to every token by itself."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        return x + self.down(jax.nn.silu(self.up(self.norm(x))))


class ImageTokenizer(DenseTokenizer):
    """Raw dense values <-> a grid of ids. Built by `ImageTokenizerConfig.fit`, then trained."""

    config_type = ImageTokenizerConfig
    saved_as = "image"
    packed = PACKED

    def __init__(
        self,
        config: ImageTokenizerConfig,
        values: DenseValues,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        super().__init__(config, values, statistics, grid)
        self.token_shape = grid
        self.quantizer = build_quantizer(config, rngs)
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
        numbers = pixels * values.num_inputs
        self.feature_width = min(config.shown_numbers, numbers)
        shape = numbers, self.feature_width
        self.patch_mean = Statistic(jnp.zeros(numbers)) if self.feature_width else None
        self.components = Statistic(jnp.zeros(shape)) if self.feature_width else None

    @classmethod
    def fitted(
        cls, config: ImageTokenizerConfig, values: DenseValues, training: RawBatch, key: Array
    ) -> "ImageTokenizer":
        """See `DenseTokenizer.fitted`; the numbers that describe patches are fitted as well."""
        tokenizer = super().fitted(config, values, training, key)
        if tokenizer.feature_width:
            patches = _patches(*nnx.split(tokenizer), evenly_spaced(training, 256))
            patches = np.asarray(patches).reshape(-1, patches.shape[-1])
            mean, components = fit_components(patches, tokenizer.feature_width)
            tokenizer.patch_mean[...] = jnp.asarray(mean)
            tokenizer.components[...] = jnp.asarray(components)
        return tokenizer

    def patches(self, raw: Shaped[Array, "batch y x ..."]) -> Float[Array, "batch gy gx pixels"]:
        """Returns the normalised pixels of every patch."""
        return to_patches(self.values.normalize(raw, self._statistics), self.config.patch_size)

    def describe(self, raw: Shaped[Array, "batch y x ..."]) -> UInt8[Array, "batch tokens width"]:
        """Returns the numbers that describe every patch, as they are kept."""
        patches = self.patches(raw)
        rows = patches.reshape(-1, patches.shape[-1]) - self.patch_mean[...]
        shares = (rows @ self.components[...]) * PACKED.std[0] + PACKED.mean[0]
        stored = jnp.round(255 * jnp.clip(shares, 0.0, 1.0)).astype(jnp.uint8)
        return stored.reshape(len(patches), -1, self.feature_width)

    def pack(self, values: RawBatch) -> list[UInt8[np.ndarray, "tokens width"]]:
        """Returns of each sample the numbers to keep, see `tokenizers.base.Described`."""
        if not len(values):
            return []
        return list(self._in_chunks(_describe, values))

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
        shown = raw
        if self.config.hidden_channels:
            key, hiding_key = jax.random.split(key)
            shown = hide_channels(raw, self.config.hidden_channels, hiding_key)
        quantized = self.quantizer.quantize(self.latents(shown), key, train=True)
        error = self.values.loss(self.reconstruct(quantized.codes), raw, self._statistics)
        return error + quantized.loss, {"reconstruction": error, **quantized.metrics}

    def tokenize(self, raw: Shaped[Array, "batch y x ..."]) -> Int[Array, "batch gy gx"]:
        return self.quantizer.quantize(self.latents(raw), jax.random.key(0), train=False).ids

    def detokenize(self, ids: Int[Array, "batch gy gx"]) -> Float[Array, "batch y x outputs"]:
        return self.reconstruct(self.quantizer.lookup(ids))

    def detokenize_expected(
        self, probabilities: Float[Array, "batch gy gx vocab"]
    ) -> Float[Array, "batch y x outputs"]:
        return self.reconstruct(probabilities @ self.quantizer.codebook())

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns the codes: what looks alike has like codes."""
        return np.asarray(self.quantizer.codebook())


def hide_channels(
    raw: Float[Array, "batch y x c"], share: float, key: Array
) -> Float[Array, "batch y x c"]:
    """Returns values of which a share of the channels is unknown, others in every sample.

    Of the channels that are known somewhere in a sample at least one stays.
    """
    is_known = jnp.isfinite(raw).any(axis=(1, 2))
    draws = jnp.where(is_known, jax.random.uniform(key, is_known.shape), -1)
    stays = (draws >= share) | (draws == draws.max(axis=1, keepdims=True))
    return jnp.where(stays[:, None, None], raw, jnp.nan)


def build_quantizer(config: ImageTokenizerConfig, rngs: nnx.Rngs) -> Quantizer:
    """Returns the quantiser that is asked for, at its random start."""
    match config.quantizer:
        case "fsq":
            return FiniteScalarQuantizer(config.levels, config.bounding)
        case "simvq":
            return LinearlyMovedQuantizer(config.codebook_size, config.code_dim, rngs=rngs)
        case "vq":
            return VectorQuantizer(
                config.codebook_size,
                config.code_dim,
                distance=config.distance,
                decay=config.decay,
                rare=config.rare,
                rngs=rngs,
            )
    raise ValueError(f"A quantiser is {config.quantizer!r}; known are vq, simvq and fsq.")


@functools.partial(jax.jit, static_argnums=0)
def _patches(graph, state, raw):
    return nnx.merge(graph, state).patches(raw)


@functools.partial(jax.jit, static_argnums=0)
def _describe(graph, state, raw):
    return nnx.merge(graph, state).describe(raw)


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

"""A learned tokenizer whose decoder is a diffusion model: pictures are drawn, not averaged.

What codes leave open, an ordinary decoder answers with the mean of all that is possible, which is
blurred; this one draws one possibility out of noise (Shi et al. 2022, "DiVAE"). Encoding takes one
pass, decoding many.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped

from tokenizers.base import RawBatch
from tokenizers.images.code_encoder import CodeEncoder, CodeEncoderConfig
from tokenizers.images.diffusion import (
    DiffusionConfig,
    Sampler,
    TimestepsMode,
    Trajectory,
    add_noise,
    denoise,
    plan_sampling,
    signal_schedule,
    training_target,
)
from tokenizers.images.learned_tokenizer import DenseTokenizer
from tokenizers.images.quantizers import Quantizer
from tokenizers.images.unet import UNet, UNetConfig
from tokenizers.images.vit_tokenizer import network_inputs, read_channels
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.values.dense import DenseValues

CHUNK_PIXELS = 2**19
"""Pixels encoded or decoded at once."""


@dataclass(frozen=True)
class SamplingConfig(Checked):
    """How ids become pictures."""

    sampler: Sampler = "ddim"
    """ddim adds no noise on the way and needs fewer steps; ddpm does."""
    num_steps: int = 25
    """Passes through the decoder."""
    mode: TimestepsMode = "trailing"
    """Which time steps to visit; ddpm is always "leading"."""
    seed: int = 0
    """Of the noise that `decode` starts from, the same for every picture: ids mean one picture."""


@dataclass(frozen=True)
class DiffusionTokenizerConfig(Checked):
    """A learned tokenizer of anything dense, with a diffusion model as its decoder."""

    encoder: CodeEncoderConfig = field(default_factory=CodeEncoderConfig)
    """Pictures to ids."""
    decoder: UNetConfig = field(default_factory=UNetConfig)
    """Noise and codes to pictures."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """The noise, and what the decoder predicts."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How ids become pictures."""
    error: Literal["mse", "smooth_l1"] = "mse"
    """What an answer costs: its squared distance, or half that up to 1 and linear beyond."""
    code_dropout: float = 0.0
    """Share of the pictures in training of which the decoder sees only some codes, or none."""
    codes_kept: tuple[int, int] = (0, 0)
    """Fewest and most codes that such a picture keeps."""
    steps: int = 2000
    """Training steps."""
    batch_size: int = 8
    """Pictures per training step."""
    learning_rate: float = 1e-3
    """Peak of the learning rate, reached after a short warm-up and followed by a cosine."""
    weight_decay: float = 0.01
    """Of matrices."""

    def check_knobs(self, knob: str) -> None:
        fewest, most = self.codes_kept
        if not 0 <= self.code_dropout <= 1 or not 0 <= fewest <= most:
            raise ValueError(
                f"{name_knob(knob, 'code_dropout')} is {self.code_dropout} and "
                f"{name_knob(knob, 'codes_kept')} {self.codes_kept}; the first must be between 0 "
                "and 1, the second two counts of which the first is no larger."
            )
        if self.encoder.class_channels:
            raise ValueError(
                f"{name_knob(name_knob(knob, 'encoder'), 'class_channels')} is "
                f"{self.encoder.class_channels}, and a diffusion decoder draws no classes that are "
                "looked up; set it to 0 for one channel per class."
            )

    @property
    def patch_size(self) -> int:
        """Pixels along each side of the square that one token stands for."""
        return self.encoder.patch_size

    def fit(self, values: DenseValues, training: RawBatch, key: Array) -> "DiffusionTokenizer":
        """Returns a tokenizer with fitted normalisation and untrained weights.

        Args:
            values: What the raw numbers mean.
            training: Samples that passed `values.check`, all of one size.
            key: Source of the initial weights.
        """
        return DiffusionTokenizer.fitted(self, values, training, key)


class Picture(NamedTuple):
    """What is noised and drawn.

    Attributes:
        clean: The numbers, 0 where they are unknown.
        is_known: Which numbers an answer is measured at.
    """

    clean: Float[Array, "batch y x channels"]
    is_known: Bool[Array, "batch y x channels"]


class DiffusionTokenizer(DenseTokenizer):
    """Raw dense values <-> a grid of ids. Built by `DiffusionTokenizerConfig.fit`, then trained.

    What is drawn are the answers that `values.denormalize` takes, or their first
    `encoder.num_channels` if that is set: then nothing says where values are unknown, and all of
    a decoded picture is known.
    """

    config_type = DiffusionTokenizerConfig
    saved_as = "diffusion"

    def __init__(
        self,
        config: DiffusionTokenizerConfig,
        values: DenseValues,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        encoder = replace(config.encoder, native_grid=config.encoder.native_grid or grid)
        config = replace(config, encoder=encoder)
        super().__init__(config, values, statistics, grid)
        config.decoder.check_size(*self.picture_size)
        if config.codes_kept[1] > grid[0] * grid[1]:
            raise ValueError(
                f"codes_kept is {config.codes_kept}, but a picture has {grid[0] * grid[1]} codes; "
                "lower it."
            )
        self.num_inputs = read_channels(config.encoder, values)
        self.num_channels = min(self.num_inputs, values.num_outputs)
        self.encoder = CodeEncoder(config.encoder, self.num_inputs, grid, rngs)
        code_dim = self.encoder.quantizer.dim
        self.decoder = UNet(config.decoder, self.num_channels, code_dim, rngs)
        self.token_shape, self.vocab_size = self.encoder.token_shape, self.encoder.vocab_size

    @property
    def quantizer(self) -> Quantizer:
        """What makes latents codes."""
        return self.encoder.quantizer

    def latents(self, raw: Shaped[Array, "batch y x ..."]) -> Float[Array, "batch gy gx dim"]:
        """Returns what the encoder makes of raw values, before the quantiser."""
        return self.encoder.latents(
            network_inputs(self.config.encoder, self.values, raw, self._statistics)
        )

    def picture(self, raw: Shaped[Array, "batch y x ..."]) -> Picture:
        """Returns what the decoder should draw of raw values."""
        target = self.values.target_output(raw, self._statistics)[..., : self.num_channels]
        is_known = jnp.isfinite(target)
        return Picture(jnp.where(is_known, target, 0), is_known)

    def loss(
        self, raw: Shaped[Array, "batch y x ..."], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns what to minimise and what to log, and moves the codebook.

        Args:
            raw: Values that passed `values.check`.
            key: Source of the noise, of its strength, and of what concerns the codes.
        """
        code_key, drop_key, time_key, noise_key = jax.random.split(key, 4)
        config = self.config.diffusion
        quantized = self.encoder.quantize(self.latents(raw), code_key, train=True)
        codes = drop_codes(
            quantized.codes, self.config.code_dropout, self.config.codes_kept, drop_key
        )
        clean, is_known = self.picture(raw)
        times = jax.random.randint(time_key, clean.shape[:1], 0, config.num_timesteps)
        noise = jax.random.normal(noise_key, clean.shape)
        signal = jnp.asarray(signal_schedule(config))[times]
        answer = self.decoder(add_noise(clean, noise, signal), times, codes)
        distance = answer - training_target(config, clean, noise, signal)
        cost = jnp.where(is_known, _cost(self.config.error, distance), 0)
        error = jnp.sum(cost) / jnp.maximum(jnp.sum(is_known), 1)
        return error + quantized.loss, {"reconstruction": error, **quantized.metrics}

    def draw(
        self,
        codes: Float[Array, "batch gy gx dim"],
        start: Float[Array, "batch y x channels"],
        sampling: SamplingConfig,
        step_noise: Callable[[Int[Array, ""]], Array] | None = None,
    ) -> tuple[Float[Array, "batch y x channels"], Trajectory]:
        """Returns pictures drawn out of noise, and all steps on the way.

        Args:
            codes: What to draw.
            start: Noise of unit variance.
            sampling: How; its seed is not used.
            step_noise: Fresh noise by the number of the step, for ddpm.
        """
        if (sampling.sampler == "ddpm") != (step_noise is not None):
            raise ValueError(
                f"The sampler is {sampling.sampler} and step_noise is "
                f"{'missing' if step_noise is None else 'given'}; ddpm needs it, ddim takes none."
            )
        config = self.config.diffusion
        plan = plan_sampling(config, sampling.num_steps, sampling.mode, sampling.sampler)
        return denoise(
            config, lambda noisy, times: self.decoder(noisy, times, codes), start, plan, step_noise
        )

    def tokenize(self, raw: Shaped[Array, "batch y x ..."]) -> Int[Array, "batch ty tx"]:
        return self.encoder.quantize(self.latents(raw), jax.random.key(0), train=False).ids

    def detokenize(self, ids: Int[Array, "batch ty tx"]) -> Float[Array, "batch y x outputs"]:
        """Returns pictures drawn from noise that is the same for every one and in every call.

        So ids mean one picture, whatever is decoded beside them; `decode_with` draws others.
        """
        return self._draw_alike(self.encoder.lookup(ids))

    def detokenize_expected(
        self, probabilities: Float[Array, "batch ty tx vocab"]
    ) -> Float[Array, "batch y x outputs"]:
        return self._draw_alike(self.encoder.mean_codes(probabilities))

    def decode_with(
        self,
        ids: Int[np.ndarray, "batch ty tx"],
        key: Array,
        sampling: SamplingConfig | None = None,
    ) -> np.ndarray:
        """Returns raw values, each drawn from noise of its own.

        Args:
            ids: What to draw.
            key: Source of the noise.
            sampling: How, if other than configured; its seed is not used.
        """

        def decode(graph, state, ids, numbers):
            return _decode_with(graph, state, sampling or self.config.sampling, key, ids, numbers)

        ids = self.check_ids(ids)
        return self._in_chunks(decode, ids, np.arange(len(ids)))

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns the codes: what looks alike has like codes."""
        return np.asarray(self.encoder.quantizer.codebook())

    def _draw_alike(
        self, codes: Float[Array, "batch gy gx dim"]
    ) -> Float[Array, "batch y x outputs"]:
        sampling = self.config.sampling
        alike = jnp.zeros(len(codes), jnp.int32)
        return self._draw_numbered(codes, jax.random.key(sampling.seed), alike, sampling)

    def _draw_numbered(
        self,
        codes: Float[Array, "batch gy gx dim"],
        key: Array,
        numbers: Int[Array, "batch"],
        sampling: SamplingConfig,
    ) -> Float[Array, "batch y x outputs"]:
        """Returns answers; those with equal numbers are drawn from equal noise."""
        shape = (*self.picture_size, self.num_channels)

        def noise(step: Array | int) -> Float[Array, "batch y x channels"]:
            keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, step)))
            return jax.vmap(lambda key: jax.random.normal(key, shape))(keys(numbers))

        step_noise = (lambda step: noise(step + 1)) if sampling.sampler == "ddpm" else None
        picture, _ = self.draw(codes, noise(0), sampling, step_noise)
        # Validity that is not drawn: all is known.
        missing = self.values.num_outputs - self.num_channels
        return jnp.pad(picture, ((0, 0),) * 3 + ((0, missing),), constant_values=1)

    def _in_chunks(self, function: Callable, *columns: RawBatch) -> np.ndarray:
        """Applies a compiled function to parts of a batch.

        Decoding is too dear for much filler: parts are filled up to a power of two, so that still
        few sizes are compiled.
        """
        graph, state = nnx.split(self)
        count = len(columns[0])
        most = max(1, CHUNK_PIXELS // math.prod(self.picture_size))
        size = min(most, 1 << max(count - 1, 0).bit_length())
        parts = []
        for start in range(0, max(count, 1), size):
            part = [np.asarray(column[start : start + size]) for column in columns]
            missing = size - len(part[0])
            full = [np.concatenate([p, np.zeros((missing, *p.shape[1:]), p.dtype)]) for p in part]
            parts.append(np.asarray(function(graph, state, *full))[: size - missing])
        return np.concatenate(parts)


def drop_codes(
    codes: Float[Array, "batch gy gx dim"], share: float, kept: tuple[int, int], key: Array
) -> Float[Array, "batch gy gx dim"]:
    """Returns codes of which, in a share of the pictures, only some are left, the others 0.

    Args:
        codes: Of whole pictures.
        share: Of the pictures that lose codes.
        kept: Fewest and most codes that such a picture keeps.
        key: Source of the choices.
    """
    if not share:
        return codes
    batch, height, width, _ = codes.shape
    picture_key, count_key, order_key = jax.random.split(key, 3)
    loses = jax.random.bernoulli(picture_key, share, (batch, 1))
    count = jax.random.randint(count_key, (batch, 1), kept[0], kept[1] + 1)
    order = jnp.argsort(jax.random.uniform(order_key, (batch, height * width)), axis=1)
    is_seen = ~loses | (order < count)
    return jnp.where(is_seen.reshape(batch, height, width, 1), codes, 0)


def _cost(error: Literal["mse", "smooth_l1"], distance: Array) -> Array:
    match error:
        case "mse":
            return jnp.square(distance)
        case "smooth_l1":
            size = jnp.abs(distance)
            return jnp.where(size < 1, jnp.square(distance) / 2, size - 0.5)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _decode_with(graph, state, sampling, key, ids, numbers):
    model = nnx.merge(graph, state)
    output = model._draw_numbered(model.encoder.lookup(ids), key, numbers, sampling)
    return model.values.denormalize(output, model._statistics)

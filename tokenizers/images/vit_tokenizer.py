"""A learned tokenizer with transformers, or perceptrons, on both sides of the codes.

Slower than `tokenizers.images.patch_tokenizer` and better with much data: every patch sees the
whole picture. The half that makes ids is `tokenizers.images.code_encoder.CodeEncoder`, built from
`CodeEncoderConfig`; other decoders can be put behind it. Published ViT tokenizers (ViT-VQGAN, 4M)
have this shape.
"""

from dataclasses import dataclass, field, replace

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from tokenizers.base import RawBatch
from tokenizers.images.code_encoder import CodeEncoder, CodeEncoderConfig
from tokenizers.images.learned_tokenizer import DenseTokenizer
from tokenizers.images.quantizers import Quantizer
from tokenizers.images.vit import NetworkConfig, PatchDecoder
from tokenizers.settings.checked import Checked
from tokenizers.values import Classes
from tokenizers.values.dense import DenseValues


@dataclass(frozen=True)
class DecoderConfig(Checked):
    """Codes to pictures."""

    patch_size: int = 0
    """Pixels along each side of the square that a token draws; 0 for those that it stands for."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Layers between codes and patches."""
    native_grid: tuple[int, int] | None = None
    """Patches (down, across) for which positions are stored; by default those of the samples."""
    num_convolutions: int = 0
    """ConvNeXt blocks over the finished picture, against edges between patches; 2 are usual."""


@dataclass(frozen=True)
class ViTTokenizerConfig(Checked):
    """A learned tokenizer of pictures, feature maps and vectors, with transformers."""

    encoder: CodeEncoderConfig = field(default_factory=CodeEncoderConfig)
    """Pictures to ids."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Codes to pictures."""
    steps: int = 2000
    """Training steps."""
    batch_size: int = 8
    """Pictures per training step."""
    learning_rate: float = 1e-3
    """Peak of the learning rate, reached after a short warm-up and followed by a cosine."""
    weight_decay: float = 0.01
    """Of matrices."""

    @property
    def patch_size(self) -> int:
        """Pixels along each side of the square that one token stands for."""
        return self.encoder.patch_size

    def fit(self, values: DenseValues, training: RawBatch, key: Array) -> "ViTTokenizer":
        """Returns a tokenizer with fitted normalisation and untrained weights.

        Args:
            values: What the raw numbers mean.
            training: Samples that passed `values.check`, all of one size.
            key: Source of the initial weights.
        """
        return ViTTokenizer.fitted(self, values, training, key)


class ViTTokenizer(DenseTokenizer):
    """Raw dense values <-> a grid of ids. Built by `ViTTokenizerConfig.fit`, then trained."""

    config_type = ViTTokenizerConfig
    saved_as = "vit"

    def __init__(
        self,
        config: ViTTokenizerConfig,
        values: DenseValues,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        config = replace(
            config,
            encoder=replace(config.encoder, native_grid=config.encoder.native_grid or grid),
            decoder=replace(config.decoder, native_grid=config.decoder.native_grid or grid),
        )
        super().__init__(config, values, statistics, grid)
        if config.encoder.class_channels and not isinstance(values, Classes):
            raise ValueError(
                f"class_channels is {config.encoder.class_channels}, but the values are "
                f"{type(values).__name__}; set it to 0 for anything but class maps."
            )
        self.encoder = CodeEncoder(
            config.encoder,
            read_channels(config.encoder, values),
            grid,
            rngs,
            num_classes=values.num_outputs if config.encoder.class_channels else 0,
        )
        self.token_shape = self.encoder.token_shape
        self.vocab_size = self.encoder.vocab_size
        decoder = config.decoder
        self.unproject = nnx.Linear(self.encoder.quantizer.dim, decoder.network.width, rngs=rngs)
        self.decoder = PatchDecoder(
            decoder.network,
            values.num_outputs,
            decoder.patch_size or config.patch_size,
            decoder.native_grid,
            rngs,
            convolutions=decoder.num_convolutions,
        )

    @property
    def quantizer(self) -> Quantizer:
        """What makes latents codes."""
        return self.encoder.quantizer

    def latents(self, raw: Shaped[Array, "batch y x ..."]) -> Float[Array, "batch gy gx dim"]:
        """Returns what the encoder makes of raw values, before the quantiser."""
        return self.encoder.latents(
            network_inputs(self.config.encoder, self.values, raw, self._statistics)
        )

    def reconstruct(
        self, codes: Float[Array, "batch gy gx dim"]
    ) -> Float[Array, "batch y x outputs"]:
        """Returns the decoder's answer, in the channels that `values.denormalize` takes."""
        return self.decoder(self.unproject(codes))

    def loss(
        self, raw: Shaped[Array, "batch y x ..."], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns what to minimise and what to log, and moves the codebook.

        Args:
            raw: Values that passed `values.check`.
            key: Source of what the quantiser draws.
        """
        quantized = self.encoder.quantize(self.latents(raw), key, train=True)
        error = self.values.loss(self.reconstruct(quantized.codes), raw, self._statistics)
        return error + quantized.loss, {"reconstruction": error, **quantized.metrics}

    def tokenize(self, raw: Shaped[Array, "batch y x ..."]) -> Int[Array, "batch ty tx"]:
        return self.encoder.quantize(self.latents(raw), jax.random.key(0), train=False).ids

    def detokenize(self, ids: Int[Array, "batch ty tx"]) -> Float[Array, "batch y x outputs"]:
        return self.reconstruct(self.encoder.lookup(ids))

    def detokenize_expected(
        self, probabilities: Float[Array, "batch ty tx vocab"]
    ) -> Float[Array, "batch y x outputs"]:
        return self.reconstruct(self.encoder.mean_codes(probabilities))

    def _chunk_size(self, count: int) -> int:
        # A full chunk for a few samples would cost more than to compile for fewer.
        return min(super()._chunk_size(count), 1 << max(count - 1, 0).bit_length())

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns the codes: what looks alike has like codes."""
        return np.asarray(self.encoder.quantizer.codebook())


def read_channels(config: CodeEncoderConfig, values: DenseValues) -> int:
    """Returns how many of the channels that `values` gives an encoder reads.

    Raises:
        ValueError: If it is to read more than there are.
    """
    if config.num_channels > values.num_inputs:
        raise ValueError(
            f"num_channels is {config.num_channels}, but {type(values).__name__} gives "
            f"{values.num_inputs}; give at most that, or 0 for all."
        )
    return config.num_channels or values.num_inputs


def network_inputs(
    config: CodeEncoderConfig,
    values: DenseValues,
    raw: Shaped[Array, "batch y x ..."],
    statistics: dict[str, Array],
) -> Shaped[Array, "batch y x ..."]:
    """Returns what a `CodeEncoder` takes: normalised channels, or class indices."""
    if config.class_channels:
        return jax.numpy.where(values.is_valid(raw), raw.astype(np.int32), -1)
    return values.normalize(raw, statistics)[..., : read_channels(config, values)]

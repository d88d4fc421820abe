"""A learned tokenizer of signals: one id per stretch of time, by the machinery of pictures.

The encoder sees a window of twice the stretch and the decoder the codes around its own, as those of
pictures do (`tokenizers.images.patch_tokenizer`): strided and overlapping, in matrix products.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tokenizers.base import RawBatch
from tokenizers.images.learned_tokenizer import DenseTokenizer
from tokenizers.images.patch_tokenizer import ResidualBlock
from tokenizers.images.quantizers import FiniteScalarQuantizer, Quantizer, VectorQuantizer
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.signals.values import Signal
from tokenizers.storage.folders import load_folder, read_part


@dataclass(frozen=True)
class SignalTokenizerConfig(Checked):
    """A learned tokenizer of signals."""

    patch_steps: int = 16
    """Steps that one token stands for; even. The last token may reach beyond the end."""
    quantizer: Literal["vq", "fsq"] = "vq"
    """vq learns its codes; fsq rounds to a fixed grid."""
    codebook_size: int = 512
    """Number of codes of vq. 0: chosen when a run begins, from the number of samples."""
    code_dim: int = 16
    """Length of a code of vq."""
    levels: tuple[int, ...] = (8, 8, 8)
    """Levels of each number of fsq; their product is the number of codes."""
    width: int = 128
    """Numbers per token inside encoder and decoder."""
    encoder_depth: int = 2
    """Residual blocks of the encoder."""
    decoder_depth: int = 2
    """Residual blocks of the decoder."""
    code_context: int = 2
    """How many codes away, to either side, the decoder sees."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 16
    """Signals per training step."""
    learning_rate: float = 3e-3
    """Peak of the learning rate, reached after a short warm-up and followed by a cosine."""
    weight_decay: float = 0.01
    """Of matrices."""

    def check_knobs(self, knob: str) -> None:
        if self.patch_steps < 2 or self.patch_steps % 2:
            raise ValueError(
                f"{name_knob(knob, 'patch_steps')} is {self.patch_steps}; give an even number, at "
                "least 2."
            )
        if self.codebook_size < 0 or self.code_context < 0:
            raise ValueError(
                f"{name_knob(knob, 'codebook_size')} is {self.codebook_size} and "
                f"{name_knob(knob, 'code_context')} {self.code_context}; at least 0 is allowed."
            )

    def most_tokens(self, values: Signal) -> int:
        """Returns how many stretches a signal has."""
        return -(-values.length // self.patch_steps)

    def fit(self, values: Signal, training: RawBatch, key: Array) -> "SignalTokenizer":
        """Returns a tokenizer with fitted normalisation and untrained weights.

        Args:
            values: What the raw numbers mean.
            training: Samples that passed `values.check`.
            key: Source of the initial weights.
        """
        return SignalTokenizer.fitted(self, values, training, key)


class SignalTokenizer(DenseTokenizer):
    """Signals <-> ids [tokens]. Built by `SignalTokenizerConfig.fit`, then trained."""

    config_type = SignalTokenizerConfig
    saved_as = "signal"

    def __init__(
        self,
        config: SignalTokenizerConfig,
        values: Signal,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        super().__init__(config, values, statistics, grid)
        self.token_shape = (grid[1],)
        self.quantizer: Quantizer = (
            VectorQuantizer(config.codebook_size, config.code_dim, rngs=rngs)
            if config.quantizer == "vq"
            else FiniteScalarQuantizer(config.levels)
        )
        self.vocab_size = self.quantizer.num_codes
        steps, width, dim = config.patch_steps, config.width, self.quantizer.dim
        inputs = 2 * steps * (values.channels + 1)
        self.encoder_in = nnx.Linear(inputs, width, rngs=rngs)
        self.encoder = nnx.List([ResidualBlock(width, rngs) for _ in range(config.encoder_depth)])
        self.encoder_norm = nnx.LayerNorm(width, rngs=rngs)
        self.encoder_out = nnx.Linear(width, dim, rngs=rngs)
        self.decoder_in = nnx.Linear((2 * config.code_context + 1) * dim, width, rngs=rngs)
        self.decoder = nnx.List([ResidualBlock(width, rngs) for _ in range(config.decoder_depth)])
        self.decoder_norm = nnx.LayerNorm(width, rngs=rngs)
        self.decoder_out = nnx.Linear(width, steps * values.channels, rngs=rngs)

    @classmethod
    def grid_of(cls, config: SignalTokenizerConfig, training: RawBatch) -> tuple[int, int]:
        """Returns how many stretches there are, in one row."""
        return 1, -(-len(training[0]) // config.patch_steps)

    @property
    def picture_size(self) -> tuple[int, int]:
        raise AttributeError("A signal is no picture.")  # Which is how others ask.

    @property
    def value_shape(self) -> tuple[int, int]:
        """Steps and channels of a signal."""
        return self.values.length, self.values.channels

    def latents(self, raw: Float[Array, "batch length c"]) -> Float[Array, "batch tokens dim"]:
        """Returns what the encoder makes of signals, before the quantiser."""
        inputs, steps = self.values.normalize(raw, self._statistics), self.config.patch_steps
        half, beyond = steps // 2, self.grid[1] * steps - self.values.length
        padded = jnp.pad(inputs, ((0, 0), (half, half + beyond), (0, 0)))
        cells = padded.reshape(len(raw), self.grid[1] + 1, -1)
        windows = jnp.concatenate([cells[:, :-1], cells[:, 1:]], axis=-1)
        x = self.encoder_in(windows.reshape(-1, windows.shape[-1]))
        for block in self.encoder:
            x = block(x)
        return self.encoder_out(self.encoder_norm(x)).reshape(*windows.shape[:2], -1)

    def reconstruct(
        self, codes: Float[Array, "batch tokens dim"]
    ) -> Float[Array, "batch length c"]:
        """Returns the decoder's answer, in the channels that `values.denormalize` takes."""
        reach, count = self.config.code_context, codes.shape[1]
        padded = jnp.pad(codes, ((0, 0), (reach, reach), (0, 0)))
        parts = [padded[:, i : i + count] for i in range(2 * reach + 1)]
        around = jnp.concatenate(parts, axis=-1)
        x = self.decoder_in(around.reshape(-1, around.shape[-1]))
        for block in self.decoder:
            x = block(x)
        x = self.decoder_out(self.decoder_norm(x))
        return x.reshape(len(codes), -1, self.values.channels)[:, : self.values.length]

    def loss(
        self, raw: Float[Array, "batch length c"], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns what to minimise and what to log, and moves the codebook.

        Args:
            raw: Signals that passed `values.check`.
            key: Source of the replacements of rare codes.
        """
        quantized = self.quantizer.quantize(self.latents(raw), key, train=True)
        error = self.values.loss(self.reconstruct(quantized.codes), raw, self._statistics)
        return error + quantized.loss, {"reconstruction": error, **quantized.metrics}

    def tokenize(self, raw: Float[Array, "batch length c"]) -> Int[Array, "batch tokens"]:
        return self.quantizer.quantize(self.latents(raw), jax.random.key(0), train=False).ids

    def detokenize(self, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch length c"]:
        return self.reconstruct(self.quantizer.lookup(ids))

    def detokenize_expected(
        self, probabilities: Float[Array, "batch tokens vocab"]
    ) -> Float[Array, "batch length c"]:
        return self.reconstruct(probabilities @ self.quantizer.codebook())

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns the codes: what sounds alike has like codes."""
        return np.asarray(self.quantizer.codebook())

    @classmethod
    def load(cls, folder: Path, values: Any = None) -> "DenseTokenizer":
        """Returns the tokenizer that `save` wrote; see `DenseTokenizer.load`."""
        if values is None:
            values = read_part(load_folder(folder, "signal")[0], "values", Signal, folder)
        return super().load(folder, values)

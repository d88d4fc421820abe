"""A learned tokenizer of embeddings: a few ids per vector, or per cell of a map of vectors.

It starts as principal components and a quantiser on them; small networks beside both linear maps
learn what these leave. Several ids per vector code it one after the other, each what those before
it have left (residual VQ, Lee et al. 2022), or each a part of the components (FSQ).
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
from tokenizers.embeddings.values import Embedding
from tokenizers.images.learned_tokenizer import DenseTokenizer, require_tiling
from tokenizers.images.patch_tokenizer import from_patches, to_patches
from tokenizers.images.quantizers import FiniteScalarQuantizer, VectorQuantizer
from tokenizers.images.several_codes import (
    GroupedQuantizer,
    OneCode,
    ResidualQuantizer,
    SeveralCodes,
)
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.spread import evenly_spread
from tokenizers.storage.folders import load_folder, read_part
from tokenizers.values.dense import evenly_spaced

ROWS = 4096
"""Vectors to which principal components are fitted."""
STRETCH = 1.7
"""What turns the codes of fsq back into normal numbers best: their covariance over the variance of
numbers that are uniform in [-1, 1], 3 / sqrt(pi)."""


@dataclass(frozen=True)
class EmbeddingTokenizerConfig(Checked):
    """A learned tokenizer of embeddings, see `tokenizers.embeddings`."""

    patch_size: int = 1
    """Cells of a map along each side of the square that one token stands for."""
    num_heads: int = 4
    """Ids per vector, or per square of a map; more keep more, and each costs a token."""
    quantizer: Literal["vq", "fsq"] = "vq"
    """vq learns its codes, one after the other; fsq rounds to a fixed grid, each a part."""
    codebook_size: int = 512
    """Number of codes of vq. 0: chosen when a run begins, from the number of samples."""
    code_dim: int = 32
    """Principal components that vq codes."""
    levels: tuple[int, ...] = (8, 8, 8)
    """Levels of each number of fsq, whose product is the number of codes; an id codes as many
    components."""
    hidden: int = 256
    """Width of the small networks beside encoder and decoder; 0 leaves both linear."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 64
    """Samples per training step."""
    learning_rate: float = 1e-3
    """Peak of the learning rate, reached after a short warm-up and followed by a cosine."""
    weight_decay: float = 0.01
    """Of matrices."""

    def check_knobs(self, knob: str) -> None:
        if min(self.patch_size, self.num_heads, self.code_dim) < 1:
            raise ValueError(
                f"{name_knob(knob, 'patch_size')}, num_heads and code_dim are {self.patch_size}, "
                f"{self.num_heads} and {self.code_dim}; at least 1 is allowed."
            )
        if min(self.codebook_size, self.hidden) < 0:
            raise ValueError(
                f"{name_knob(knob, 'codebook_size')} is {self.codebook_size} and "
                f"{name_knob(knob, 'hidden')} {self.hidden}; at least 0 is allowed."
            )

    def most_tokens(self, values: Embedding) -> int:
        """Returns the ids of a vector, or of a square of a map."""
        return self.num_heads

    def fit(self, values: Embedding, training: RawBatch, key: Array) -> "EmbeddingTokenizer":
        """Returns a tokenizer that codes principal components, to be trained further.

        Args:
            values: What the vectors are.
            training: Samples that passed `values.check`; maps of one size.
            key: Source of the initial weights and codes.
        """
        return EmbeddingTokenizer.fitted(self, values, training, key)

    def build_quantizer(self, rngs: nnx.Rngs) -> OneCode | SeveralCodes:
        """Returns the quantiser, at its random start."""
        if self.quantizer == "fsq":
            grids: list[OneCode] = [
                FiniteScalarQuantizer(self.levels, "sigmoid") for _ in range(self.num_heads)
            ]
            return grids[0] if self.num_heads == 1 else GroupedQuantizer(grids)
        # Directions leave no residual, and lengths of components mean something.
        heads: list[OneCode] = [
            VectorQuantizer(
                self.codebook_size, self.code_dim, distance="euclidean", decay=0.98, rngs=rngs
            )
            for _ in range(self.num_heads)
        ]
        return heads[0] if self.num_heads == 1 else ResidualQuantizer(heads)


class _LinearAndMore(nnx.Module):
    """A linear map that is given, and a network beside it that starts at zero."""

    def __init__(self, inputs: int, outputs: int, hidden: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.up = nnx.Linear(inputs, hidden, rngs=rngs) if hidden else None
        self.down = nnx.Linear(hidden, outputs, kernel_init=zeros, rngs=rngs) if hidden else None

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        answer = self.linear(x)
        if self.up is None or self.down is None:
            return answer
        return answer + self.down(jax.nn.silu(self.up(x)))


class EmbeddingTokenizer(DenseTokenizer):
    """Embeddings <-> ids. Built by `EmbeddingTokenizerConfig.fit`, then trained.

    Ids are [num_heads] of one vector; of maps a grid [num_heads * rows, columns], those of every
    head below each other.
    """

    config_type = EmbeddingTokenizerConfig
    saved_as = "embedding"
    quantizer: OneCode | SeveralCodes

    def __init__(
        self,
        config: EmbeddingTokenizerConfig,
        values: Embedding,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        super().__init__(config, values, statistics, grid)
        heads = config.num_heads
        self.token_shape = (heads * grid[0], grid[1]) if values.is_map else (heads,)
        self.quantizer = config.build_quantizer(rngs)
        self.vocab_size = self.quantizer.num_codes
        numbers = config.patch_size**2 * values.width if values.is_map else values.width
        self.encoder = _LinearAndMore(numbers, self.quantizer.dim, config.hidden, rngs)
        self.decoder = _LinearAndMore(self.quantizer.dim, numbers, config.hidden, rngs)

    @classmethod
    def fitted(
        cls, config: EmbeddingTokenizerConfig, values: Embedding, training: RawBatch, key: Array
    ) -> "EmbeddingTokenizer":
        """See `DenseTokenizer.fitted`; encoder and decoder start as principal components."""
        init_key, code_key = jax.random.split(key)
        statistics = values.fit_statistics(training)
        tokenizer = cls(
            config, values, statistics, cls.grid_of(config, training), nnx.Rngs(init_key)
        )
        cells = tokenizer.grid[0] * tokenizer.grid[1]
        samples = jnp.asarray(evenly_spaced(training, max(ROWS // cells, 64)))
        rows = np.asarray(tokenizer._squares(samples)).reshape(
            -1, tokenizer.encoder.linear.in_features
        )
        directions, spread = _principal(rows, tokenizer.quantizer.dim)
        # A grid needs numbers of one size; learned codes take them as they are.
        is_grid = config.quantizer == "fsq"
        scale = np.maximum(spread, 1e-3) if is_grid else np.ones_like(spread)
        back = (directions * scale * (STRETCH if is_grid else 1)).T
        tokenizer.encoder.linear.kernel[...] = jnp.asarray(directions / scale, jnp.float32)
        tokenizer.decoder.linear.kernel[...] = jnp.asarray(back, jnp.float32)
        if not isinstance(tokenizer.quantizer, FiniteScalarQuantizer):
            latents = tokenizer.latents(samples)
            tokenizer.quantizer.spread(latents.reshape(-1, latents.shape[-1]), code_key)
        return tokenizer

    @classmethod
    def grid_of(cls, config: EmbeddingTokenizerConfig, training: RawBatch) -> tuple[int, int]:
        """Returns the squares (down, across) of a map; one vector is one.

        Raises:
            ValueError: If squares do not tile the maps.
        """
        is_map = np.ndim(training[0]) == 3
        return require_tiling(training, config.patch_size) if is_map else (1, 1)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Cells of a map, down and across."""
        if not self.values.is_map:
            raise AttributeError("One vector is no picture.")  # Which is how others ask.
        return super().picture_size

    @property
    def value_shape(self) -> tuple[int, ...]:
        """First two axes of a value."""
        return self.picture_size if self.values.is_map else (self.values.width,)

    def _squares(self, raw: Float[Array, "batch ..."]) -> Float[Array, "batch gy gx numbers"]:
        """Returns the normalised numbers of every square."""
        inputs = self.values.normalize(raw, self._statistics)
        if not self.values.is_map:
            return inputs[:, None, None]
        return to_patches(inputs, self.config.patch_size)

    def latents(self, raw: Float[Array, "batch ..."]) -> Float[Array, "batch gy gx dim"]:
        return self.encoder(self._squares(raw))

    def reconstruct(self, codes: Float[Array, "batch gy gx dim"]) -> Float[Array, "batch ..."]:
        """Returns the decoder's answer, as `values.denormalize` takes it."""
        answer = self.decoder(codes)
        if not self.values.is_map:
            return answer[:, 0, 0]
        return from_patches(answer, self.config.patch_size)

    def loss(
        self, raw: Float[Array, "batch ..."], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns what to minimise and what to log, and moves the codebooks.

        Args:
            raw: Vectors or maps that passed `values.check`.
            key: Source of the replacements of rare codes.
        """
        quantized = self.quantizer.quantize(self.latents(raw), key, train=True)
        error = self.values.loss(self.reconstruct(quantized.codes), raw, self._statistics)
        return error + quantized.loss, {"reconstruction": error, **quantized.metrics}

    def tokenize(self, raw: Float[Array, "batch ..."]) -> Int[Array, "batch *tokens"]:
        ids = self.quantizer.quantize(self.latents(raw), jax.random.key(0), train=False).ids
        if isinstance(self.quantizer, SeveralCodes):
            ids = jnp.moveaxis(ids, -1, 1)
        return ids.reshape(len(ids), *self.token_shape)

    def detokenize(self, ids: Int[Array, "batch *tokens"]) -> Float[Array, "batch ..."]:
        ids = ids.reshape(len(ids), -1, *self.grid)
        if isinstance(self.quantizer, SeveralCodes):
            return self.reconstruct(self.quantizer.lookup(jnp.moveaxis(ids, 1, -1)))
        return self.reconstruct(self.quantizer.lookup(ids[:, 0]))

    def detokenize_expected(
        self, probabilities: Float[Array, "batch *tokens vocab"]
    ) -> Float[Array, "batch ..."]:
        shares = probabilities.reshape(len(probabilities), -1, *self.grid, self.vocab_size)
        if isinstance(self.quantizer, SeveralCodes):
            return self.reconstruct(self.quantizer.mean_code(jnp.moveaxis(shares, 1, -2)))
        return self.reconstruct(shares[:, 0] @ self.quantizer.codebook())

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns the codes: what means alike has like codes, of all heads side by side."""
        return np.asarray(self.quantizer.codebook())

    @classmethod
    def load(cls, folder: Path, values: Any = None) -> "DenseTokenizer":
        """Returns the tokenizer that `save` wrote; see `DenseTokenizer.load`."""
        if values is None:
            values = read_part(load_folder(folder, "embedding")[0], "values", Embedding, folder)
        return super().load(folder, values)


def _principal(
    rows: Float[np.ndarray, "rows numbers"], count: int
) -> tuple[Float[np.ndarray, "numbers count"], Float[np.ndarray, "count"]]:
    """Returns orthonormal directions of the most variance, and the spread along each.

    Where there are fewer directions than asked for, the last are zeros.
    """
    chosen = rows[evenly_spread(len(rows), ROWS)].astype(np.float64)
    variances, directions = np.linalg.eigh(chosen.T @ chosen / len(chosen))
    directions, variances = directions[:, ::-1][:, :count], variances[::-1][:count]
    padded = np.zeros((rows.shape[1], count))
    padded[:, : directions.shape[1]] = directions
    spread = np.zeros(count)
    spread[: len(variances)] = np.sqrt(np.maximum(variances, 0))
    return padded, spread

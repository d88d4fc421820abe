"""The half of a tokenizer that makes ids: patches, layers, a projection, a quantiser.

What turns codes back into pictures differs (layers again, or diffusion); this half is the same.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from tokenizers.images.memcodes import Memcodes
from tokenizers.images.quantizers import (
    Bounding,
    CountingQuantizer,
    Distance,
    FiniteScalarQuantizer,
    LinearlyMovedQuantizer,
    Quantized,
    Replacement,
    VectorQuantizer,
)
from tokenizers.images.several_codes import (
    GroupedQuantizer,
    OneCode,
    ResidualQuantizer,
    SeveralCodes,
)
from tokenizers.images.vit import NetworkConfig, PatchEncoder
from tokenizers.settings.checked import Checked, name_knob

AnyQuantizer = OneCode | Memcodes | SeveralCodes


@dataclass(frozen=True)
class QuantizerConfig(Checked):
    """How latents become ids."""

    kind: Literal["vq", "simvq", "fsq", "memcodes"] = "vq"
    """vq learns its codes by averages, memcodes by gradients; simvq learns a linear layer that
    moves all codes together; fsq rounds to a fixed grid."""
    codebook_size: int = 512
    """Number of codes of each codebook of vq, simvq and memcodes."""
    code_dim: int = 32
    """Length of a code of vq and simvq, and of all codes of memcodes, or of grouped heads, side by
    side."""
    num_heads: int = 1
    """Ids per latent, each from a codebook of its own."""
    heads: Literal["residual", "grouped"] = "residual"
    """Of several ids per latent, other than memcodes: whether each codes what those before it have
    left, or a part of the latent's numbers."""
    distance: Distance = "cosine"
    """How vq compares."""
    averages: Literal["shares", "counts"] = "shares"
    """How vq measures use: in shares of an equal share, or in counts as published models do."""
    normalize_latents: bool = False
    """With counts: whether latents get unit length. With shares they do under cosine."""
    decay: float = 0.98
    """Of the averages that move the codes of vq, per step."""
    commitment: float = 0.25
    """Weight of what pulls latents towards the codes of vq and simvq."""
    rare: float = 0.03
    """A code of vq is replaced when used less: than this share, or with counts times a step."""
    replacement: Replacement = "latents"
    """With counts: by what."""
    levels: tuple[int, ...] = (8, 8, 8)
    """Levels of each number of fsq; their product is the number of codes."""
    bounding: Bounding = "tanh"
    """What bounds latents for fsq: tanh, or 2 sigmoid(1.6 z) - 1, which uses levels alike."""

    def check_knobs(self, knob: str) -> None:
        several = f"{name_knob(knob, 'num_heads')} is {self.num_heads}"
        if self.num_heads < 1:
            raise ValueError(f"{several}; it must be at least 1.")
        if self.num_heads > 1 and self.kind != "memcodes":
            if self.heads == "grouped" and self.kind != "fsq" and self.code_dim % self.num_heads:
                raise ValueError(
                    f"{several} and code_dim {self.code_dim}; with heads=grouped, num_heads must "
                    "divide code_dim."
                )
            if self.heads == "residual" and self.kind == "fsq":
                raise ValueError(f"{several}, of a quantiser of kind fsq; set heads to grouped.")
            is_direction = self.distance == "cosine" or self.normalize_latents
            if self.heads == "residual" and self.kind == "vq" and is_direction:
                raise ValueError(
                    f"{several}, but directions leave no residual; set distance to euclidean "
                    "without normalize_latents, or heads to grouped."
                )
        if self.bounding != "tanh" and self.kind != "fsq":
            raise ValueError(
                f"{name_knob(knob, 'bounding')} is {self.bounding}, of a quantiser of kind "
                f"{self.kind}; only fsq bounds latents."
            )
        if self.averages == "shares" and (self.normalize_latents or self.replacement != "latents"):
            raise ValueError(
                f"{name_knob(knob, 'averages')} is shares, but normalize_latents and replacement "
                "are for counts; with shares, latents have unit length under cosine and replace "
                "rare codes."
            )

    def build(self, rngs: nnx.Rngs) -> AnyQuantizer:
        """Returns the quantiser, at its random start."""
        if self.kind == "memcodes":
            return Memcodes(self.codebook_size, self.code_dim, self.num_heads, rngs=rngs)
        if self.num_heads == 1:
            return self._build_one(self.code_dim, rngs)
        if self.heads == "residual":
            heads = [self._build_one(self.code_dim, rngs) for _ in range(self.num_heads)]
            return ResidualQuantizer(heads)
        part = self.code_dim // self.num_heads
        return GroupedQuantizer([self._build_one(part, rngs) for _ in range(self.num_heads)])

    def _build_one(self, code_dim: int, rngs: nnx.Rngs) -> OneCode:
        """Returns a quantiser with one id per latent, of `code_dim` numbers if they are free."""
        match self.kind:
            case "fsq":
                return FiniteScalarQuantizer(self.levels, self.bounding)
            case "simvq":
                return LinearlyMovedQuantizer(
                    self.codebook_size, code_dim, commitment=self.commitment, rngs=rngs
                )
            case "vq":
                settings = {
                    "distance": self.distance,
                    "decay": self.decay,
                    "commitment": self.commitment,
                    "rare": self.rare,
                    "rngs": rngs,
                }
                if self.averages == "shares":
                    return VectorQuantizer(self.codebook_size, code_dim, **settings)
                return CountingQuantizer(
                    self.codebook_size,
                    code_dim,
                    normalize_latents=self.normalize_latents,
                    replacement=self.replacement,
                    **settings,
                )
        raise ValueError(
            f"A quantiser is of kind {self.kind!r}; known are vq, simvq, fsq and memcodes."
        )


@dataclass(frozen=True)
class CodeEncoderConfig(Checked):
    """Pictures to ids."""

    patch_size: int = 8
    """Pixels along each side of the square that one token stands for; 1 for feature maps."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Layers between patches and codes."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """How latents become ids."""
    native_grid: tuple[int, int] | None = None
    """Patches (down, across) for which positions are stored; by default those of the samples."""
    num_channels: int = 0
    """Channels that are read, of those that the kind of values gives; 0 for all."""
    class_channels: int = 0
    """For class maps: numbers that a class is looked up as; 0 for one channel per class."""
    is_frozen: bool = False
    """Whether training leaves this half, its codes included, as it is."""

    def check_knobs(self, knob: str) -> None:
        if self.patch_size < 1 or min(self.num_channels, self.class_channels) < 0:
            raise ValueError(
                f"{name_knob(knob, 'patch_size')} is {self.patch_size}, num_channels "
                f"{self.num_channels} and class_channels {self.class_channels}; patch_size must be "
                "at least 1 and the others at least 0."
            )


class CodeEncoder(nnx.Module):
    """Pictures -> latents -> ids and codes, and ids -> codes.

    Ids lie as the transformer takes them, on a grid `token_shape`: that of the patches, or, where
    a latent has several ids, those of every part below each other; the ids of a single latent form
    a square if they can, else a row.
    """

    def __init__(
        self,
        config: CodeEncoderConfig,
        channels: int,
        grid: tuple[int, int],
        rngs: nnx.Rngs,
        *,
        num_classes: int = 0,
    ):
        """Args:
        config: Its settings.
        channels: Of the pictures that are read, if they are no class maps.
        grid: Patches (down, across) of a picture.
        rngs: Source of the initial weights.
        num_classes: Of class maps, if `config.class_channels` is set.
        """
        self.grid, self.is_frozen = grid, config.is_frozen
        if config.class_channels:
            if not num_classes:
                raise ValueError("class_channels is for class maps; set it to 0.")
            channels = config.class_channels
            self.classes = nnx.Param(jax.random.normal(rngs.params(), (num_classes, channels)))
        else:
            self.classes = None
        native_grid = config.native_grid or grid
        self.network = PatchEncoder(config.network, channels, config.patch_size, native_grid, rngs)
        self.quantizer: AnyQuantizer = config.quantizer.build(rngs)
        self.project = nnx.Linear(self.network.width, self.quantizer.dim, rngs=rngs)

    @property
    def vocab_size(self) -> int:
        return self.quantizer.num_codes

    @property
    def token_shape(self) -> tuple[int, int]:
        if not isinstance(self.quantizer, Memcodes | SeveralCodes):
            return self.grid
        heads = self.quantizer.num_heads
        if self.grid != (1, 1):
            return heads * self.grid[0], self.grid[1]
        side = math.isqrt(heads)
        return (side, side) if side**2 == heads else (1, heads)

    def latents(self, x: Shaped[Array, "batch y x ..."]) -> Float[Array, "batch gy gx dim"]:
        """Returns what the layers make of pictures, before the quantiser.

        Args:
            x: Channels as the network reads them, or class indices, of which negative ones are
                unknown and read as zeros.
        """
        if self.classes is not None:
            looked_up = self.classes[...][jnp.maximum(x, 0)]
            x = jnp.where((x >= 0)[..., None], looked_up, 0)
        latents = self.project(self.network(x))
        return jax.lax.stop_gradient(latents) if self.is_frozen else latents

    def quantize(
        self, latents: Float[Array, "batch gy gx dim"], key: Array, train: bool
    ) -> Quantized:
        """Returns the codes of latents, and ids [batch, *token_shape]. May move the codebook."""
        quantized = self.quantizer.quantize(latents, key, train and not self.is_frozen)
        ids = quantized.ids
        if isinstance(self.quantizer, Memcodes | SeveralCodes):
            ids = jnp.moveaxis(ids, -1, 1).reshape(len(ids), *self.token_shape)
        if self.is_frozen:
            quantized = jax.lax.stop_gradient(quantized)
        return quantized._replace(ids=ids)

    def lookup(self, ids: Int[Array, "batch ty tx"]) -> Float[Array, "batch gy gx dim"]:
        """Returns the codes of ids."""
        if isinstance(self.quantizer, Memcodes | SeveralCodes):
            ids = jnp.moveaxis(ids.reshape(len(ids), -1, *self.grid), 1, -1)
        return self.quantizer.lookup(ids)

    def mean_codes(
        self, probabilities: Float[Array, "batch ty tx vocab"]
    ) -> Float[Array, "batch gy gx dim"]:
        """Returns the mean codes of distributions over ids."""
        if isinstance(self.quantizer, Memcodes | SeveralCodes):
            shape = (len(probabilities), -1, *self.grid, self.vocab_size)
            return self.quantizer.mean_code(jnp.moveaxis(probabilities.reshape(shape), 1, -2))
        return probabilities @ self.quantizer.codebook()

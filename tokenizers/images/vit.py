"""Networks between patches and codes: vision transformers and multilayer perceptrons.

Both work on a grid of patches. Positions are a fixed table on its own grid, which is interpolated
to the one at hand, so that one network takes pictures of several sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tokenizers.images.patch_tokenizer import from_patches, to_patches
from tokenizers.settings.checked import Checked, name_knob

LONGEST_PERIOD = 10000.0
"""Of the sines and cosines of a position, in patches, up to 2 pi."""

CUBIC = -0.75
"""Slope of the interpolation at its neighbours; many libraries have -0.5."""

LAYER_SCALE = 1e-6
"""Share of a convolution block at the start of training (Touvron et al. 2021, CaiT)."""


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Layers of an encoder or decoder."""

    kind: Literal["vit", "mlp"] = "vit"
    """vit attends over all patches; mlp treats each by itself (Bachmann et al. 2023)."""
    width: int = 192
    """Numbers per patch."""
    depth: int = 3
    """Residual blocks."""
    num_heads: int = 3
    """Heads of attention of a vit; divides width."""
    expansion: float = 4.0
    """Width inside a block over width."""
    qkv_bias: bool = True
    """Whether queries, keys and values of a vit have biases."""
    final_mlp: bool = True
    """Whether a vit ends in one more block, with tanh (Yu et al. 2022, ViT-VQGAN)."""
    norm_epsilon: float = 1e-6
    """Added to variances."""

    def check_knobs(self, knob: str) -> None:
        if min(self.width, self.depth + 1, int(self.width * self.expansion)) < 1:
            raise ValueError(
                f"{name_knob(knob, 'width')} is {self.width}, depth {self.depth} and expansion "
                f"{self.expansion}; widths must be at least 1 and depth at least 0."
            )
        if self.kind == "vit" and (
            self.num_heads < 1 or self.width % self.num_heads or self.width % 4
        ):
            raise ValueError(
                f"{name_knob(knob, 'width')} is {self.width} and num_heads {self.num_heads}; of a "
                "vit, width must be a multiple of num_heads and of 4."
            )

    @property
    def hidden(self) -> int:
        """Width inside a block."""
        return int(self.width * self.expansion)


GELU = partial(jax.nn.gelu, approximate=False)


GELU = partial(jax.nn.gelu, approximate=False)


class Constant(nnx.Variable):
    """What belongs to a network but is not trained."""


class TwoLayerMlp(nnx.Module):
    """Two linear layers with a nonlinearity between."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.up = _linear(width, hidden, rngs)
        self.down = _linear(hidden, width, rngs)

    def __call__(
        self,
        x: Float[Array, "*batch width"],
        activation: Callable = GELU,
    ) -> Float[Array, "*batch width"]:
        return self.down(activation(self.up(x)))


class Attention(nnx.Module):
    """Every patch looks at all."""

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = nnx.Linear(
            config.width,
            3 * config.width,
            use_bias=config.qkv_bias,
            kernel_init=_three_kernels,
            rngs=rngs,
        )
        self.out = _linear(config.width, config.width, rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("bnhk,bmhk->bhnm", query, key) * query.shape[-1] ** -0.5
        mixed = jnp.einsum("bhnm,bmhk->bnhk", jax.nn.softmax(scores, axis=-1), value)
        return self.out(mixed.reshape(batch, tokens, width))


class Block(nnx.Module):
    """Attention and two layers, each added to what comes in."""

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = TwoLayerMlp(config.width, config.hidden, rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nnx.Module):
    """Adds positions to a grid of patches and mixes them."""

    def __init__(self, config: NetworkConfig, native_grid: tuple[int, int], rngs: nnx.Rngs):
        self.positions = Constant(sincos_positions(native_grid, config.width))
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.depth)])
        self.final_norm = _norm(config, rngs) if config.final_mlp else None
        self.final_mlp = (
            TwoLayerMlp(config.width, config.hidden, rngs) if config.final_mlp else None
        )

    def __call__(self, x: Float[Array, "batch gy gx width"]) -> Float[Array, "batch gy gx width"]:
        shape = x.shape
        x = (x + resize_positions(self.positions[...], shape[1:3])[None]).reshape(
            shape[0], -1, shape[-1]
        )
        for block in self.blocks:
            x = block(x)
        if self.final_mlp is not None:
            x = x + self.final_mlp(self.final_norm(x), jnp.tanh)
        return x.reshape(shape)


class Perceptron(nnx.Module):
    """Residual blocks for every patch by itself."""

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        self.norms = nnx.List([_norm(config, rngs) for _ in range(config.depth)])
        self.blocks = nnx.List(
            [TwoLayerMlp(config.width, config.hidden, rngs) for _ in range(config.depth)]
        )

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return x


class ConvolutionBlock(nnx.Module):
    """A ConvNeXt block (Liu et al. 2022): neighbouring pixels, then two layers per pixel."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.depthwise = nnx.Conv(
            channels, channels, (7, 7), feature_group_count=channels, rngs=rngs
        )
        self.norm = nnx.LayerNorm(channels, epsilon=1e-6, use_fast_variance=False, rngs=rngs)
        self.mlp = TwoLayerMlp(channels, 4 * channels, rngs)
        self.scale = nnx.Param(jnp.full((channels,), LAYER_SCALE))

    def __call__(self, x: Float[Array, "batch y x c"]) -> Float[Array, "batch y x c"]:
        return x + self.scale[...] * self.mlp(self.norm(self.depthwise(x)))


class PatchEncoder(nnx.Module):
    """Pictures to `config.width` numbers per patch."""

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        patch_size: int,
        native_grid: tuple[int, int],
        rngs: nnx.Rngs,
    ):
        """Args:
        config: The layers.
        channels: Of the pictures.
        patch_size: Pixels along each side of a patch; 1 for feature maps.
        native_grid: Patches (down, across) for which positions are stored.
        rngs: Source of the initial weights.
        """
        self.patch_size, self.width = patch_size, config.width
        self.into = _linear(patch_size**2 * channels, config.width, rngs)
        if config.kind == "vit":
            self.layers: nnx.Module = Transformer(config, native_grid, rngs)
            self.out = None  # A transformer ends where it is.
        else:
            self.layers = Perceptron(config, rngs)
            self.out = _linear(config.width, config.width, rngs)

    def __call__(self, x: Float[Array, "batch y x c"]) -> Float[Array, "batch gy gx width"]:
        x = self.layers(self.into(to_patches(x, self.patch_size)))
        return x if self.out is None else self.out(x)


class PatchDecoder(nnx.Module):
    """`config.width` numbers per patch to pictures."""

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        patch_size: int,
        native_grid: tuple[int, int],
        rngs: nnx.Rngs,
        *,
        convolutions: int = 0,
    ):
        """Args:
        config: The layers.
        channels: Of the pictures.
        patch_size: Pixels along each side of a patch; 1 for feature maps.
        native_grid: Patches (down, across) for which positions are stored.
        rngs: Source of the initial weights.
        convolutions: ConvNeXt blocks over the finished picture, which smooth what shows of
            the patches.
        """
        self.patch_size = patch_size
        if config.kind == "vit":
            self.into = None
            self.layers: nnx.Module = Transformer(config, native_grid, rngs)
        else:
            self.into = _linear(config.width, config.width, rngs)
            self.layers = Perceptron(config, rngs)
        self.out = _linear(config.width, patch_size**2 * channels, rngs)
        self.convolutions = nnx.List(
            [ConvolutionBlock(channels, rngs) for _ in range(convolutions)]
        )

    def __call__(self, x: Float[Array, "batch gy gx width"]) -> Float[Array, "batch y x c"]:
        x = self.layers(x if self.into is None else self.into(x))
        x = from_patches(self.out(x), self.patch_size)
        for block in self.convolutions:
            x = block(x)
        return x


def sincos_positions(grid: tuple[int, int], width: int) -> Float[Array, "gy gx width"]:
    """Returns sines and cosines of the row, then of the column, of every place in a grid."""
    frequencies = LONGEST_PERIOD ** -(np.arange(width // 4) / (width // 4))
    down, across = np.meshgrid(*map(np.arange, grid), indexing="ij")
    angles = [place[..., None] * frequencies for place in (down, across)]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return jnp.asarray(np.concatenate(waves, axis=-1), jnp.float32)


def resize_positions(
    positions: Float[Array, "sy sx width"], grid: tuple[int, int]
) -> Float[Array, "gy gx width"]:
    """Returns positions interpolated to another grid, or as they are where it is their own."""
    if positions.shape[:2] == tuple(grid):
        return positions
    rows = cubic_matrix(positions.shape[0], grid[0])
    columns = cubic_matrix(positions.shape[1], grid[1])
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("ys,xt,std->yxd", rows, columns, positions, precision=highest)


def cubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns what takes `old` samples to `new` by cubic convolution (Keys 1981).

    Samples stand for the middle of their share of the length, those beyond the ends repeat the
    last, and a smaller number of samples is not smoothed beforehand.

    Example:
        >>> cubic_matrix(2, 4)[0].astype(float).round(3).tolist()
        [1.105, -0.105]
    """
    middles = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(middles).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(middles - (first + tap))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        weight = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(new), (first + tap).clip(0, old - 1)), weight)
    return matrix.astype(np.float32)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)


def _norm(config: NetworkConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, a difference of squares, loses digits.
    return nnx.LayerNorm(
        config.width, epsilon=config.norm_epsilon, use_fast_variance=False, rngs=rngs
    )


def _three_kernels(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Queries, keys and values start as three matrices, not as one wide one."""
    parts = jax.random.split(key, 3)
    part_shape = (shape[0], shape[1] // 3)
    init = nnx.initializers.xavier_uniform()
    return jnp.concatenate([init(part, part_shape, dtype) for part in parts], axis=1)

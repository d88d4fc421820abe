"""A U-net on patches of a noisy picture, told what to draw by codes laid beside them.

The architecture of Dhariwal and Nichol (2021, "ADM"), without scale and shift, on pictures cut
into patches (Luhman and Luhman 2022) so that its finest level is small. Channels are last.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tokenizers.images.patch_tokenizer import from_patches, to_patches
from tokenizers.settings.checked import Checked, name_knob

LONGEST_PERIOD = 10000.0
"""Of the sines and cosines of the time step."""

EPSILON = 1e-5
"""Of group normalisation."""


@dataclass(frozen=True)
class UNetConfig(Checked):
    """A U-net of any size."""

    patch_size: int = 4
    """Pixels along each side of what is one position at the finest level."""
    width: int = 64
    """Channels that the multipliers multiply."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of every level over `width`, finest first. Each level halves height and width."""
    num_blocks: int = 1
    """Residual blocks per level on the way down; there is one more on the way up."""
    attention_at: tuple[int, ...] = (2,)
    """Levels with attention, by how often they are coarser than the finest: 1, 2, 4, ..."""
    num_heads: int = 1
    """Of attention."""
    num_groups: int = 32
    """Of group normalisation; divides the channels of every level."""

    def check_knobs(self, knob: str) -> None:
        counts = {
            name: getattr(self, name)
            for name in ("patch_size", "width", "num_blocks", "num_heads", "num_groups")
        }
        too_small = [name for name, count in counts.items() if count < 1]
        if too_small or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(
                f"{knob} has {counts} and multipliers={self.multipliers}; each must be at least 1."
            )
        divisor = np.lcm(self.num_groups, self.num_heads)
        channels = [factor * self.width for factor in self.multipliers]
        if any(count % divisor for count in channels):
            raise ValueError(
                f"{name_knob(knob, 'multipliers')} and width make levels of {channels} channels, "
                f"which num_groups={self.num_groups} and num_heads={self.num_heads} must divide; "
                "change width or one of them."
            )

    @property
    def coarsest(self) -> int:
        """How often the coarsest level is coarser than the finest."""
        return 2 ** (len(self.multipliers) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Refuses pictures whose sides no whole number of coarsest positions covers."""
        unit = self.patch_size * self.coarsest
        if height % unit or width % unit or not height * width:
            raise ValueError(
                f"Pictures are {height} pixels high and {width} wide; patches of "
                f"{self.patch_size} on {len(self.multipliers)} levels need multiples of {unit}: "
                "change the size, patch_size or the number of multipliers."
            )


class Activations(NamedTuple):
    """What a U-net computes on the way.

    Attributes:
        time: The embedding of the time steps.
        down: After every block on the way down, the first convolution included.
        middle: At the coarsest level.
        up: After every block on the way up.
        output: The answer, a picture.
    """

    time: Float[Array, "batch features"]
    down: list[Float[Array, "batch _ _ _"]]
    middle: Float[Array, "batch _ _ _"]
    up: list[Float[Array, "batch _ _ _"]]
    output: Float[Array, "batch y x channels"]


class UNet(nnx.Module):
    """Noisy pictures, time steps and codes to the answer of `tokenizers.images.diffusion`."""

    def __init__(self, config: UNetConfig, channels: int, code_dim: int, rngs: nnx.Rngs):
        """Makes a network whose first answer is 0.

        Args:
            config: Its size.
            channels: Of the picture, going in and coming out.
            code_dim: Numbers of a code.
            rngs: Source of the initial weights.
        """
        self.config, self.channels, self.code_dim = config, channels, code_dim
        width, features = config.width, 4 * config.width
        widths = [factor * width for factor in config.multipliers]
        pixels = channels * config.patch_size**2
        make = _Maker(config, features, rngs)

        self.time_in = nnx.Linear(width, features, rngs=rngs)
        self.time_out = nnx.Linear(features, features, rngs=rngs)

        current, coarseness, skipped = widths[0], 1, [widths[0]]
        down = [[make.convolution(pixels + code_dim, current)]]
        for level, target in enumerate(widths):
            for _ in range(config.num_blocks):
                down.append(make.block(current, target, coarseness))
                current = target
                skipped.append(current)
            if level < len(widths) - 1:
                down.append([Downsample(current, rngs)])
                skipped.append(current)
                coarseness *= 2
        middle = [make.residual(current, current), make.attention(current)]
        middle.append(make.residual(current, current))
        up = []
        for level, target in reversed(list(enumerate(widths))):
            for _ in range(config.num_blocks + 1):
                up.append(make.block(current + skipped.pop(), target, coarseness))
                current = target
            if level:
                up[-1].append(Upsample(current, rngs))
                coarseness //= 2

        self.down = nnx.List([nnx.List(layers) for layers in down])
        self.middle = nnx.List(middle)
        self.up = nnx.List([nnx.List(layers) for layers in up])
        self.norm = make.norm(current)
        self.out = make.convolution(current, pixels, is_zero=True)

    def __call__(
        self,
        noisy: Float[Array, "batch y x channels"],
        times: Int[Array, "batch"],
        codes: Float[Array, "batch gy gx dim"],
    ) -> Float[Array, "batch y x channels"]:
        return self.activations(noisy, times, codes).output

    def activations(
        self,
        noisy: Float[Array, "batch y x channels"],
        times: Int[Array, "batch"],
        codes: Float[Array, "batch gy gx dim"],
    ) -> Activations:
        """Returns the answer and everything before it."""
        self.config.check_size(*noisy.shape[1:3])
        time = self.time_in(time_features(times, self.config.width))
        time = self.time_out(jax.nn.silu(time))

        patches = to_patches(noisy, self.config.patch_size)
        x = jnp.concatenate([patches, resize_nearest(codes, *patches.shape[1:3])], axis=-1)
        down = []
        for layers in self.down:
            x = _apply(layers, x, time)
            down.append(x)
        x = middle = _apply(self.middle, x, time)
        up, skipped = [], list(down)
        for layers in self.up:
            x = _apply(layers, jnp.concatenate([x, skipped.pop()], axis=-1), time)
            up.append(x)
        x = self.out(jax.nn.silu(self.norm(x)))
        return Activations(time, down, middle, up, from_patches(x, self.config.patch_size))


class ResidualBlock(nnx.Module):
    """Two convolutions with the time step added between them, beside a shortcut."""

    def __init__(self, channels: int, target: int, features: int, make: "_Maker"):
        self.norm1 = make.norm(channels)
        self.conv1 = make.convolution(channels, target)
        self.time = nnx.Linear(features, target, rngs=make.rngs)
        self.norm2 = make.norm(target)
        self.conv2 = make.convolution(target, target, is_zero=True)
        self.shortcut = None if channels == target else make.convolution(channels, target, size=1)

    def __call__(
        self, x: Float[Array, "batch y x channels"], time: Float[Array, "batch features"]
    ) -> Float[Array, "batch y x target"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = y + self.time(jax.nn.silu(time))[:, None, None]
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return (x if self.shortcut is None else self.shortcut(x)) + y


class Attention(nnx.Module):
    """Every position attends to all others."""

    def __init__(self, channels: int, num_heads: int, make: "_Maker"):
        self.num_heads = num_heads
        self.norm = make.norm(channels)
        # Query, key and value of the first head, then of the second, and so on.
        self.qkv = nnx.Linear(channels, 3 * channels, rngs=make.rngs)
        self.out = nnx.Linear(
            channels, channels, kernel_init=nnx.initializers.zeros, rngs=make.rngs
        )

    def __call__(
        self, x: Float[Array, "batch y x channels"], time: Float[Array, "batch features"]
    ) -> Float[Array, "batch y x channels"]:
        batch, height, width, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, height * width, self.num_heads, 3, -1)
        query, key, value = jnp.moveaxis(qkv, 3, 0)
        # Scaled before the product, half each: in half precision the product could overflow.
        scale = query.shape[-1] ** -0.25
        score = jnp.einsum("bthk,bshk->bhts", query * scale, key * scale)
        weight = jax.nn.softmax(score.astype(jnp.float32), axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bhts,bshk->bthk", weight, value)
        return x + self.out(mixed.reshape(x.shape))


class Downsample(nnx.Module):
    """Halves height and width with a convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        # Not "SAME", which for even sizes would pad only below and to the right.
        padding = ((1, 1), (1, 1))
        self.conv = nnx.Conv(channels, channels, (3, 3), 2, padding=padding, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch y x channels"], time: Float[Array, "batch features"]
    ) -> Float[Array, "batch half_y half_x channels"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width, then convolves."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch y x channels"], time: Float[Array, "batch features"]
    ) -> Float[Array, "batch double_y double_x channels"]:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


def time_features(times: Int[Array, "batch"], width: int) -> Float[Array, "batch width"]:
    """Returns cosines, then sines, of times at geometrically spaced frequencies; an odd last 0."""
    half = width // 2
    frequencies = np.exp(-np.log(LONGEST_PERIOD) * np.arange(half, dtype=np.float32) / half)
    angles = times.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, width % 2)))


def resize_nearest(
    codes: Float[Array, "batch gy gx dim"], height: int, width: int
) -> Float[Array, "batch {height} {width} dim"]:
    """Returns, for every position of a grid, the code above it and to its left."""
    rows = np.arange(height) * codes.shape[1] // height
    columns = np.arange(width) * codes.shape[2] // width
    return codes[:, rows][:, :, columns]


class _Maker:
    """Builds layers that share a configuration."""

    def __init__(self, config: UNetConfig, features: int, rngs: nnx.Rngs):
        self.config, self.features, self.rngs = config, features, rngs

    def norm(self, channels: int) -> nnx.GroupNorm:
        # Fast variance, the mean of squares less the squared mean, loses digits in float32.
        return nnx.GroupNorm(
            channels,
            self.config.num_groups,
            epsilon=EPSILON,
            dtype=jnp.float32,
            use_fast_variance=False,
            rngs=self.rngs,
        )

    def convolution(
        self, channels: int, target: int, size: int = 3, is_zero: bool = False
    ) -> nnx.Conv:
        init = {"kernel_init": nnx.initializers.zeros} if is_zero else {}
        return nnx.Conv(channels, target, (size, size), rngs=self.rngs, **init)

    def residual(self, channels: int, target: int) -> ResidualBlock:
        return ResidualBlock(channels, target, self.features, self)

    def attention(self, channels: int) -> Attention:
        return Attention(channels, self.config.num_heads, self)

    def block(self, channels: int, target: int, coarseness: int) -> list[nnx.Module]:
        layers: list[nnx.Module] = [self.residual(channels, target)]
        if coarseness in self.config.attention_at:
            layers.append(self.attention(target))
        return layers


def _apply(layers: nnx.List, x: Array, time: Array) -> Array:
    for layer in layers:
        x = layer(x) if isinstance(layer, nnx.Conv) else layer(x, time)
    return x

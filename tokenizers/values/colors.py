"""Pictures in colour, and any other real-valued channels: satellite bands, radar, elevation."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8
from PIL import Image

from tokenizers.base import Better, Crop, Picture, RawBatch
from tokenizers.settings.checked import name_knob
from tokenizers.values.dense import (
    WHOLE,
    DenseValues,
    Raw,
    Statistics,
    Sums,
    enlarge,
    evenly_spaced,
    masked_mean,
    require_plane,
    resize_smooth,
    turned,
)


@dataclass(frozen=True)
class Colors(DenseValues):
    """Pictures: uint8 [y, x, 3], sRGB as stored."""

    metrics: ClassVar[dict[str, Better]] = {"psnr": "higher"}

    @property
    def num_inputs(self) -> int:
        return 3

    @property
    def num_outputs(self) -> int:
        return 3

    def check(self, value: Any, name: str) -> UInt8[np.ndarray, "y x 3"]:
        """Takes colours, grey, and a `Picture` of whatever numbers for what it looks like."""
        if isinstance(value, Picture) and value.colors is not None:
            try:
                value = value.colors()
            except ValueError as error:
                raise ValueError(f"{name} {error}.") from error
        array = np.asarray(value)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 1):
            array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=-1)  # Grey.
        if array.ndim == 3 and array.shape[-1] not in (3, 4) and array.shape[0] in (1, 3):
            raise ValueError(
                f"{name} has shape {array.shape}; colours must be [height, width, 3]: set "
                "channels_first to True if the files store them the other way round."
            )
        if array.ndim == 3 and array.shape[-1] == 4:
            raise ValueError(
                f"{name} has shape {array.shape}; colours must be [height, width, 3]: set the "
                "format's bands to those that are red, green and blue, such as (0, 1, 2)."
            )
        array = require_plane(array, name, 3, "colours")
        if array.dtype != np.uint8:
            raise ValueError(
                f"{name} has dtype {array.dtype}; colours must be uint8, 0 to 255: set the "
                "format's white to the number that is white, such as 1.0 or 65535."
            )
        return array

    def crop(
        self, value: UInt8[np.ndarray, "y x 3"], crop: Crop, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y2 x2 3"]:
        return turned(resize_smooth(value, crop, size, Image.Resampling.BICUBIC), crop)

    def draw(
        self, value: UInt8[np.ndarray, "y x 3"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y2 x2 3"]:
        if size[0] < value.shape[0] or size[1] < value.shape[1]:
            return resize_smooth(value, WHOLE, size, Image.Resampling.BICUBIC)
        return enlarge(value, size)

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        return _mean_and_std(evenly_spaced(training).reshape(-1, 3))

    def is_valid(self, raw: UInt8[Raw, "batch y x 3"]) -> Bool[Raw, "batch y x"]:
        return jnp.ones(raw.shape[:3], bool)

    def normalize(
        self, raw: UInt8[Array, "batch y x 3"], statistics: Statistics
    ) -> Float[Array, "batch y x 3"]:
        return (raw.astype(jnp.float32) - statistics["mean"]) / statistics["std"]

    def loss(
        self,
        output: Float[Array, "batch y x 3"],
        raw: UInt8[Array, "batch y x 3"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        return jnp.mean(jnp.square(output - self.normalize(raw, statistics)))

    def target_output(
        self, raw: UInt8[Array, "batch y x 3"], statistics: Statistics
    ) -> Float[Array, "batch y x 3"]:
        return self.normalize(raw, statistics)

    def denormalize(
        self, output: Float[Array, "batch y x 3"], statistics: Statistics
    ) -> UInt8[Array, "batch y x 3"]:
        values = output * statistics["std"] + statistics["mean"]
        return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)

    def sums(
        self, predicted: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "batch y x"]
    ) -> Sums:
        squares = np.square(predicted.astype(np.float64) - truth).mean(axis=-1)
        return {"squares": squares[where].sum(), "pixels": where.sum()}

    def scores_of(self, sums: Sums) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB, from the squared error averaged over all pixels.

        Pooled, as any region of any set has it; the mean of each picture's own ratio is higher.
        """
        if not sums or not sums["pixels"]:
            return {"psnr": float("nan")}
        mean_square = max(float(sums["squares"] / sums["pixels"]), 1e-10)
        return {"psnr": float(10 * np.log10(255.0**2 / mean_square))}

    def best_constants(
        self, samples: Shaped[np.ndarray, "rows columns 3"]
    ) -> dict[str, np.ndarray]:
        return {"psnr": samples.mean(axis=0)}


@dataclass(frozen=True)
class Reals(DenseValues):
    """Real-valued channels: float32 [y, x, channels], NaN where unknown."""

    channels: int = 1
    """Numbers per pixel, such as 12 for the bands of a Sentinel-2 picture."""
    unit: str = ""
    """What they are measured in, for labels."""
    picture: tuple[int, ...] = (0,)
    """Which channels to draw: one as grey, or three as red, green and blue."""
    drawn_range: tuple[float, float] | None = None
    """Values drawn as black and white; by default each picture's own 2nd and 98th percentile."""
    by_channel: bool = False
    """Whether each channel is known or unknown by itself, as bands are that a sensor or a sample
    lacks. Tokenizers then read of every channel where it is known, and a pixel with a single known
    channel is a known one; otherwise they only read where all channels are."""

    metrics: ClassVar[dict[str, Better]] = {"r2": "higher", "rmse": "lower"}

    def check_knobs(self, knob: str) -> None:
        if self.channels < 1:
            raise ValueError(f"{name_knob(knob, 'channels')} is {self.channels}; give at least 1.")
        if len(self.picture) not in (1, 3) or not set(self.picture) <= set(range(self.channels)):
            raise ValueError(
                f"{name_knob(knob, 'picture')} is {self.picture}; name one or three of its "
                f"channels, 0 to {self.channels - 1}."
            )

    @property
    def num_inputs(self) -> int:
        return self.channels + (self.channels if self.by_channel else 1)

    @property
    def num_outputs(self) -> int:
        return self.channels

    def check(self, value: Any, name: str) -> Float[np.ndarray, "y x channels"]:
        """Takes [y, x, channels], [channels, y, x] and, for one channel, [y, x]."""
        array = np.asanyarray(value)
        if array.ndim == 2 and self.channels == 1:
            array = array[..., None]
        if array.ndim == 3 and array.shape[-1] != self.channels == array.shape[0]:
            array = np.moveaxis(array, 0, -1)
        unknown = np.ma.getmask(array)
        array = require_plane(array, name, self.channels, "real values")
        with np.errstate(over="ignore"):
            reals = array.astype(np.float32)
        return np.where(np.isfinite(reals) & ~unknown, reals, np.float32(np.nan))

    def taken_as_unknown(self, value: Any) -> str:
        """Returns what `check` takes for unknown though it does not say so; see `Values`."""
        numbers = np.ma.compressed(value)
        if numbers.dtype.kind != "f":
            return ""
        with np.errstate(over="ignore"):
            is_odd = np.isinf(numbers.astype(np.float32))
        return "infinite numbers taken as unknown" if is_odd.any() else ""

    def crop(
        self, value: Float[np.ndarray, "y x c"], crop: Crop, size: tuple[int, int]
    ) -> Float[np.ndarray, "y2 x2 c"]:
        planes = []
        for plane in np.moveaxis(value, -1, 0):
            known = np.isfinite(plane)
            filled = np.where(known, plane, 0).astype(np.float32)
            cut = resize_smooth(filled, crop, size, Image.Resampling.BILINEAR)
            if not known.all():
                weight = resize_smooth(
                    known.astype(np.float32), crop, size, Image.Resampling.BILINEAR
                )
                cut = np.where(weight > 0.5, cut / np.maximum(weight, 0.5), np.nan)
            planes.append(cut)
        return turned(np.stack(planes, axis=-1).astype(np.float32), crop)

    def draw(
        self, value: Float[np.ndarray, "y x c"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y2 x2 3"]:
        shown = value[..., list(self.picture)]
        known = np.isfinite(shown).all(axis=-1)
        if self.drawn_range is not None:
            low, high = self.drawn_range
        else:
            low, high = np.percentile(shown[known], (2, 98)) if known.any() else (0.0, 1.0)
        scaled = (np.nan_to_num(shown) - low) / max(high - low, 1e-12)
        colors = np.broadcast_to((scaled.clip(0, 1) * 255).astype(np.uint8), (*known.shape, 3))
        return enlarge(np.where(known[..., None], colors, np.uint8(0)), size)

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        return _mean_and_std(evenly_spaced(training).reshape(-1, self.channels))

    def is_valid(self, raw: Float[Raw, "batch y x c"]) -> Bool[Raw, "batch y x"]:
        known = jnp.isfinite(raw)
        return known.any(axis=-1) if self.by_channel else known.all(axis=-1)

    def normalize(
        self, raw: Float[Array, "batch y x c"], statistics: Statistics
    ) -> Float[Array, "batch y x inputs"]:
        """The standardised channels, 0 where unknown, and one that is 1 where all are known.

        By channel: one for each that is 1 where it is known.
        """
        values = (raw.astype(jnp.float32) - statistics["mean"]) / statistics["std"]
        values = jnp.where(jnp.isfinite(raw), values, 0)
        known = jnp.isfinite(raw) if self.by_channel else self.is_valid(raw)[..., None]
        return jnp.concatenate([values, known], axis=-1)

    def loss(
        self,
        output: Float[Array, "batch y x c"],
        raw: Float[Array, "batch y x c"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        truth = self.normalize(raw, statistics)[..., : self.channels]
        return masked_mean(jnp.square(output - truth), jnp.isfinite(raw))

    def target_output(
        self, raw: Float[Array, "batch y x c"], statistics: Statistics
    ) -> Float[Array, "batch y x c"]:
        truth = self.normalize(raw, statistics)[..., : self.channels]
        return jnp.where(jnp.isfinite(raw), truth, jnp.nan)

    def denormalize(
        self, output: Float[Array, "batch y x c"], statistics: Statistics
    ) -> Float[Array, "batch y x c"]:
        return output * statistics["std"] + statistics["mean"]

    def sums(
        self, predicted: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "batch y x"]
    ) -> Sums:
        known = np.isfinite(truth) & where[..., None]
        true = np.where(known, truth, 0).astype(np.float64)
        error = np.where(known, predicted - true, 0)
        return {
            "squares": np.square(error).sum(axis=(0, 1, 2)),
            "true": true.sum(axis=(0, 1, 2)),
            "true_squares": np.square(true).sum(axis=(0, 1, 2)),
            "pixels": known.sum(axis=(0, 1, 2)),
        }

    def scores_of(self, sums: Sums) -> dict[str, float]:
        """Share of each channel's variance explained, and error in its unit; means of channels.

        Channels that are constant or unknown all over the set are left out.
        """
        if not sums or not (sums["pixels"] > 0).any():
            return {"r2": float("nan"), "rmse": float("nan")}
        count = np.maximum(sums["pixels"], 1)
        variance = sums["true_squares"] / count - np.square(sums["true"] / count)
        mean_square = sums["squares"] / count
        seen = sums["pixels"] > 0
        varies = seen & (variance > 1e-12 * np.maximum(sums["true_squares"] / count, 1e-30))
        r2 = float((1 - mean_square[varies] / variance[varies]).mean()) if varies.any() else np.nan
        return {"r2": float(r2), "rmse": float(np.sqrt(mean_square[seen]).mean())}

    def best_constants(
        self, samples: Shaped[np.ndarray, "rows columns c"]
    ) -> dict[str, np.ndarray]:
        known = np.isfinite(samples)
        filled = np.where(known, samples, 0)
        overall = filled.sum(axis=(0, 1)) / np.maximum(known.sum(axis=(0, 1)), 1)
        count = known.sum(axis=0)
        mean = np.where(count > 0, filled.sum(axis=0) / np.maximum(count, 1), overall)
        return {"r2": mean, "rmse": mean}


def _mean_and_std(rows: Shaped[np.ndarray, "rows channels"]) -> dict[str, np.ndarray]:
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, rows, 0).astype(np.float64)
    mean = filled.sum(axis=0) / count
    std = np.sqrt(np.where(known, np.square(filled - mean), 0).sum(axis=0) / count)
    return {
        "mean": mean.astype(np.float32),
        "std": np.where(std > 1e-8, std, 1).astype(np.float32),
    }

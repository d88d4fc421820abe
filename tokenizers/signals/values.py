"""Signals: numbers over time, or along any other line, such as a spectrum."""

import colorsys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageDraw

from tokenizers.base import Better, Crop, RawBatch
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.values.colors import Reals
from tokenizers.values.dense import Statistics

MOST_CURVES = 6
"""Channels that are drawn as curves; more are drawn as a map of time and channel."""

PARTS = 32
"""Parts of a signal whose means stand for it where simple methods compare signals."""


@dataclass(frozen=True)
class Signal(Checked):
    """Real numbers along a line: float32 [length, channels], NaN where unknown.

    A spectrum, an electrocardiogram, a sound as its waveform or its log-mel bands. What is shorter
    than `length` is unknown from its end on. A crop of a picture leaves it as it is.
    """

    length: int
    """Steps of time, wavelength or whatever runs along it."""
    channels: int = 1
    """Numbers per step, such as 12 for the leads of an electrocardiogram."""
    rate: float = 1.0
    """Steps per second, or per unit of what runs along it; for the picture."""
    unit: str = ""
    """What the numbers are measured in, for labels."""

    is_picture: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Better]] = {"r2": "higher", "rmse": "lower"}

    def check_knobs(self, knob: str) -> None:
        if self.length < 2 or self.channels < 1 or not self.rate > 0:
            raise ValueError(
                f"{name_knob(knob, 'length')} is {self.length}, {name_knob(knob, 'channels')} "
                f"{self.channels} and {name_knob(knob, 'rate')} {self.rate}; at least 2, at least "
                "1 and a positive number are allowed."
            )

    def check(self, value: Any, name: str) -> Float[np.ndarray, "length channels"]:
        """Takes [time, channels], [channels, time] and, for one channel, [time].

        Raises:
            ValueError: If it has another shape, is longer than `length`, or all unknown.
        """
        array = np.asarray(value)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim == 1 and self.channels == 1:
            array = array[:, None]
        if array.ndim == 2 and array.shape[1] != self.channels == array.shape[0]:
            array = array.T
        if array.ndim != 2 or array.shape[1] != self.channels or not len(array):
            raise ValueError(
                f"{name} has shape {np.shape(value)}; signals must be [time, {self.channels}] or "
                f"[{self.channels}, time]{' or [time]' if self.channels == 1 else ''}."
            )
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {array.dtype}; signals must be real numbers.")
        if len(array) > self.length:
            raise ValueError(
                f"{name} has {len(array)} steps; at most {self.length} are allowed: raise "
                "Signal.length, or cut it by SignalFile(start=..., length=...)."
            )
        array = array.astype(np.float32)
        array[~np.isfinite(array)] = np.nan
        if np.isnan(array).all():
            raise ValueError(f"{name} has no number that is known; leave it out.")
        missing = ((0, self.length - len(array)), (0, 0))
        return np.pad(array, missing, constant_values=np.nan)

    def crop(
        self, value: np.ndarray, crop: Crop, size: tuple[int, int]
    ) -> Float[np.ndarray, "length channels"]:
        """Returns the signal as it is."""
        return value

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns the share of each channel's variance explained, and the error in its unit.

        `where` does not apply to signals and is ignored.
        """
        return self._plane.score(_as_planes(predicted), _as_planes(truth))

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what the mean of the training signals scores, step by step."""
        return self._plane.floor(_as_planes(training), _as_planes(truth))

    def draw(
        self, value: Float[np.ndarray, "length channels"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y x 3"]:
        """Returns curves on white, or of many channels a map with the first channel below."""
        if self.channels > MOST_CURVES:
            drawn = Reals().draw(value.T[::-1, :, None], size)
            return np.ascontiguousarray(drawn)
        height, width = size
        image = Image.new("RGB", (width, height), "white")
        canvas = ImageDraw.Draw(image)
        known = value[np.isfinite(value)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        across = np.arange(self.length) / (self.length - 1) * (width - 1)
        down = (high - value) / max(high - low, 1e-12) * (height - 1)
        for channel in range(self.channels):
            hue = colorsys.hsv_to_rgb((0.6 + channel * 0.618034) % 1, 1, 0.7)
            color = tuple(round(255 * part) for part in hue)
            points = np.column_stack([across, down[:, channel]])
            # A curve breaks where something is unknown.
            breaks = np.flatnonzero(~np.isfinite(down[:, channel]))
            for part in np.split(points, breaks):
                line = [(float(x), float(y)) for x, y in part if np.isfinite(y)]
                if len(line) > 1:
                    canvas.line(line, fill=color)
                elif line:
                    canvas.point(line, fill=color)
        seconds = self.length / self.rate
        canvas.text((2, 1), f"{high:.3g} {self.unit}".strip(), fill="gray")
        canvas.text((2, height - 12), f"{low:.3g}; {seconds:.3g} long", fill="gray")
        return np.asarray(image)

    def vectors(self, values: RawBatch) -> Float[np.ndarray, "batch n"]:
        """Returns the means of parts of each signal, for simple methods; 0 where unknown."""
        stack = np.nan_to_num(np.stack([np.asarray(each, np.float64) for each in values]))
        edges = np.unique(np.arange(PARTS) * self.length // PARTS)
        widths = np.diff([*edges, self.length])[:, None]
        return (np.add.reduceat(stack, edges, axis=1) / widths).reshape(len(stack), -1)

    # What a tokenizer needs.

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        """Returns mean and spread of every channel."""
        return self._plane.fit_statistics(_as_planes(training))

    def normalize(
        self, raw: Float[Array, "batch length c"], statistics: Statistics
    ) -> Float[Array, "batch length inputs"]:
        """Returns the standardised channels, 0 where unknown, and one that says what is known."""
        return self._plane.normalize(raw[:, None], statistics)[:, 0]

    def loss(
        self,
        output: Float[Array, "batch length c"],
        raw: Float[Array, "batch length c"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        """Returns the mean square error of what is known, in units of each channel's spread."""
        return self._plane.loss(output[:, None], raw[:, None], statistics)

    def denormalize(
        self, output: Float[Array, "batch length c"], statistics: Statistics
    ) -> Float[Array, "batch length c"]:
        """Returns raw values from a network's answer."""
        return self._plane.denormalize(output[:, None], statistics)[:, 0]

    @cached_property
    def _plane(self) -> Reals:
        """What a signal is like as a picture that is one pixel high."""
        return Reals(channels=self.channels, unit=self.unit)


def _as_planes(values: RawBatch) -> Float[np.ndarray, "batch 1 length c"]:
    return np.stack([np.asarray(each, np.float32) for each in values])[:, None]

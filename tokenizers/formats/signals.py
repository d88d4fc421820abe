"""Files of signals: sounds, columns of numbers and arrays, as they are or as log-mel bands."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from tokenizers.content.kinds import kind_of
from tokenizers.content.sounds import COLUMNS, read_columns, read_sound
from tokenizers.formats.file_format import SOUNDS, FileFormat
from tokenizers.formats.formats import ArrayFile
from tokenizers.settings.checked import Checked, name_knob

MOST_FACTOR = 1000
"""How far apart two rates may be, and how fine the fraction that one is of the other."""


@dataclass(frozen=True)
class LogMel(Checked):
    """A sound as the logarithm of its power in bands of the mel scale, window by window."""

    rate: float
    """Steps per second of the sounds; files with another rate are refused."""
    bands: int = 64
    """Channels of the result."""
    window: int = 1024
    """Steps of a window."""
    hop: int = 256
    """Steps from one window to the next."""
    lowest: float = 0.0
    """Lower end of the lowest band, in steps per second; the upper end of the highest is half of
    `rate`."""

    def check_knobs(self, knob: str) -> None:
        if min(self.bands, self.window, self.hop) < 1 or not 0 <= self.lowest < self.rate / 2:
            raise ValueError(
                f"{name_knob(knob, 'bands')}, window and hop are {self.bands}, {self.window} and "
                f"{self.hop}, and lowest is {self.lowest}; at least 1, and less than half of rate, "
                "are allowed."
            )

    def apply(self, wave: Float[np.ndarray, "time"]) -> Float32[np.ndarray, "windows bands"]:
        """Returns the bands of every window; what is shorter than one is filled with silence."""
        wave = np.pad(wave, (0, max(self.window - len(wave), 0)))
        windows = np.lib.stride_tricks.sliding_window_view(wave, self.window)[:: self.hop]
        shape = np.hanning(self.window + 1)[:-1]
        power = np.abs(np.fft.rfft(windows * shape, axis=1)) ** 2
        return np.log(power @ self._filters() + 1e-10).astype(np.float32)

    def _filters(self) -> Float[np.ndarray, "frequencies bands"]:
        """Returns triangles that are equally wide in mel: 2595 log10(1 + f / 700)."""
        first, last = 2595 * np.log10(1 + np.array([self.lowest, self.rate / 2]) / 700)
        edges = 700 * (10 ** (np.linspace(first, last, self.bands + 2) / 2595) - 1)
        at = np.fft.rfftfreq(self.window, 1 / self.rate)[:, None]
        low, middle, high = edges[:-2], edges[1:-1], edges[2:]
        rising, falling = (at - low) / (middle - low), (high - at) / (high - middle)
        return np.maximum(np.minimum(rising, falling), 0)


def _resampled(
    waves: Float32[np.ndarray, "time channels"], rate: float, wanted: float
) -> Float32[np.ndarray, "steps channels"]:
    """Returns a sound with another number of steps per second, without what they can't carry."""
    from scipy.signal import resample_poly  # Takes long to import, and few have sounds.

    factor = Fraction(wanted / rate).limit_denominator(MOST_FACTOR)
    if not 1 / MOST_FACTOR < wanted / rate < MOST_FACTOR:
        raise ValueError(f"has {rate:g} steps per second, too far from the {wanted:g} wanted")
    return resample_poly(waves, factor.numerator, factor.denominator, axis=0).astype(np.float32)


@dataclass(frozen=True)
class SignalFile(FileFormat):
    """Signals [time, channels]: wav, csv and tsv (set `extension`), npy, npz, JSON lists."""

    start: int = 0
    """First step that is taken."""
    length: int = 0
    """Steps that are taken from there on, or fewer if there are no more; 0 for all."""
    scale: float = 1.0
    """What stored numbers are multiplied by. Sounds of whole numbers are stored as -1 to 1."""
    rate: float = 0.0
    """Steps per second that sounds must have; 0 for that of the first one of a data set."""
    resample: bool = False
    """Whether sounds of another rate are brought to `rate`, or to that of `log_mel`; else they are
    refused."""
    channels_first: bool = False
    """Whether arrays are stored [channels, time]."""
    columns: tuple[int, ...] = ()
    """Which channels are taken, by number; all if empty."""
    field: str = ""
    """Entry to take from an npz or a JSON object; an npz with one array needs none."""
    log_mel: LogMel | None = None
    """Makes sounds log-mel bands; their channels are averaged first. `start` and `length` count
    steps of the sound."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if min(self.start, self.length, self.rate) < 0 or min(self.columns, default=0) < 0:
            raise ValueError(
                f"{name_knob(knob, 'start')}, length and rate are {self.start}, {self.length} and "
                f"{self.rate}, and columns {self.columns}; 0 or more is allowed."
            )

        if self.resample and not self._wanted_rate:
            raise ValueError(
                f"{name_knob(knob, 'resample')} is true and {name_knob(knob, 'rate')} 0; set the "
                "rate that all sounds are to have."
            )

    @property
    def _wanted_rate(self) -> float:
        return self.rate or (self.log_mel.rate if self.log_mel else 0.0)

    def settled(self, first: Iterable[bytes]) -> "SignalFile":
        """Returns a format that refuses sounds of another rate than the first readable one."""
        for data in () if self._wanted_rate else first:
            if kind_of(data) != "wav":
                break
            with contextlib.suppress(ValueError):
                return replace(self, rate=float(read_sound(data).rate))
        return self

    def read(self, data: bytes, extension: str) -> Any:
        array, rate = self._stored(data, extension)
        wanted = self._wanted_rate
        if rate and wanted and rate != wanted:
            if not self.resample:
                raise ValueError(
                    f"has {rate:g} steps per second, and {wanted:g} are wanted; set resample to "
                    "True, and rate, to bring all sounds to one rate"
                )
            array = _resampled(array, rate, wanted)
        array = array.T if self.channels_first and array.ndim == 2 else array
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise ValueError(f"holds an array of shape {array.shape}, not [time, channels]")
        if self.columns and max(self.columns) >= array.shape[1]:
            raise ValueError(f"has {array.shape[1]} channels, not one of number {self.columns}")
        array = array[:, list(self.columns)] if self.columns else array
        stop = self.start + self.length if self.length else None
        array = array[self.start : stop]
        if not len(array):
            raise ValueError(f"has no step from number {self.start} on")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"holds {array.dtype}, which are no real numbers")
        array = array * np.float32(self.scale) if self.scale != 1 else array
        return self.log_mel.apply(array.mean(axis=1)) if self.log_mel else array

    def _stored(self, data: bytes, extension: str) -> tuple[np.ndarray, float]:
        """Returns what is stored and, of sounds, the steps per second; 0 of others."""
        if extension in SOUNDS or kind_of(data) == "wav":
            waves, rate = read_sound(data)
            return waves, float(rate)
        if extension in COLUMNS:
            return read_columns(data), 0.0
        return ArrayFile(field=self.field, max_pixels=self.max_pixels).read(data, extension), 0.0

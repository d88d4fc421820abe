"""What every dense modality shares: crops, pooled scores, floors, and what an autoencoder needs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped
from PIL import Image

from tokenizers.base import Better, Crop, RawBatch
from tokenizers.settings.checked import Checked

Constant = Literal["picture", "value"]
"""What a floor may hold fixed: one answer per pixel position, or one for all pixels."""

CHUNK = 64
"""Samples scored at once, so that scoring a whole split needs little memory."""

LONGEST_ROW = 100
"""Pixels from which on a row of one pixel is no picture, but something else."""

FLOOR_SAMPLES = 2048
"""Training samples, evenly spaced, from which floors are fitted: more change no digit shown."""

MOST_COLORS = 4
"""Numbers per pixel that pictures have: red, green, blue and transparency."""

Raw = Array | np.ndarray
"""Raw values, on the host or on the device."""

Statistics = dict[str, Any]
"""Named float32 arrays, fitted on training data, saved with the tokenizer."""


Sums = dict[str, Any]
"""What scores are computed from: numbers or arrays that may be added up over samples."""


class DenseValues(Checked, ABC):
    """Base of the dense kinds: one number, vector or class per pixel.

    A kind says how raw arrays become what a network reads (`normalize`), what the network's
    answer costs (`loss`) and means (`denormalize`), and how answers are scored. Pixels whose
    truth is unknown take no part in any of it.
    """

    metrics: ClassVar[dict[str, Better]]

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """Channels that `normalize` returns."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Channels that `loss` and `denormalize` take."""

    @abstractmethod
    def check(self, value: Any, name: str) -> np.ndarray: ...

    def crop(self, value: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
        return turned(resize_nearest(value, crop, size), crop)

    @abstractmethod
    def draw(self, value: np.ndarray, size: tuple[int, int]) -> np.ndarray: ...

    # What an autoencoder needs.

    @abstractmethod
    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        """Returns what `normalize` and `denormalize` need, fitted on valid training pixels."""

    @abstractmethod
    def is_valid(self, raw: Shaped[Raw, "batch y x ..."]) -> Bool[Raw, "batch y x"]:
        """Returns True where the value is known."""

    @abstractmethod
    def normalize(
        self, raw: Shaped[Array, "batch y x ..."], statistics: Statistics
    ) -> Float[Array, "batch y x inputs"]:
        """Returns what a network reads: roughly zero mean and unit spread, 0 where invalid."""

    @abstractmethod
    def loss(
        self,
        output: Float[Array, "batch y x outputs"],
        raw: Shaped[Array, "batch y x ..."],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        """Returns what a network's answer costs, averaged over valid pixels."""

    @abstractmethod
    def target_output(
        self, raw: Shaped[Array, "batch y x ..."], statistics: Statistics
    ) -> Float[Array, "batch y x outputs"]:
        """Returns the answer that `denormalize` turns into `raw`, NaN where none is known."""

    @abstractmethod
    def denormalize(
        self, output: Float[Array, "batch y x outputs"], statistics: Statistics
    ) -> Shaped[Array, "batch y x ..."]:
        """Returns raw values from a network's answer."""

    # Scores: sums over chunks of samples, then one value per metric for the whole set.

    @abstractmethod
    def sums(
        self, predicted: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "batch y x"]
    ) -> Sums:
        """Returns what `scores_of` needs, in a form that may be added up over chunks."""

    @abstractmethod
    def scores_of(self, sums: Sums) -> dict[str, float]:
        """Returns every metric from summed `sums`; NaN where there was no pixel to score."""

    @abstractmethod
    def best_constants(
        self, samples: Shaped[np.ndarray, "rows columns ..."]
    ) -> dict[str, np.ndarray]:
        """Returns per metric the constant [columns, ...] that scores best on each column."""

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        total: Sums = {}
        for part in _chunks(len(truth)):
            answers, truths = np.asarray(predicted[part]), np.asarray(truth[part])
            if len(predicted) != len(truth) or answers.shape != truths.shape:
                raise ValueError(
                    f"Predictions have shape {answers.shape} ({len(predicted)} samples) and truths "
                    f"{truths.shape} ({len(truth)} samples); score takes equal shapes."
                )
            region = np.ones(truths.shape[:3], bool) if where is None else np.asarray(where[part])
            for name, value in self.sums(answers, truths, region).items():
                total[name] = total.get(name, 0) + value
        return self.scores_of(total)

    def floor(
        self,
        training: RawBatch,
        truth: RawBatch,
        where: np.ndarray | None = None,
        training_where: np.ndarray | None = None,
        constant: Constant = "picture",
    ) -> dict[str, float]:
        """Returns per metric what the best constant of the training samples scores on `truth`.

        Each metric gets the constant that is best for it. `constant="picture"`, the stronger
        floor, answers per pixel position; `"value"` gives all pixels the same answer. On a
        region, which is somewhere else in every sample, it is the best value for the training
        pixels in `training_where` (bool [samples, y, x]).
        """
        if training_where is not None:
            constant = "value"
        count = FLOOR_SAMPLES if constant == "picture" else FLOOR_SAMPLES // 4
        samples = evenly_spaced(training, count)
        tail, truth_shape = samples.shape[3:], np.shape(truth[0])
        match constant:
            case "picture":
                if samples.shape[1:] != truth_shape:
                    raise ValueError(
                        f"Training samples have shape {samples.shape[1:]} and truths "
                        f"{truth_shape}; a constant picture takes equal shapes, or use "
                        'constant="value".'
                    )
                rows = samples.reshape(len(samples), -1, *tail)
            case "value":
                rows = samples.reshape(-1, 1, *tail)
                if training_where is not None:
                    rows = rows[evenly_spaced(training_where, count).ravel()]
        scores = {}
        for metric, best in self.best_constants(rows).items():
            shape = truth_shape if constant == "picture" else (1, 1, *tail)
            picture = np.broadcast_to(best.reshape(shape), (len(truth), *truth_shape))
            scores[metric] = self.score(picture, truth, where)[metric]
        return scores


def evenly_spaced(training: RawBatch, count: int = 512) -> np.ndarray:
    """Returns up to `count` samples spread over the whole set; 512 do for a mean and a spread."""
    chosen = np.linspace(0, len(training) - 1, min(count, len(training))).astype(int)
    return np.stack([training[i] for i in chosen])


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Returns the mean where `mask`, 0 if that is nowhere; what is masked has no gradient."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def resize_nearest(value: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixel nearest to each of `size` (height, width) sample points of the window."""
    height, width = value.shape[:2]
    down, across = ((np.arange(length) + 0.5) / length for length in size)
    rows = ((crop.top + down * crop.height) * height).astype(int).clip(0, height - 1)
    columns = ((crop.left + across * crop.width) * width).astype(int).clip(0, width - 1)
    return value[rows[:, None], columns[None, :]]


def resize_smooth(
    value: np.ndarray, crop: Crop, size: tuple[int, int], filter: Image.Resampling
) -> np.ndarray:
    """Returns the window resized with an antialiasing filter: uint8 [y, x, 3] or float [y, x]."""
    height, width = value.shape[:2]
    top, left = crop.top * height, crop.left * width
    box = (left, top, left + crop.width * width, top + crop.height * height)
    box = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    return np.asarray(Image.fromarray(value).resize(size[::-1], filter, box))


def turned(cut: np.ndarray, crop: Crop) -> np.ndarray:
    """Returns a window [y, x, ...] that was cut out, mirrored and turned as the crop says."""
    mirrored = cut[:, ::-1] if crop.flip else cut
    return np.ascontiguousarray(np.rot90(mirrored, crop.quarter_turns))


WHOLE = Crop(0.0, 0.0, 1.0, 1.0, flip=False)


def enlarge(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a picture at `size` (height, width) with its pixels visible as they are."""
    return resize_nearest(picture, WHOLE, size)


def without_channel(array: np.ndarray) -> np.ndarray:
    """Returns a map [y, x] of one that has its only channel last or first; others as they are."""
    if array.ndim != 3:
        return array
    if array.shape[-1] == 1:
        return array[..., 0]
    # What has few numbers in its last axis is a row of pixels of some channels.
    return array[0] if array.shape[0] == 1 and array.shape[-1] > MOST_COLORS else array


def require_plane(value: Any, name: str, channels: int | None, hint: str) -> np.ndarray:
    """Returns the value as an array [y, x] or [y, x, channels], or says what is wrong with it."""
    array = np.asarray(value)
    wanted = "[height, width]" if channels is None else f"[height, width, {channels}]"
    ndim = 2 if channels is None else 3
    if array.ndim != ndim or 0 in array.shape or (channels and array.shape[-1] != channels):
        is_many = channels is None and array.ndim == 3
        more = ": set the format's bands to one of them, or give the colors of classes"
        raise ValueError(
            f"{name} has shape {array.shape}; {hint} must be {wanted}{more if is_many else ''}."
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}; {hint} must be numbers.")
    if min(array.shape[:2]) == 1 and max(array.shape[:2]) >= LONGEST_ROW:
        raise ValueError(
            f"{name} has shape {array.shape}, a single row; {hint} are pictures, so give what is a "
            "signal or a list a kind of its own."
        )
    return array


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))

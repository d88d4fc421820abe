"""Depth and surface normals. Both have pixels without truth: sky, holes of the sensor."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from tokenizers.base import Better, Crop, RawBatch
from tokenizers.settings.checked import name_knob
from tokenizers.values.dense import (
    DenseValues,
    Raw,
    Statistics,
    Sums,
    enlarge,
    evenly_spaced,
    masked_mean,
    require_plane,
    without_channel,
)

VALIDITY_WEIGHT = 0.1
"""Share of knowing where there is an answer, beside the answer itself, in the loss."""

WITHIN = 1.25
"""Ratio to the true distance up to which an answer counts for delta1 (Eigen et al. 2014)."""


@dataclass(frozen=True)
class Distances(DenseValues):
    """Depth: float32 metres [y, x], 0 where unknown.

    The network sees and predicts standardised logarithms, as the usual metrics are relative. A
    decoded map is 0 where the decoder believes that there is nothing to measure; on a pixel
    whose truth is known, that counts as an answer of 0 metres.
    """

    max_distance: float = 100.0
    """Metres beyond which distances count as unknown; also the dark end of the colours drawn."""
    min_distance: float = 0.1
    """Metres below which distances count as unknown; also the bright end of the colours drawn."""
    integer_unit: float = 0.001
    """Metres per step of integer input, such as 16-bit PNG; float input is in metres."""

    metrics: ClassVar[dict[str, Better]] = {"abs_rel": "lower", "delta1": "higher", "rmse": "lower"}

    def check_knobs(self, knob: str) -> None:
        if not 0 < self.min_distance < self.max_distance:
            raise ValueError(
                f"{name_knob(knob, 'min_distance')} is {self.min_distance} and "
                f"{name_knob(knob, 'max_distance')} {self.max_distance}; the first must be above 0 "
                "and below the second."
            )

    @property
    def num_inputs(self) -> int:
        return 2

    @property
    def num_outputs(self) -> int:
        return 2

    def check(self, value: Any, name: str) -> Float[np.ndarray, "y x"]:
        """Takes integers in `integer_unit` and floats in metres; what is not above 0 is unknown."""
        array = np.asanyarray(value)
        array = without_channel(array)
        unknown = np.ma.getmask(array)
        array = require_plane(array, name, None, "distances")
        if array.dtype.kind == "b":
            raise ValueError(
                f"{name} has dtype bool, which measures nothing; distances are integers or floats."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            metres = array.astype(np.float32)
            if array.dtype.kind in "iu":
                metres = metres * np.float32(self.integer_unit)
            known = (metres >= self.min_distance) & (metres <= self.max_distance) & ~unknown
            if not known.any() and len(np.unique(metres[np.isfinite(metres) & (metres < 0)])) > 1:
                # One negative number stands for "unknown"; several measure the other way round.
                raise ValueError(
                    f"{name} has distances of {np.nanmin(metres):g} m and none above 0; distances "
                    "are positive: set scale to -1 if the files store them the other way round."
                )
        return np.where(known, metres, np.float32(0))

    def taken_as_unknown(self, value: Any) -> str:
        """Returns what `check` takes for unknown though it does not say so; see `Values`."""
        numbers = np.ma.compressed(value)
        is_odd = numbers < 0 if numbers.dtype.kind in "iu" else (numbers < 0) | np.isinf(numbers)
        return "negative or infinite distances taken as unknown" if is_odd.any() else ""

    def draw(
        self, value: Float[np.ndarray, "y x"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y2 x2 3"]:
        """Near is bright, far is dark, on a logarithmic scale; black is unknown."""
        known = value > 0
        span = np.log(self.max_distance / self.min_distance)
        nearness = np.log(self.max_distance / np.where(known, value, self.max_distance)) / span
        colors = matplotlib.colormaps["viridis"](nearness.clip(0, 1), bytes=True)[..., :3]
        return enlarge(np.where(known[..., None], colors, np.uint8(0)), size)

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        logs = np.concatenate([np.log(value[value > 0]) for value in evenly_spaced(training)])
        if not logs.size:
            raise ValueError(
                "No training sample has a valid distance; check the unit, min_distance and "
                "max_distance."
            )
        std = max(float(logs.std()), 1e-3)
        return {"mean": np.array(logs.mean(), np.float32), "std": np.array(std, np.float32)}

    def is_valid(self, raw: Float[Raw, "batch y x"]) -> Bool[Raw, "batch y x"]:
        return (raw >= self.min_distance) & (raw <= self.max_distance)  # False for NaN.

    def normalize(
        self, raw: Float[Array, "batch y x"], statistics: Statistics
    ) -> Float[Array, "batch y x 2"]:
        valid = self.is_valid(raw)
        logs = jnp.log(jnp.where(valid, raw.astype(jnp.float32), 1.0))
        values = (logs - statistics["mean"]) / statistics["std"]
        return jnp.stack([jnp.where(valid, values, 0), valid.astype(jnp.float32)], axis=-1)

    def loss(
        self,
        output: Float[Array, "batch y x 2"],
        raw: Float[Array, "batch y x"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        valid = self.is_valid(raw)
        error = jnp.abs(output[..., 0] - self.normalize(raw, statistics)[..., 0])
        return masked_mean(error, valid) + VALIDITY_WEIGHT * validity_loss(output[..., 1], valid)

    def target_output(
        self, raw: Float[Array, "batch y x"], statistics: Statistics
    ) -> Float[Array, "batch y x 2"]:
        return _perfect(self.normalize(raw, statistics), self.is_valid(raw))

    def denormalize(
        self, output: Float[Array, "batch y x 2"], statistics: Statistics
    ) -> Float[Array, "batch y x"]:
        metres = jnp.exp(output[..., 0] * statistics["std"] + statistics["mean"])
        metres = jnp.clip(metres, self.min_distance, self.max_distance)
        return jnp.where(output[..., 1] > INVALID_LOGIT, metres, 0)

    def sums(
        self, predicted: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "batch y x"]
    ) -> Sums:
        known = np.asarray(self.is_valid(truth)) & where
        true = truth[known].astype(np.float64)
        answer = np.nan_to_num(predicted[known].astype(np.float64), nan=0.0)
        ratio = np.maximum(answer, 1e-9) / true
        return {
            "relative": (np.abs(answer - true) / true).sum(),
            "within": (np.maximum(ratio, 1 / ratio) < WITHIN).sum(),
            "squares": np.square(answer - true).sum(),
            "pixels": known.sum(),
        }

    def scores_of(self, sums: Sums) -> dict[str, float]:
        """Over all known pixels of the set: |error| / truth, share within 1.25, metres."""
        if not sums or not sums["pixels"]:
            return dict.fromkeys(self.metrics, float("nan"))
        return {
            "abs_rel": float(sums["relative"] / sums["pixels"]),
            "delta1": float(sums["within"] / sums["pixels"]),
            "rmse": float(np.sqrt(sums["squares"] / sums["pixels"])),
        }

    def best_constants(self, samples: Shaped[np.ndarray, "rows columns"]) -> dict[str, np.ndarray]:
        """abs_rel is least at the median weighted by 1 / distance, rmse at the mean."""
        known = samples > 0
        ordered = np.sort(np.where(known, samples, np.inf), axis=0)
        count = known.sum(axis=0)
        if not count.any():
            raise ValueError("No training sample has a valid distance to fit a floor from.")
        weight = np.cumsum(1 / ordered, axis=0)
        middle = (weight < weight[-1] / 2).sum(axis=0)
        median = np.take_along_axis(ordered, middle.clip(0, len(ordered) - 1)[None], axis=0)[0]

        logs = np.log(ordered)
        widest = np.empty(samples.shape[1])
        for column in range(samples.shape[1]):
            values = logs[: count[column], column]
            inside = np.searchsorted(values, values + 2 * np.log(WITHIN) - 1e-6) - np.arange(
                len(values)
            )
            widest[column] = values[inside.argmax()] if len(values) else np.inf
        best = {
            "abs_rel": median,
            "delta1": np.exp(widest) * WITHIN * (1 - 1e-7),
            "rmse": np.where(known, samples, 0).sum(axis=0) / np.maximum(count, 1),
        }
        fallback = float(np.median(samples[known]))
        return {name: np.where(count > 0, value, fallback) for name, value in best.items()}


@dataclass(frozen=True)
class Directions(DenseValues):
    """Surface normals: float32 unit vectors [y, x, 3], x right, y up, z to the viewer.

    The zero vector is unknown. A decoded map has it where the decoder believes that there is no
    surface; on a pixel whose truth is known, that counts as an error of 90 degrees.
    """

    metrics: ClassVar[dict[str, Better]] = {"mean_angle": "lower", "within_11": "higher"}

    @property
    def num_inputs(self) -> int:
        return 4

    @property
    def num_outputs(self) -> int:
        return 4

    def check(self, value: Any, name: str) -> Float[np.ndarray, "y x 3"]:
        """Takes float vectors of any length, or uint8 pictures that store (n + 1) / 2."""
        masked = np.ma.getmaskarray(value).any(axis=-1) if np.ma.is_masked(value) else None
        array = require_plane(value, name, 3, "directions")
        if array.dtype == np.uint8:
            vectors = array.astype(np.float32) / 127.5 - 1
            unknown = (array == 0).all(axis=-1) | (np.abs(vectors) < 0.02).all(axis=-1)
            vectors[unknown] = 0
        elif array.dtype.kind == "f":
            vectors = np.where(np.isfinite(array).all(axis=-1, keepdims=True), array, 0)
        else:
            raise ValueError(
                f"{name} has dtype {array.dtype}; directions must be float vectors or a uint8 "
                "picture of (n + 1) / 2."
            )
        if masked is not None:
            vectors = np.where(masked[..., None], 0, vectors)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        # What is of unit length up to rounding stays as it is, bit for bit.
        scale = np.where((length > 1e-6) & (np.abs(length - 1) > 1e-5), length, 1)
        return np.where(length > 1e-6, vectors / scale, 0).astype(np.float32)

    def crop(
        self, value: Float[np.ndarray, "y x 3"], crop: Crop, size: tuple[int, int]
    ) -> Float[np.ndarray, "y2 x2 3"]:
        cut = super().crop(value, crop, size)
        if crop.flip:  # What faced left faces right.
            cut = cut * np.array([-1, 1, 1], np.float32)
        for _ in range(crop.quarter_turns):  # What faced right faces up, what faced up left.
            cut = cut[..., [1, 0, 2]] * np.array([-1, 1, 1], np.float32)
        return cut + np.float32(0)  # Turns -0 into 0.

    def draw(
        self, value: Float[np.ndarray, "y x 3"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y2 x2 3"]:
        known = np.abs(value).sum(axis=-1, keepdims=True) > 0
        colors = ((value + 1) * 127.5).round().clip(0, 255)
        return enlarge(np.where(known, colors, 0).astype(np.uint8), size)

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        samples = evenly_spaced(training).reshape(-1, 3)
        known = np.abs(samples).sum(axis=-1) > 0
        return {"mean": samples[known].mean(axis=0) if known.any() else np.zeros(3, np.float32)}

    def is_valid(self, raw: Float[Raw, "batch y x 3"]) -> Bool[Raw, "batch y x"]:
        return (raw * raw).sum(axis=-1) > 0.25

    def normalize(
        self, raw: Float[Array, "batch y x 3"], statistics: Statistics
    ) -> Float[Array, "batch y x 4"]:
        valid = self.is_valid(raw)[..., None]
        vectors = jnp.where(valid, (raw.astype(jnp.float32) - statistics["mean"]) * 2, 0)
        return jnp.concatenate([vectors, valid], axis=-1)

    def loss(
        self,
        output: Float[Array, "batch y x 4"],
        raw: Float[Array, "batch y x 3"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        """The distance between unit vectors, which is close to the angle and smooth everywhere."""
        valid = self.is_valid(raw)
        truth = jnp.where(valid[..., None], raw.astype(jnp.float32), 0)
        square = jnp.sum(jnp.square(unit_vectors(output, statistics) - truth), axis=-1)
        error = jnp.sqrt(square + 1e-4)
        return masked_mean(error, valid) + VALIDITY_WEIGHT * validity_loss(output[..., 3], valid)

    def target_output(
        self, raw: Float[Array, "batch y x 3"], statistics: Statistics
    ) -> Float[Array, "batch y x 4"]:
        return _perfect(self.normalize(raw, statistics), self.is_valid(raw))

    def denormalize(
        self, output: Float[Array, "batch y x 4"], statistics: Statistics
    ) -> Float[Array, "batch y x 3"]:
        vectors = unit_vectors(output, statistics)
        return jnp.where(output[..., 3:] > INVALID_LOGIT, vectors, 0)

    def sums(
        self, predicted: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "batch y x"]
    ) -> Sums:
        known = np.asarray(self.is_valid(truth)) & where
        true = truth[known].astype(np.float64)
        answer = np.nan_to_num(predicted[known].astype(np.float64))
        lengths = np.linalg.norm(true, axis=-1) * np.linalg.norm(answer, axis=-1)
        cosine = (true * answer).sum(axis=-1) / np.maximum(lengths, 1e-9)
        angle = np.degrees(np.arccos(cosine.clip(-1, 1)))
        return {
            "angle": angle.sum(),
            "within": (angle < 11.25).sum(),
            "pixels": known.sum(),
        }

    def scores_of(self, sums: Sums) -> dict[str, float]:
        """Over all known pixels of the set: angle in degrees, share within 11.25 degrees."""
        if not sums or not sums["pixels"]:
            return dict.fromkeys(self.metrics, float("nan"))
        return {
            "mean_angle": float(sums["angle"] / sums["pixels"]),
            "within_11": float(sums["within"] / sums["pixels"]),
        }

    def best_constants(
        self, samples: Shaped[np.ndarray, "rows columns 3"]
    ) -> dict[str, np.ndarray]:
        """The direction of least mean angle, found by Weiszfeld's iteration from the mean."""
        known = np.abs(samples).sum(axis=-1) > 0
        seen = known.any(axis=0)[:, None]
        best = np.where(seen, _unit(samples.sum(axis=0)), _unit(samples.sum(axis=(0, 1))))
        for _ in range(10):
            cosine = np.einsum("rcd,cd->rc", samples, best).clip(-1, 1)
            weight = known / np.maximum(np.sqrt(1 - np.square(cosine)), 1e-2)
            moved = _unit(np.einsum("rc,rcd->cd", weight, samples))
            best = np.where(seen, moved, best)
        return dict.fromkeys(self.metrics, best.astype(np.float32))


INVALID_LOGIT = 0.0
"""Validity logit at or below which a decoded pixel has no answer."""


def validity_loss(
    logit: Float[Array, "batch y x"], valid: Bool[Array, "batch y x"]
) -> Float[Array, ""]:
    """Returns what not knowing where there is an answer costs."""
    return optax.sigmoid_binary_cross_entropy(logit, valid.astype(jnp.float32)).mean()


def unit_vectors(
    output: Float[Array, "batch y x 4"], statistics: Statistics
) -> Float[Array, "batch y x 3"]:
    """Returns the directions in a network's answer, which are offsets from the mean one."""
    vectors = output[..., :3] / 2 + statistics["mean"]
    return vectors * jax.lax.rsqrt(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True) + 1e-12)


def _perfect(
    normal: Float[Array, "batch y x inputs"], valid: Bool[Array, "batch y x"]
) -> Float[Array, "batch y x inputs"]:
    """Returns values, NaN where there are none, and a validity that is as far from 0 either way."""
    values = jnp.where(valid[..., None], normal[..., :-1], jnp.nan)
    validity = INVALID_LOGIT + jnp.where(valid, 1.0, -1.0)
    return jnp.concatenate([values, validity[..., None]], axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), 0)

"""Class maps: one of a list of names per pixel."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped, UInt8

from tokenizers.base import Better, Picture, RawBatch
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


@dataclass(frozen=True)
class Classes(DenseValues):
    """Class maps: integers [y, x], an index into `names` or `ignore`."""

    names: tuple[str, ...]
    """Name of every class, in the order of the indices."""
    ignore: int = 255
    """Index of pixels without truth, which are neither learned nor scored."""

    metrics: ClassVar[dict[str, Better]] = {"miou": "higher", "pixel_accuracy": "higher"}

    def check_knobs(self, knob: str) -> None:
        if len(self.names) < 2 or 0 <= self.ignore < len(self.names):
            raise ValueError(
                f"{name_knob(knob, 'names')} are {len(self.names)} and "
                f"{name_knob(knob, 'ignore')} is {self.ignore}; give at least 2 names, and an "
                "index to ignore that is none of theirs."
            )

    @property
    def num_inputs(self) -> int:
        return len(self.names)

    @property
    def num_outputs(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype:
        """uint8 where that holds every index, else int32."""
        small = len(self.names) <= 256 and 0 <= self.ignore < 256
        return np.dtype(np.uint8 if small else np.int32)

    def check(self, value: Any, name: str) -> Integer[np.ndarray, "y x"]:
        """Takes any integers; what is masked, or -1, which is no class anywhere, is ignored."""
        if isinstance(value, Picture) and value.stored.is_lossy:
            raise ValueError(
                f"{name} comes from a picture whose compression loses some of what was stored, so "
                "that it has classes that nobody gave it; store class maps as PNG, or give the "
                "format their `colors` and set nearest_color to True."
            )
        array = np.asanyarray(value)
        array = without_channel(array)
        unknown = np.ma.getmask(array)
        array = require_plane(array, name, None, "class maps")
        if array.dtype.kind not in "biu":
            raise ValueError(f"{name} has dtype {array.dtype}; class maps must be integers.")
        none = (array == -1) | unknown
        if none.any():
            array = np.where(none, self.ignore, array.astype(np.int64))
        wrong = array[(array != self.ignore) & ((array < 0) | (array >= len(self.names)))]
        if wrong.size:
            raise ValueError(
                f"{name} has the class index {wrong[0]}; allowed are 0 to {len(self.names) - 1}, "
                f"and {self.ignore} for pixels to ignore: change names or ignore."
            )
        return array.astype(self.dtype)

    def draw(
        self, value: Integer[np.ndarray, "y x"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y2 x2 3"]:
        """Every class has its own colour, the same in every picture; what is ignored is black."""
        known = (value >= 0) & (value < len(self.names))
        colors = palette(len(self.names))[np.where(known, value, 0)]
        return enlarge(np.where(known[..., None], colors, np.uint8(0)), size)

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        """Weights of the classes in the loss: rarer ones count more, as they do in mIoU."""
        samples = evenly_spaced(training).astype(np.int64)
        known = samples[(samples >= 0) & (samples < len(self.names)) & (samples != self.ignore)]
        count = np.bincount(known, minlength=len(self.names)).astype(np.float64)
        share = np.maximum(count / max(count.sum(), 1), 1e-4)
        weight = share**-0.5
        mean = (weight * count).sum() / max(count.sum(), 1) or 1.0
        return {"weight": (weight / mean).astype(np.float32)}

    def is_valid(self, raw: Integer[Raw, "batch y x"]) -> Bool[Raw, "batch y x"]:
        labels = raw.astype(np.int32)
        return (labels != self.ignore) & (labels >= 0) & (labels < len(self.names))

    def normalize(
        self, raw: Integer[Array, "batch y x"], statistics: Statistics
    ) -> Float[Array, "batch y x classes"]:
        """One channel per class, all 0 where the class is unknown."""
        labels = jnp.where(self.is_valid(raw), raw.astype(jnp.int32), -1)
        return jax.nn.one_hot(labels, len(self.names))

    def loss(
        self,
        output: Float[Array, "batch y x classes"],
        raw: Integer[Array, "batch y x"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        valid = self.is_valid(raw)
        labels = jnp.where(valid, raw.astype(jnp.int32), 0)
        entropy = optax.softmax_cross_entropy_with_integer_labels(output, labels)
        return masked_mean(entropy * jnp.asarray(statistics["weight"])[labels], valid)

    def target_output(
        self, raw: Integer[Array, "batch y x"], statistics: Statistics
    ) -> Float[Array, "batch y x classes"]:
        votes = 2 * self.normalize(raw, statistics) - 1
        return jnp.where(self.is_valid(raw)[..., None], votes, jnp.nan)

    def denormalize(
        self, output: Float[Array, "batch y x classes"], statistics: Statistics
    ) -> Integer[Array, "batch y x"]:
        return jnp.argmax(output, axis=-1).astype(self.dtype)

    def sums(
        self, predicted: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "batch y x"]
    ) -> Sums:
        known = np.asarray(self.is_valid(truth)) & where
        return {"confusion": self._confusion(predicted[known], truth[known])}

    def _confusion(
        self, predicted: Integer[np.ndarray, "pixels"], truth: Integer[np.ndarray, "pixels"]
    ) -> Int[np.ndarray, "classes answers"]:
        """Rows: truths. Columns: answers, and a last one for answers that are no class."""
        classes = len(self.names)
        answers = predicted.astype(np.int64)
        answers = np.where((answers < 0) | (answers >= classes), classes, answers)
        counts = np.bincount(
            truth.astype(np.int64) * (classes + 1) + answers, minlength=classes * (classes + 1)
        )
        return counts.reshape(classes, classes + 1)

    def scores_of(self, sums: Sums) -> dict[str, float]:
        """Mean over the classes that occur in the truth of the set, each over all its pixels."""
        if not sums or not sums["confusion"].any():
            return dict.fromkeys(self.metrics, float("nan"))
        iou = self._iou(sums["confusion"])
        correct = np.trace(sums["confusion"]) / sums["confusion"].sum()
        return {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(correct)}

    def _iou(self, confusion: Int[np.ndarray, "classes answers"]) -> Float[np.ndarray, "classes"]:
        right = np.diagonal(confusion).astype(np.float64)
        true = confusion.sum(axis=1)
        union = true + confusion[:, :-1].sum(axis=0) - right
        return np.where(true > 0, right / np.maximum(union, 1), np.nan)

    def best_constants(self, samples: Shaped[np.ndarray, "rows columns"]) -> dict[str, np.ndarray]:
        """The commonest class. No constant does better per pixel; mIoU may have a better one."""
        counts = np.stack([(samples == label).sum(axis=0) for label in range(len(self.names))])
        return dict.fromkeys(self.metrics, counts.argmax(axis=0).astype(self.dtype))


def palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Returns one colour per class: those of a colour map made for categories, while they last."""
    name = "tab10" if count <= 10 else "tab20"
    colors = (np.asarray(matplotlib.colormaps[name].colors) * 255).round().astype(np.uint8)
    # More classes than colours: each further round is darker.
    rounds, place = np.divmod(np.arange(count), len(colors))
    return (colors[place] * 0.7 ** rounds[:, None]).astype(np.uint8)

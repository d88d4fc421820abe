"""Embeddings: what another network makes of a picture, a text or anything, to be predicted.

One vector, such as the class token of DINOv2 or CLIP's embedding of a picture, or a map of vectors,
one per cell, as the patch tokens of a vision transformer are.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from tokenizers.base import Better, Crop, RawBatch
from tokenizers.decomposition import decompose
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.spread import evenly_spread
from tokenizers.values.colors import Reals
from tokenizers.values.dense import Statistics, evenly_spaced

NEIGHBOURS = 5
"""Nearest vectors that should be the same for a prediction as for the truth."""
COMPARED = 1024
"""Vectors, evenly spread over all, among which nearest ones are looked for."""
FITTED, FITTED_MAPS = 2048, 64
"""Training vectors, or maps of them, to which means and spreads are fitted."""
SCORED = 16_384
"""Vectors, evenly spread over the cells of all maps, whose direction is compared."""


@dataclass(frozen=True)
class Embedding(Checked):
    """Vectors of an encoder: float32 [width], or with `is_map` [height, width of the map, width].

    A map follows crops, mirrors and turns as a picture does, its vectors interpolated; what they
    say of left and right stays as it is. One vector stays as it is.
    """

    width: int
    """Numbers per vector, such as 768."""
    is_map: bool = False
    """Whether there is a vector per cell of a grid over the picture. `Modality.size` counts its
    cells."""
    least_shown: float = 0.0
    """Share of the picture that a view has to show for the one vector to be of it; views that show
    less of it go without. Nothing is left out if it is 0."""

    metrics: ClassVar[dict[str, Better]] = {"cosine": "higher", "neighbours": "higher"}
    """Mean cosine similarity, and which share of the nearest vectors of the truth, among all that
    are scored, are those of the prediction, too."""

    def check_knobs(self, knob: str) -> None:
        if self.width < 2 or not 0 <= self.least_shown <= 1:
            raise ValueError(
                f"{name_knob(knob, 'width')} is {self.width} and {name_knob(knob, 'least_shown')} "
                f"{self.least_shown}; at least 2, and a share from 0 to 1 are allowed."
            )

    @property
    def is_picture(self) -> bool:
        """Whether a value has a height and a width."""
        return self.is_map

    def check(self, value: Any, name: str) -> Float32[np.ndarray, "..."]:
        """Takes [width], or of maps [y, x, width] and [width, y, x]; an axis of one sample, too.

        Raises:
            ValueError: If it has another shape, or numbers that are not finite.
        """
        array = np.asarray(value)
        while array.ndim > (3 if self.is_map else 1) and array.shape[0] == 1:
            array = array[0]
        if self.is_map and array.ndim == 3 and array.shape[2] != self.width == array.shape[0]:
            array = np.moveaxis(array, 0, -1)
        is_shape = array.ndim == (3 if self.is_map else 1) and array.shape[-1] == self.width
        if not is_shape or not array.size:
            wanted = f"[y, x, {self.width}] or [{self.width}, y, x]"
            raise ValueError(
                f"{name} has shape {np.shape(value)}; "
                f"{wanted if self.is_map else f'[{self.width}]'} is allowed (Embedding.width, "
                "is_map)."
            )
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {array.dtype}; vectors must be real numbers.")
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(array, np.float32)
        if np.ma.is_masked(value) or not np.isfinite(vectors).all():
            raise ValueError(f"{name} has numbers that are not finite; finite ones are allowed.")
        return vectors

    def crop(
        self, value: Float32[np.ndarray, "..."], crop: Crop, size: tuple[int, int]
    ) -> Float32[np.ndarray, "..."] | None:
        """Returns a map as seen through the crop; one vector as it is, None if it shows too little.

        The largest window in the middle of a picture counts as all of its area.
        """
        if self.is_map:
            return self._plane.crop(value, crop, size)
        return value if crop.height * crop.width >= self.least_shown else None

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` restricts maps to a region, [batch, y, x]."""
        found, true = self._unit_rows(predicted, where), self._unit_rows(truth, where)
        if not len(true):
            return dict.fromkeys(self.metrics, math.nan)
        return {
            "cosine": float((found * true).sum(axis=1).mean()),
            "neighbours": _shared_neighbours(found, true),
        }

    def floor(
        self,
        training: RawBatch,
        truth: RawBatch,
        where: np.ndarray | None = None,
        training_where: np.ndarray | None = None,
    ) -> dict[str, float]:
        """Returns what the mean direction of training vectors scores, of maps cell by cell.

        On a region, it is that of the training vectors in `training_where`.
        """
        if where is None:
            samples = _unit(self._some(training)).mean(axis=0)
        else:
            samples = self._unit_rows(training, training_where).mean(axis=0)
        answer = np.broadcast_to(samples, np.shape(truth[0]))
        return self.score(np.broadcast_to(answer, (len(truth), *answer.shape)), truth, where)

    def draw(
        self, value: Float[np.ndarray, "..."], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y x 3"]:
        """Returns the numbers as shades of grey; of a map three principal components as colours.

        They are each map's own: the same colour means the same within one map only.
        """
        if not self.is_map:
            side = math.ceil(math.sqrt(self.width))
            padded = np.pad(value, (0, side * side - self.width), constant_values=np.nan)
            return Reals().draw(padded.reshape(side, side, 1), size)
        rows = value.reshape(-1, self.width).astype(np.float64)
        rows -= rows.mean(axis=0)
        left, spread, _ = decompose(rows)
        parts = np.zeros((len(rows), 3))
        parts[:, : len(spread)] = (left * spread)[:, :3]
        # Which end of a component is which is chance: the longer tail is bright.
        parts *= np.where((parts**3).sum(axis=0) < 0, -1, 1)
        planes = parts.reshape(*value.shape[:2], 3).astype(np.float32)
        return Reals(channels=3, picture=(0, 1, 2)).draw(planes, size)

    def vectors(self, values: RawBatch) -> Float[np.ndarray, "batch n"]:
        """Returns the vectors, of a map their mean, for simple methods."""
        means = [np.reshape(each, (-1, self.width)).mean(axis=0) for each in values]
        return np.asarray(means, np.float64)

    # What a tokenizer needs.

    def fit_statistics(self, training: RawBatch) -> dict[str, np.ndarray]:
        """Returns the mean vector, and one spread for all numbers, which keeps angles."""
        rows = self._some(training).reshape(-1, self.width).astype(np.float64)
        spread = rows.std(axis=0)
        scale = math.sqrt((spread**2).mean())
        return {
            "mean": rows.mean(axis=0).astype(np.float32),
            "scale": np.float32(scale if scale > 1e-12 else 1.0),
        }

    def normalize(
        self, raw: Float[Array, "batch ... width"], statistics: Statistics
    ) -> Float[Array, "batch ... width"]:
        """Returns vectors whose numbers have zero mean and, all together, unit variance."""
        return (raw.astype(jnp.float32) - statistics["mean"]) / statistics["scale"]

    def loss(
        self,
        output: Float[Array, "batch ... width"],
        raw: Float[Array, "batch ... width"],
        statistics: Statistics,
    ) -> Float[Array, ""]:
        """Returns the mean square error, in units of the variance, plus 1 - cosine similarity."""
        found, true = self.denormalize(output, statistics), raw.astype(jnp.float32)
        lengths = jnp.linalg.norm(found, axis=-1) * jnp.linalg.norm(true, axis=-1)
        cosine = jnp.sum(found * true, axis=-1) / jnp.maximum(lengths, 1e-6)
        square = jnp.square(output - self.normalize(raw, statistics))
        return jnp.mean(square) + 1 - jnp.mean(cosine)

    def denormalize(
        self, output: Float[Array, "batch ... width"], statistics: Statistics
    ) -> Float[Array, "batch ... width"]:
        """Returns raw vectors from a network's answer."""
        return output * statistics["scale"] + statistics["mean"]

    def _some(self, training: RawBatch) -> Float32[np.ndarray, "samples ..."]:
        """Returns training samples, evenly spread; of maps as few as fit into memory."""
        return evenly_spaced(training, FITTED_MAPS if self.is_map else FITTED)

    @cached_property
    def _plane(self) -> Reals:
        """What a map is like as a picture of many channels."""
        return Reals(channels=self.width)

    def _unit_rows(
        self, values: RawBatch, where: Bool[np.ndarray, "batch y x"] | None
    ) -> Float32[np.ndarray, "rows width"]:
        """Returns vectors of unit length, of maps evenly spread ones."""
        array = np.asarray(values, np.float32)
        rows = array.reshape(-1, self.width) if where is None else array[np.asarray(where)]
        return _unit(rows[evenly_spread(len(rows), SCORED)])


def _unit(vectors: Float[np.ndarray, "... width"]) -> Float[np.ndarray, "... width"]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _shared_neighbours(
    found: Float[np.ndarray, "rows width"], true: Float[np.ndarray, "rows width"]
) -> float:
    """Returns the share of nearest true vectors that are alike for both; NaN for a single row.

    Neither counts the vector's own truth, which is no neighbour.
    """
    chosen = evenly_spread(len(true), COMPARED)
    found, true = found[chosen], true[chosen]
    count = min(NEIGHBOURS, len(true) - 1)
    if count < 1:
        return math.nan
    nearest = []
    for rows in (found, true):
        near = rows @ true.T
        np.fill_diagonal(near, -np.inf)
        is_near = np.zeros(near.shape, bool)
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        np.put_along_axis(is_near, order, True, axis=1)
        nearest.append(is_near)
    return float((nearest[0] & nearest[1]).sum() / (count * len(true)))

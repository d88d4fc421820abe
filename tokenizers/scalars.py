"""Scalars: one number per sample, and quantile bins as ids."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Int32

from tokenizers.base import Better, Crop, RawBatch, check_ids, rank_features
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import check_finite, load_folder, read_part, save_folder


@dataclass(frozen=True)
class Scalar(Checked):
    """One finite number per sample, such as a temperature."""

    unit: str = ""
    """Shown behind the number, such as "m"."""
    lowest: float = -np.inf
    """Smaller numbers are refused."""
    highest: float = np.inf
    """Larger numbers are refused."""
    flip_negates: bool = False
    """Whether mirroring the picture changes the sign, as for a steering angle."""

    @property
    def metrics(self) -> dict[str, Better]:
        """Mean absolute error in `unit`, and the share of variance explained."""
        return {"mae": "lower", "r2": "higher"}

    def check(self, value: Any, name: str) -> float:
        """Returns the number as a float.

        Raises:
            ValueError: If it is not one number, not finite, or outside `lowest` to `highest`.
        """
        try:
            number = float(np.asarray(value).item())
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{name} is {_brief(value)}; one number per sample is allowed."
            ) from error
        if np.ma.is_masked(value) or not np.isfinite(number):
            raise ValueError(
                f"{name} is {number}; finite numbers are allowed: leave the modality out of "
                "samples that have none."
            )
        if not self.lowest <= number <= self.highest:
            raise ValueError(
                f"{name} is {number}; {self.lowest} to {self.highest} is allowed "
                "(Scalar.lowest, Scalar.highest)."
            )
        return number

    def crop(self, value: float, crop: Crop, size: tuple[int, int]) -> float | None:
        """Returns the number, negated if the crop mirrors and `flip_negates` is set.

        A number to which left and right matter means nothing in a turned picture: None.
        """
        if self.flip_negates and crop.quarter_turns:
            return None
        return -value if crop.flip and self.flip_negates else value

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` does not apply to scalars and is ignored.

        If all of `truth` is equal, r2 is 1 for a perfect prediction and 0 for any other.
        """
        found, true = _as_numbers(predicted), _as_numbers(truth)
        error = found - true
        residual, total = np.sum(error**2), np.sum((true - np.mean(true)) ** 2)
        r2 = 1 - residual / total if total > 0 else float(residual == 0)
        return {"mae": float(np.mean(np.abs(error))), "r2": float(r2)}

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what constants score on `truth`: training's median for mae, its mean for r2."""
        trained, true = _as_numbers(training), _as_numbers(truth)
        median = np.full_like(true, np.median(trained))
        mean = np.full_like(true, np.mean(trained))
        return {"mae": self.score(median, true)["mae"], "r2": self.score(mean, true)["r2"]}

    def draw(self, value: float, size: tuple[int, int]) -> str:
        """Returns the number with three digits and its unit, such as "3.2 m"."""
        return f"{value:.3g} {self.unit}".strip()


@dataclass(frozen=True)
class ScalarTokenizerConfig(Checked):
    """Bins that hold equal shares of the training numbers."""

    num_bins: int = 256
    """Largest number of bins. Numbers with fewer different values, such as counts, get one bin for
    each value, so that they survive exactly."""

    def check_knobs(self, knob: str) -> None:
        if self.num_bins < 1:
            raise ValueError(
                f"{name_knob(knob, 'num_bins')} is {self.num_bins}; at least 1 is allowed."
            )

    def fit(
        self, values: Scalar, training: RawBatch, key: Array | None = None
    ) -> "ScalarTokenizer":
        """Returns a tokenizer whose bins are the quantiles of `training`.

        Raises:
            ValueError: If there is no training number, or one is not allowed by `values`.
        """
        numbers = np.array([values.check(x, "training number") for x in training], np.float64)
        if not numbers.size:
            raise ValueError(
                "Scalar tokenizer: no training number was given; at least one is needed."
            )
        different = np.unique(numbers)
        if len(different) <= self.num_bins:
            return ScalarTokenizer(values, different, (different[:-1] + different[1:]) / 2)
        # Edges are training numbers, so every bin holds at least its own lower edge. A value so
        # frequent that several quantiles fall on it yields one edge, hence fewer bins.
        shares = np.arange(1, self.num_bins) / self.num_bins
        edges = np.unique(np.quantile(numbers, shares, method="inverted_cdf"))
        edges = edges[edges > different[0]]
        bins = np.searchsorted(edges, numbers, side="right")
        centers = [np.median(numbers[bins == i]) for i in range(len(edges) + 1)]
        return ScalarTokenizer(values, np.array(centers), edges)


class ScalarTokenizer:
    """Numbers to ids and back; ids are bins in ascending order, of which any number has one."""

    special: None = None

    def __init__(
        self,
        values: Scalar,
        centers: Float[np.ndarray, "bins"],
        edges: Float[np.ndarray, "bins-1"],
    ) -> None:
        """Args:
        values: What the numbers mean.
        centers: What each bin decodes to.
        edges: Ascending limits between bins; a number on a limit belongs to the upper bin.
        """
        self.values = values
        self._centers = centers
        self._edges = edges
        self.vocab_size = len(centers)
        self.token_shape = (1,)

    @property
    def range(self) -> tuple[float, float]:
        """What the lowest and the highest bin decode to."""
        return float(self._centers.min()), float(self._centers.max())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The bins, as they are saved."""
        return {"centers": self._centers, "edges": self._edges}

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch 1"]:
        """Returns ids [batch, 1]; numbers outside the training range go into the outermost bins.

        Raises:
            ValueError: If a number is not finite.
        """
        numbers = _as_numbers(values)
        if not np.isfinite(numbers).all():
            raise ValueError(
                f"Scalar tokenizer: {numbers[~np.isfinite(numbers)][0]} has no bin; "
                "finite numbers are allowed."
            )
        return np.searchsorted(self._edges, numbers, side="right").astype(np.int32)[:, None]

    def decode(self, ids: Int[np.ndarray, "batch 1"]) -> Float[np.ndarray, "batch"]:
        """Returns the median training number of each bin.

        Raises:
            ValueError: If an id is out of range.
        """
        check_ids(ids, self.vocab_size)
        return self._centers[ids[:, 0]]

    def decode_expected(
        self, probabilities: Float[np.ndarray | Array, "batch 1 vocab"]
    ) -> Float[np.ndarray, "batch"]:
        """Returns the mean number under `probabilities` [batch, 1, vocab_size]."""
        return np.asarray(probabilities, np.float64)[:, 0] @ self._centers

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns features of the bins' order."""
        return rank_features(self.vocab_size)

    def save(self, folder: Path) -> None:
        """Writes the bins into `folder`."""
        values = to_part(self.values)
        for limit in ("lowest", "highest"):  # JSON has no infinities.
            values[limit] = str(values[limit])
        save_folder(folder, {"tokenizer": "scalar", "values": values}, self.arrays)

    @classmethod
    def load(cls, folder: Path) -> "ScalarTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, arrays, _ = load_folder(folder, "scalar")
        check_finite(arrays, folder)
        values = read_part(description, "values", Scalar, folder)
        return cls(values, arrays["centers"], arrays["edges"])


def _as_numbers(values: RawBatch) -> Float[np.ndarray, "batch"]:
    return np.asarray(values, np.float64).reshape(len(values))


def _brief(value: Any) -> str:
    shape = np.shape(value)
    return f"an array of shape {shape}" if shape else repr(value)[:40]

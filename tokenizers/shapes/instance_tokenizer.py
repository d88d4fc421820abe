"""Points and polygons as ids: an x and a y per point, and the class, which ends a thing."""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, Int, Int32

from tokenizers.base import Instances, RawBatch, SequenceTokens, rank_features
from tokenizers.settings.checked import Checked
from tokenizers.settings.plain import to_part
from tokenizers.shapes.instances import InstanceValues
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.text.sequences import check_bins, pad_sequences, read_sequences

KINDS: dict[str, type[InstanceValues]] = {kind.__name__: kind for kind in (Points, Polygons)}
"""Those that a saved tokenizer can name."""
UNKNOWN, X, Y, CLASS = range(4)
"""Kinds of ids beside the end and the sentinels, in the order of their ranges."""


@dataclass(frozen=True)
class InstanceTokenizerConfig(Checked):
    """Two ids per point, its place, quantised, or one if it is unknown; the class ends a thing."""

    num_bins: int = 100
    """Positions along width and height; a point is off by at most half of 1 / (num_bins - 1)."""
    num_sentinels: int = 32
    """Ids that stand for masked spans."""

    def check_knobs(self, knob: str) -> None:
        check_bins(knob, self.num_bins, self.num_sentinels)

    def most_tokens(self, values: InstanceValues) -> int:
        """Returns the most tokens of a value, the end included."""
        return values.max_instances * (2 * values.most_points + 1) + 1

    def count_ids(self, values: InstanceValues) -> int:
        """Returns the size of the vocabulary."""
        return 2 + self.num_sentinels + 2 * self.num_bins + len(values.class_names)

    def fit(
        self, values: InstanceValues, training: RawBatch, key: Array | None = None
    ) -> "InstanceTokenizer":
        """Returns the tokenizer; `training` only serves to warn of lists that don't fit."""
        share = np.mean([len(each.classes) > values.max_instances for each in training] or [0])
        if share > 0:
            warnings.warn(
                f"{share:.1%} of the training samples have more than {values.max_instances} "
                "instances and lose their last ones; raise max_instances to keep them.",
                stacklevel=2,
            )
        return InstanceTokenizer(self, values)


class InstanceTokenizer:
    """Things to ids and back, in the order given.

    Ids are [end, sentinels, unknown point, bins of x, bins of y, classes].
    """

    def __init__(self, config: InstanceTokenizerConfig, values: InstanceValues) -> None:
        """Args:
        config: Numbers of bins and sentinels.
        values: The classes, and how many things and points there may be.
        """
        self._config, self.values = config, values
        bins = config.num_bins
        # First id of each of the four kinds.
        self._starts = 1 + config.num_sentinels + np.array([0, 1, 1 + bins, 1 + 2 * bins])
        self.vocab_size = config.count_ids(values)
        self.token_shape = (config.most_tokens(values),)
        self.special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=config.num_sentinels)

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch tokens"]:
        """Returns ids; things beyond `max_instances` are left out.

        Raises:
            ValueError: If points are outside [0, 1] or a class is not known.
        """
        sequences = []
        for value in values:
            most = self.values.max_instances
            things = zip(value.parts()[:most], value.classes[:most].tolist(), strict=True)
            sequences.append([number for each in things for number in self._write(*each)])
        return pad_sequences(sequences, self.special.end, *self.token_shape)

    def _write(self, points: Float[np.ndarray, "points 2"], index: int) -> list[int]:
        known = points[~np.isnan(points).any(axis=1)]
        if not ((known >= 0) & (known <= 1)).all() or not 0 <= index < len(self.values.class_names):
            raise ValueError(
                "Instance tokenizer: points must be fractions of width and height in [0, 1], and "
                f"classes 0 to {len(self.values.class_names) - 1}; got points from {known.min()} "
                f"to {known.max()} of the class {index}."
            )
        ids: list[int] = []
        for point in self.values.keep(points.astype(np.float64)):
            if np.isnan(point).any():
                ids.append(int(self._starts[UNKNOWN]))
                continue
            bins = np.rint(point * (self._config.num_bins - 1)).astype(int)
            ids += (bins + self._starts[[X, Y]]).tolist()
        return [*ids, int(self._starts[CLASS]) + int(index)]

    def decode(self, ids: Int[np.ndarray, "batch tokens"]) -> list[Instances]:
        """Returns the things before each end.

        A model may write nonsense: what is between two classes and makes up no thing is skipped.

        Raises:
            ValueError: If an id is out of range.
        """
        return [self._read(row) for row in read_sequences(ids, self.special, self.vocab_size)]

    def _read(self, ids: Int[np.ndarray, "_"]) -> Instances:
        kinds = np.searchsorted(self._starts, ids, side="right") - 1
        ends = np.flatnonzero(kinds == CLASS)
        parts, classes = [], []
        for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=False):
            points = self._points(ids[start:end], kinds[start:end])
            if points is not None and self.values.is_whole(points):
                parts.append(points)
                classes.append(int(ids[end] - self._starts[CLASS]))
        return Instances.of(parts, classes)

    def _points(
        self, ids: Int[np.ndarray, "_"], kinds: Int[np.ndarray, "_"]
    ) -> Float[np.ndarray, "points 2"] | None:
        """Returns what ids of one thing stand for; None if an x is without its y."""
        firsts = kinds != Y
        follows = np.append(kinds[1:] == Y, False)
        if (firsts & (follows != (kinds == X))).any() or (len(kinds) and kinds[0] == Y):
            return None
        if (~firsts[1:] & ~firsts[:-1]).any():
            return None
        points = np.full((int(firsts.sum()), 2), np.nan)
        place = np.cumsum(firsts) - 1
        for axis, kind in enumerate((X, Y)):
            own = kinds == kind
            points[place[own], axis] = (ids[own] - self._starts[kind]) / (self._config.num_bins - 1)
        return points

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns features of the bins' order; the other ids have none."""
        bins = rank_features(self._config.num_bins)
        features = np.zeros((self.vocab_size, bins.shape[1]))
        for start in self._starts[[X, Y]]:
            features[start : start + len(bins)] = bins
        return features

    def save(self, folder: Path) -> None:
        """Writes the configuration into `folder`."""
        description = {
            "tokenizer": "instances",
            "config": asdict(self._config),
            "kind": type(self.values).__name__,
            "values": to_part(self.values),
        }
        save_folder(folder, description, {})

    @classmethod
    def load(cls, folder: Path) -> "InstanceTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, _, _ = load_folder(folder, "instances")
        config = read_part(description, "config", InstanceTokenizerConfig, folder)
        kind = KINDS.get(read_part(description, "kind", str, folder), InstanceValues)
        return cls(config, read_part(description, "values", kind, folder))

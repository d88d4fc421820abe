"""Boxes: labelled rectangles of a picture, and their corners and classes as ids."""

import colorsys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32
from PIL import Image, ImageDraw

from tokenizers.base import (
    Better,
    Boxes,
    Crop,
    RawBatch,
    SequenceTokens,
    rank_features,
)
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import to_part
from tokenizers.spread import evenly_spread
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.text.sequences import check_bins, find_groups, pad_sequences, read_sequences


@dataclass(frozen=True)
class BoxList(Checked):
    """`Boxes` per sample: any number of labelled rectangles, none included.

    Metrics are micro-averaged F1: boxes are counted over all samples. A predicted box is right if
    it overlaps a true box of its class enough; each true box counts once, under the assignment
    that makes most predictions right.
    """

    class_names: tuple[str, ...]
    """Names in the order of the class indices."""
    max_boxes: int = 16
    """Longest list that the tokenizer keeps. Of longer ones the first boxes are kept."""
    iou_threshold: float = 0.5
    """Intersection over union from which on a predicted box is right."""
    min_visible: float = 0.25
    """Share of its area that a box must keep to survive a crop."""

    def check_knobs(self, knob: str) -> None:
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(
                f"{name_knob(knob, 'class_names')} must be different names, at least one."
            )
        if self.max_boxes < 1:
            raise ValueError(
                f"{name_knob(knob, 'max_boxes')} is {self.max_boxes}; at least 1 is allowed."
            )
        if not 0 < self.iou_threshold <= 1 or not 0 < self.min_visible <= 1:
            raise ValueError(
                f"{name_knob(knob, 'iou_threshold')} is {self.iou_threshold} and "
                f"{name_knob(knob, 'min_visible')} {self.min_visible}; more than 0 and at most 1 "
                "is allowed."
            )

    @property
    def metrics(self) -> dict[str, Better]:
        """F1 with classes, named after the threshold, and F1 of boxes whatever their class."""
        return {self._main: "higher", "f1_any_class": "higher"}

    @property
    def _main(self) -> str:
        return f"f1_iou{100 * self.iou_threshold:g}"

    def check(self, value: Any, name: str) -> Boxes:
        """Returns the boxes as float32 corners in [0, 1] and int32 classes.

        Raises:
            ValueError: If corners or classes have a wrong shape or lie out of range.
        """
        try:
            corners, classes = (np.asarray(part) for part in value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} is a {type(value).__name__}; Boxes(corners, classes) is allowed."
            ) from error
        if corners.size == classes.size == 0:
            return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
        if corners.shape != (*classes.shape, 4) or classes.ndim != 1:
            raise ValueError(
                f"{name} has corners of shape {corners.shape} and classes of shape "
                f"{classes.shape}; [boxes, 4] and [boxes] are allowed."
            )
        if corners.dtype.kind not in "fiu" or classes.dtype.kind not in "iu":
            raise ValueError(
                f"{name} has corners of dtype {corners.dtype} and classes of dtype "
                f"{classes.dtype}; numbers and integers are allowed."
            )
        rounding = 1e-4
        if not ((corners >= -rounding) & (corners <= 1 + rounding)).all():
            raise ValueError(
                f"{name} has corners between {corners.min()} and {corners.max()}; fractions of "
                "width and height in [0, 1] are allowed."
            )
        if (corners[:, :2] > corners[:, 2:]).any():
            raise ValueError(
                f"{name} has a box that ends before it begins; corners are allowed in the order "
                "x_min, y_min, x_max, y_max."
            )
        if classes.min() < 0 or classes.max() >= len(self.class_names):
            raise ValueError(
                f"{name} has classes between {classes.min()} and {classes.max()}; 0 to "
                f"{len(self.class_names) - 1} is allowed (BoxList.class_names)."
            )
        return Boxes(np.clip(corners, 0, 1).astype(np.float32), classes.astype(np.int32))

    def crop(self, value: Boxes, crop: Crop, size: tuple[int, int]) -> Boxes:
        """Returns the boxes in the window's coordinates, without those that mostly left it."""
        offset = np.array([crop.left, crop.top] * 2)
        extent = np.array([crop.width, crop.height] * 2)
        moved = (value.corners - offset) / extent
        corners = np.clip(moved, 0, 1)
        kept = _area(corners) >= np.maximum(self.min_visible * _area(moved), 1e-9)
        if crop.flip:
            corners[:, [0, 2]] = 1 - corners[:, [2, 0]]
        for _ in range(crop.quarter_turns):
            left, top, right, bottom = corners.T
            corners = np.stack([top, 1 - right, bottom, 1 - left], axis=1)
        return Boxes(corners[kept].astype(np.float32), value.classes[kept])

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` does not apply to boxes and is ignored.

        F1 is 1 if there is nothing to find and nothing was found.
        """
        # Takes long to import, and only those who measure need it.
        from scipy.optimize import linear_sum_assignment

        total = sum(len(boxes.classes) for boxes in (*predicted, *truth))
        scores = {}
        for name, by_class in ((self._main, True), ("f1_any_class", False)):
            right = 0
            for found, true in zip(predicted, truth, strict=True):
                matches = _can_match(found, true, self.iou_threshold, by_class)
                rows, columns = linear_sum_assignment(matches, maximize=True)
                right += int(matches[rows, columns].sum())
            scores[name] = 2 * right / total if total else 1.0
        return scores

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what the best constant list of boxes for each metric scores on `truth`."""
        scores = {}
        for name, by_class in ((self._main, True), ("f1_any_class", False)):
            constant = self.best_constant(training, by_class)
            scores[name] = self.score([constant] * len(truth), truth)[name]
        return scores

    def best_constant(self, training: Sequence[Boxes], by_class: bool = True) -> Boxes:
        """Returns the list of boxes that scores best as an answer to all, the most useful first.

        It grows greedily while F1 on (at most 1000) training samples rises, and draws from each
        class's mean box and 16 of its training boxes, evenly spaced in training order.
        """
        training = [training[i] for i in evenly_spread(len(training), 1000)]
        everything = Boxes(*(np.concatenate(parts) for parts in zip(*training, strict=True)))
        sample = np.repeat(np.arange(len(training)), [len(boxes.classes) for boxes in training])
        corners, classes = [], []
        for index in np.unique(everything.classes):
            own = everything.corners[everything.classes == index]
            corners += [own.mean(0), *own[evenly_spread(len(own), 16)]]
            classes += [index] * (len(corners) - len(classes))
        pool = Boxes(np.array(corners, np.float32).reshape(-1, 4), np.array(classes, np.int32))
        is_open = _can_match(pool, everything, self.iou_threshold, by_class)
        chosen: list[int] = []
        right, best_f1 = 0, 0.0
        while len(chosen) < self.max_boxes and len(pool.classes):
            # A candidate answers once per sample, so its hits are counted in samples.
            is_hit = np.zeros((len(pool.classes), len(training)), bool)
            rows, columns = np.nonzero(is_open)
            is_hit[rows, sample[columns]] = True
            candidate = int(is_hit.sum(1).argmax())
            right += int(is_hit[candidate].sum())
            f1 = 2 * right / (len(training) * (len(chosen) + 1) + len(sample))
            if f1 <= best_f1:
                break
            best_f1 = f1
            chosen.append(candidate)
            answered = np.flatnonzero(is_open[candidate])
            _, first = np.unique(sample[answered], return_index=True)
            is_open[:, answered[first]] = False
        return Boxes(pool.corners[chosen], pool.classes[chosen])

    def draw(self, value: Boxes, size: tuple[int, int]) -> np.ndarray:
        """Returns uint8 [*size, 3]: outlines on white, one colour and label per class."""
        height, width = size
        image = Image.new("RGB", (width, height), "white")
        canvas = ImageDraw.Draw(image)
        for corners, index in zip(value.corners, value.classes, strict=True):
            # Hues a golden ratio apart stay distinct however many classes there are.
            hue = colorsys.hsv_to_rgb((int(index) * 0.618034) % 1, 1, 0.8)
            color = tuple(round(255 * part) for part in hue)
            x_min, y_min, x_max, y_max = corners.astype(float) * ([width - 1, height - 1] * 2)
            line = 1 + max(size) // 128
            canvas.rectangle((x_min, y_min, x_max, y_max), outline=color, width=line)
            canvas.text((x_min + 2, y_min + 1), self.class_names[index], fill=color)
        return np.asarray(image)


@dataclass(frozen=True)
class BoxTokenizerConfig(Checked):
    """Five ids per box: its corners, quantised, then its class (Pix2Seq, section 2.1)."""

    num_bins: int = 100
    """Positions along width and height; a corner is off by at most half of 1 / (num_bins - 1)."""
    num_sentinels: int = 32
    """Ids that stand for masked spans."""

    def check_knobs(self, knob: str) -> None:
        check_bins(knob, self.num_bins, self.num_sentinels)

    def fit(self, values: BoxList, training: RawBatch, key: Array | None = None) -> "BoxTokenizer":
        """Returns the tokenizer; `training` only serves to warn of lists that don't fit."""
        share = np.mean([len(boxes.classes) > values.max_boxes for boxes in training] or [0])
        if share > 0:
            warnings.warn(
                f"{share:.1%} of the training samples have more than {values.max_boxes} boxes and "
                "lose their last ones; raise max_boxes to keep them.",
                stacklevel=2,
            )
        return BoxTokenizer(self, values)


class BoxTokenizer:
    """Boxes to ids and back, in the order given.

    Ids are [end, sentinels, bins of x_min, of y_min, of x_max, of y_max, classes]: a range for
    each corner, as in 4M, so that an id says what it is wherever it stands.
    """

    def __init__(self, config: BoxTokenizerConfig, values: BoxList) -> None:
        """Args:
        config: Numbers of bins and sentinels.
        values: The classes and the longest list.
        """
        self._config = config
        self.values = values
        self._num_classes = len(values.class_names)
        self._max_boxes = values.max_boxes
        first_bin = 1 + config.num_sentinels
        # First id of each of the five kinds that make a box, and the id after the last.
        self._starts = first_bin + config.num_bins * np.arange(5)
        self.vocab_size = int(self._starts[4]) + self._num_classes
        self.token_shape = (5 * values.max_boxes + 1,)
        self.special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=config.num_sentinels)
        self.box_starts = tuple(self._starts.tolist())

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch tokens"]:
        """Returns ids [batch, 5 * max_boxes + 1]; boxes beyond `max_boxes` are left out.

        Raises:
            ValueError: If corners are outside [0, 1] or a class is not known.
        """
        sequences = []
        for corners, classes in values:
            if not ((corners >= 0) & (corners <= 1)).all():
                raise ValueError(
                    "Box tokenizer: corners must be fractions of width and height in [0, 1]; "
                    f"got {corners.min()} to {corners.max()}."
                )
            if not ((classes >= 0) & (classes < self._num_classes)).all():
                raise ValueError(
                    f"Box tokenizer: classes 0 to {self._num_classes - 1} are allowed; "
                    f"got {classes.min()} to {classes.max()}."
                )
            bins = np.rint(corners.astype(np.float64) * (self._config.num_bins - 1))
            ids = np.column_stack([bins, classes]).astype(np.int32) + self._starts
            sequences.append(ids[: self._max_boxes].ravel())
        return pad_sequences(sequences, self.special.end, *self.token_shape)

    def decode(self, ids: Int[np.ndarray, "batch tokens"]) -> list[Boxes]:
        """Returns the boxes before each end.

        A model may write nonsense: ids that don't make up four corners and a class are skipped,
        and corners are put in order.

        Raises:
            ValueError: If an id is out of range.
        """
        return [self._to_boxes(row) for row in read_sequences(ids, self.special, self.vocab_size)]

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns features of the bins' order; the other ids have none."""
        bins = rank_features(self._config.num_bins)
        features = np.zeros((self.vocab_size, bins.shape[1]))
        for start in self._starts[:4]:
            features[start : start + len(bins)] = bins
        return features

    def save(self, folder: Path) -> None:
        """Writes the configuration into `folder`."""
        description = {
            "tokenizer": "boxes",
            "config": asdict(self._config),
            "values": to_part(self.values),
        }
        save_folder(folder, description, {})

    @classmethod
    def load(cls, folder: Path) -> "BoxTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, _, _ = load_folder(folder, "boxes")
        config = read_part(description, "config", BoxTokenizerConfig, folder)
        return cls(config, read_part(description, "values", BoxList, folder))

    def _to_boxes(self, ids: Int[np.ndarray, "_"]) -> Boxes:
        numbers = find_groups(ids, self._starts) - self._starts
        corners = (numbers[:, :4] / (self._config.num_bins - 1)).astype(np.float32)
        ordered = np.hstack(
            [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])]
        )
        return Boxes(ordered, numbers[:, 4].astype(np.int32))


def _area(corners: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "boxes"]:
    return (corners[:, 2:] - corners[:, :2]).prod(1)


def _can_match(
    found: Boxes, true: Boxes, iou_threshold: float, by_class: bool
) -> Bool[np.ndarray, "found true"]:
    """Returns which pairs overlap enough (and agree in class, if `by_class`)."""
    a, b = found.corners[:, None], true.corners[None]
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.maximum(overlap, 0).prod(-1)
    union = _area(found.corners)[:, None] + _area(true.corners)[None] - both
    matches = both >= iou_threshold * np.maximum(union, 1e-12)
    return matches & (found.classes[:, None] == true.classes) if by_class else matches

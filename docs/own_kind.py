"""A kind of one's own: the direction of the wind in degrees, which 0 and 360 share.

python train.py docs/own_kind.py --data.path PATH

PATH/rgb/KEY.png shows a landscape, PATH/wind/KEY.txt holds a number such as 270.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs import (
    ArrayFile,
    Checked,
    Colors,
    FilesData,
    Modality,
    NumberFile,
    RunConfig,
    SplitByFraction,
    load_folder,
    rank_features,
    read_part,
    save_folder,
    to_plain,
)


@dataclass(frozen=True)
class Bearing(Checked):
    """Degrees in [0, 360), clockwise from the upper edge of the picture."""

    metrics: ClassVar = {"degrees_off": "lower"}

    def check(self, value, name):
        degrees = float(np.asarray(value).item())
        if not np.isfinite(degrees):
            raise ValueError(f"{name} is {degrees}; a finite number of degrees is allowed.")
        return degrees % 360

    def crop(self, value, crop, size):
        return ((-value if crop.flip else value) - 90 * crop.quarter_turns) % 360

    def score(self, predicted, truth, where=None):
        off = np.abs((np.asarray(predicted) - np.asarray(truth) + 180) % 360 - 180)
        return {"degrees_off": float(off.mean())}

    def floor(self, training, truth, where=None):
        mean = np.exp(np.deg2rad(training) * 1j).mean()
        return self.score(np.full(len(truth), np.rad2deg(np.angle(mean))), truth)

    def draw(self, value, size):
        return f"{value:.0f} degrees"


@dataclass(frozen=True)
class BearingTokenizerConfig(Checked):
    """Equal parts of the circle."""

    parts: int = 36
    """How many."""

    def fit(self, values, training, key):
        return BearingTokenizer(values, self.parts)


class BearingTokenizer:
    special = None  # It is no sequence.
    token_shape = (1,)

    def __init__(self, values, parts):
        self.values, self.vocab_size = values, parts

    def encode(self, values):
        ids = np.rint(np.asarray(values) * self.vocab_size / 360) % self.vocab_size
        return ids.astype(np.int32)[:, None]

    def decode(self, ids):
        return ids[:, 0] * 360.0 / self.vocab_size

    def code_features(self):
        """Which ids are alike, so that the model needs not learn it: not needed, but of use."""
        return rank_features(self.vocab_size)

    def save(self, folder):
        description = {"values": to_plain(self.values), "parts": self.vocab_size}
        save_folder(folder, {"tokenizer": type(self), **description}, {})

    @classmethod
    def load(cls, folder):
        description, _, _ = load_folder(folder)
        return cls(read_part(description, "values", Bearing, folder), description["parts"])


config = RunConfig(
    modalities={
        "rgb": Modality(Colors()),
        "wind": Modality(Bearing(), BearingTokenizerConfig()),
    },
    data=FilesData(
        modalities={"rgb": ArrayFile(as_rgb=True), "wind": NumberFile()},
        splits_by=SplitByFraction(folder=""),
    ),
)

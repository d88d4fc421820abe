"""Palettes: the few colours that a picture is made of, with their shares, as a sequence of ids."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped, UInt8
from PIL import Image

from tokenizers.base import (
    Better,
    Crop,
    RawBatch,
    SequenceTokens,
    choose_constants,
    rank_features,
)
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import to_part
from tokenizers.spread import evenly_spread
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.text.sequences import find_groups, pad_sequences, read_sequences
from tokenizers.values.colors import Colors
from tokenizers.values.dense import WHOLE, resize_nearest

SIDE = 40
"""Pixels along each side of the picture whose colours are counted."""
MANY = 32
"""Colours with which the search begins."""
ROUNDS = 12
"""Rounds of k-means."""
PIECES = 32
"""Equal parts that a palette is cut into, to be compared with another."""
FARTHEST = 100.0
"""Distance of black and white; also that of a palette to none."""
CLOSE = 10.0
"""Distance up to which two colours are close: a difference that is seen, of the same name."""
CONSTANTS, JUDGES = 24, 96
"""Training palettes that may be the best constant, and training samples that decide."""


@dataclass(frozen=True)
class Palette(Checked):
    """Colours of a picture, most of it first: float32 [colors, 4]: red, green, blue and the share.

    Red, green and blue are 0 to 255, shares add up to 1. Without `shares` a palette is [colors, 3],
    as those of 4M are (Bachmann et al. 2024, 4M-21). In place of a palette a sample may have a
    picture, whose palette is that of what a view shows; a palette that was stored is the same in
    every view. A palette may be written as "#ff8800:0.7 #000000:0.3".
    """

    colors: int = 5
    """Colours at most. Of more, those of the largest shares are kept, or the first."""
    shares: bool = True
    """Whether colours have shares."""
    computed_from: str = ""
    """Name of the modality whose pictures palettes are computed from, such as rgb, where a sample
    has none of its own."""

    is_picture: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True
    metrics: ClassVar[dict[str, Better]] = {"color_distance": "lower", "close_share": "higher"}
    """How far colours have to move to become those of the truth, in CIELAB (earth mover's
    distance, Rubner et al. 2000); and which share moves at most 10, about what one name covers."""

    def check_knobs(self, knob: str) -> None:
        if not 1 <= self.colors <= PIECES:
            raise ValueError(
                f"{name_knob(knob, 'colors')} is {self.colors}; 1 to {PIECES} is allowed."
            )

    @property
    def width(self) -> int:
        """Numbers per colour."""
        return 4 if self.shares else 3

    def check(self, value: Any, name: str) -> Shaped[np.ndarray, "..."]:
        """Returns a palette, or the picture that it will be computed from.

        Raises:
            ValueError: If it is neither, or its numbers are out of range.
        """
        if isinstance(value, str):
            value = _read_text(value, name)
        if np.ndim(value) == 3:
            return Colors().check(value, name)
        array = np.asarray(value)
        if array.ndim != 2 or array.shape[1] not in (3, self.width) or not len(array):
            raise ValueError(
                f"{name} has shape {array.shape}; [colors, {self.width}] is allowed, or a picture "
                "(Palette.shares)."
            )
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ValueError(f"{name} has numbers that are none, or not finite.")
        if self.shares and array.shape[1] == 3:
            raise ValueError(f"{name} has no shares of colours; set Palette.shares to False.")
        palette = array.astype(np.float32)
        colors = palette[:, :3]
        if colors.min() < 0 or colors.max() > 255:
            raise ValueError(
                f"{name} has colours from {colors.min():g} to {colors.max():g}; 0 to 255 is "
                "allowed."
            )
        if self.shares:
            given = palette[:, 3]
            if given.min() < 0 or abs(given.sum() - 1) > 0.02:
                raise ValueError(
                    f"{name} has shares from {given.min():g} on that add up to {given.sum():g}; "
                    "they must be at least 0 and add up to 1."
                )
        return self._tidy(palette)

    def _tidy(self, palette: Float[np.ndarray, "colors width"]) -> Float32[np.ndarray, "kept w"]:
        """Returns at most `colors` of them, the largest share first."""
        if not self.shares:
            return palette[: self.colors].astype(np.float32)
        kept = palette[np.argsort(-palette[:, 3], kind="stable")][: self.colors]
        kept = kept[(kept[:, 3] > 0) | (np.arange(len(kept)) == 0)].astype(np.float32)
        kept[:, 3] = kept[:, 3] / kept[:, 3].sum() if kept[:, 3].sum() else 1 / len(kept)
        return kept

    def crop(
        self, value: Shaped[np.ndarray, "..."], crop: Crop, size: tuple[int, int]
    ) -> Float32[np.ndarray, "colors width"]:
        """Returns the palette of what is seen of a picture; one that was stored as it is."""
        if value.ndim == 2:
            return value
        # No pixel is mixed out of others.
        small = resize_nearest(value, crop, (SIDE, SIDE))
        found = extract(small, self.colors)
        return self._tidy(found[:, : self.width])

    def of(self, value: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "colors width"]:
        """Returns a palette that was checked, or that of a whole picture."""
        return self.crop(value, WHOLE, (SIDE, SIDE))

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric; `where` does not apply to palettes and is ignored."""
        pairs = zip(predicted, truth, strict=True)
        found = [_distances(self._pieces(one), self._pieces(other)) for one, other in pairs]
        if not found:
            return dict.fromkeys(self.metrics, float("nan"))
        moved = np.stack(found)
        return {
            "color_distance": float(moved.mean()),
            "close_share": float((moved <= CLOSE).mean()),
        }

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns, per metric, what the best of 24 training palettes scores on `truth`.

        It is chosen by (at most 96) training samples.
        """
        candidates = [training[i] for i in evenly_spread(len(training), CONSTANTS).tolist()]
        judges = [training[i] for i in evenly_spread(len(training), JUDGES).tolist()]

        def judge(palette: np.ndarray) -> dict[str, float]:
            return self.score([palette] * len(judges), judges)

        best = choose_constants(candidates, judge, self.metrics)
        return {
            name: self.score([palette] * len(truth), truth)[name] for name, palette in best.items()
        }

    def draw(
        self, value: Shaped[np.ndarray, "..."], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "y x 3"]:
        """Returns stripes, as wide as their shares."""
        palette = self.of(value)
        shares = palette[:, 3] if self.shares else np.full(len(palette), 1 / max(len(palette), 1))
        edges = np.cumsum(shares)[:-1]
        place = np.searchsorted(edges, (np.arange(size[1]) + 0.5) / size[1])
        stripes = np.full((1, 3), 255.0) if not len(palette) else palette[:, :3]
        row = np.rint(stripes[place.clip(0, len(stripes) - 1)]).astype(np.uint8)
        return np.tile(row[None], (size[0], 1, 1))

    def vectors(self, values: RawBatch) -> Float[np.ndarray, "batch n"]:
        """Returns the mean colour in CIELAB, and the colours in their order, for simple methods."""
        rows = []
        for value in values:
            palette = self.of(value)
            padded = np.zeros((self.colors, self.width))
            padded[: len(palette)] = palette
            pieces = self._pieces(palette)
            mean = pieces.mean(axis=0) if len(pieces) else np.zeros(3)
            rows.append(np.concatenate([mean, padded.ravel()]))
        return np.stack(rows)

    def _pieces(self, value: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "pieces 3"]:
        """Returns the colours in CIELAB, each as often as is its share; none of no palette."""
        palette = self.of(value)
        if not len(palette):
            return np.zeros((0, 3))
        shares = palette[:, 3] if self.shares else np.full(len(palette), 1 / len(palette))
        # As many ends of shares as lie before the middle of each piece.
        ends = np.cumsum(shares.astype(np.float64))
        place = np.searchsorted(ends / ends[-1], (np.arange(PIECES) + 0.5) / PIECES)
        return to_lab(palette[place.clip(0, len(palette) - 1), :3])


def extract(picture: UInt8[np.ndarray, "y x 3"], count: int) -> Float32[np.ndarray, "colors 4"]:
    """Returns at most `count` colours of a small picture with their shares, the largest first.

    By k-means in CIELAB, where distances are as large as they look. It begins with more colours
    than are wanted, those of median cut (Heckbert 1982), of which the likest are joined (Ward
    1963). Nothing is left to chance.
    """
    start = np.asarray(Image.fromarray(picture).quantize(MANY, Image.Quantize.MEDIANCUT)).ravel()
    colors = picture.reshape(-1, 3)
    pixels = to_lab(colors)
    many = np.unique(start)
    centers = np.stack([pixels[start == number].mean(axis=0) for number in many])
    centers = _joined(centers, np.array([(start == number).sum() for number in many]), count)
    for _ in range(ROUNDS):
        nearest = _nearest(pixels, centers)
        counts = np.bincount(nearest, minlength=len(centers))
        kept = counts > 0
        sums = np.stack([np.bincount(nearest, p, len(centers)) for p in pixels.T], axis=1)
        centers = sums[kept] / counts[kept, None]
    nearest = _nearest(pixels, centers)
    found = [
        [*colors[nearest == number].mean(axis=0), (nearest == number).mean()]
        for number in np.unique(nearest)
    ]
    palette = np.array(found, np.float32)
    return palette[np.argsort(-palette[:, 3], kind="stable")]


def _nearest(
    pixels: Float[np.ndarray, "pixels 3"], centers: Float[np.ndarray, "centers 3"]
) -> Int[np.ndarray, "pixels"]:
    return (pixels @ centers.T - np.square(centers).sum(axis=1) / 2).argmax(axis=1)


def _joined(
    centers: Float[np.ndarray, "many 3"], counts: Int[np.ndarray, "many"], most: int
) -> Float[np.ndarray, "kept 3"]:
    """Returns at most so many centres: those are joined first that add least to the variance."""
    while len(centers) > most:
        squares = np.square(centers[:, None] - centers[None]).sum(axis=-1)
        costs = squares * (counts[:, None] * counts / (counts[:, None] + counts))
        np.fill_diagonal(costs, np.inf)
        first, second = np.unravel_index(costs.argmin(), costs.shape)
        both = counts[first] + counts[second]
        centers[first] = (counts[first] * centers[first] + counts[second] * centers[second]) / both
        counts[first] = both
        centers, counts = np.delete(centers, second, axis=0), np.delete(counts, second)
    return centers


def to_lab(colors: Shaped[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Returns colours of sRGB, 0 to 255, in CIELAB under the light D65 (CIE 15, IEC 61966-2-1).

    Example:
        >>> to_lab(np.array([[255, 255, 255], [0, 0, 0]])).round(1).tolist()[0][0]
        100.0
    """
    shades = np.asarray(colors, np.float64) / 255
    linear = np.where(shades > 0.04045, ((shades + 0.055) / 1.055) ** 2.4, shades / 12.92)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    ratio = linear @ to_xyz.T / to_xyz.sum(axis=1)
    small = (6 / 29) ** 3
    bent = np.where(ratio > small, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = bent.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _distances(
    found: Float[np.ndarray, "found 3"], true: Float[np.ndarray, "true 3"]
) -> Float[np.ndarray, "pieces"]:
    """Returns how far every piece moves if all together move least."""
    # Takes long to import, and only those who measure need it.
    from scipy.optimize import linear_sum_assignment

    if not len(found) or not len(true):
        return np.full(PIECES, 0.0 if len(found) == len(true) else FARTHEST)
    distances = np.linalg.norm(found[:, None] - true[None], axis=-1)
    return distances[linear_sum_assignment(distances)]


def _read_text(text: str, name: str) -> Float[np.ndarray, "colors width"]:
    """Returns colours that are written as #rrggbb, each with :share or without."""
    try:
        rows = []
        for word in text.split():
            color, _, share = word.partition(":")
            if len(color) != 7 or color[0] != "#":
                raise ValueError
            shades = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
            rows.append([*shades, float(share)] if share else shades)
        return np.array(rows, np.float64)
    except ValueError as error:
        raise ValueError(
            f'{name} is {text[:40]!r}; colours such as "#ff8800:0.7 #000000:0.3" are allowed.'
        ) from error


@dataclass(frozen=True)
class PaletteTokenizerConfig(Checked):
    """Four ids per colour: red, green, blue and the share, each quantised."""

    num_bins: int = 64
    """Shades of red, green and blue."""
    share_bins: int = 32
    """Sizes of a share."""
    num_sentinels: int = 8
    """Ids that stand for masked spans."""

    def check_knobs(self, knob: str) -> None:
        if min(self.num_bins, self.share_bins) < 2 or self.num_sentinels < 1:
            raise ValueError(
                f"{name_knob(knob, 'num_bins')} is {self.num_bins}, share_bins {self.share_bins} "
                f"and num_sentinels {self.num_sentinels}; at least 2, 2 and 1 are allowed."
            )

    def most_tokens(self, values: Palette) -> int:
        """Returns the most tokens of a palette, the end included."""
        return values.width * values.colors + 1

    def count_ids(self, values: Palette) -> int:
        """Returns the size of the vocabulary."""
        shares = self.share_bins if values.shares else 0
        return 1 + self.num_sentinels + 3 * self.num_bins + shares

    def fit(
        self, values: Palette, training: RawBatch, key: Array | None = None
    ) -> "PaletteTokenizer":
        """Returns the tokenizer, which learns nothing of the samples."""
        return PaletteTokenizer(self, values)


class PaletteTokenizer:
    """Palettes to ids and back, the largest share first.

    Ids are [end, sentinels, bins of red, of green, of blue, of shares].
    """

    def __init__(self, config: PaletteTokenizerConfig, values: Palette) -> None:
        """Args:
        config: Numbers of bins and sentinels.
        values: How many colours there may be, and whether they have shares.
        """
        self._config, self.values = config, values
        bins = np.array([config.num_bins] * 3 + [config.share_bins] * values.shares)
        self._starts = 1 + config.num_sentinels + np.cumsum([0, *bins[:-1]])
        # What the last bin of each stands for is that many steps.
        self._steps = (bins - 1) / np.array([255.0] * 3 + [1.0] * values.shares)
        self.vocab_size = config.count_ids(values)
        self.token_shape = (config.most_tokens(values),)
        self.special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=config.num_sentinels)

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch tokens"]:
        """Returns ids of palettes, or of the palettes of pictures."""
        sequences = []
        for value in values:
            palette = self.values.of(value).astype(np.float64)
            ids = np.rint(palette * self._steps).astype(np.int32) + self._starts
            sequences.append(ids.ravel())
        return pad_sequences(sequences, self.special.end, *self.token_shape)

    def decode(self, ids: Int[np.ndarray, "batch tokens"]) -> list[Float32[np.ndarray, "c w"]]:
        """Returns the palettes before each end, whose shares add up to 1.

        A model may write nonsense: ids that don't make up a colour are skipped.

        Raises:
            ValueError: If an id is out of range.
        """
        palettes = []
        for row in read_sequences(ids, self.special, self.vocab_size):
            groups = find_groups(row, self._starts)
            palette = (groups - self._starts) / self._steps
            palettes.append(self.values._tidy(palette) if len(palette) else np.float32(palette))
        return palettes

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns features of the bins' order; the other ids have none."""
        parts = [rank_features(end - start) for start, end in self._ranges()]
        features = np.zeros((self.vocab_size, max(part.shape[1] for part in parts)))
        for (start, end), part in zip(self._ranges(), parts, strict=True):
            features[start:end, : part.shape[1]] = part
        return features

    def _ranges(self) -> list[tuple[int, int]]:
        ends = [*self._starts[1:].tolist(), self.vocab_size]
        return list(zip(self._starts.tolist(), ends, strict=True))

    def save(self, folder: Path) -> None:
        """Writes the configuration into `folder`."""
        config, values = asdict(self._config), to_part(self.values)
        save_folder(folder, {"tokenizer": "palette", "config": config, "values": values}, {})

    @classmethod
    def load(cls, folder: Path) -> "PaletteTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, _, _ = load_folder(folder, "palette")
        config = read_part(description, "config", PaletteTokenizerConfig, folder)
        return cls(config, read_part(description, "values", Palette, folder))

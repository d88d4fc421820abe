"""The contract between raw data, tokenizers and the model.

Axes, here and everywhere: batch b, tokens t, inputs n, targets m, dim d, heads h,
head_dim k, vocab v, height y, width x, channels c.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, Key

PADDING = -1
"""The id that fills a sequence after its end. Never a token."""

RawBatch = np.ndarray | Sequence[Any]
"""Values of one modality for several samples: an array with a batch axis, or a list."""

Better = Literal["lower", "higher"]


class Boxes(NamedTuple):
    """The boxes of one picture.

    Attributes:
        corners: float32 [boxes, 4], (x_min, y_min, x_max, y_max) as fractions of width
            and height, in [0, 1].
        classes: int32 [boxes], index into the modality's class names.
    """

    corners: np.ndarray
    classes: np.ndarray


class Instances(NamedTuple):
    """Things in one picture, each told by points: the corners of its outline, or its keypoints.

    Attributes:
        points: float32 [points, 2], (x, y) as fractions of width and height, in [0, 1], those of
            each thing after those of the one before; NaN where one is unknown.
        lengths: int32 [instances], how many points each has.
        classes: int32 [instances], index into the modality's class names.
    """

    points: np.ndarray
    lengths: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, parts: RawBatch, classes: RawBatch) -> "Instances":
        """Returns things given as a list of [points, 2] and the class of each."""
        arrays = [np.asarray(part, np.float32).reshape(-1, 2) for part in parts]
        lengths = np.array([len(array) for array in arrays], np.int32)
        points = np.concatenate([np.zeros((0, 2), np.float32), *arrays])
        return cls(points, lengths, np.asarray(classes, np.int32).reshape(-1))

    def parts(self) -> list[np.ndarray]:
        """Returns the points of each thing, [points, 2]."""
        ends = np.cumsum(self.lengths)
        return [
            self.points[end - length : end] for end, length in zip(ends, self.lengths, strict=True)
        ]


class Choices(tuple):
    """Several values of one modality of one sample, such as five captions of one picture.

    A source gives them in place of a value; every view of the sample takes one of them.
    """


REFERENCES = ":references"
"""Under which name a view that is the only one of its sample has all texts of each modality that
has several, as `Choices` by modality: what a prediction is compared with."""
AUGMENTED = ":augmented"
"""Under which name a view has changed values by modality, which are shown in place of its own."""


class Mended(NamedTuple):
    """A value that a source could use only after a correction, which is counted.

    Attributes:
        value: As it is used.
        how: What was done, in a few words, such as "boxes cut at the picture's edge".
    """

    value: Any
    how: str


class Stored(NamedTuple):
    """What a picture file says of its numbers, beside the numbers.

    Attributes:
        is_lossy: Whether its compression changed them, as JPEG's does: colours hardly look
            different, but numbers of classes are other ones.
        encodes_colors: Whether they are no amounts of anything: palette numbers, inks, L*a*b*.
        scaling: Scale and offset of every band, float64 [bands], with which a GeoTIFF's stored
            numbers mean `stored * scale + offset`; None if as they stand.
    """

    is_lossy: bool = False
    encodes_colors: bool = False
    scaling: tuple[np.ndarray, np.ndarray] | None = None


class Picture(np.ma.MaskedArray):
    """Numbers of a picture file as they are stored, which look like or mean something else.

    Palette numbers, inks, 16 bits per channel, transparency: who wants numbers has them here, as in
    any array, masked where the file says that they are unknown. Who wants to see takes `colors`. A
    part of it, or what is computed from it, has none.
    """

    colors: Callable[[], np.ndarray] | None = None
    """Returns what it looks like, uint8 [y, x, 3]; None if as its numbers say."""
    stored: Stored = Stored()
    """What the file says of its numbers."""

    @classmethod
    def of(
        cls,
        numbers: np.ndarray,
        colors: Callable[[], np.ndarray] | None,
        stored: Stored = Stored(),  # noqa: B008  Can't be changed, so it may be shared.
    ) -> "Picture":
        """Returns numbers [y, x] or [y, x, channels], masked or not, that look like `colors()`."""
        picture = numbers.view(cls)
        picture.colors = colors
        picture.stored = stored
        return picture

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the colours where a picture goes to another process."""
        return Picture.of, (self.view(np.ma.MaskedArray), self.colors, self.stored)


class Crop(NamedTuple):
    """A window cut out of a picture and then resized, as fractions of height and width."""

    top: float
    left: float
    height: float
    width: float
    flip: bool
    """Mirror left and right after cropping."""
    quarter_turns: int = 0
    """Turn anticlockwise by so many right angles after that; 0 to 3."""


def largest_window(shape: tuple[int, int], aspect: tuple[int, int]) -> tuple[float, float]:
    """Returns height and width of the largest window of an aspect ratio inside a picture.

    Args:
        shape: Height and width of the picture.
        aspect: Height and width in proportion to each other, such as (3, 5).
    """
    (height, width), (down, across) = shape, aspect
    if width * down >= height * across:
        return float(height), height * across / down
    return width * down / across, float(width)


def centre_crop(shape: tuple[int, int], aspect: tuple[int, int]) -> Crop:
    """Returns the largest window of an aspect ratio in the middle of a picture.

    Args:
        shape: Height and width of the picture.
        aspect: As in `largest_window`.
    """
    height, width = shape
    window = largest_window(shape, aspect)
    top, left = (height - window[0]) // 2, (width - window[1]) // 2
    return Crop(top / height, left / width, window[0] / height, window[1] / width, flip=False)


class SequenceTokens(NamedTuple):
    """Ids that masking and generation need to know of a sequence vocabulary."""

    end: int
    first_sentinel: int
    num_sentinels: int


class TokenBatch(NamedTuple):
    """Tokens of a batch of samples, of fixed shape whatever is missing.

    Attributes:
        ids: Per modality, int32 [batch, tokens], each in the modality's own vocabulary
            [0, vocab_size), or `PADDING` after the end of a sequence or where absent. Under
            `shown(name)` what is shown in their place, absent where they are shown themselves.
        num_real: Per modality, int32 [batch]; how many leading ids are real; 0 = absent.
        index: int32 [batch], the sample's index in its data set. It keys the masking.
        features: Per modality that has vectors in place of ids, float [batch, tokens, width], and
            under `described(name)` the numbers beside a modality's ids, with a `num_real` of their
            own; None if there are neither.
    """

    ids: dict[str, Int[Array, "batch _"]]
    num_real: dict[str, Int[Array, "batch"]]
    index: Int[Array, "batch"]
    features: dict[str, Float[Array, "batch _ _"]] | None = None


@runtime_checkable
class Values(Protocol):
    """What the raw numbers of a modality mean: units, validity, symmetry, metric, picture.

    Frozen dataclasses, part of the configuration. A dense modality is an array
    [height, width] or [height, width, channels] per sample; text is a `str`; boxes are
    `Boxes`; a scalar is a float.

    Where arrays of two axes or more are no pictures, `is_picture` is False; where tokens are a
    sequence, `is_sequence` is True. `vectors(values)`, float [batch, n], makes of them what simple
    methods read that a model is compared with. `taken_as_unknown(value)` says in a few words what
    of a raw value that passed `check` became unknown though nothing in it says so, such as a
    negative distance; empty if nothing did. Values that are made of a view, and can't be cropped
    any more, have `is_of_view` True. All five may be left out.
    """

    metrics: dict[str, Better]
    """Name of every score and the direction in which it improves; the first is the main one."""

    def check(self, value: Any, name: str) -> Any:
        """Returns one sample's value in its canonical dtype and shape.

        Raises:
            ValueError: One sentence: what was given for `name`, and what is allowed.
        """

    def crop(self, value: Any, crop: Crop, size: tuple[int, int]) -> Any:
        """Returns one sample's value as seen through `crop`, resized to `size`: (height, width).

        None if it would be wrong there, as a text about left and right is in a turned picture.
        """

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric over a whole set of samples.

        `where` (bool [batch, height, width]) restricts dense metrics to a region.
        """

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns, per metric, what the best answer that ignores the input scores on `truth`.

        Dense kinds also take `training_where`, to fit the answer to a region of `training`.
        """

    def draw(self, value: Any, size: tuple[int, int]) -> np.ndarray | str:
        """Returns one value as a person sees it: uint8 [*size, 3], or text."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns raw values of one modality into ids and back. Owns the normalisation."""

    values: Any
    """What the raw numbers mean; meets `Values`."""
    vocab_size: int
    """Number of ids; 0 where there are vectors in place of ids."""
    token_shape: tuple[int, ...]
    """(height, width) of a grid; (longest length,) of a sequence; (1,) of a scalar."""
    special: SequenceTokens | None
    """Set for sequences only."""

    def encode(self, values: RawBatch) -> Int[np.ndarray, "batch ..."]:
        """Returns ids [batch, *token_shape], int32, `PADDING` after the end of sequences."""

    def decode(self, ids: Int[np.ndarray, "batch ..."]) -> RawBatch:
        """Returns raw values from ids [batch, *token_shape]."""

    def save(self, folder: Path) -> None:
        """Writes everything that `load` needs, normalisation included, into `folder`."""

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Returns the tokenizer that `save` wrote."""


@runtime_checkable
class TokenizerSettings(Protocol):
    """How a modality becomes tokens: a frozen dataclass, part of the configuration.

    Of a tokenizer that is `Learned`, they have `steps`, `batch_size`, `learning_rate` and
    `weight_decay` as well.
    """

    def fit(self, values: Any, training: RawBatch, key: Key[Array, ""]) -> Tokenizer:
        """Returns a tokenizer for values of this meaning, fitted to training samples."""


@runtime_checkable
class CountsTokens(Protocol):
    """Settings that know how many tokens their values have, before anything is fitted.

    1 is assumed of settings that don't, where budgets are chosen.
    """

    def most_tokens(self, values: Any) -> int:
        """Returns the most tokens of a value."""


@runtime_checkable
class CountsIds(Protocol):
    """Settings that know how many ids there will be, before anything is fitted."""

    def count_ids(self, values: Any) -> int:
        """Returns the size of the vocabulary."""


@runtime_checkable
class Learned(Protocol):
    """A tokenizer that is trained on examples once it is fitted to them."""

    def loss(
        self, values: Any, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the loss of raw values, an array with a batch axis, and metrics by name."""


@runtime_checkable
class ExpectedDecoder(Protocol):
    """A tokenizer that can decode a distribution over codes rather than a choice of them."""

    def decode_expected(
        self, probabilities: Float[np.ndarray | Array, "batch ... vocab"]
    ) -> RawBatch:
        """Returns raw values from the mean code under `probabilities` [batch, *token_shape, v]."""


@runtime_checkable
class CodeFeatures(Protocol):
    """A tokenizer that knows which of its ids mean alike.

    The model's tables start from this, so that what it learns of one id holds for those near it
    from the first step.
    """

    def code_features(self) -> Float[np.ndarray, "vocab features"]:
        """Returns a row per id, alike for ids that mean alike; zeros where nothing is known."""


@runtime_checkable
class Described(Protocol):
    """A tokenizer that also describes every token of a grid by numbers, for the encoder to read.

    An id is what is predicted; the numbers keep what it leaves out of the values that it stands
    for.
    """

    token_shape: tuple[int, ...]
    """(height, width) of the grid."""
    feature_width: int
    """Numbers per token; 0 for none."""
    packed: Any
    """How a token store keeps them, see `tokenizers.features.PackedFeatures`."""

    def pack(self, values: RawBatch) -> list[np.ndarray]:
        """Returns of each sample the numbers to keep, [tokens, width], in reading order."""


def is_described(tokenizer: Any) -> TypeGuard[Described]:
    """True if the tokenizer describes its tokens by numbers beside their ids."""
    has_both = isinstance(tokenizer, Described) and getattr(tokenizer, "vocab_size", 0) > 0
    return has_both and tokenizer.feature_width > 0


def described(name: str) -> str:
    """Returns under which name the numbers are kept that describe a modality's tokens."""
    return f"{name}:features"


def shown(name: str) -> str:
    """Returns under which name the ids are kept that are shown in place of a modality's own."""
    return f"{name}:shown"


def main_metric(values: Values) -> tuple[str, Better]:
    """Returns the metric by which a modality is judged first, and how it improves."""
    return next(iter(values.metrics.items()))


def choose_constants(
    candidates: Sequence[Any],
    judge: Callable[[Any], Mapping[str, float]],
    metrics: Mapping[str, Better],
) -> dict[str, Any]:
    """Returns, per metric, the candidate that scores best: a floor, where none can be computed.

    Args:
        candidates: Values; at least one.
        judge: Returns every metric of a value that answers every training sample.
        metrics: And how they improve. Of equals the first candidate is chosen.
    """
    scores = [judge(candidate) for candidate in candidates]
    best = {}
    for name, better in metrics.items():
        of_each = np.array([each[name] for each in scores])
        best[name] = candidates[int(of_each.argmax() if better == "higher" else of_each.argmin())]
    return best


def check_ids(ids: Int[np.ndarray, "..."], vocab_size: int, may_pad: bool = False) -> None:
    """Raises ValueError, in one sentence, if an id is not one of a vocabulary.

    Args:
        ids: Of one modality.
        vocab_size: Ids are in [0, vocab_size).
        may_pad: Whether `PADDING` is allowed as well.
    """
    is_wrong = (ids < 0) | (ids >= vocab_size)
    if may_pad:
        is_wrong &= ids != PADDING
    if is_wrong.any():
        padding = f", and {PADDING} for padding" if may_pad else ""
        raise ValueError(
            f"Token {ids[is_wrong][0]} is out of range: this tokenizer has ids 0 to "
            f"{vocab_size - 1}{padding}; check that the ids come from the same tokenizer."
        )


def rank_features(count: int) -> Float[np.ndarray, "count features"]:
    """Returns code features of ids that are in order: sines and cosines of their rank."""
    octaves = max(1, int(np.ceil(np.log2(max(count, 2)))))
    angles = np.pi * np.arange(count)[:, None] / count * 2.0 ** np.arange(octaves)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

"""Modalities that are only ever input: vectors that the encoder projects, without ids.

Pixels need no tokenizer to be read, nor do vectors that another network made. They can't be
generated, for want of ids.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
from jaxtyping import Array, Float, Float16, Float32, Int, Shaped, UInt8

from tokenizers.base import Better, Crop, RawBatch
from tokenizers.settings.checked import Checked
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.values import Colors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Vectors(Checked):
    """A sequence of vectors: float [length, width], such as a text as another network sees it."""

    width: int
    """Numbers per vector."""
    longest: int
    """Vectors at most; what follows is cut off."""

    is_picture: ClassVar[bool] = False

    @property
    def metrics(self) -> dict[str, Better]:
        """Mean cosine similarity."""
        return {"cosine": "higher"}

    def check(self, value: Any, name: str) -> Float32[np.ndarray, "length {self.width}"]:
        """Returns the vectors as float32.

        Raises:
            ValueError: If they have another width, are none, or are not finite.
        """
        vectors = np.asarray(value, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.width or not len(vectors):
            raise ValueError(
                f"{name} has shape {vectors.shape}; [length, {self.width}] with a length of at "
                "least 1 is allowed."
            )
        if np.ma.is_masked(value) or not np.isfinite(vectors).all():
            raise ValueError(f"{name} has numbers that are not finite; finite ones are allowed.")
        return vectors[: self.longest]

    def crop(self, value: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
        """Returns the vectors as they are: they are of no place in the picture."""
        return value

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns the mean cosine similarity of vectors in the same place."""
        found = [_cosine(p, t) for p, t in zip(predicted, truth, strict=True)]
        return {"cosine": float(np.mean(found))}

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what the mean vector scores on `truth`."""
        mean = np.concatenate(list(training)).mean(axis=0)
        return self.score([np.broadcast_to(mean, np.shape(t)) for t in truth], truth)

    def draw(self, value: np.ndarray, size: tuple[int, int]) -> str:
        """Returns how many vectors there are."""
        return f"{len(value)} vectors of {self.width} numbers"


def _cosine(predicted: np.ndarray, truth: np.ndarray) -> float:
    shared = min(len(predicted), len(truth))
    a, b = predicted[:shared], truth[:shared]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(axis=1) / np.maximum(norms, 1e-12)))


@dataclass(frozen=True)
class PackedFeatures(Checked):
    """How features are kept on disk, in fewer bytes than `encode` returns."""

    dtype: Literal["uint8", "float16"]
    """Of the numbers kept: colours 0 to 255, or the features themselves, rounded."""
    mean: tuple[float, ...] = ()
    """Of colours: subtracted per channel from their share of 255; the channel varies fastest."""
    std: tuple[float, ...] = ()
    """Of colours: what is left is divided by it."""

    def unpack(self, packed: Shaped[np.ndarray, "*tokens width"]) -> Float32[np.ndarray, "..."]:
        """Returns the features that were packed, of the same shape."""
        features = np.array(packed, np.float32)
        if self.dtype == "uint8":
            # In place, in one order: whoever unpacks gets the same bits.
            repeats = features.shape[-1] // len(self.mean)
            features /= np.float32(255)
            features -= np.tile(np.array(self.mean, np.float32), repeats)
            features /= np.tile(np.array(self.std, np.float32), repeats)
        return features


class FeatureTokenizer(ABC):
    """What features share: no ids, hence nothing to decode, but a form to be kept in."""

    vocab_size = 0
    special = None
    token_shape: tuple[int, ...]
    feature_width: int
    """Numbers per token."""
    feature_bias: bool
    """Whether the model's projection of them has a bias."""
    packed: PackedFeatures
    """How a token store keeps them."""

    @abstractmethod
    def pack(self, values: RawBatch) -> list[Shaped[np.ndarray, "_ width"]]:
        """Returns of each sample the numbers to keep, of `packed.dtype`, a row per token.

        Raises:
            ValueError: If values can't be kept like that.
        """

    def decode(self, ids: Int[np.ndarray, "batch ..."]) -> NoReturn:
        """Raises ValueError: features have no ids that could be decoded."""
        raise ValueError(
            "Pixels and vectors are only ever input; generate a modality that has tokens."
        )


class PixelTokenizer(FeatureTokenizer):
    """Pictures as squares of normalised pixels, [rows, columns, channels] flattened."""

    feature_bias = False

    def __init__(
        self,
        size: int,
        patch_size: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        """Args:
        size: Height and width of a picture in pixels.
        patch_size: Height and width of a square; divides `size`.
        mean: Subtracted per channel from colours in [0, 1].
        std: What is left is divided by it.

        Raises:
            ValueError: If the squares do not tile the picture.
        """
        if patch_size < 1 or size % patch_size:
            raise ValueError(f"Squares of {patch_size} pixels do not tile pictures of {size}.")
        self.values, self.size, self.patch_size = Colors(), size, patch_size
        self.mean, self.std = mean, std
        self.token_shape = (size // patch_size, size // patch_size)
        self.feature_width = patch_size**2 * len(mean)
        self.packed = PackedFeatures("uint8", mean, std)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of a picture, in pixels."""
        return self.size, self.size

    def encode(self, values: RawBatch) -> Float32[np.ndarray, "batch gy gx width"]:
        """Returns the normalised pixels of every square.

        Raises:
            ValueError: If a picture has another size.
        """
        return self.packed.unpack(self._cut(np.asarray(values)))

    def pack(self, values: RawBatch) -> list[UInt8[np.ndarray, "_ width"]]:
        pixels = np.asarray(values)
        if pixels.dtype != np.uint8:
            raise ValueError(
                f"Pictures to be kept are of {pixels.dtype}; uint8, 0 to 255, is allowed."
            )
        return list(self._cut(pixels).reshape(len(pixels), -1, self.feature_width))

    def _cut(self, pixels: Shaped[np.ndarray, "batch y x c"]) -> Shaped[np.ndarray, "b gy gx w"]:
        if pixels.shape[1:] != (self.size, self.size, len(self.mean)):
            raise ValueError(
                f"A picture has shape {pixels.shape[1:]}; {self.size} by {self.size} pixels and "
                f"{len(self.mean)} channels are allowed."
            )
        rows, columns = self.token_shape
        side = self.patch_size
        squares = pixels.reshape(-1, rows, side, columns, side, pixels.shape[-1])
        return squares.swapaxes(2, 3).reshape(-1, rows, columns, self.feature_width)

    def save(self, folder: Path) -> None:
        settings = {name: getattr(self, name) for name in ("size", "patch_size", "mean", "std")}
        save_folder(folder, {"tokenizer": "pixels", "settings": settings}, {})

    @classmethod
    def load(cls, folder: Path) -> "PixelTokenizer":
        description, _, _ = load_folder(folder)
        try:
            return cls(**read_part(description, "settings", dict[str, Any], folder))
        except TypeError as error:
            raise ValueError(
                f"{folder} does not describe pixels of this version ({error}); import it again."
            ) from error


@dataclass(frozen=True)
class VectorsTokenizerConfig(Checked):
    """Vectors as they are; there is nothing to be fitted."""

    def fit(
        self, values: Vectors, training: RawBatch, key: Array | None = None
    ) -> "VectorTokenizer":
        """Returns the tokenizer."""
        return VectorTokenizer(values)


class VectorTokenizer(FeatureTokenizer):
    """Vectors as they are, NaN after the last one.

    A token store keeps them in half precision: numbers of at most 65504, to a relative error of
    0.05% (below 6e-5, to an absolute one of 3e-8).
    """

    feature_bias = True
    packed = PackedFeatures("float16")

    def __init__(self, values: Vectors):
        self.values = values
        self.token_shape, self.feature_width = (values.longest,), values.width

    def encode(self, values: RawBatch) -> Float[np.ndarray, "batch longest width"]:
        """Returns the vectors of every sample, padded with NaN to the longest."""
        padded = np.full((len(values), *self.token_shape, self.feature_width), np.nan, np.float32)
        for row, vectors in enumerate(values):
            padded[row, : len(vectors)] = vectors
        return padded

    def pack(self, values: RawBatch) -> list[Float16[np.ndarray, "_ width"]]:
        for vectors in values:
            largest = np.abs(vectors).max()
            if not largest <= np.finfo(np.float16).max:
                raise ValueError(
                    f"Vectors to be kept hold the number {largest}; at most 65504 is allowed, as "
                    "they are kept in half precision: scale them."
                )
        return [vectors.astype(np.float16) for vectors in values]

    def save(self, folder: Path) -> None:
        save_folder(folder, {"tokenizer": "vectors", "values": to_part(self.values)}, {})

    @classmethod
    def load(cls, folder: Path) -> "VectorTokenizer":
        description, _, _ = load_folder(folder)
        return cls(read_part(description, "values", Vectors, folder))

"""A modality: what its numbers mean and how they become tokens. The plug-in point.

A user adds a modality by writing one of these in a configuration, never by editing the library.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Array, Key

from tokenizers.base import RawBatch, Tokenizer, TokenizerSettings, Values
from tokenizers.boxes import BoxList, BoxTokenizer, BoxTokenizerConfig
from tokenizers.codes import Codes, CodesTokenizerConfig, CodeTokenizer
from tokenizers.embeddings.embedding_tokenizer import (
    EmbeddingTokenizer,
    EmbeddingTokenizerConfig,
)
from tokenizers.embeddings.values import Embedding
from tokenizers.features import (
    PixelTokenizer,
    Vectors,
    VectorsTokenizerConfig,
    VectorTokenizer,
)
from tokenizers.images.diffusion_tokenizer import DiffusionTokenizer, DiffusionTokenizerConfig
from tokenizers.images.patch_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizers.images.vit_tokenizer import ViTTokenizer, ViTTokenizerConfig
from tokenizers.labels import Label, LabelTokenizer, LabelTokenizerConfig
from tokenizers.palettes import Palette, PaletteTokenizer, PaletteTokenizerConfig
from tokenizers.rows import Row, RowTokenizer, RowTokenizerConfig
from tokenizers.scalars import Scalar, ScalarTokenizer, ScalarTokenizerConfig
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.own_code import find_class, is_own
from tokenizers.shapes.instance_tokenizer import InstanceTokenizer, InstanceTokenizerConfig
from tokenizers.shapes.instances import InstanceValues
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons
from tokenizers.signals.signal_tokenizer import SignalTokenizer, SignalTokenizerConfig
from tokenizers.signals.values import Signal
from tokenizers.storage.folders import load_folder, read_description
from tokenizers.storage.pieces import check_folder
from tokenizers.text.sentencepiece import Text, TextTokenizer, TextTokenizerConfig
from tokenizers.text.wordpiece import WordPieceTokenizer, WordPieceTokenizerConfig
from tokenizers.values import Classes, Colors, Directions, Distances, Reals


@dataclass(frozen=True)
class SavedTokenizerConfig(Checked):
    """A tokenizer that was made before, in another run or out of a published file."""

    path: str
    """Its folder, such as runs/scenes/tokenizers/rgb."""

    def fit(self, values: Any, raw: RawBatch, key: Key[Array, ""]) -> Tokenizer:
        """Returns the saved tokenizer as it is; the samples and the key play no part.

        Raises:
            ValueError: If there is none, or it was made for values of another meaning.
        """
        tokenizer = load_tokenizer(Path(self.path).expanduser())
        if tokenizer.values != values:
            raise ValueError(
                f"The tokenizer in {self.path} is for {tokenizer.values}, the modality says "
                f"{values}; give the modality the tokenizer's own values."
            )
        return tokenizer


BuiltInValues = (
    Colors
    | Distances
    | Directions
    | Classes
    | Reals
    | Text
    | BoxList
    | Scalar
    | Label
    | Row
    | Signal
    | Embedding
    | Points
    | Polygons
    | Palette
    | Codes
    | Vectors
)
BuiltInTokenizerConfig = (
    ImageTokenizerConfig
    | ViTTokenizerConfig
    | DiffusionTokenizerConfig
    | TextTokenizerConfig
    | BoxTokenizerConfig
    | ScalarTokenizerConfig
    | LabelTokenizerConfig
    | RowTokenizerConfig
    | SignalTokenizerConfig
    | EmbeddingTokenizerConfig
    | InstanceTokenizerConfig
    | PaletteTokenizerConfig
    | WordPieceTokenizerConfig
    | CodesTokenizerConfig
    | VectorsTokenizerConfig
    | SavedTokenizerConfig
)
AnyValues = BuiltInValues | Values
"""Those that a configuration names without more, or a class of the user's own."""
AnyTokenizerConfig = BuiltInTokenizerConfig | TokenizerSettings
"""The same of tokenizers."""


@dataclass(frozen=True)
class Modality(Checked):
    """One modality of a run; its name is its key in the configuration."""

    values: AnyValues
    """What the raw numbers mean: units, validity, symmetry, metric, picture."""
    tokenizer: AnyTokenizerConfig = None  # type: ignore[assignment]  # Never: see __post_init__.
    """How they become tokens. If left out, as is usual for the kind, see `tokenizer_for`."""
    size: int = 0
    """Height of its pictures in pixels; 0 for --crops.size, which most share."""
    width: int = 0
    """Their width, if `size` is given; 0 for the aspect ratio of --crops."""

    def __post_init__(self) -> None:
        if self.tokenizer is None:
            object.__setattr__(self, "tokenizer", tokenizer_for(self.values))
        super().__post_init__()

    def check_knobs(self, knob: str) -> None:
        if min(self.size, self.width) < 0 or (self.width and not self.size):
            raise ValueError(
                f"{name_knob(knob, 'size')} is {self.size} and {name_knob(knob, 'width')} "
                f"{self.width}; 0 or more is allowed, and a width only beside a size."
            )
        if isinstance(self.values, Embedding) and self.values.is_map and not self.size:
            raise ValueError(
                f"{name_knob(knob, 'size')} is 0, but values are a map of vectors; give the number "
                "of its rows, such as 16, and a width if there are more or fewer columns."
            )

    def picture_size(self, shared: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width of its pictures in pixels.

        Args:
            shared: Those of modalities that have no size of their own.
        """
        if not self.size:
            return shared
        return self.size, self.width or max(round(self.size * shared[1] / shared[0]), 1)


def tokenizer_for(values: AnyValues) -> AnyTokenizerConfig:
    """Returns the settings that are usual for a kind; the number of codes is left open.

    Patches of class maps are half as long as others: their borders are all there is to be lost, and
    a small network is enough.

    Raises:
        ValueError: If the kind has none, as sequences of ids come from tokenizers made before.
    """
    match values:
        case Classes():
            return ImageTokenizerConfig(
                patch_size=4, codebook_size=0, width=128, steps=500, batch_size=4
            )
        case Colors() | Distances() | Directions() | Reals():
            return ImageTokenizerConfig(codebook_size=0)
        case Text():
            return TextTokenizerConfig()
        case BoxList():
            return BoxTokenizerConfig()
        case Scalar():
            return ScalarTokenizerConfig(num_bins=64)
        case Label():
            return LabelTokenizerConfig()
        case Row():
            return RowTokenizerConfig()
        case Signal():
            # Longer signals have more tokens, and more steps in each.
            steps = 2 * max(round(math.sqrt(values.length / 2) / 2), 1)
            return SignalTokenizerConfig(patch_steps=steps, codebook_size=0)
        case Palette():
            return PaletteTokenizerConfig()
        case InstanceValues():
            return InstanceTokenizerConfig()
        case Embedding(is_map=True):
            # A map has as many vectors as a picture has patches: one token for each.
            return EmbeddingTokenizerConfig(num_heads=1, codebook_size=0, batch_size=16)
        case Embedding():
            return EmbeddingTokenizerConfig(codebook_size=0)
        case Codes(is_sequence=False):
            return CodesTokenizerConfig()
        case Vectors():
            return VectorsTokenizerConfig()
    raise ValueError(
        f"Modality has values of the kind {type(values).__name__} and no tokenizer; give one, such "
        "as SavedTokenizerConfig(path)."
    )


TOKENIZERS: dict[str, type[Any]] = {
    "image": ImageTokenizer,
    "text": TextTokenizer,
    "boxes": BoxTokenizer,
    "scalar": ScalarTokenizer,
    "vit": ViTTokenizer,
    "diffusion": DiffusionTokenizer,
    "codes": CodeTokenizer,
    "pixels": PixelTokenizer,
    "vectors": VectorTokenizer,
    "wordpiece": WordPieceTokenizer,
    "label": LabelTokenizer,
    "row": RowTokenizer,
    "signal": SignalTokenizer,
    "embedding": EmbeddingTokenizer,
    "instances": InstanceTokenizer,
    "palette": PaletteTokenizer,
}
"""Tokenizer classes of the library by the name that `save` writes down."""


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Saves a tokenizer so that `load_tokenizer` finds its class again.

    Raises:
        ValueError: If it is one of the user's own, and does not write down its class.
    """
    tokenizer.save(folder)
    kind = type(tokenizer)
    if is_own(kind) and read_description(folder).get("tokenizer") != kind.__name__:
        shutil.rmtree(folder)
        raise ValueError(
            f"{kind.__name__}.save does not say which class to load; let it call "
            'save_folder(folder, {"tokenizer": type(self), ...}, arrays).'
        )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer saved in `folder`, of whatever type.

    Raises:
        ValueError: If there is none, none of a known type, one that is damaged, or in a run
            directory one of another run; or if the user's own file that defines its class has to be
            handed over first, see `tokenizers.settings.own_code`.
    """
    check_folder(folder)
    description, _, _ = load_folder(folder)
    kind, file = description.get("tokenizer"), description.get("from")
    if isinstance(kind, str) and isinstance(file, str):
        found: type[Any] = find_class(kind, file)
        if not all(callable(getattr(found, name, None)) for name in ("encode", "decode", "load")):
            raise ValueError(f"{kind} of {file} is no tokenizer, as the folder {folder} says.")
    elif isinstance(kind, str) and kind in TOKENIZERS:
        found = TOKENIZERS[kind]
    else:
        raise ValueError(
            f"The tokenizer in {folder} is of type {kind!r}; known are {', '.join(TOKENIZERS)}."
        )
    try:
        return found.load(folder)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"The tokenizer in {folder} can't be used ({type(error).__name__}: {error}); it is "
            "damaged, or of another version: put it back, or delete it and make it again."
        ) from error

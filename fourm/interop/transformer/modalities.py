"""The modalities of the published models: their kinds, sizes and labels."""

import difflib
import hashlib
from dataclasses import dataclass
from typing import Literal

from tokenizers.base import SequenceTokens

Kind = Literal["codes", "code_set", "sequence", "pixels", "embeddings"]

SEQUENCE_POSITIONS = 512
"""Rows of every sequence's positions in a file, however long the sequence may be."""

PADDING_TOKEN = 0
"""The text id that fills sequences up; looking it up gives no gradient."""

END, FIRST_SENTINEL, NUM_SENTINELS = 3, 5, 199
"""Of the text vocabulary. Its first sentinel, 4, is never used."""


@dataclass(frozen=True)
class PublishedModality:
    """What the published models know of a modality.

    Attributes:
        kind: A grid of codes, a set of codes without places, text, pixels in patches, or
            embeddings of a text by another network. The last two can only be read.
        size: Of the vocabulary; for embeddings their width.
        length: Of a sequence.
        max_length: Position in a sequence from which on the decoder reads position 0.
        resolution: Of the picture that a grid covers; None: the model's own.
        patch: Pixels per token, along each side.
    """

    kind: Kind
    size: int = 0
    length: int = 0
    max_length: int = 0
    resolution: int | None = None
    patch: int = 16

    @property
    def is_picture(self) -> bool:
        return self.kind in ("codes", "code_set", "pixels")

    @property
    def is_predicted(self) -> bool:
        return self.kind in ("codes", "code_set", "sequence")

    def token_shape(self, resolution: int) -> tuple[int, ...]:
        """Returns the shape of the tokens in a model of the given resolution."""
        if not self.is_picture:
            return (self.length,)
        side = (self.resolution or resolution) // self.patch
        return (side * side,) if self.kind == "code_set" else (side, side)

    def special(self, vocab_size: int) -> SequenceTokens | None:
        """Returns the ids that have a role in text; those that its vocabulary has room for."""
        if self.kind != "sequence":
            return None
        sentinels = max(0, min(NUM_SENTINELS, vocab_size - FIRST_SENTINEL))
        return SequenceTokens(END, FIRST_SENTINEL, sentinels)


def _text(length: int, max_length: int | None = None) -> PublishedModality:
    return PublishedModality("sequence", 30_000, length, max_length or length)


def _codes(size: int, resolution: int, patch: int = 16) -> PublishedModality:
    return PublishedModality("codes", size, resolution=resolution, patch=patch)


def _pixels(resolution: int) -> PublishedModality:
    return PublishedModality("pixels", resolution=resolution)


PUBLISHED: dict[str, PublishedModality] = {
    "caption": _text(256),
    "det": _text(256),
    "metadata": _text(40),
    "color_palette": _text(23),
    "human_poses": _text(275, max_length=263),
    "sam_instance": _text(290),
    "t5_caption": PublishedModality("embeddings", 4096, length=77, max_length=77),
    "tok_canny_edge@224": _codes(8192, 224),
    "tok_sam_edge@224": _codes(8192, 224),
    "tok_dinov2@224": _codes(8192, 224, patch=14),
    "tok_imagebind@224": _codes(8192, 224, patch=14),
    "tok_dinov2_global": PublishedModality("code_set", 8192, patch=56),
    "tok_imagebind_global": PublishedModality("code_set", 8192, patch=56),
    "rgb@224": _pixels(224),
    "tok_rgb@224": _codes(16384, 224),
    "tok_depth@224": _codes(8192, 224),
    "tok_normal@224": _codes(8192, 224),
    "tok_semseg@224": _codes(4096, 224),
    "tok_clip@224": _codes(8192, 224),
    # Of super-resolution.
    "rgb@448": _pixels(448),
    "tok_rgb@448": _codes(16384, 448),
    "tok_depth@448": _codes(8192, 448),
    "tok_normal@448": _codes(8192, 448),
    "tok_semseg@448": _codes(4096, 448),
    "tok_clip@448": _codes(8192, 448),
}


def find_published(name: str) -> PublishedModality:
    """Returns a modality by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    nearest = difflib.get_close_matches(name, PUBLISHED, 1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? There" if nearest else "there"
    raise ValueError(
        f"No published model has a modality {name!r}; {hint} are {', '.join(sorted(PUBLISHED))}."
    )


def modality_label(name: str) -> int:
    """Returns the number that stands for a modality in recorded arrays."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2**15

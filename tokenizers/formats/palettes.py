"""Palettes in files: lists of colours, or pictures, whose palettes are computed."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenizers.content.arrays import read_npy
from tokenizers.content.kinds import PICTURE_KINDS, kind_of
from tokenizers.content.pictures import read_picture
from tokenizers.formats.file_format import FileFormat, field_of, parse_json


@dataclass(frozen=True)
class PaletteFile(FileFormat):
    """Palettes: npy or JSON of [colors, 3 or 4], or a picture, whose palette is computed.

    JSON as 4M has it, with palettes by their number of colours, is read as well.
    """

    colors: int = 5
    """Which of several palettes is taken."""

    def read(self, data: bytes, extension: str) -> Any:
        if kind_of(data) in PICTURE_KINDS:
            return read_picture(data, self.max_pixels)
        if kind_of(data) == "npy":
            return read_npy(data, self.max_pixels)
        content = parse_json(data)
        if isinstance(content, list) and content and isinstance(content[0], dict):
            content = np.reshape(field_of(content[0], str(self.colors)), (-1, 3))
        try:
            return np.asarray(content, np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError("does not hold a list of colours [red, green, blue]") from error

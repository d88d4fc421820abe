"""What the files of one modality hold, and how their bytes become raw values.

A class per kind of content. Each knows where its files are, how a file format stores numbers
(scale, channel order, the value for "not measured") and nothing of what the numbers mean.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from tokenizers.base import Choices, Picture, Stored, Values
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.content.arrays import choose_bands, read_npy, read_npz
from tokenizers.content.colors import WHITE, Color, from_grey, with_white_at
from tokenizers.content.kinds import PICTURE_KINDS, describe, is_blank, kind_of, read_text
from tokenizers.content.limits import unpack_gzip
from tokenizers.content.pictures import read_picture
from tokenizers.content.sounds import read_sound
from tokenizers.content.tiff import Pages
from tokenizers.formats.annotations import BoxesFile
from tokenizers.formats.class_maps import indices_of_colors, renumber
from tokenizers.formats.file_format import (
    ARRAYS,
    PICTURES,
    READABLE,
    FileFormat,
    field_of,
    listed,
    parse_json,
)
from tokenizers.formats.instances import InstancesFile
from tokenizers.formats.palettes import PaletteFile
from tokenizers.labels import Label
from tokenizers.palettes import Palette
from tokenizers.rows import Row
from tokenizers.scalars import Scalar
from tokenizers.settings.checked import name_knob
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Colors

__all__ = [
    "PICTURES",
    "READABLE",
    "ArrayFile",
    "BoxesFile",
    "CodesFile",
    "FileFormat",
    "InstancesFile",
    "JsonFile",
    "NumberFile",
    "PaletteFile",
    "TextFile",
    "format_for",
]


@dataclass(frozen=True)
class ArrayFile(FileFormat):
    """Pictures, maps and vectors: PNG, JPEG, WebP, BMP, GIF, TIFF, npy, npz, wav, lists in JSON.

    The value is `stored * scale + offset`; as stored, dtype included, if these are 1 and 0.
    Pictures are turned as their EXIF orientation says. Numbers that look like something else, as
    palette numbers do, come as a `Picture`: colours for whoever wants colours. Pixels that have a
    TIFF's own number for "no data" are unknown, and its own scale and offset apply.
    """

    scale: float | int = 1.0
    """What stored numbers are multiplied by: 0.001 for millimetres that are wanted in metres. Any
    scale but 1 makes real numbers of integers."""
    offset: float | int = 0.0
    """What is added after scaling. Integers stay integers if it is whole and nothing is scaled."""
    missing: float | int | None = None
    """The stored number that means "not measured", which becomes unknown: NaN in real numbers,
    masked in integers; none if None."""
    channels_first: bool = False
    """Whether arrays are stored [channels, height, width], as satellite bands often are. Pictures
    say themselves how they are stored."""
    as_rgb: bool = False
    """Turn pictures into red, green and blue even if other numbers are wanted. `Colors` have them
    anyway. Leave it off for class maps, whose palette numbers are the classes."""
    field: str = ""
    """Entry to take from an npz or a JSON object; an npz with one array needs none."""
    bands: tuple[int, ...] = ()
    """Which channels to take, and in which order; all if empty. The first is 0, and -1 stands for
    one that these files lack, which is unknown."""
    values: dict[int, int] = dataclasses.field(default_factory=dict)
    """Class index by stored number, such as {0: 255, 1: 0} where 0 is no class. Numbers that it
    does not name stay as they are; see `other`."""
    colors: dict[Color, int] | tuple[Color, ...] = ()
    """Class index by colour, for class maps that are stored in colours; or a table of colours, in
    the order of their indices."""
    other: int | None = None
    """Class index of all numbers that `values`, or colours that `colors`, does not name."""
    nearest_color: bool = False
    """Whether a colour that `colors` does not name is taken for the nearest that it does: for class
    maps that were compressed with losses, such as JPEG, which are refused otherwise."""
    white: float | int | None = None
    """The stored number that is white, such as 1.0 or 4095, where colours are stored in other than
    8 bits; 0 is black, and what is brighter or darker is cut."""
    own_scale: bool = True
    """Whether the scale and offset that a GeoTIFF notes of its bands apply; `scale` and `offset`
    stand in place of them."""
    background: Color = WHITE
    """Colour that is seen through transparent pixels."""
    pages: Pages = ""
    """What several pages of a TIFF are: bands of one picture, or pictures of which the first is the
    sample. If empty, what the file says; one that does not say it is refused."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        shades = [shade for color in (*self.colors, self.background) for shade in color]
        if not all(0 <= shade <= 255 for shade in shades):
            raise ValueError(
                f"{name_knob(knob, 'colors')} and {name_knob(knob, 'background')} have a shade "
                "outside of 0 to 255; give red, green and blue of 8 bits."
            )
        if self.colors and self.values:
            raise ValueError(
                f"{name_knob(knob, 'colors')} and {name_knob(knob, 'values')} are both given; a "
                "class map is stored in colours or in numbers."
            )
        if not np.isfinite(self.scale) or not self.scale or not np.isfinite(self.offset):
            raise ValueError(
                f"{name_knob(knob, 'scale')} is {self.scale:g} and {name_knob(knob, 'offset')} "
                f"{self.offset:g}; both must be finite, and the first not 0."
            )
        if (self.colors or self.values) and self.scale != 1:
            raise ValueError(
                f"{name_knob(knob, 'scale')} is {self.scale:g}; class indices, which `colors` and "
                "`values` give, can't be scaled."
            )
        ignored = {"bands": self.bands, "offset": self.offset, "missing": self.missing is not None}
        if self.colors and any(ignored.values()):
            given = " and ".join(name for name, value in ignored.items() if value)
            raise ValueError(
                f"{name_knob(knob, 'colors')} and {given} are both given; colours are looked up as "
                "they are stored, and `other` says what those that are not named mean."
            )
        if self.nearest_color and (not self.colors or self.other is not None):
            raise ValueError(
                f"{name_knob(knob, 'nearest_color')} is for class maps in `colors`, and leaves "
                "nothing to `other`; give the first and not the second."
            )
        is_number = self.scale != 1 or self.offset != 0 or self.colors or self.values
        if self.white is not None and (is_number or not 0 < self.white < np.inf):
            raise ValueError(
                f"{name_knob(knob, 'white')} is {self.white:g}; it must be above 0, and makes "
                "colours, which have no scale, offset, `colors` or `values`."
            )
        if min(self.bands, default=0) < -1 or max(self.bands, default=0) < 0:
            raise ValueError(
                f"{name_knob(knob, 'bands')} are {self.bands}; 0 or more is allowed, and -1 for a "
                "channel that is not there."
            )

    def read(self, data: bytes, extension: str) -> Shaped[np.ndarray, "..."]:
        return self.read_array(*self._stored(data, extension))

    def read_array(
        self, array: Shaped[np.ndarray, "..."], is_picture: bool = False
    ) -> Shaped[np.ndarray, "..."]:
        """Returns what stored numbers mean; see `read`."""
        if array.size == 0:
            raise ValueError(f"holds an empty array, of shape {array.shape}")
        stored = array.stored if isinstance(array, Picture) else Stored()
        if stored.is_lossy and (self.values or (self.colors and not self.nearest_color)):
            raise ValueError(
                "is a picture whose compression loses some of what was stored, so that it has "
                "classes that nobody gave it; store class maps as PNG, or give their `colors` and "
                "set nearest_color to True"
            )
        if self.bands and stored.encodes_colors and not self.as_rgb:
            raise ValueError(
                "is a picture of palette numbers, inks or CIE L*a*b*, of which `bands` are no "
                "amounts; set as_rgb to True to choose among red, green and blue"
            )
        if (self.as_rgb and self.white is None) or self.colors:
            array = _look_of(array)
        if self.colors:
            table = self._color_table
            return indices_of_colors(array, table, self.other, self.nearest_color)
        if self.channels_first and not is_picture:
            if array.ndim != 3:
                raise ValueError(
                    f"holds an array of shape {array.shape}; channels_first is for arrays "
                    "[channels, height, width]"
                )
            array = np.moveaxis(array, 0, -1)
        if self.bands:
            array = choose_bands(array, self.bands)
        if self.missing is not None:
            array = _without(array, self.missing)
        if self.values:
            return _tidy(renumber(array, self.values, self.other))
        if self.white is not None:
            bright = with_white_at(self.white, array, self.background)
            return from_grey(bright) if self.as_rgb and bright.ndim == 2 else bright
        scaling = stored.scaling if self.own_scale and not self.as_rgb else None
        if scaling and self.scale == 1 and self.offset == 0:
            return _rescaled(array, *scaling, self.bands)
        return _tidy(self._scaled(array), stored.is_lossy)

    @property
    def _color_table(self) -> dict[Color, int]:
        if isinstance(self.colors, dict):
            return self.colors
        return {color: index for index, color in enumerate(self.colors)}

    def _scaled(self, array: np.ndarray) -> np.ndarray:
        """Returns `array * scale + offset`: the unit and the type change only if they must."""
        if self.scale == 1 and self.offset == 0:
            return array
        if self.scale == 1 and array.dtype.kind in "biu" and float(self.offset).is_integer():
            return array.astype(np.int64) + int(self.offset)
        scaled = np.asarray(array).astype(np.float32) * np.float32(self.scale)
        scaled += np.float32(self.offset)
        if np.ma.is_masked(array):
            scaled[np.ma.getmaskarray(array)] = np.nan
        return scaled

    def _stored(self, data: bytes, extension: str) -> tuple[np.ndarray, bool]:
        """Returns what is stored, and whether it is a picture; its first bytes tell what it is."""
        match kind_of(data):
            case kind if kind in PICTURE_KINDS:
                return read_picture(data, self.max_pixels, self.background, self.pages), True
            case "npy":
                return read_npy(data, self.max_pixels), False
            case "wav":
                return read_sound(data).waves, False
            case "zip":
                return read_npz(data, self.field, self.max_pixels), False
            case "text" | "gzip" if extension.startswith("json"):
                return _array_of(field_of(parse_json(data), self.field)), False
        raise ValueError(
            f"is {describe(data)}, and no array; readable are {listed(PICTURES + ARRAYS)}, json: "
            "convert such files, or leave them out by setting extension to that of the others"
        )


def _look_of(array: np.ndarray) -> UInt8[np.ndarray, "y x 3"]:
    look = array.colors() if isinstance(array, Picture) and array.colors else np.asarray(array)
    look = from_grey(look) if look.ndim == 2 else look
    if look.dtype != np.uint8 or look.ndim != 3 or look.shape[2] != 3:
        raise ValueError(
            f"holds {array.dtype} of shape {array.shape}, which have no colours (as_rgb, colors); "
            "set white to the number that is white, and channels_first where colours come first"
        )
    return look


def _without(array: np.ndarray, missing: float | int) -> np.ndarray:
    """Returns an array in which one number is unknown."""
    is_missing = np.isnan(array) if np.isnan(missing) else array == missing
    is_missing = np.ma.filled(is_missing, True)
    if not is_missing.any():
        return array
    if array.dtype.kind == "f":
        return np.where(is_missing, array.dtype.type(np.nan), array)
    masked = np.ma.MaskedArray(np.asarray(array), is_missing)
    if isinstance(array, Picture) and array.colors is not None:
        return Picture.of(masked, array.colors, array.stored)
    return masked


def _rescaled(
    array: np.ndarray, scale: np.ndarray, offset: np.ndarray, bands: tuple[int, ...]
) -> np.ndarray:
    """Returns what stored numbers mean, by the scale and offset of every band."""
    chosen = list(bands) if bands else slice(None)
    scale, offset = (each[chosen] if array.ndim == 3 else each[0] for each in (scale, offset))
    numbers = (np.asarray(array).astype(np.float64) * scale + offset).astype(np.float32)
    numbers[np.ma.getmaskarray(array)] = np.nan
    colors = array.colors if isinstance(array, Picture) else None
    return Picture.of(numbers, colors) if colors else np.ascontiguousarray(numbers)


def _tidy(array: np.ndarray, is_lossy: bool = False) -> np.ndarray:
    """Returns an array in one piece; a plain one if nothing is unknown and it looks like itself."""
    if isinstance(array, Picture) and array.colors is not None:
        return array
    if is_lossy and array.ndim == 2 and array.dtype.kind in "biu":
        return Picture.of(np.ascontiguousarray(array), None, Stored(is_lossy))
    if np.ma.is_masked(array):
        return np.ma.MaskedArray(np.ascontiguousarray(np.asarray(array)), np.ma.getmask(array))
    return np.ascontiguousarray(np.asarray(array))


def _array_of(content: Any) -> np.ndarray:
    try:
        array = np.asarray(content)
        if array.dtype.kind == "O":  # With null, as JSON has no NaN.
            array = array.astype(float)
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError("does not hold an array of numbers, as its rows differ") from error
    if array.dtype.kind not in "biuf":
        raise ValueError("does not hold an array of numbers; `field` picks an entry")
    return array


@dataclass(frozen=True)
class CodesFile(FileFormat):
    """Ids that another tokenizer made beforehand, as npy: one grid, or several views of a sample.

    Arrays are of `shape`, or in reading order; a first axis, as `save_vq_tokens` of 4M writes it,
    counts the views. Several views are `Choices`, in the order of the file.
    """

    shape: tuple[int, ...] = ()
    """Shape of the ids of one view, such as (14, 14)."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(
                f"{name_knob(knob, 'shape')} is {self.shape}; give height and width of the grid, "
                "or the number of ids."
            )

    def read(self, data: bytes, extension: str) -> Integer[np.ndarray, "..."] | Choices:
        if kind_of(data) != "npy":
            raise ValueError(f"is {describe(data)}; ids are read from npy")
        ids = read_npy(data, self.max_pixels)
        count = int(np.prod(self.shape))
        if ids.dtype.kind not in "iu":
            raise ValueError(f"holds {ids.dtype}; ids are whole numbers")
        if ids.shape in (self.shape, (count,)):
            return ids.reshape(self.shape)
        if not len(ids.shape) or ids.shape[1:] not in (self.shape, (count,)) or not len(ids):
            raise ValueError(
                f"holds ids of shape {ids.shape}; {self.shape} or {(count,)} is allowed, behind an "
                "axis of views or without"
            )
        views = ids.reshape(-1, *self.shape)
        return views[0] if len(views) == 1 else Choices(views)


@dataclass(frozen=True)
class TextFile(FileFormat):
    """Captions: txt, or JSON holding a string or several, as such or as {"caption": ...}.

    Several are `Choices`: every view of a sample takes one. Empty ones do not count.
    """

    field: str = ""
    """Entry to take from a JSON object, or from each of a list; caption if empty."""
    lines: bool = False
    """Whether every line of a txt is a caption of its own."""

    def read(self, data: bytes, extension: str) -> str | Choices:
        if extension.startswith("json"):
            found = self._captions(parse_json(data))
        else:
            text = read_text(unpack_gzip(data))
            found = text.splitlines() if self.lines else [text]
        texts = [each.strip() for each in found if not is_blank(each)]
        if not texts:
            raise ValueError("holds no caption, as it is empty")
        return texts[0] if len(texts) == 1 else Choices(texts)

    def _captions(self, content: Any) -> list[str]:
        if isinstance(content, dict):
            content = field_of(content, self.field or "caption")
        entries = content if isinstance(content, list) else [content]
        texts = [
            field_of(each, self.field or "caption") if isinstance(each, dict) else each
            for each in entries
        ]
        if not texts or not all(isinstance(each, str) for each in texts):
            raise ValueError("does not hold a string; `field` picks an entry of an object")
        return texts


@dataclass(frozen=True)
class NumberFile(FileFormat):
    """One number per sample: txt, JSON, or npy with a single entry."""

    field: str = ""
    """Entry to take from a JSON object."""

    def read(self, data: bytes, extension: str) -> float:
        if kind_of(data) == "npy":
            array = read_npy(data, self.max_pixels)
            if array.size != 1:
                raise ValueError(f"holds an array of shape {array.shape}, not one number")
            return float(array.reshape(()))
        if extension.startswith("json"):
            number = field_of(parse_json(data), self.field)
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError("does not hold a number; `field` picks an entry of an object")
            return _as_float(number)
        return _as_float(read_text(unpack_gzip(data)).strip())


def _as_float(number: float | int | str) -> float:
    try:
        return float(number)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"holds {str(number)[:60]!r}, which is no number") from error


@dataclass(frozen=True)
class JsonFile(FileFormat):
    """Whatever JSON holds, or a text as it is: a label's name or index, several, a table's row."""

    field: str = ""
    """Entry to take from a JSON object."""

    def read(self, data: bytes, extension: str) -> Any:
        if kind_of(data) == "npy":
            return read_npy(data, self.max_pixels)
        if extension.startswith("json"):
            return field_of(parse_json(data), self.field)
        return read_text(unpack_gzip(data)).strip()


def format_for(name: str, values: Values) -> FileFormat:
    """Returns files of raw values in a folder named after what they are; of ids, in full.

    Example:
        >>> format_for("tok_rgb@224", Colors()).folder
        'rgb'
    """
    folder = name.removeprefix("tok_").split("@")[0]
    match values:
        case Codes(is_sequence=False):
            return CodesFile(shape=values.shape)
        case Codes():
            return ArrayFile()
        case Text():
            return TextFile(folder)
        case BoxList(class_names=names):
            return BoxesFile(folder, class_names=names)
        case Points(class_names=names) | Polygons(class_names=names):
            outlines = isinstance(values, Polygons)
            return InstancesFile(folder, class_names=names, outlines=outlines)
        case Scalar():
            return NumberFile(folder)
        case Palette(colors=colors):
            return PaletteFile(values.computed_from or folder, colors=colors)
        case Label() | Row():
            return JsonFile(folder)
        case _:
            return ArrayFile(folder, as_rgb=isinstance(values, Colors))

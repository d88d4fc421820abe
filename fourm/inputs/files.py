"""Files that a user gives a run in use: read by the run's formats, as training read its data.

A file that generation wrote holds a value already and is read as one, see `generated.py`. What a
file holds is never guessed from its content; `--inputs-are` says it where it has to be said.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from fourm.inputs.generated import Origin, find_origin
from tokenizers.base import Boxes, Choices, Instances, Mended, Tokenizer
from tokenizers.content.arrays import read_npy
from tokenizers.content.kinds import read_text
from tokenizers.content.limits import MOST_UNPACKED, unpack_gzip
from tokenizers.content.pictures import read_picture
from tokenizers.formats.file_format import ARRAYS, PICTURES, SOUNDS, TEXTS, FileFormat
from tokenizers.formats.file_names import kind_of
from tokenizers.formats.recorded import usual_format
from tokenizers.settings.plain import to_plain

SUFFIXES = tuple(f".{each}" for each in (*PICTURES, *ARRAYS, *TEXTS, *SOUNDS, "csv", "tsv"))
"""Endings by which the command line knows a file."""

InputsAre = Literal["auto", "stored", "values"]

FAR = 8.0
"""Standard deviations of the training data from which on half of a picture is outlandish."""
SEEN = 1024
"""Pixels that are compared with the training data."""
PLACE = ("folder", "extension", "pattern", "skip", "max_pixels")
"""Fields of a format that say nothing of numbers."""


class Read(NamedTuple):
    """What a file holds."""

    value: Any
    """In its modality's own units; not checked further."""
    is_value: bool
    """Whether it shows what the model sees already: it is not cut with a larger picture."""


@dataclass
class FileReader:
    """Reads files for one run."""

    tokenizers: Mapping[str, Tokenizer]
    """Of the run, by modality."""
    formats: Mapping[str, FileFormat] = field(default_factory=dict)
    """How the files of its data are stored; as is usual where there is none."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What to know of a modality's files, a sentence each."""
    inputs_are: str = "auto"
    """What files hold: what those of the run's data hold (stored), or values in the units of their
    modality, as generated files do (values). If auto, values where `generated.json` lists them."""
    say: Callable[[str], None] = lambda sentence: None
    """Shows a sentence to the user."""
    tells_formats: bool = False
    """Whether to say, once of each modality, what its format does to numbers."""

    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.inputs_are not in get_args(InputsAre):
            allowed = ", ".join(get_args(InputsAre))
            raise ValueError(f"inputs_are is {self.inputs_are!r}; {allowed} are allowed.")

    def read(self, path: Path, name: str) -> Read:
        """Returns the value of one file, of a modality.

        Raises:
            ValueError: One sentence, if it is not there, can't be read, or holds nothing like what
                the run was trained on.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"There is no file {path}; give one that exists.") from error
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}.") from error
        return self.read_bytes(content, path, name)

    def read_bytes(self, content: bytes, path: Path, name: str) -> Read:
        """Returns the value of a file with these bytes; see `read`."""
        origin = None if self.inputs_are != "auto" else find_origin(path, content, name)
        if origin is not None and origin.modality != name:
            self._say_once(
                f"{path} was generated as {origin.modality}, and is read as a file of {name} like "
                "those of the run's data; --inputs-are values reads it as it is."
            )
            origin = None
        if origin is not None:
            self._check_origin(path, name, origin)
        if origin is not None or self.inputs_are == "values":
            return Read(self._checked(_value_of, content, path, name), True)
        value = self._checked(self._format(name).read, content, path, name)
        reason = why_outlandish(value, self.tokenizers[name]) if self.inputs_are == "auto" else ""
        if reason:
            raise ValueError(f"{path} {reason}{self._hint(name)}")
        self._describe(name)
        return Read(value, False)

    def _format(self, name: str) -> FileFormat:
        return self.formats.get(name) or self._usual_format(name)

    def _usual_format(self, name: str) -> FileFormat:
        return usual_format(name, self.tokenizers[name].values)

    def _how(self, name: str) -> str:
        """Returns how the files of the run are unlike those that are usual, if they are."""
        return describe_format(self._format(name), self._usual_format(name))

    def _checked(
        self, read: Callable[[bytes, str], Any], content: bytes, path: Path, name: str
    ) -> Any:
        """Returns what a function reads, checked; of several values the first."""
        try:
            value = read(unpack_gzip(content, MOST_UNPACKED), kind_of(path.name))
        except MemoryError:
            raise
        except Exception as error:  # Decoders raise whatever they like on damaged files.
            reason = str(error) if type(error) is ValueError else f"is damaged ({error})"
            hint = self._hint(name) if self._how(name) or self.inputs_are == "values" else "."
            raise ValueError(f"{path} {reason.rstrip('.')}{hint}") from error
        if isinstance(value, Mended):
            self.say(f"{path}: {value.how}.")
            value = value.value
        if isinstance(value, Choices):
            self.say(f"{path} holds {len(value)} values of {name}; the first is taken.")
            value = value[0]
        values = self.tokenizers[name].values
        try:
            checked = values.check(value, name)
            # As training notes it of such a value.
            ask = getattr(values, "taken_as_unknown", None)
            if how := ask(value) if ask else "":
                self.say(f"{path}: {how}.")
            return checked
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).rstrip('.')}{self._hint(name)}") from error

    def _check_origin(self, path: Path, name: str, origin: Origin) -> None:
        if origin.holds != "value":
            raise ValueError(
                f"{path} is a drawing of {name}, made to be looked at; give the file beside it "
                "that holds the numbers, or --inputs-are stored to take it for one of your own."
            )
        if origin.values is not None and origin.values != to_plain(self.tokenizers[name].values):
            raise ValueError(
                f"{path} was generated by a run whose {name} has values of another meaning; give "
                "--inputs-are values to take its numbers as they are."
            )

    def _hint(self, name: str) -> str:
        """Returns the end of a sentence that says how a file was read, and which knob there is."""
        if self.inputs_are == "values":
            return "; it was read as a value (--inputs-are values)."
        how = self._how(name) or "as is usual"
        return (
            f"; it was read as the run's files of {name} are ({how}): if it holds values in the "
            "modality's own units, give --inputs-are values."
        )

    def _describe(self, name: str) -> None:
        how = self._how(name)
        if how and self.tells_formats:
            self._say_once(f"Files of {name} are read as training read them: {how}.")
        if note := self.notes.get(name):
            self._say_once(f"{name}: {note}.")

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self.say(sentence)


def path_of(text: str) -> Path:
    """Returns the path that a text names, whether there is such a file or not."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # A tilde in front of somebody who is not known: no path, but a text.
        return Path(text)


def is_there(path: Path, as_folder: bool = False) -> bool:
    """True for a file, or a folder, that exists; False for what can't be the name of any."""
    try:
        return path.is_dir() if as_folder else path.is_file()
    except OSError:  # No name can be that long.
        return False


def describe_format(file_format: FileFormat, usual: FileFormat) -> str:
    """Returns what a format does to numbers, empty if it does no more than the usual one.

    Example:
        >>> from tokenizers.formats.formats import ArrayFile
        >>> describe_format(ArrayFile("depth", scale=0.001, missing=0), ArrayFile())
        'ArrayFile(scale=0.001, missing=0)'
    """
    is_other = type(file_format) is not type(usual)
    shown = [
        f"{each.name}={value!r}"
        for each in dataclasses.fields(file_format)
        if each.name not in PLACE
        and (value := getattr(file_format, each.name))
        != (_default_of(each) if is_other else getattr(usual, each.name))
    ]
    return f"{type(file_format).__name__}({', '.join(shown)})" if shown or is_other else ""


def _default_of(each: dataclasses.Field) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return each.default


def why_outlandish(value: Any, tokenizer: Tokenizer) -> str:
    """Returns how a picture differs from all that a run was trained on; empty if it does not.

    So a file is found out that stores other numbers than those of the run's data.
    """
    values, statistics = tokenizer.values, getattr(tokenizer, "statistics", None)
    if statistics is None or not isinstance(value, np.ndarray) or not hasattr(values, "is_valid"):
        return ""
    places = np.flatnonzero(np.asarray(values.is_valid(value[None])))
    if not places.size:
        return "has no number that is known, or all lie out of range"
    # Equally many, whatever the size, for which one program does.
    chosen = places[np.linspace(0, places.size - 1, SEEN).astype(int)]
    pixels = value.reshape(-1, *value.shape[2:])[chosen][None, None]
    plain = {name: variable[...] for name, variable in statistics.items()}
    seen = np.abs(np.asarray(values.normalize(jnp.asarray(pixels), plain), np.float32)[0, 0])
    middle = float(np.median(seen, axis=0).max())
    if middle > FAR:
        return f"lies {middle:.0f} standard deviations from what the run was trained on"
    return ""


def _value_of(content: bytes, extension: str) -> Any:
    """Returns what a file holds as it is, such as generation wrote it."""
    match extension:
        case "npy":
            return read_npy(content)
        case "json":
            plain = json.loads(read_text(content))
            for kind in (Boxes, Instances):
                if isinstance(plain, dict) and set(plain) == set(kind._fields):
                    return kind(**{key: _numbers(part) for key, part in plain.items()})
            return plain
        case "txt":
            return read_text(content).strip()
        case _ if extension in PICTURES:
            return read_picture(content)
    raise ValueError(
        f"ends in .{extension}; values are read from npy, json, txt and pictures, as they are "
        "written"
    )


def _numbers(part: Any) -> np.ndarray:
    """Returns a list of numbers as an array; None is one that is unknown."""
    array = np.asarray(part)
    return array if array.dtype.kind != "O" else array.astype(np.float32)

"""What a command is given, by modality: an option for each that a run has."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from fourm.inputs.files import SUFFIXES, path_of
from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.file_names import kind_of

Words = dict[str, tuple[str, ...]]
"""Words of the command line by modality."""


def with_inputs(command: type, names: Sequence[str], taken: Collection[str]) -> type[Any]:
    """Returns the class of a command with an option for every modality, in a field `inputs`.

    Args:
        command: A frozen dataclass.
        names: Of the modalities.
        taken: Names of its other options; a modality of such a name becomes `--input-NAME`.
    """
    options = [
        (
            f"input_{number}",
            Annotated[
                tuple[str, ...],
                tyro.conf.arg(
                    name=f"input-{name}" if name.replace("-", "_") in taken else name,
                    metavar="VALUE|FILE ...",
                    help=f"Given {name}, one per sample.",
                    help_behavior_hint="",
                ),
            ],
            dataclasses.field(default=()),
        )
        for number, name in enumerate(names)
    ]
    inputs = dataclasses.make_dataclass("Inputs", options, frozen=True)
    about = f"What is given: the value itself, such as a text, or a file ({', '.join(SUFFIXES)}). "
    about += "A folder gives a sample per file, whose name says which of another folder belongs to "
    about += "it. Files are read as those of the run's data are, and pictures cut to their middle."
    group = Annotated[inputs, tyro.conf.OmitArgPrefixes, tyro.conf.arg(help=about)]
    field = ("inputs", group, dataclasses.field(default_factory=inputs))
    built = dataclasses.make_dataclass("Command", [field], bases=(command,), frozen=True)
    built.__doc__ = command.__doc__
    return built


def given_to(command: Any, names: Sequence[str]) -> Words:
    """Returns what was given to a command of `with_inputs`, by modality."""
    given = dict(zip(names, dataclasses.astuple(command.inputs), strict=True))
    return {name: words for name, words in given.items() if words}


def as_given(text: str, file_format: FileFormat | None) -> str | Path:
    """Returns what a word of the command line is: a file if it looks like one, else itself."""
    own = file_format.extension.replace(",", " ").split() if file_format else []
    is_file = Path(text).suffix.lower() in SUFFIXES or kind_of(text) in {*own} - {""}
    is_packed = text.lower().endswith(".gz") and f".{kind_of(text)}" in SUFFIXES
    return path_of(text) if is_file or is_packed else text

"""Edits on the command line: a part of a picture is made anew, blanks of a text are filled.

python -m fourm.complete runs/scenes --rgb photo.png --redo box 10,10,30,30
python -m fourm.complete runs/scenes --rgb photo.png --caption "a red cube" --redo mask mask.png
python -m fourm.complete runs/scenes --rgb photo.png --keep class sphere cube
python -m fourm.complete runs/scenes --rgb photo.png --redo share 0.3 --num-samples 4   variations
python -m fourm.complete runs/scenes --rgb photo.png --outpaint 0.25
python -m fourm.complete runs/scenes --caption "a ___ sphere left of a ___ cube" --rgb photo.png
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm.any2any import Any2Any
from fourm.generate import (
    SHEET,
    Common,
    asked_besides,
    describe,
    names_of,
    parse,
    write_results,
)
from fourm.generate_folder import told_of
from fourm.inference.settings import GenerationConfig
from fourm.inputs.generated import GeneratedFolder
from fourm.inputs.options import as_given
from fourm.inputs.samples import read
from fourm.load_run import load
from fourm.requests.editing import BLANK
from fourm.requests.variations import outpaint
from fourm.token_space import TokenSpace
from tokenizers.process.command import make_visible, run_command
from tokenizers.values import Classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(Common):
    """Makes a part of a value anew and keeps the rest; the other inputs say what it goes by."""

    edit: str = ""
    """The modality that is edited. If it is not named: the text that has a blank (___), or else the
    only picture that is given."""
    redo: tuple[str, ...] = ()
    """What is made anew: box X0,Y0,X1,Y1 in pixels of the picture that is given, or in fractions of
    width and height if none is above 1; mask FILE, white there; class NAME ... of a class map;
    share NUMBER of the tokens, random ones: a small one gives a near variation."""
    keep: tuple[str, ...] = ()
    """The same, of what is kept, in place of --redo."""
    outpaint: tuple[float, ...] = ()
    """Paint beyond the edges instead: by so many widths and heights on all sides, or on the left,
    above, on the right and below."""


def edited(command: Command, given: Mapping[str, Sequence[str]], space: TokenSpace) -> str:
    """Returns which modality is edited.

    Raises:
        ValueError: If that is not named, and not clear, or it is not given.
    """
    if command.edit:
        if command.edit not in given:
            raise ValueError(
                f"--edit is {command.edit}, which is not given; give --{command.edit}."
            )
        return command.edit
    with_blanks = [
        name
        for name, words in given.items()
        if space[name].kind == "sequence" and any(BLANK.search(word) for word in words)
    ]
    pictures = [name for name in given if len(space[name].token_shape) == 2]
    found = with_blanks or pictures
    if len(found) != 1:
        told = ", ".join(found) or "no picture and no text with a blank (___)"
        raise ValueError(f"{told} is given; say by --edit what is edited, one of these.")
    return found[0]


def read_region(
    words: Sequence[str], model: Any2Any, name: str, values: Sequence[Any], inputs_are: str
) -> Any:
    """Returns a region as `Any2Any.complete` takes it, from words of the command line.

    Args:
        words: As `Command.redo` says.
        model: Trained.
        name: The modality that is edited.
        values: What is given of it: pixels are theirs.
        inputs_are: What files hold.

    Raises:
        ValueError: If they are no region.
    """
    match words:
        case ["box", corners]:
            box = _numbers(corners, 4)
            if max(box) <= 1:
                return box
            reader = model.reader(inputs_are)
            sizes = [read(value, name, reader).value.shape[:2] for value in values]
            return [_as_fractions(box, size) for size in sizes]
        case ["mask", file]:
            return Path(file)
        case ["share", share]:
            return _numbers(share, 1)[0]
        case ["class", first, *others]:
            maps = [n for n, t in model.tokenizers.items() if isinstance(t.values, Classes)]
            if len(maps) != 1:
                told = ", ".join(maps) or "none"
                raise ValueError(f"Classes are of one class map; this run has {told}.")
            return {maps[0]: [first, *others]}
    raise ValueError(
        f"The region is {' '.join(words)!r}; give box X0,Y0,X1,Y1, mask FILE, class NAME or share "
        "NUMBER."
    )


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        told = "a number" if count == 1 else f"{count} numbers with commas between them"
        raise ValueError(f"The region has {text!r}; give {told}.")
    return found


def _as_fractions(box: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    height, width = size
    if not (max(box[0::2]) <= width and max(box[1::2]) <= height):
        raise ValueError(
            f"The box {', '.join(f'{each:g}' for each in box)} is larger than its picture, which "
            f"is {width} wide and {height} high."
        )
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def complete(arguments: Sequence[str]) -> Path:
    """Edits and writes; returns the folder."""
    names: tuple[str, ...] = ()
    if arguments and not arguments[0].startswith("-"):
        names = names_of(Path(arguments[0]))
    program = Command, "python -m fourm.complete"
    command, given = parse(arguments, names, GenerationConfig(), *program)
    if not names:
        raise ValueError(f"The run directory comes first: python -m fourm.complete {command.run}.")
    model = load(command.run, command.use)
    name = edited(command, given, model.space)
    default = model.settings.get(name, GenerationConfig())
    settings = {name: parse(arguments, names, default, *program)[0].settings}
    if command.num_samples < 1:
        raise ValueError(f"--num-samples is {command.num_samples}; it must be at least 1.")
    inputs = {other: _repeated(model, other, given, name, command) for other in given}
    value = {name: inputs.pop(name)}
    options = asked_besides(model, command)
    options |= {"seed": command.seed, "inputs_are": command.inputs_are, "settings": settings}
    folder = command.out or command.run / "generated"
    if command.outpaint:
        if command.redo or command.keep:
            raise ValueError("--outpaint makes the margins anew; leave --redo and --keep.")
        margin = command.outpaint[0] if len(command.outpaint) == 1 else command.outpaint
        made = outpaint(model, value, inputs, margin=margin, **options)
    else:
        regions = {
            key: read_region(words, model, name, value[name], command.inputs_are)
            for key, words in (("redo", command.redo), ("keep", command.keep))
            if words
        }
        made = model.complete(value, inputs, **regions, **options)
    folder.mkdir(parents=True, exist_ok=True)
    about = describe(model, command, [name], given, settings) | {
        key: list(words) for key, words in (("redo", command.redo), ("keep", command.keep)) if words
    }
    if command.outpaint:
        about["outpaint"] = list(command.outpaint)
    results = GeneratedFolder(folder, about | {"edited": name})
    shown = model.prepare(value | inputs, command.inputs_are)
    count = len(value[name])
    # What is painted beyond its edges has another window than what was given.
    windows = [None] * count if command.outpaint else shown.windows or [None] * count
    write_results(model, command, made, shown.values, windows, results)
    told = told_of(count, [name])
    print(make_visible(f"Wrote {told} to {folder}; {folder / SHEET} shows them together."))
    return folder


def _repeated(
    model: Any2Any, other: str, given: Mapping[str, Sequence[str]], name: str, command: Command
) -> list[Any]:
    """Returns what is given of a modality, for every sample of what is edited."""
    count = len(given[name])
    if len(given[other]) not in (1, count):
        raise ValueError(
            f"--{other} has {len(given[other])} values and --{name} {count}; give equally many, or "
            "one for all."
        )
    words = list(given[other]) * (count // len(given[other]))
    values = [as_given(word, model.formats.get(other)) for word in words]
    return [value for value in values for _ in range(command.num_samples)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        complete(arguments)

    return run_command(work, arguments, again="the same command starts it again")


if __name__ == "__main__":
    sys.exit(main())

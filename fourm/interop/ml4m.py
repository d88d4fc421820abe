"""Published 4M models as run directories, and back.

python -m fourm.interop.ml4m import EPFL-VILAB/4M-21_B tok_rgb@224=rgb.safetensors --out runs/4m21
python -m fourm.interop.ml4m check FOLDER
python -m fourm.interop.ml4m export runs/4m21 --out exported
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fourm.interop.checks.find import check
from fourm.interop.import_run import export_run, import_run
from tokenizers.process.command import run_command


@dataclass(frozen=True)
class Import:
    """Writes a run directory from files that the authors of 4M published, or one name on the hub.

    Modalities of which no tokenizer is given take and give ids.
    """

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Models and tokenizers: .safetensors files, folders with a model.safetensors, names like
    EPFL-VILAB/4M-21_B, and the text tokenizer's .json. Tokenizers may say whose they are, as in
    tok_depth@224=PATH; otherwise their names tell."""
    out: Path
    """Run directory to write."""


@dataclass(frozen=True)
class Check:
    """Compares our arithmetic with recorded outputs of ml-4m, one line per array."""

    folder: tyro.conf.Positional[Path]
    """A folder with weights, inputs and outputs, or a folder of such folders."""


@dataclass(frozen=True)
class Export:
    """Writes a run's model, and those tokenizers that ml-4m has, the way ml-4m reads them."""

    run: tyro.conf.Positional[Path]
    """Run directory, of an imported model or of one with the same architecture."""
    out: Path
    """Folder to write: model.safetensors and config.json, and a folder for each tokenizer."""


Command = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Export, tyro.conf.subcommand("export")]
)


def convert(command: Import | Check | Export) -> int:
    """Does what was asked for; returns the exit code."""
    match command:
        case Import(paths, out):
            import_run(paths, out)
        case Export(run, out):
            export_run(run, out)
        case Check(folder):
            return print_check(folder)
    return 0


def print_check(folder: Path) -> int:
    """Prints a line per array and a summary; returns 1 if any is not equal."""
    num_arrays, wrong, worst = 0, [], 0.0
    for comparison in check(folder):
        verdict = "ok" if comparison.is_equal else "DIFFERS"
        print(f"{comparison.name:<72} {comparison.error:10.2e} {verdict}", flush=True)
        num_arrays += 1
        if not comparison.is_equal:
            wrong.append(comparison.name)
        elif comparison.tolerance:
            worst = max(worst, comparison.error / comparison.tolerance)
    if wrong:
        print(f"{len(wrong)} of {num_arrays} arrays differ; the first is {wrong[0]}.")
        return 1
    print(f"All {num_arrays} arrays agree; the nearest to its tolerance has {worst:.0%} of it.")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> int:
        return convert(tyro.cli(Command, prog="python -m fourm.interop.ml4m", args=arguments))

    return run_command(work, arguments, again="the same command starts it again")


if __name__ == "__main__":
    sys.exit(main())

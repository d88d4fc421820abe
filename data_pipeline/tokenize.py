"""Turns a data set into tokens, with the tokenizers of a run.

python -m data_pipeline.tokenize runs/scenes --out tokens/more --data.num-train 100000
python -m data_pipeline.tokenize runs/scenes tfds --out tokens/coco --data.name coco/2017
python -m data_pipeline.tokenize runs/4m21 files --out tokens/mine --data.path ~/mine --processes 8
python -m data_pipeline.tokenize runs/4m21 ... --num-shards 256 --shards 0:128

The last makes one half; another machine that sees the same folder may make the other. What was
interrupted is continued by the same command. `python train.py ... --tokens tokens/mine 1.0` trains
on what was made. With `--out RUN/tokens` and nothing else, it is what `train.py` makes for the run.
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import tyro
from tqdm import tqdm

from data_pipeline.crops import CropConfig
from data_pipeline.sources.kinds import KINDS, AnyData, NoData, blank_data
from data_pipeline.sources.source import Source, max_damaged_of
from data_pipeline.tokens.index import INDEX, StoreIndex
from data_pipeline.tokens.workers import write_in_processes
from data_pipeline.tokens.writer import (
    close_folder,
    describe_source,
    missing_shards,
    open_folder,
    plan_store,
    write_shards,
)
from tokenizers.base import Tokenizer
from tokenizers.modality import load_tokenizer
from tokenizers.process.command import make_visible, run_command
from tokenizers.settings.checked import Checked, check_all, checked_later
from tokenizers.settings.plain import part_from_plain
from tokenizers.storage.folders import check_made_with, fingerprint_files
from tokenizers.storage.pieces import DESCRIPTION, check_pieces, record_pieces
from tokenizers.storage.run_paths import CONFIG, MODEL, TOKENIZERS


@dataclass(frozen=True)
class TokenizeConfig(Checked):
    """What is turned into tokens, and where to."""

    data: AnyData
    """Where samples come from."""
    out: str = ""
    """Folder of the tokens; always to be given. What is there is not made again."""
    split: str = "train"
    """Which of the data's splits."""
    modalities: tuple[str, ...] = ()
    """Which of the run's modalities; all by default."""
    crops: CropConfig = field(default_factory=lambda: CropConfig(views=1))
    """How samples are cut, in how many views. Sizes are those that the tokenizers take."""
    seed: int = 0
    """Seed of the random views."""
    num_shards: int | None = None
    """Files that the samples are divided into; one per 1024 and at most 64 by default."""
    shards: str = ""
    """Which of them to make, as FIRST:LAST, the last not included; all if empty."""
    processes: int = 1
    """How many to make at a time, each in a process of its own."""
    check: bool = False
    """Read what is there, and make again what is not as it was written, or was made from files
    that have changed since."""
    replace: bool = False
    """Replace tokens in that folder which were made from something else."""

    def chosen(self, num_shards: int) -> range:
        """Returns the shards that are to be made.

        Raises:
            ValueError: If these are not among those that there are.
        """
        first, colon, last = self.shards.partition(":")
        if not self.shards:
            return range(num_shards)
        if not (colon and first.isdecimal() and last.isdecimal()):
            raise ValueError(f"--shards is {self.shards!r}; it must be FIRST:LAST, such as 0:32.")
        if not int(first) < int(last) <= num_shards:
            raise ValueError(
                f"--shards is {self.shards}; of {num_shards} shards, 0:{num_shards} are there to "
                "choose from."
            )
        return range(int(first), int(last))


def main(arguments: Sequence[str]) -> int:
    """Makes what a command line asks for; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        run, config = parse(arguments)
        left = make_tokens(run, config)
        if left:
            told = "more shards, which are made by other --shards."
            print(make_visible(f"{config.out} lacks {left} {told}"))
        else:
            told = shlex.join(["--tokens", str(config.out), "1.0"])
            print(make_visible(f"{config.out} is complete; train on it with {told}."))

    return run_command(work, arguments)


def parse(arguments: Sequence[str]) -> tuple[Path, TokenizeConfig]:
    """Returns the run and the configuration that `RUN [KIND] [--knob value ...]` asks for.

    Raises:
        ValueError: If there is no such run, or it does not know the kind of data.
    """
    arguments = list(arguments)
    named = []
    while arguments and not arguments[0].startswith("-") and len(named) < 2:
        named.append(arguments.pop(0))
    if not named and arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: python -m data_pipeline.tokenize RUN [{'|'.join(KINDS[:-1])}] [--help]\n")
        print(__doc__)
        raise SystemExit(0)
    if not named:
        raise ValueError("Name a run directory, whose tokenizers are used, such as runs/scenes.")
    run, kind = Path(named[0]).expanduser(), named[1] if len(named) > 1 else None
    # AvoidSubcommands: the kind is chosen above, and knobs are those of its class.
    with warnings.catch_warnings(), checked_later():
        # The data may be of a class of the user's own.
        warnings.filterwarnings("ignore", ".*does not match any type in Union")
        config = tyro.cli(
            TokenizeConfig,
            default=_defaults(run, kind),
            args=arguments,
            prog=f"python -m data_pipeline.tokenize {' '.join(named)}",
            config=(tyro.conf.AvoidSubcommands,),
        )
    check_all(config)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"--seed is {config.seed}; it must be 0 to {2**32 - 1}.")
    if not config.out:
        raise ValueError("Say with --out in which folder to keep the tokens.")
    if config.processes < 1:
        raise ValueError(f"--processes is {config.processes}; it must be at least 1.")
    return run, config


def make_tokens(run: Path, config: TokenizeConfig) -> int:
    """Makes the shards that are asked for and missing; returns how many others are missing.

    Raises:
        ValueError: If the data, a tokenizer or the folder can't be used.
    """
    folder = Path(config.out).expanduser()
    source, tokenizers = open_all(run, config)
    fingerprints = {name: fingerprint_files(_tokenizer(run, name)) for name in tokenizers}
    made_from = describe_source(config.data, config.crops, config.seed, config.split)
    plan = plan_store(source, tokenizers, fingerprints, made_from, config.num_shards)
    numbers = config.chosen(plan.num_shards)
    plan = open_folder(folder, plan, may_replace=config.replace)
    missing = missing_shards(source, folder, plan, numbers, config.check)
    samples = {number: len(plan.range_of(number)) for number in numbers}
    with tqdm(
        total=sum(samples.values()),
        initial=sum(samples[number] for number in numbers if number not in missing),
        desc="tokens",
        unit="sample",
        dynamic_ncols=True,
    ) as bar:
        if config.processes == 1 or len(missing) < 2:
            write_shards(source, tokenizers, folder, plan, missing, bar.update)
        else:
            opener = partial(open_all, run, config)
            write_in_processes(opener, folder, plan, missing, config.processes, bar.update)
    left = close_folder(folder, plan, max_damaged_of(config.data))
    if told := StoreIndex.read(folder).census.say_left_out():
        print(make_visible(f"{told} See `census` of the shards in {folder / INDEX}."))
    return left


def open_all(run: Path, config: TokenizeConfig) -> tuple[Source, dict[str, Tokenizer]]:
    """Opens the samples and loads the tokenizers that they go through."""
    names = config.modalities or _names(run)
    for name in names:
        if name not in _names(run):
            raise ValueError(
                f"--modalities names {name!r}; {run} has tokenizers of {', '.join(_names(run))}."
            )
    tokenizers = {name: load_tokenizer(_tokenizer(run, name)) for name in names}
    found = {
        name: getattr(tokenizer, "picture_size", None) for name, tokenizer in tokenizers.items()
    }
    # What is no picture has no size, and takes that of those that are.
    shared = next(filter(None, found.values()), config.crops.shape)
    source = config.crops.apply(
        config.data.open(config.split),
        {name: tokenizer.values for name, tokenizer in tokenizers.items()},
        {name: size or shared for name, size in found.items()},
        config.seed,
        with_views=True,
    )
    return source, tokenizers


def _defaults(run: Path, kind: str | None) -> TokenizeConfig:
    """Returns the run's own data and crops, or blank data of a kind."""
    if not (run / TOKENIZERS).is_dir():
        raise ValueError(f"{run} has no folder of tokenizers; give a run directory that has one.")
    check_pieces(run, [CONFIG, TOKENIZERS])
    if (run / MODEL / DESCRIPTION).is_file():
        check_made_with(run / MODEL, run / TOKENIZERS)
    record_pieces(run, [CONFIG, *(f"{TOKENIZERS}/{name}" for name in _names(run))])
    try:
        plain = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        known = {
            name: part_from_plain(plain[name], TokenizeConfig)
            for name in ("data", "crops", "seed")
            if name in plain
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{run / 'config.json'} can't be used ({error}).") from error
    config = replace(TokenizeConfig(NoData()), **known)
    if kind is None:
        if isinstance(config.data, NoData):
            kinds = ", ".join(KINDS[:-1])
            raise ValueError(f"{run} has no data of its own; name a kind: {kinds}.")
        return config
    values = {name: load_tokenizer(_tokenizer(run, name)).values for name in _names(run)}
    data = blank_data(kind, values)
    return config if isinstance(config.data, type(data)) else replace(config, data=data)


def _names(run: Path) -> tuple[str, ...]:
    folders = (run / TOKENIZERS).iterdir()
    return tuple(
        sorted(path.name for path in folders if path.is_dir() and not path.name.startswith("."))
    )


def _tokenizer(run: Path, name: str) -> Path:
    return run / TOKENIZERS / name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

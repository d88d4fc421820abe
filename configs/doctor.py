"""What is in my data, and will it train? Reads samples before anything is trained.

fourm doctor my_config.py                        one page, in the terminal and in doctor.html
fourm doctor nyuv2 --data.path ~/nyuv2 --samples 0    reads every sample
fourm doctor my_config.py --run-dir runs/mine    with the round trips of that run's tokenizers

The words are those of `python train.py`. Beside them: --samples N, how many samples of each split
are read (200; 0 for all), and --out FOLDER, where doctor.html is written (the current folder).
Exit codes: 0 if the data can be trained on, 2 if training would fail.
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from configs.command_line import parse_command_line
from configs.runs.plan import describe_plan
from configs.runs.samples import open_sources
from configs.runs.sizes import close_sizes
from configs.schema import RunConfig
from data_pipeline.crops import TransformedSource
from data_pipeline.doctor.examination import Health, examine
from data_pipeline.doctor.page import format_page, format_text
from data_pipeline.sources.source import NOTES, max_damaged_of
from tokenizers.base import main_metric
from tokenizers.modality import load_tokenizer
from tokenizers.process.command import make_visible, run_command
from tokenizers.spread import evenly_spread
from tokenizers.storage.run_paths import TOKENIZERS
from tokenizers.storage.unfinished import write_file

WORST = 4
"""Samples of a modality whose round trips are drawn."""
TRIED = 64
"""Samples of which round trips are made."""


@dataclass(frozen=True)
class DoctorOptions:
    """What is examined."""

    samples: int = 200
    """Samples of each split to read, evenly spread; 0 for all."""
    out: str = "."
    """Folder of doctor.html."""


def main(arguments: Sequence[str]) -> int:
    """Examines what a command line asks for; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(__doc__)
            return
        options, rest = tyro.cli(
            DoctorOptions, args=arguments, return_unknown_args=True, add_help=False
        )
        if options.samples < 0:
            raise ValueError(f"--samples is {options.samples}; 0 or more is allowed.")
        check_data(parse_command_line(rest)[0], options)

    return run_command(work, arguments, again="the same command begins again")


def check_data(config: RunConfig, options: DoctorOptions) -> Health:
    """Prints what was found in the data of a run, and writes it as a page.

    Raises:
        ValueError: If training would fail; after the page is written, where there can be one.
    """
    config = close_sizes(config)
    sources = open_sources(config)
    if not sources:
        raise ValueError("There is no data to examine; name a kind of data in place of none.")
    values = {name: modality.values for name, modality in config.modalities.items()}
    settings = {name: modality.tokenizer for name, modality in config.modalities.items()}
    most = options.samples or max(len(each.source) for each in sources.values())
    total = sum(min(len(each.source), most) for each in sources.values())
    with tqdm(total=total, desc="samples", unit="sample", dynamic_ncols=True) as bar:
        health = examine(sources, values, settings, options.samples, bar.update)
    plan = describe_plan(config)
    trips = list(round_trips(config, sources))
    plan += [f"tokenizer of {name}: {told}" for name, told, _ in trips]
    print(make_visible_lines(format_text(health, plan)))
    page = Path(options.out).expanduser() / "doctor.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_file(page, format_page(health, values, plan, trips).encode())
    print()
    print(make_visible(f"Open {page} for pictures."))
    for split in health.splits:
        split.census.check(max_damaged_of(config.data), f"the split {split.split}")
    lacking = [name for name in values if not health.splits[0].census.present.get(name)]
    if lacking:
        raise ValueError(
            f"None of {health.splits[0].census.samples} training samples has "
            f"{', '.join(lacking)}; see the knobs of --data, or take the modality out."
        )
    return health


def round_trips(
    config: RunConfig, sources: dict[str, TransformedSource]
) -> Iterator[tuple[str, str, list[tuple[object, object]]]]:
    """Yields, of each tokenizer that the run has, its score and its worst held-out samples."""
    folder = Path(config.run_dir) / TOKENIZERS
    heldout = [split for split in sources if split != "train" and len(sources[split])]
    source = sources[heldout[0] if heldout else "train"]
    if not folder.is_dir():
        return
    chosen = evenly_spread(len(source), TRIED).tolist()
    samples = source.__getitems__(chosen)
    for name in config.modalities:
        own = [each[name] for each in samples if name in each and name not in each.get(NOTES, ())]
        if not own or not (folder / name).is_dir():
            continue
        tokenizer = load_tokenizer(folder / name)
        if not tokenizer.vocab_size:
            continue
        raw = np.stack(own) if isinstance(own[0], np.ndarray) else own
        again = tokenizer.decode(tokenizer.encode(raw))
        metric, better = main_metric(tokenizer.values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score = tokenizer.values.score(again, raw)[metric]
            each = [
                tokenizer.values.score(again[i : i + 1], raw[i : i + 1])[metric]
                for i in range(len(own))
            ]
        order = np.argsort(np.array(each) * (1 if better == "higher" else -1), kind="stable")
        pairs = [(own[i], again[i]) for i in order[:WORST]]
        yield name, f"round trip {metric} {score:.3g} ({better} is better)", pairs


def make_visible_lines(text: str) -> str:
    """Returns lines whose other control codes are written out."""
    return "\n".join(map(make_visible, text.split("\n")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

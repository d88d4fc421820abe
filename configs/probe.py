"""What can be read off a run's frozen encoder: probes of one label, and their rivals.

fourm probe runs/scenes --label object_count                a fact of the run's own samples
fourm probe runs/scenes --label semseg --inputs rgb depth   a map, read off tokens place by place
fourm probe runs/scenes files --data.path ~/mine --data.table labels.csv --label species
fourm probe runs/scenes mine.py --label height --shares 0.1 1

Without words on data, the samples that the run keeps are probed; with them, the words are those of
`python train.py`. Writes RUN/probe_LABEL.json.
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from configs.runs.run_data import config_of, open_split, read_set
from fourm.any2any import Any2Any
from fourm.evaluate import check_writable
from fourm.evaluation.probes import untrained_like
from fourm.evaluation.probing.material import StudyConfig
from fourm.evaluation.probing.study import format_study, study
from fourm.evaluation.results import write_json
from fourm.load_run import load
from fourm.run_directory.sample_set import TRAINING, SampleSet, load_heldout
from tokenizers.base import Values
from tokenizers.process.command import make_visible, run_command
from tokenizers.settings.checked import check_all, checked_later
from tokenizers.settings.plain import to_plain
from tokenizers.storage.run_paths import HELDOUT


@dataclass(frozen=True)
class ProbeOptions(StudyConfig):
    """What is probed, and on which samples."""

    train_split: str = "train"
    """Split on which probes are fitted."""
    split: str = ""
    """Split on which they are scored; by default the first whose name starts with test, or else
    the last."""
    use: str = "last"
    """Which parameters of the run: last, best, or those of a step."""
    out: Path | None = None
    """Folder of the result; RUN by default."""


def main(arguments: Sequence[str]) -> int:
    """Probes what a command line asks for; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        if not arguments or arguments[0].startswith("-"):
            print(__doc__)
            if not arguments or arguments[0] not in ("-h", "--help"):
                raise ValueError("Name a run directory first, such as runs/scenes.")
            arguments = ["RUN", "--help"]
        run, rest = Path(arguments[0]).expanduser(), arguments[1:]
        with checked_later():
            options, words = tyro.cli(
                ProbeOptions,
                prog=f"fourm probe {run}",
                args=rest,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff,),
            )
        check_all(options)
        probe_run(run, options, words)

    return run_command(work, arguments, again="the same command starts it again")


def probe_run(run: Path, options: ProbeOptions, words: Sequence[str]) -> dict[str, Any]:
    """Measures the probes of a label, prints a table, and returns what it wrote.

    Raises:
        ValueError: One sentence, if the label, the inputs or the data can't be used.
    """
    if not options.label:
        raise ValueError("Say with --label what is read: a fact, or a modality, of the samples.")
    model = load(run, options.use)
    model.check_names(options.inputs)
    folder = options.out or run
    check_writable(folder)
    training, heldout, values = _samples(run, model, options, words)
    rows, notes = study(model, untrained_like(model), training, heldout, values, options)
    if rows:
        print(format_study(rows))
    if notes:
        print("\n".join(["", *notes]))
    found = {"rows": rows, "notes": notes, "use": options.use, "data": list(words)}
    path = folder / f"probe_{options.label.replace('/', '_')}.json"
    write_json(path, found | {"config": to_plain(dataclasses.replace(options, out=None))})
    print(f"\nWritten to {make_visible(str(path))}")
    return found


def _samples(
    run: Path, model: Any2Any, options: ProbeOptions, words: Sequence[str]
) -> tuple[SampleSet, SampleSet, dict[str, Values]]:
    """Returns training and held-out samples, and what the values of their modalities mean."""
    values = {name: tokenizer.values for name, tokenizer in model.tokenizers.items()}
    if not words:
        kept = sorted(path.name for path in (run / HELDOUT).glob("*") if path.name != TRAINING)
        split = options.split or _choose_split(kept or ["test"])
        return load_heldout(run, TRAINING), load_heldout(run, split), values
    config = config_of(run, words)
    values |= {
        name: modality.values for name, modality in config.modalities.items() if name not in values
    }
    names = [*options.inputs, *([options.label] if options.label in values else [])]
    sets = []
    for split, most in (
        (options.train_split, options.num_train),
        (options.split or _choose_split(config.data.splits), options.num_test),
    ):
        source = open_split(model, config, split, names)
        sets.append(read_set(source, config, split, most, names))
    return sets[0], sets[1], values


def _choose_split(names: Sequence[str]) -> str:
    return next((name for name in names if name.startswith("test")), names[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How files of a run's modalities are stored, as its data or its tokens' data has them."""

import json
from collections.abc import Iterator
from pathlib import Path

from configs.runs.fork import read_fork
from configs.schema import RunConfig
from data_pipeline.tokens.index import StoreIndex
from tokenizers.formats.recorded import RunFormats, formats_of, read_formats
from tokenizers.settings.plain import from_repr
from tokenizers.storage.run_paths import CONFIG


def formats_of_run(config: RunConfig) -> RunFormats:
    """Returns what is known of each of a run's modalities, the nearest first.

    That is what its own data says; else the data that its stores of tokens were made from; else the
    run that it starts from or is a fork of.
    """
    found = formats_of(config.data)
    for store in (*config.tokens, *config.heldout_tokens):
        found = found.joined(_formats_of_store(Path(store).expanduser()))
    for run in _earlier_runs(config):
        found = found.joined(_formats_of_other(run))
    formats = {name: each for name, each in found.formats.items() if name in config.modalities}
    notes = {name: each for name, each in found.notes.items() if name in (*config.modalities, "")}
    return RunFormats(formats, notes)


def _formats_of_store(folder: Path) -> RunFormats:
    try:
        # Earlier versions wrote configurations as Python shows them.
        return formats_of(from_repr(StoreIndex.read(folder).made_from.get("data")))
    except ValueError:  # A store that can't be read is told of where it is needed.
        return RunFormats()


def _earlier_runs(config: RunConfig) -> Iterator[Path]:
    for name in (config.start_from, read_fork(Path(config.run_dir)).get("from", "")):
        if name:
            yield Path(name).expanduser()


def _formats_of_other(run: Path) -> RunFormats:
    try:
        return read_formats(run, json.loads((run / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return RunFormats()

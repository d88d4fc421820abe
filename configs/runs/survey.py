"""What the samples of a run have: how many values, and which of them were of no use."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from configs.schema import RunConfig
from data_pipeline.census import Census, TooDamagedError, write_notes
from data_pipeline.crops import TransformedSource
from data_pipeline.sources.source import Note, Sample, Source, max_damaged_of, notes_of, views_of
from data_pipeline.tokens.index import StoreIndex
from fourm.run_directory.sample_set import SampleSet, load_heldout
from tokenizers.process.command import make_visible
from tokenizers.storage.run_paths import HELDOUT, HELDOUT_TOKENS, LEFT_OUT, TOKENS

CHUNK = 512
"""Samples read at once."""
HOPELESS = 0.5
"""Share of damaged values from which on the cause is a setting, and a list of all is no help."""


def read_samples(
    config: RunConfig, source: Source, split: str, indices: list[int]
) -> tuple[list[Sample], Census]:
    """Returns some samples of a split, and what they have.

    Raises:
        TooDamagedError: If more values can't be used than may be. All of the split are read then,
            and listed in the run directory, so that they can be repaired at once.
    """
    samples = source.__getitems__(indices)
    views = views_of(source)
    firsts = {index // views: row for row, index in reversed(list(enumerate(indices)))}
    census = Census.of([samples[row] for row in sorted(firsts.values())])
    where, share = f"the split {split}", max_damaged_of(config.data)
    with listed_if_refused(config, split):
        try:
            census.check(share, where)
        except TooDamagedError:
            most = max(census.left_out.values()) / max(census.samples, 1)
            if most < HOPELESS and census.samples < len(source) // views:
                census = _read_all(source, split)
            census.check(share, where)
    return samples, census


@contextmanager
def listed_if_refused(config: RunConfig, split: str) -> Iterator[None]:
    """Lists in the run directory what is damaged if that makes this context end."""
    try:
        yield
    except TooDamagedError as error:
        file = Path(config.run_dir) / LEFT_OUT
        write_notes(file, {split: error.census.notes})
        raise TooDamagedError(f"{error} {file} lists all that were found.", error.census) from error


def _read_all(source: Source, split: str) -> Census:
    originals = range(0, len(source), views_of(source))
    census = Census()
    with tqdm(total=len(originals), desc=f"damage in {split}", unit="sample") as bar:
        for start in range(0, len(originals), CHUNK):
            chunk = list(originals[start : start + CHUNK])
            census += Census.of(source.__getitems__(chunk))
            bar.update(len(chunk))
    return census


def survey_run(config: RunConfig, sources: Mapping[str, TransformedSource]) -> dict[str, Census]:
    """Returns, by split, what the samples have that a run was trained or will be measured on.

    Args:
        config: Of a run whose samples and tokens are there.
        sources: By split, as they are open.
    """
    folder = Path(config.run_dir)
    stores = [Path(each).expanduser() for each in config.tokens] or [folder / TOKENS]
    found = {"train": sum(map(_census_of_store, stores), Census())}
    for split in [split for split in sources if split != "train"]:
        is_kept = (folder / HELDOUT / split).is_dir()
        found[split] = _census_of_set(load_heldout(folder, split)) if is_kept else Census()
    if len(found) > 1:
        first, held = list(found)[1], _census_of_store(folder / HELDOUT_TOKENS)
        found[first] = max(found[first], held, key=lambda census: census.samples)
    seen: dict[Note, None] = {}
    for split, source in sources.items():  # Splits of one folder say the same of its files.
        notes = [n for n in notes_of(source.source) if n not in seen]
        seen.update(dict.fromkeys(notes))
        found[split] = Census(notes=tuple(notes)) + found[split]
    return {split: census for split, census in found.items() if census != Census()}


def list_left_out(config: RunConfig, censuses: Mapping[str, Census]) -> None:
    """Writes the list of what was left out, and says how much it is."""
    file = Path(config.run_dir) / LEFT_OUT
    write_notes(file, {split: census.notes for split, census in censuses.items()})
    if told := sum(censuses.values(), Census()).say_left_out():
        print(make_visible(f"{told} See {file}."))


def tabulate(config: RunConfig, censuses: Mapping[str, Census]) -> list[dict[str, Any]]:
    """Returns a row per split and modality: samples, present, missing and left out."""
    return [
        {
            "split": split,
            "modality": name,
            "samples": census.samples,
            "present": (present := census.present.get(name, 0)),
            "left_out": (left_out := census.left_out.get(name, 0)),
            "missing": census.samples - present - left_out - census.left_out.get("", 0),
        }
        for split, census in censuses.items()
        if census.samples
        for name in config.modalities
    ]


def plain_notes(census: Census) -> list[dict[str, str]]:
    """Returns notes as a set of samples keeps them."""
    return [asdict(note) for note in census.notes]


def _census_of_store(folder: Path) -> Census:
    try:
        return StoreIndex.read(folder).census
    except ValueError:
        return Census()


def _census_of_set(samples: SampleSet) -> Census:
    present = {name: len(column.index) for name, column in samples.columns.items()}
    notes = tuple(Note(**note) for note in samples.notes)
    return Census(samples.size, present, notes)

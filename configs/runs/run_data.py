"""Samples as a run's model sees them: of the run's own data, or of any other."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from configs.command_line import parse_command_line
from configs.runs.survey import CHUNK, plain_notes
from configs.schema import RunConfig
from data_pipeline.census import Census
from data_pipeline.crops import TransformedSource
from data_pipeline.sources.kinds import NoData
from data_pipeline.sources.source import Sample, max_damaged_of
from fourm.any2any import Any2Any
from fourm.run_directory.sample_set import SampleSet
from tokenizers.spread import evenly_spread


def config_of(run: Path, words: Sequence[str]) -> RunConfig:
    """Returns the configuration whose data are meant.

    Args:
        run: Run directory, whose own data they are unless the words say otherwise.
        words: `[PRESET | FILE.py | FOLDER] [KIND] [--knob value ...]` as after `python train.py`;
            a kind or knobs alone are those of the run.

    Raises:
        ValueError: If there are no data.
    """
    words = list(words)
    is_other = bool(words) and (words[0].endswith(".py") or Path(words[0]).expanduser().exists())
    config = parse_command_line(words if is_other else [str(run), *words])[0]
    if isinstance(config.data, NoData):
        raise ValueError(f"{run} has no data of its own; name a kind and its --data knobs.")
    return config


def open_split(
    model: Any2Any, config: RunConfig, split: str, names: Sequence[str]
) -> TransformedSource:
    """Opens a split, cut in the middle to the sizes that the run's tokenizers read.

    Args:
        model: The run.
        config: With the data; modalities that the run does not have are as it says.
        split: Of the data.
        names: Modalities that are read.

    Raises:
        ValueError: One sentence, if there is no such split or modality.
    """
    values, sizes = {}, {}
    for name in names:
        if name in model.tokenizers:
            values[name] = model.tokenizers[name].values
            size = getattr(model.tokenizers[name], "picture_size", None)
            sizes[name] = size or config.sizes.get(name, config.crops.shape)
        elif name in config.modalities:
            values[name], sizes[name] = config.modalities[name].values, config.sizes[name]
        else:
            known = dict.fromkeys([*model.tokenizers, *config.modalities])
            raise ValueError(f"There is no modality {name!r}; there are {', '.join(known)}.")
    if split not in config.data.splits:
        told = ", ".join(config.data.splits)
        raise ValueError(f"The data have no split {split!r}; they have {told}.")
    data, asked = config.data, getattr(config.data, "modalities", None)
    if isinstance(asked, dict):  # Of files, only what is read has to be there.
        data = replace(data, modalities={name: asked[name] for name in names if name in asked})
    return config.crops.apply(data.open(split), values, sizes, config.seed, with_views=False)


def read_in_chunks(
    source: TransformedSource, indices: Int[np.ndarray, "samples"], told: str
) -> Iterator[tuple[Int[np.ndarray, "chunk"], list[Sample]]]:
    """Yields samples, some at a time, with their indices."""
    with tqdm(total=len(indices), desc=told, unit="sample", dynamic_ncols=True) as bar:
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            yield chunk, source.__getitems__(chunk.tolist())
            bar.update(len(chunk))


def read_set(
    source: TransformedSource, config: RunConfig, split: str, most: int, names: Sequence[str]
) -> SampleSet:
    """Returns samples of a split, at most so many, evenly spread.

    Raises:
        TooDamagedError: If more values can't be used than may be.
    """
    indices = evenly_spread(len(source), most)
    samples = [each for _, chunk in read_in_chunks(source, indices, split) for each in chunk]
    census = Census.of(samples)
    census.check(max_damaged_of(config.data), f"the split {split}")
    return SampleSet.collect(samples, list(names), plain_notes(census))

"""Folders as people have them: files to put into them, and what is made of the whole."""

from pathlib import Path

import numpy as np
from PIL import Image

from configs.from_folder.infer import config_from_folder
from configs.from_folder.source_code import to_source
from configs.schema import RunConfig
from data_pipeline.sources.source import NO_MODALITIES, NOTES

RANDOM = np.random.default_rng(0)


def save(file: Path, array: np.ndarray) -> np.ndarray:
    """Writes a picture, or an array if the name ends in npy; returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npy":
        np.save(file, array)
    else:
        Image.fromarray(array).save(file)
    return array


def write(file: Path, text: str) -> None:
    """Writes a text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def colors(height: int = 40, width: int = 56) -> np.ndarray:
    """Returns a picture of random colours."""
    return RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)


def infer(root: Path, damaged: int = 0) -> tuple[RunConfig, list[str]]:
    """Returns the configuration of data, and what is said of it.

    The file that is written must be the same configuration, and every value of every sample must be
    what its modality allows, but for so many that are damaged.
    """
    config, told = config_from_folder(root)
    scope: dict = {}
    exec(compile(to_source(config, "Inferred."), "config.py", "exec"), scope)
    assert scope["config"] == config
    config.check()
    seen, notes = set(), []
    values = {name: each.values for name, each in config.modalities.items()}
    for split in config.data.splits:
        opened = config.data.open(split)
        source = config.crops.apply(opened, values, config.sizes, config.seed, split == "train")
        assert len(source)
        for index in range(len(source)):
            sample = source[index]
            seen |= set(sample)
            notes += [
                note for note in sample.get(NOTES, []) if note.kind in ("unreadable", "unusable")
            ]
    assert seen - set(NO_MODALITIES) == set(config.modalities)
    assert len(notes) == damaged, notes
    assert len(told) >= len(config.modalities)
    return config, told


def kinds(config: RunConfig) -> dict[str, str]:
    """Returns the kind of each modality by its name."""
    return {name: type(each.values).__name__ for name, each in config.modalities.items()}


def samples(config: RunConfig) -> dict[str, dict]:
    """Returns all samples of all splits by their keys."""
    sources = [config.data.open(split) for split in config.data.splits]
    return {key: source[index] for source in sources for index, key in enumerate(source.keys)}

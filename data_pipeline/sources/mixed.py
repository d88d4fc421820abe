"""Several data sets as one, each drawn from by a weight; some may lack modalities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from data_pipeline.sources.source import (
    METADATA,
    NOTES,
    DataConfig,
    MayBeDamaged,
    Note,
    Sample,
    Source,
    file_of,
    key_of,
    notes_of,
    state_of,
)
from tokenizers.settings.checked import name_knob

MAX_REPEATS = 1000
"""How often a sample may be in one epoch."""


@dataclass(frozen=True)
class MixedData(MayBeDamaged):
    """Several data sets. A modality that one of them lacks is absent from its samples.

    Without weights, a split is the samples of all of them, one after the other. With weights, the
    training split has every sample at least once, and those of data sets with more weight than
    samples several times, each as often as the others of its data set or once more. Other splits
    have every sample once.
    """

    sources: dict[str, DataConfig] = field(default_factory=dict)
    """The data sets, by names of your own, which stand in front of their samples' keys."""
    weights: dict[str, float] = field(default_factory=dict)
    """Share of each data set in the training samples, in proportion; their sizes if empty."""
    num_train: int = 0
    """Training samples of an epoch. 0: as many as it takes to have every sample. With fewer, a
    data set with little weight has some of its samples in it, the same in every epoch."""
    seed: int = 0
    """Another number chooses other samples where not all are in, or not equally often."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if not self.sources:
            raise ValueError(f"{name_knob(knob, 'sources')} is empty; name at least one data set.")
        if self.weights and set(self.weights) != set(self.sources):
            raise ValueError(
                f"{name_knob(knob, 'weights')} is of {', '.join(self.weights)}; the data sets are "
                f"{', '.join(self.sources)}, and each has one."
            )
        for name, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"{name_knob(knob, 'weights')}.{name} is {weight}; it must be positive and "
                    "finite."
                )
        if self.num_train < 0 or self.seed < 0:
            raise ValueError(
                f"{name_knob(knob, 'num_train')} is {self.num_train} and "
                f"{name_knob(knob, 'seed')} {self.seed}; neither may be negative."
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits that any of the data sets has."""
        return tuple(dict.fromkeys(name for each in self.sources.values() for name in each.splits))

    def open(self, split: str) -> "MixedSource":
        """Returns one split, of those data sets that have it.

        Raises:
            ValueError: If none has it, or one of them can't be opened.
        """
        if split not in self.splits:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(self.splits)}.")
        opened = {}
        for name, data in self.sources.items():
            if split in data.splits:
                try:
                    opened[name] = data.open(split)
                except ValueError as error:
                    raise ValueError(f"The data set {name} can't be used: {error}") from error
        sizes = [len(source) for source in opened.values()]
        if split != "train" or not (self.weights or self.num_train):
            return MixedSource(opened, sizes, self.seed)
        weights = [self.weights.get(name, size) for name, size in zip(opened, sizes, strict=True)]
        return MixedSource(opened, _counts(sizes, weights, self.num_train), self.seed)


def _counts(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """Returns how many samples of each data set an epoch has."""
    shares = np.array(weights) / sum(weights)
    filled = np.array(sizes) > 0
    wanted = total or max(np.array(sizes)[filled] / shares[filled], default=0)
    counts = np.where(filled, np.maximum(1, np.round(wanted * shares)), 0).astype(int)
    repeats = counts / np.maximum(sizes, 1)
    if repeats.max(initial=0) > MAX_REPEATS:
        raise ValueError(
            f"With these weights, samples of one data set would be in an epoch "
            f"{repeats.max():.0f} times; at most {MAX_REPEATS} is allowed. Set data.num_train or "
            "other data.weights."
        )
    return counts.tolist()


class MixedSource:
    """One split of a `MixedData`.

    Attributes:
        metadata_names: Of every fact that has them: the name of each number, in all data sets.
        notes: Of all data sets, on what is not used.
    """

    def __init__(self, sources: dict[str, Source], counts: Sequence[int], seed: int):
        self._names, self._sources = list(sources), list(sources.values())
        self._starts = np.cumsum([0, *counts])
        self._further = [
            _chosen(len(source), count % max(1, len(source)), seed, number)
            for number, (source, count) in enumerate(zip(self._sources, counts, strict=True))
        ]
        own = [getattr(source, "metadata_names", {}) for source in self._sources]
        self.metadata_names: dict[str, tuple[str, ...]] = {}
        for names in own:
            for fact, words in names.items():
                known = self.metadata_names.get(fact, ())
                self.metadata_names[fact] = tuple(dict.fromkeys((*known, *words)))
        # A number stands for a word of its own data set.
        self._numbers = [
            {fact: [self.metadata_names[fact].index(word) for word in words]
             for fact, words in names.items()}
            for names in own
        ]  # fmt: skip
        self.notes = [
            self._named(number, note)
            for number, source in enumerate(self._sources)
            for note in notes_of(source)
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def keys(self) -> list[str]:
        """Names of the samples; of those that are in more than once, further ones have a number."""
        keys = []
        for index in range(len(self)):
            number, inner, repeat = self._place(index)
            key = f"{self._names[number]}/{key_of(self._sources[number], inner)}"
            keys.append(f"{key} (repeat {repeat})" if repeat else key)
        return keys

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Returns several samples; those of one data set are asked for together."""
        places = [self._place(int(index)) for index in indices]
        samples: list[Sample] = [{}] * len(places)
        for number in sorted({number for number, _, _ in places}):
            rows = [row for row, place in enumerate(places) if place[0] == number]
            inner = [places[row][1] for row in rows]
            read = self._sources[number].__getitems__(inner)
            for row, sample in zip(rows, read, strict=True):
                samples[row] = self._as_ours(number, sample)
        return samples

    def file_of(self, index: int, modality: str) -> str:
        """Returns where a value is stored; empty if its data set can't tell."""
        number, inner, _ = self._place(index)
        return file_of(self._sources[number], inner, modality)

    def state_of(self, index: int) -> str:
        """Returns a text that is another one if a file of a sample has changed."""
        number, inner, _ = self._place(index)
        return state_of(self._sources[number], inner)

    def _place(self, index: int) -> tuple[int, int, int]:
        """Returns the data set of a sample, its index there, and how often it was in before."""
        if not 0 <= index < len(self):
            raise IndexError(f"Index {index} is not in [0, {len(self)}).")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        repeat, inner = divmod(index - int(self._starts[number]), len(self._sources[number]))
        count = int(self._starts[number + 1] - self._starts[number])
        if repeat == count // len(self._sources[number]):
            inner = int(self._further[number][inner])
        return number, inner, repeat

    def _as_ours(self, number: int, sample: Sample) -> Sample:
        changed: dict[str, Any] = {}
        if METADATA in sample:
            numbers = self._numbers[number]
            changed[METADATA] = {
                fact: numbers[fact][int(value)] if fact in numbers else value
                for fact, value in sample[METADATA].items()
            }
        if NOTES in sample:
            changed[NOTES] = [self._named(number, note) for note in sample[NOTES]]
        return {**sample, **changed}

    def _named(self, number: int, note: Note) -> Note:
        return replace(note, key=f"{self._names[number]}/{note.key}") if note.key else note


def _chosen(size: int, count: int, seed: int, number: int) -> Int[np.ndarray, "count"]:
    """Returns which samples are in once more than others, in order."""
    if not count:
        return np.zeros(0, np.int64)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number])))
    return np.sort(random.permutation(size)[:count])

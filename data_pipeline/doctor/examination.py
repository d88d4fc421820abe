"""Reads some samples of a data set and says what there is, what is damaged and what is odd."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.census import Census
from data_pipeline.crops import TransformedSource
from data_pipeline.doctor.doubles import Twin, find_twins
from data_pipeline.doctor.statistics import Findings, describe
from data_pipeline.sources.source import NO_MODALITIES, Note, Sample, key_of, notes_of
from tokenizers.base import AUGMENTED, Choices, Values
from tokenizers.spread import evenly_spread

CHUNK = 64
"""Samples read at once."""
SHOWN = 4
"""Samples of a split that are drawn."""


@dataclass(frozen=True)
class SplitHealth:
    """What was found of one split."""

    split: str
    samples: int
    """In the split."""
    census: Census
    """Of the samples that were read."""
    combinations: dict[tuple[str, ...], int]
    """How many of those have exactly these modalities, the commonest first."""
    findings: dict[str, Findings]
    """By modality."""
    shown: list[tuple[str, Sample]]
    """Key and cut values of some samples, in each of their first two views,
    and what of a view is changed where it is shown."""


@dataclass(frozen=True)
class Health:
    """What was found of a data set."""

    splits: list[SplitHealth]
    twins: list[Twin] = field(default_factory=list)
    """Samples that share what should be their own."""
    notes: dict[str, list[Note]] = field(default_factory=dict)
    """By split, what is to be said of files and values."""


def examine(
    sources: Mapping[str, TransformedSource],
    values: Mapping[str, Values],
    settings: Mapping[str, Any],
    num_samples: int,
    progress: Callable[[int], None] = lambda samples: None,
) -> Health:
    """Returns what some samples of every split look like.

    Args:
        sources: By split.
        values: By modality.
        settings: Of each modality's tokenizer.
        num_samples: How many samples of a split to read, evenly spread; 0 for all.
        progress: Called with the number of samples that were read since the last call.
    """
    splits, notes = [], {}
    kept: dict[str, list[tuple[str, Sample]]] = {}
    seen: dict[Note, None] = {}
    for split, source in sources.items():
        originals = evenly_spread(len(source.source), num_samples or len(source.source)).tolist()
        raw: dict[str, list[Any]] = {name: [] for name in values}
        checked: list[tuple[int, Sample]] = []
        for start in range(0, len(originals), CHUNK):
            chunk = originals[start : start + CHUNK]
            for original, sample in zip(chunk, source.read(chunk), strict=True):
                for name in values:
                    if name in sample:
                        raw[name].append(sample[name])
                checked.append((original, source.check(sample, original)))
            progress(len(chunk))
        own = [n for n in notes_of(source.source) if n not in seen]
        seen.update(dict.fromkeys(own))
        census = Census.of([sample for _, sample in checked], own)
        notes[split] = list(census.notes)
        kept[split] = [(key_of(source.source, index), _own(sample)) for index, sample in checked]
        having = Counter(tuple(sorted(sample)) for _, sample in kept[split])
        splits.append(
            SplitHealth(
                split,
                len(source.source),
                census,
                dict(having.most_common()),
                {
                    name: describe(
                        name,
                        values[name],
                        raw[name],
                        [sample[name] for _, sample in checked if name in sample],
                        settings.get(name),
                    )
                    for name in values
                },
                _views(source, checked),
            )
        )
    pictures = [name for name in values if _has_pictures(kept, name)]
    return Health(splits, find_twins(kept, pictures), notes)


def _views(
    source: TransformedSource, checked: list[tuple[int, Sample]]
) -> list[tuple[str, Sample]]:
    usable = [entry for entry in checked if _own(entry[1])]
    chosen = [usable[row] for row in evenly_spread(len(usable), SHOWN).tolist()] if usable else []
    shown = []
    for original, _ in chosen:
        for view in range(min(source.views, 2)):
            index = original * source.views + view
            key = key_of(source.source, original) + (f", view {view}" if view else "")
            seen = source[index]  # Read again: it may show a patch of another sample.
            shown.append((key, _own(seen)))
            if AUGMENTED in seen:
                shown.append((f"{key}, as it is shown", seen[AUGMENTED]))
    return shown


def _own(sample: Sample) -> Sample:
    return {name: value for name, value in sample.items() if name not in NO_MODALITIES}


def _has_pictures(kept: Mapping[str, list[tuple[str, Sample]]], name: str) -> bool:
    for samples in kept.values():
        for _, sample in samples:
            if name in sample:
                value = sample[name]
                is_array = isinstance(value, np.ndarray) and not isinstance(value, Choices)
                return is_array and value.ndim == 3 and min(value.shape[:2]) > 8
    return False

"""How many values a data set has, and which of them its samples have to do without."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_pipeline.sources.source import METADATA, NO_MODALITIES, NOTES, Note, Sample
from tokenizers.storage.unfinished import write_file

TOLD = 3
"""Damaged values that an error names; a file lists all."""


class TooDamagedError(ValueError):
    """More values of a data set are damaged than may be.

    Attributes:
        census: Of the samples that were read.
    """

    def __init__(self, message: str, census: "Census"):
        super().__init__(message)
        self.census = census


@dataclass(frozen=True)
class Census:
    """What some samples have."""

    samples: int = 0
    """How many there are; views of one sample are one."""
    present: dict[str, int] = field(default_factory=dict)
    """By modality, how many of them have a value that can be used."""
    notes: tuple[Note, ...] = ()
    """What is to be said of single values."""

    @classmethod
    def of(cls, samples: Sequence[Sample], notes: Iterable[Note] = ()) -> "Census":
        """Counts raw samples, none of them twice.

        Args:
            samples: As a source gives them.
            notes: What else is to be said.
        """
        present = Counter(
            name for sample in samples for name in sample if name not in NO_MODALITIES
        )
        own = [note for sample in samples for note in sample.get(NOTES, ())]
        return cls(len(samples), dict(sorted(present.items())), (*notes, *own))

    def __add__(self, other: "Census") -> "Census":
        present = Counter(self.present) + Counter(other.present)
        notes = tuple(dict.fromkeys(self.notes + other.notes))
        return Census(self.samples + other.samples, dict(sorted(present.items())), notes)

    @property
    def left_out(self) -> dict[str, int]:
        """By modality, how many values were left out; under "" whole samples."""
        return dict(Counter(note.modality for note in self.notes if note.leaves_out))

    def check(self, max_damaged: float, where: str) -> None:
        """Checks that few enough values were left out.

        Args:
            max_damaged: Share of a modality's values that may be; a single one may unless it is 0.
            where: Which samples these are, for the message, such as "the split train".

        Raises:
            TooDamagedError: If there are more.
        """
        for name, count in self.left_out.items():
            # Of facts, and of whole samples, there is one for each sample.
            is_value = name and not name.startswith(f"{METADATA} ")
            total = self.present.get(name, 0) + count if is_value else self.samples
            if count > math.ceil(max_damaged * total):
                told = [note for note in self.notes if note.leaves_out and note.modality == name]
                reasons = "; ".join(note.reason.rstrip(".") for note in told[:TOLD])
                more = f"; and {count - TOLD:,} more" if count > TOLD else ""
                what = f"values of {name}" if name else "samples"
                raise TooDamagedError(
                    f"{count:,} of {total:,} {what} in {where} can't be used: {reasons}{more}. "
                    f"Repair or remove them, or raise --data.max-damaged, now {max_damaged:g}.",
                    self,
                )

    def say_left_out(self) -> str:
        """Returns a sentence on what was left out or mended; empty if nothing was."""
        kinds = Counter((note.kind, note.modality) for note in self.notes)
        left_out = sum(self.left_out.values())
        total = sum(self.present.values()) + left_out
        told = [
            f"{count:,} {kind} {name or 'samples'}"
            for (kind, name), count in sorted(kinds.items(), key=lambda entry: -entry[1])
        ]
        if not told:
            return ""
        return f"{left_out:,} of {total:,} values were left out; noted: {', '.join(told)}."


def write_notes(file: Path, by_split: Mapping[str, Iterable[Note]]) -> None:
    """Writes all notes, a line of JSON for each; no file if there are none."""
    lines = [
        json.dumps({"split": split, **asdict(note)}, ensure_ascii=False)
        for split, notes in by_split.items()
        for note in notes
    ]
    if lines:
        write_file(file, "".join(f"{line}\n" for line in lines).encode())
    else:
        file.unlink(missing_ok=True)

"""Raw samples kept in the run directory, so that it alone reproduces the run's numbers."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from tokenizers.base import REFERENCES, Boxes, Choices, Instances, RawBatch
from tokenizers.spread import evenly_spread, take_rows
from tokenizers.storage.folders import load_folder, save_folder
from tokenizers.storage.pieces import check_pieces, record_pieces
from tokenizers.storage.run_paths import HELDOUT

TRAINING = "train_reference"
"""Name of the set of training samples from which floors and probes are fitted."""

MOST_SAMPLES = 10**7
"""Samples that a set may have: far more than anyone keeps, and their numbers fit into memory."""


class Column(NamedTuple):
    """One modality, or one fact, of those samples that have it.

    Attributes:
        index: Which samples of the set these are, ascending.
        values: Their values in that order.
    """

    index: Int[np.ndarray, "present"]
    values: RawBatch


@dataclass(frozen=True)
class SampleSet:
    """Raw values of a number of samples, of which any may lack any modality."""

    size: int
    """Number of samples."""
    columns: dict[str, Column]
    """By modality."""
    metadata: dict[str, Column]
    """Facts for probing, by name: numbers or short strings."""
    references: dict[str, Column] = field(default_factory=dict)
    """All texts of samples that have several of a modality, as `Choices`; the first one is the
    sample's value."""
    notes: tuple[dict[str, str], ...] = ()
    """What is to be said of single values, such as why they were left out."""

    @classmethod
    def collect(
        cls,
        samples: Sequence[Mapping[str, Any]],
        modalities: Sequence[str],
        notes: Sequence[dict[str, str]] = (),
    ) -> "SampleSet":
        """Gathers raw samples, as a data source gives them, by modality.

        Args:
            samples: Values by modality name and, under "metadata", facts by name; under
                `REFERENCES` all texts by modality, as `Choices`, where there are several. What a
                sample lacks has no key. Arrays of a modality have one shape, or differ in length
                alone.
            modalities: What to keep.
            notes: What is to be said of single values.
        """
        facts = [sample.get("metadata", {}) for sample in samples]
        names = dict.fromkeys(name for each in facts for name in each)
        return cls(
            size=len(samples),
            columns={name: _column(samples, name) for name in modalities},
            metadata={name: _column(facts, name) for name in names},
            references=_references(samples, modalities),
            notes=tuple(notes),
        )

    def rows(self, modalities: Sequence[str]) -> Int[np.ndarray, "rows"]:
        """Returns which samples have all of these modalities, ascending.

        Raises:
            ValueError: If a modality is not kept at all.
        """
        rows = np.arange(self.size)
        for name in modalities:
            if name not in self.columns:
                raise ValueError(
                    f"No samples of the modality {name!r} were kept; there are "
                    f"{', '.join(self.columns)}."
                )
            rows = np.intersect1d(rows, self.columns[name].index)
        return rows

    def spread_rows(self, most: int, of_each: int) -> Int[np.ndarray, "rows"]:
        """Returns samples evenly spread over the set, ascending, in which no modality is missing.

        Args:
            most: How many, if every modality is in so many of them.
            of_each: How many samples at least are to have each modality, if there are so many;
                those that are missing are added, evenly spread over those that have it.
        """
        rows = evenly_spread(self.size, most)
        for name in self.columns:
            known = self.rows([name])
            if np.isin(rows, known).sum() < min(of_each, len(known)):
                rows = np.union1d(rows, known[evenly_spread(len(known), of_each)])
        return rows

    def take(self, modality: str, rows: Int[np.ndarray, "rows"]) -> RawBatch:
        """Returns the values of samples that all have the modality."""
        return _take(self.columns[modality], rows)

    def take_all(self, modality: str, rows: Int[np.ndarray, "rows"]) -> RawBatch:
        """Returns what a prediction is compared with: `Choices` where a sample has several texts.

        Otherwise the same as `take`.
        """
        values = self.take(modality, rows)
        several = self.references.get(modality)
        if several is None:
            return values
        by_sample = dict(zip(several.index.tolist(), several.values, strict=True))
        return [by_sample.get(int(row), value) for row, value in zip(rows, values, strict=True)]

    def labels(self, fact: str, rows: Int[np.ndarray, "rows"]) -> np.ndarray:
        """Returns a fact of samples that all have it."""
        return np.asarray(_take(self.metadata[fact], rows))

    def save(self, folder: Path) -> None:
        """Writes the samples into `folder`, compressed, whole or not at all."""
        files, columns = {}, []
        for number, (name, column) in enumerate(self.columns.items()):
            kind, files[f"modality-{number}"] = _pack(column, name)
            columns.append({"name": name, "kind": kind})
        arrays = {}
        for name, column in self.metadata.items():
            arrays[f"index/{name}"] = column.index
            arrays[f"values/{name}"] = np.asarray(column.values)
        description = {"size": self.size, "modalities": columns}
        if self.references:
            description["references"] = [
                {"name": name, "index": column.index.tolist(), "values": list(column.values)}
                for name, column in self.references.items()
            ]
        if self.notes:
            description["notes"] = list(self.notes)
        save_folder(folder, description, arrays, files)

    @classmethod
    def load(cls, folder: Path) -> "SampleSet":
        """Returns what `save` wrote.

        Raises:
            ValueError: One sentence, if the folder is absent or damaged.
        """
        description, arrays, files = load_folder(folder)
        try:
            size, entries = description["size"], description["modalities"]
            if type(size) is not int or not 0 <= size <= MOST_SAMPLES:
                raise ValueError(f"its size is {size!r}, which must be 0 to {MOST_SAMPLES}")
            facts = [name.removeprefix("index/") for name in arrays if name.startswith("index/")]
            samples = cls(
                size=size,
                columns={
                    entry["name"]: _unpack(entry["kind"], files[f"modality-{number}"])
                    for number, entry in enumerate(entries)
                },
                metadata={
                    name: Column(arrays[f"index/{name}"], arrays[f"values/{name}"])
                    for name in facts
                },
                references={
                    entry["name"]: Column(
                        np.array(entry["index"], np.int32), list(map(Choices, entry["values"]))
                    )
                    for entry in description.get("references", ())
                },
                notes=tuple(description.get("notes", ())),
            )
            samples._check()
        except (LookupError, TypeError, AttributeError, ValueError, OSError) as error:
            raise ValueError(
                f"The samples in {folder} can't be used ({type(error).__name__}: {error}); put "
                "them back, or delete that folder: python train.py reads them from the data again."
            ) from error
        return samples

    def _check(self) -> None:
        """Raises ValueError if the sizes and numbers of the samples don't fit each other."""
        for note in self.notes:
            if not isinstance(note, dict) or not all(isinstance(n, str) for n in note.values()):
                raise ValueError(f"it has the note {note!r}")
        for name, several in self.references.items():
            if name not in self.columns or not all(
                each and all(isinstance(text, str) for text in each) for each in several.values
            ):
                raise ValueError(f"its several texts of {name} are not texts of a modality")
        columns = (self.columns, self.metadata, self.references)
        for name, (index, values) in (item for each in columns for item in each.items()):
            is_ascending = index.ndim == 1 and (np.diff(index) > 0).all()
            if not is_ascending or len(index) != len(values):
                raise ValueError(f"its values of {name} are not one for each sample")
            if len(index) and not 0 <= index[0] <= index[-1] < self.size:
                raise ValueError(f"it has {self.size} samples, and values of {name} beyond them")


def save_heldout(run: Path, split: str, samples: SampleSet) -> None:
    """Keeps raw samples of a split, or of `TRAINING`, in a run directory."""
    samples.save(Path(run) / HELDOUT / split)


def load_heldout(run: Path, split: str) -> SampleSet:
    """Returns what `save_heldout` kept.

    Raises:
        ValueError: If nothing was kept of this split; the sentence names those that there are. If
            what is there is damaged, or was kept by another run.
    """
    folder = Path(run) / HELDOUT
    if not (folder / split).is_dir():
        found = sorted(
            path.name for path in folder.glob("[!.]*") if path.is_dir() and path.name != TRAINING
        )
        have = ", ".join(found) or (
            f"none at all: python train.py {run} files --data.path PATH --training.steps 0 "
            "measures its model on data"
        )
        raise ValueError(f"{run} keeps no samples of a split {split!r}; it has {have}.")
    check_pieces(run, [piece := f"{HELDOUT}/{split}"])
    samples = SampleSet.load(folder / split)
    record_pieces(run, [piece])
    return samples


def _column(samples: Sequence[Mapping[str, Any]], name: str) -> Column:
    index = np.array([i for i, sample in enumerate(samples) if name in sample], np.int32)
    values: Any = [samples[i][name] for i in index]
    if values and not isinstance(values[0], str | Boxes | Instances):
        shapes = {np.shape(value) for value in values}
        # Only lengths may differ: of sequences of ids, and of vectors.
        is_ragged = {len(shape) for shape in shapes} in ({1}, {2})
        if len(shapes) > 1 and not (is_ragged and len({shape[1:] for shape in shapes}) == 1):
            raise ValueError(
                f"Samples of {name} have different shapes, such as {sorted(shapes)[:2]}; "
                "crop them to one size first."
            )
        values = np.asarray(values) if len(shapes) == 1 else list(map(np.asarray, values))
    return Column(index, values)


def _references(
    samples: Sequence[Mapping[str, Any]], modalities: Sequence[str]
) -> dict[str, Column]:
    several = [sample.get(REFERENCES, {}) for sample in samples]
    found = {}
    for name in modalities:
        index = [i for i, each in enumerate(several) if name in each]
        if index:
            found[name] = Column(np.array(index, np.int32), [several[i][name] for i in index])
    return found


def _take(column: Column, rows: Int[np.ndarray, "rows"]) -> RawBatch:
    return take_rows(column.values, np.searchsorted(column.index, rows))


def _pack(column: Column, name: str) -> tuple[str, bytes]:
    """Returns how a modality is stored, and its bytes."""
    values, index = column.values, column.index
    if isinstance(values, np.ndarray):
        return "array", _npz(index=index, values=values)
    if values and isinstance(values[0], Boxes):
        corners, classes = (np.concatenate(parts) for parts in zip(*values, strict=True))
        counts = np.array([len(boxes.classes) for boxes in values], np.int32)
        return "boxes", _npz(index=index, corners=corners, classes=classes, counts=counts)
    if values and isinstance(values[0], Instances):
        parts = (np.concatenate(each) for each in zip(*values, strict=True))
        fields = dict(zip(Instances._fields, parts, strict=True))
        counts = np.array([[len(each.points), len(each.classes)] for each in values], np.int32)
        return "instances", _npz(index=index, counts=counts, **fields)
    if values and isinstance(values[0], np.ndarray):
        lengths = np.array([len(value) for value in values], np.int32)
        return "arrays", _npz(index=index, values=np.concatenate(values), lengths=lengths)
    if all(isinstance(value, str) for value in values):
        record = {"index": index.tolist(), "values": list(values)}
        return "text", json.dumps(record).encode()
    raise ValueError(
        f"Samples of {name} are of type {type(values[0]).__name__}; arrays, numbers, text, "
        "Boxes and Instances can be kept."
    )


def _unpack(kind: str, content: bytes) -> Column:
    match kind:
        case "text":
            record = json.loads(content)
            return Column(np.array(record["index"], np.int32), record["values"])
        case "array":
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return Column(arrays["index"], arrays["values"])
        case "arrays":
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                ends = np.cumsum(arrays["lengths"])[:-1]
                return Column(arrays["index"], np.split(arrays["values"], ends))
        case "boxes":
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                ends = np.cumsum(arrays["counts"])[:-1]
                parts = (np.split(arrays[name], ends) for name in ("corners", "classes"))
                boxes = [Boxes(*each) for each in zip(*parts, strict=True)]
                return Column(arrays["index"], boxes)
        case "instances":
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                points, things = np.cumsum(arrays["counts"], axis=0)[:-1].T
                ends = {"points": points, "lengths": things, "classes": things}
                parts = (np.split(arrays[name], ends[name]) for name in Instances._fields)
                found = [Instances(*each) for each in zip(*parts, strict=True)]
                return Column(arrays["index"], found)
    raise ValueError(f"Samples of kind {kind!r} are not known; the run is of a newer version.")


def _npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()

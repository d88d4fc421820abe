"""What is to be read off features: a label of the samples, how it is told and how it is scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from fourm.evaluation.probing.linear import Kind
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import Better, RawBatch, Values, main_metric
from tokenizers.boxes import BoxList
from tokenizers.labels import Label
from tokenizers.scalars import Scalar
from tokenizers.spread import evenly_spread, take_rows
from tokenizers.values.dense import DenseValues

ReadAs = Literal["auto", "class", "number"]
"""How whole numbers are read: as classes, which is what `auto` takes them for, or as amounts."""


@dataclass(frozen=True)
class Task:
    """What is read, and how answers are scored."""

    name: str
    """A fact of the samples, or one of their modalities."""
    kind: Kind | Literal["map"]
    """One class, several labels, a number, or a value per pixel."""
    values: Values
    """What the answers mean."""
    metric: str
    """Which score."""
    better: Better
    """How it improves."""


class Labels(NamedTuple):
    """The labels of those samples that have one.

    Attributes:
        rows: int [labelled], which samples of the set these are, ascending.
        labels: int [labelled] of classes, bool [labelled, labels], float [labelled], or raw maps
            [labelled, y, x, ...].
    """

    rows: Int[np.ndarray, "labelled"]
    labels: np.ndarray


def find_task(
    name: str,
    training: SampleSet,
    heldout: SampleSet,
    values: Mapping[str, Values],
    read_as: ReadAs = "auto",
) -> tuple[Task, Labels, Labels]:
    """Returns what a label is, and the labels of training and held-out samples.

    A fact of words or whole numbers is a class, one of other numbers a number. Of modalities,
    labels are classes, scalars numbers, boxes are read as which classes occur, and maps as maps.

    Args:
        name: Of the label.
        training: Samples on which probes are fitted.
        heldout: Samples on which they are scored.
        values: What the modalities' values mean.
        read_as: How whole numbers are read.

    Raises:
        ValueError: One sentence, if there is no such label, or nothing can be learned of it.
    """
    sets = training, heldout
    is_fact = any(name in each.metadata for each in sets)
    if not is_fact and not all(name in each.columns for each in sets):
        facts = ", ".join(dict.fromkeys([*training.metadata, *heldout.metadata])) or "none"
        kept = ", ".join(training.columns) or "none"
        raise ValueError(
            f"There is no label {name!r}; the samples have the facts {facts} and the modalities "
            f"{kept}."
        )
    for each, told in zip(sets, ("training", "held-out"), strict=True):
        columns = each.metadata if is_fact else each.columns
        if name not in columns or not len(columns[name].index):
            raise ValueError(
                f"No {told} sample has a label {name!r}: the keys of labels and samples may not "
                "match; see the knobs of --data, such as --data.table and --data.key-column."
            )
    if is_fact:
        task, found = _of_fact(name, training, heldout, read_as)
    else:
        task, found = _of_modality(name, values[name], training, heldout)
    _check_learnable(task, *found)
    return task, *found


def _of_fact(
    name: str, training: SampleSet, heldout: SampleSet, read_as: ReadAs
) -> tuple[Task, tuple[Labels, Labels]]:
    columns = [each.metadata[name] for each in (training, heldout)]
    arrays = [np.asarray(column.values) for column in columns]
    if any(array.ndim != 1 for array in arrays):
        raise ValueError(
            f"The label {name!r} is an array of shape {arrays[0].shape[1:]}; a fact is one word or "
            "number."
        )
    is_word = arrays[0].dtype.kind in "US"
    if is_word and read_as == "number":
        raise ValueError(f"The label {name!r} is words, such as {arrays[0][0]!s}, and no number.")
    is_whole = is_word or all((array == np.round(array)).all() for array in arrays)
    if read_as == "number" or (read_as == "auto" and not is_whole):
        made = [array.astype(np.float64) for array in arrays]
        return Task(name, "number", Scalar(), "r2", "higher"), _pair(columns, made)
    classes = np.unique(arrays[0])
    if unseen := sorted(set(arrays[1].tolist()) - set(classes.tolist())):
        raise _unseen(name, unseen[0])
    _check_two(name, classes)
    values = Label(tuple(str(each) for each in classes.tolist()))
    made = [np.searchsorted(classes, array) for array in arrays]
    return Task(name, "class", values, "accuracy", "higher"), _pair(columns, made)


def _of_modality(
    name: str, values: Values, training: SampleSet, heldout: SampleSet
) -> tuple[Task, tuple[Labels, Labels]]:
    columns = [each.columns[name] for each in (training, heldout)]
    if isinstance(values, DenseValues):
        made = [np.asarray(column.values) for column in columns]
        return Task(name, "map", values, *main_metric(values)), _pair(columns, made)
    if isinstance(values, Scalar):
        made = [np.asarray(column.values, np.float64) for column in columns]
        return Task(name, "number", values, "r2", "higher"), _pair(columns, made)
    if isinstance(values, Label):
        dtype = bool if values.several else np.int64
        made = [np.asarray(column.values, dtype) for column in columns]
        kind = "several" if values.several else "class"
        return Task(name, kind, values, *main_metric(values)), _pair(columns, made)
    if isinstance(values, BoxList) and len(values.class_names) > 1:
        numbers = np.arange(len(values.class_names))
        made = [
            np.stack([np.isin(numbers, boxes.classes) for boxes in column.values])
            for column in columns
        ]
        flags = Label(values.class_names, several=True)
        return Task(name, "several", flags, *main_metric(flags)), _pair(columns, made)
    raise ValueError(
        f"The modality {name} is {type(values).__name__}, which no probe reads; labels, numbers, "
        "boxes of several classes and maps are allowed, and facts of the samples."
    )


def _pair(columns, made) -> tuple[Labels, Labels]:
    first, second = (
        Labels(np.asarray(column.index), labels)
        for column, labels in zip(columns, made, strict=True)
    )
    return first, second


def _check_learnable(task: Task, training: Labels, heldout: Labels) -> None:
    """Raises ValueError if training samples tell nothing, or not of what is asked."""
    if task.kind == "class":
        seen = np.unique(training.labels)
        _check_two(task.name, seen)
        if unseen := sorted(set(heldout.labels.tolist()) - set(seen.tolist())):
            raise _unseen(task.name, task.values.names[unseen[0]])
    if task.kind == "several":
        unseen = heldout.labels.any(axis=0) & ~training.labels.any(axis=0)
        if unseen.any():
            raise _unseen(task.name, task.values.names[int(unseen.argmax())])
        same = (training.labels == training.labels[0]).all()
        if same:
            raise ValueError(f"The label {task.name!r} is the same in all training samples.")
    if task.kind == "number" and training.labels.std() == 0:
        raise ValueError(
            f"The label {task.name!r} is {training.labels[0]:g} in all training samples; there is "
            "nothing to learn."
        )


def _check_two(name: str, classes: np.ndarray) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"The label {name!r} is {classes[0]!s} in all training samples; a probe needs at least "
            "2 classes: take more samples with --num-train, or another label."
        )


def _unseen(name: str, label: object) -> ValueError:
    return ValueError(
        f"The label {name!r} is {label!s} in held-out samples and in no training sample, so it "
        "can't be learned; take more samples with --num-train, or leave such samples out."
    )


def choose_few(task: Task, labels: np.ndarray, share: float, seed: int) -> Int[np.ndarray, "few"]:
    """Returns a share of training samples, at random, ascending; of every class at least one."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    if task.kind != "class":
        return np.sort(order[: max(2, round(share * len(labels)))])
    kept = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        kept.append(own[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(kept))


def score(task: Task, answers: RawBatch, truth: RawBatch) -> float:
    """Returns a task's score of answers."""
    return task.values.score(answers, truth)[task.metric]


def floor(task: Task, training: RawBatch, truth: RawBatch) -> float:
    """Returns what the best answer scores that ignores the samples."""
    return task.values.floor(training, truth)[task.metric]


def rows_with(samples: SampleSet, inputs: tuple[str, ...], labels: Labels, most: int) -> Labels:
    """Returns the labels of samples that have all inputs, at most so many, evenly spread."""
    has_both = np.flatnonzero(np.isin(labels.rows, samples.rows(inputs)))
    if not len(has_both):
        raise ValueError(
            f"No sample has both the label and {', '.join(inputs)}; the keys of labels and inputs "
            "may not match: see the knobs of --data."
        )
    chosen = has_both[evenly_spread(len(has_both), most)]
    return Labels(labels.rows[chosen], take_rows(labels.labels, chosen))

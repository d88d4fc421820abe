"""What a label is, and what is said of labels that can't be learned."""

import numpy as np
import pytest

from fourm.evaluation.probing.tasks import choose_few, find_task
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList
from tokenizers.labels import Label
from tokenizers.scalars import Scalar
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Distances

VALUES = {
    "depth": Distances(),
    "count": Scalar(),
    "tags": Label(("a", "b", "c"), several=True),
    "boxes": BoxList(("cube", "ball")),
    "caption": Text(),
}


def make_set(labels, **modalities) -> SampleSet:
    """A sample for each label, a fact or None for none, and values of modalities."""
    samples = []
    for row, label in enumerate(labels):
        facts = {} if label is None else {"fact": label}
        samples.append({"metadata": facts, **{name: of(row) for name, of in modalities.items()}})
    return SampleSet.collect(samples, list(modalities))


@pytest.mark.parametrize(
    ("labels", "read_as", "kind"),
    [
        (["cat", "dog", "cat"], "auto", "class"),
        ([1, 2, 1], "auto", "class"),
        ([1, 2, 1], "number", "number"),
        ([1.5, 2.0, 1.0], "auto", "number"),
    ],
)
def test_facts_are_classes_or_numbers(labels, read_as, kind):
    task, known, asked = find_task("fact", make_set([None, *labels]), make_set(labels), {}, read_as)
    assert task.kind == kind
    assert known.rows.tolist() == [1, 2, 3] and asked.rows.tolist() == [0, 1, 2]
    if kind == "class":
        assert known.labels.tolist() == [0, 1, 0]


def boxes_of(row: int) -> Boxes:
    corners = np.tile(np.float32([0.1, 0.1, 0.5, 0.5]), (row % 3, 1))
    return Boxes(corners, np.arange(row % 3, dtype=np.int32))


@pytest.mark.parametrize(
    ("name", "of", "kind"),
    [
        ("depth", lambda row: np.full((4, 4), 1.0 + row, np.float32), "map"),
        ("count", float, "number"),
        ("tags", lambda row: np.arange(3) <= row % 3, "several"),
        ("boxes", boxes_of, "several"),
    ],
)
def test_modalities_are_read_as_what_they_are(name, of, kind):
    samples = make_set([0] * 6, **{name: of})
    task, known, _ = find_task(name, samples, samples, VALUES)
    assert task.kind == kind and len(known.labels) == 6
    if name == "boxes":
        assert known.labels[:3].tolist() == [[False, False], [True, False], [True, True]]


@pytest.mark.parametrize(
    ("training", "heldout", "message"),
    [
        ([None, None], ["a", "b"], "No training sample has a label 'fact': the keys"),
        (["a", "b"], [None, None], "No held-out sample has a label 'fact': the keys"),
        (["a", "a"], ["a", "a"], "is a in all training samples; a probe needs at least 2 classes"),
        (["a", "b"], ["a", "c"], "'fact' is c in held-out samples and in no training sample"),
        ([1.5, 1.5], [1.5, 2.5], "is 1.5 in all training samples"),
    ],
)
def test_labels_that_cant_be_learned_get_one_sentence(training, heldout, message):
    with pytest.raises(ValueError, match=message):
        find_task("fact", make_set(training), make_set(heldout), {})


def test_what_is_no_label_is_said():
    samples = make_set(["a", "b"], caption=lambda row: "a text")
    with pytest.raises(ValueError, match="no label 'fakt'; the samples have the facts fact and"):
        find_task("fakt", samples, samples, VALUES)
    with pytest.raises(ValueError, match="caption is Text, which no probe reads"):
        find_task("caption", samples, samples, VALUES)
    with pytest.raises(ValueError, match="is words, such as a, and no number"):
        find_task("fact", samples, samples, VALUES, "number")


def test_few_labels_have_every_class_and_are_always_the_same():
    samples = make_set(["a"] * 90 + ["b"] * 10)
    task, known, _ = find_task("fact", samples, samples, {})
    few = choose_few(task, known.labels, 0.05, 0)
    assert known.labels[few].tolist() == [0, 0, 0, 0, 1]
    assert few.tolist() == choose_few(task, known.labels, 0.05, 0).tolist()
    assert len(choose_few(task, known.labels, 1.0, 0)) == 100

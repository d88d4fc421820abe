"""Tasks whose answers the test makes: what is exchanged is exactly what is said to be."""

import numpy as np
import pytest

from fourm.evaluation.config import LikelihoodTasks, RegionConfig
from fourm.evaluation.likelihood_tasks import (
    _per_cell,
    add_ceilings,
    format_tasks,
    measure_likelihoods,
    modalities_of,
    paste_objects,
    paste_windows,
    swap_texts,
)
from fourm.requests.regions import per_pixel
from fourm.run_directory.sample_set import SampleSet
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run


def test_a_share_of_texts_is_exchanged_for_others():
    texts = [CAPTIONS[number % 4] for number in range(40)]
    is_swapped, changed = swap_texts(texts, 0.2, seed=1)
    assert is_swapped.sum() == 8
    assert [a != b for a, b in zip(texts, changed, strict=True)] == is_swapped.tolist()
    assert swap_texts(texts, 0.2, seed=1)[1] == changed != swap_texts(texts, 0.2, seed=2)[1]
    assert swap_texts(["a", "b", "c"], 0.9, seed=0)[0].sum() == 2
    with pytest.raises(ValueError, match="all texts are equal"):
        swap_texts(["a", "a"], 0.5, seed=0)


def test_windows_of_others_are_pasted_and_only_what_changed_is_marked():
    pictures = np.zeros((6, 8, 12, 3), np.uint8)
    pictures[::2, :, :6] = 1
    changed, is_changed = paste_windows(pictures, (4, 6), seed=0)
    assert ((changed != pictures).any(-1) == is_changed).all() and is_changed.any()
    assert is_changed.sum(axis=(1, 2)).max() <= 2 * 2
    depth = np.full((3, 4, 4), np.nan, np.float32)
    assert not paste_windows(depth, (2, 2), seed=0)[1].any()
    with pytest.raises(ValueError, match="no other to take a piece from"):
        paste_windows(pictures[:1], (4, 6), seed=0)


def test_objects_of_others_are_pasted_at_their_places():
    pictures = np.stack([np.full((4, 6, 3), number, np.uint8) for number in range(5)])
    is_object = np.zeros((5, 2, 3), bool)
    is_object[:, 0, 1] = True
    changed, is_odd = paste_objects(pictures, is_object, seed=0)
    expected = np.zeros((4, 6), bool)
    expected[:2, 2:4] = True
    assert (is_odd == expected).all() and ((changed != pictures).any(-1) == is_odd).all()
    with pytest.raises(ValueError, match="no other to take an object from"):
        paste_objects(pictures[:1], is_object[:1], seed=0)


def test_a_pixel_has_what_its_token_has():
    cells = np.array([[[1, 2, 3], [4, 5, 6]]])
    assert per_pixel(cells, (4, 3))[0].tolist() == [[1, 2, 3]] * 2 + [[4, 5, 6]] * 2
    pixels = np.random.default_rng(0).random((3, 7, 5)) < 0.4
    counts = _per_cell(pixels, (2, 3))
    for row in range(2):
        for column in range(3):
            cell = np.zeros((1, 2, 3))
            cell[0, row, column] = 1
            here = per_pixel(cell, (7, 5))[0] > 0
            assert counts[:, row, column].tolist() == pixels[:, here].sum(axis=1).tolist()


def make_heldout(count):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 4, count)
    pictures = make_pictures(count)
    words = [CAPTIONS[number].split()[1] for number in numbers]
    samples = [
        {
            "rgb": picture,
            "caption": CAPTIONS[number],
            "metadata": {"kind": int(number % 2), "word": word, "other": word},
        }
        for number, picture, word in zip(numbers, pictures, words, strict=True)
    ]
    return SampleSet.collect(samples, ("rgb", "caption"))


@pytest.mark.slow
def test_every_task_has_its_rows_with_floor_interval_and_time():
    facts = {"kind": ("cube", "ball"), "word": ("red", "blue", "green")}
    facts |= {"shape": ("cube", "ball"), "other": ("red", "blue")}
    config = LikelihoodTasks(
        num_samples=12, zero_shot=facts, templates={"kind": ("a {}", "one {}")}
    )
    rows = measure_likelihoods(make_run(), make_heldout(12), config, RegionConfig())
    measured = [row for row in rows if "note" not in row]
    assert [row["task"] for row in measured] == [
        "swapped texts",
        *["retrieval"] * 12,
        "odd places",
        "zero-shot kind",
        "zero-shot word",
    ]
    for row in measured:
        assert 0 <= row["value"] <= 1 and row["samples"] == 12 and row["seconds"] >= 0
        low, high = row["interval"]
        assert low <= row["value"] <= high
    chance = [row["floor"] for row in measured if row["metric"] == "recall@5 of 12"]
    assert chance == [5 / 12] * 4
    notes = [row["note"] for row in rows if "note" in row]
    assert "there is no fact 'shape'; there are kind, word, other" in notes[0]
    assert "the fact other has the values ['green'] without a class" in notes[1]
    text = format_tasks(rows)
    assert len(text.splitlines()) == 1 + len(measured) and "recall@1 of 12" in text


@pytest.mark.slow
def test_modalities_are_found_or_named():
    run = make_run()
    assert modalities_of(run, LikelihoodTasks()) == ("caption", "rgb")
    assert modalities_of(run, LikelihoodTasks(shown="depth")) == ("caption", "depth")
    with pytest.raises(ValueError, match="no modality 'txt' in this run"):
        modalities_of(run, LikelihoodTasks(text="txt"))


@pytest.mark.parametrize("options", [{"num_samples": 1}, {"swapped": 0.0}, {"swapped": 1.0}])
def test_impossible_tasks_are_refused(options):
    with pytest.raises(ValueError, match="num_samples is"):
        LikelihoodTasks(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"templates": {"kind": ("a photograph",)}, "zero_shot": {"kind": ("a", "b")}},
            "every template needs a {}",
        ),
        ({"templates": {"kind": ("a {}",)}}, "every fact its classes in zero_shot"),
        ({"zero_shot": {"kind": ("a", "a")}}, "fewer than two classes for 'kind'"),
    ],
)
def test_facts_need_classes_and_templates_a_place_for_them(options, told):
    with pytest.raises(ValueError) as error:
        LikelihoodTasks(**options)
    assert told in str(error.value)


def test_a_fact_has_its_probe_as_ceiling_where_both_read_the_same():
    rows = [
        {"task": "zero-shot kind", "shown": "rgb", "fact": "kind"},
        {"task": "zero-shot word", "shown": "depth", "fact": "word"},
        {"task": "odd places"},
    ]
    probes = [{"task": "kind", "value": 0.9}, {"task": "word", "value": 0.8}]
    first, *others = add_ceilings(rows, probes, "rgb")
    assert first == {**rows[0], "ceiling": 0.9} and others == rows[1:]
    assert add_ceilings(rows, [{"task": "kind", "value": None}], "rgb") == rows

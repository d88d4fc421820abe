"""Simple methods that a model has to beat."""

import numpy as np
import pytest

from fourm.evaluation import rival_scores
from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.results import beats_rival, format_table
from fourm.evaluation.rivals import answer_simply
from fourm.run_directory.sample_set import SampleSet
from tests.fourm.fakes import FakeModel, make_set
from tokenizers.features import Vectors
from tokenizers.scalars import Scalar
from tokenizers.values import Classes, Directions, Reals

pytestmark = pytest.mark.slow

VALUES = {name: tokenizer.values for name, tokenizer in FakeModel().tokenizers.items()}


def answer(inputs: tuple[str, ...], target: str, training: SampleSet | None = None):
    heldout = make_set(12, seed=1)
    shown = {name: heldout.take(name, heldout.rows([name])) for name in inputs}
    found = answer_simply(shown, target, training or make_set(60), VALUES)
    truth = heldout.take(target, heldout.rows([target]))
    return found.method, VALUES[target].score(found.predicted, truth)


@pytest.mark.parametrize(
    ("inputs", "target", "method"),
    [
        (("rgb",), "semseg", "forest"),
        (("rgb", "semseg"), "depth", "forest"),
        (("depth",), "rgb", "forest"),
        (("rgb",), "caption", "nearest"),
        (("caption",), "rgb", "nearest"),
        (("rgb", "caption"), "boxes", "nearest"),
        (("boxes",), "depth", "nearest"),
    ],
)
def test_what_every_modality_says_is_found(inputs, target, method):
    found, scores = answer(inputs, target)
    assert found == method
    training = make_set(60)
    truth = make_set(12, seed=1).take(target, np.arange(12))
    floor = VALUES[target].floor(training.take(target, np.arange(60)), truth)
    for name, better in VALUES[target].metrics.items():
        gain = (scores[name] - floor[name]) * (1 if better == "higher" else -1)
        assert gain > 0, (name, scores, floor)


def numbers_set(size: int, seed: int) -> SampleSet:
    """Two bands whose mean says a number; unknown in a corner."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(size):
        level = rng.uniform(-3, 3)
        bands = (level + rng.normal(0, 0.1, (16, 16, 2))).astype(np.float32)
        bands[:4, :4] = np.nan
        cover = np.full((16, 16), int(level > 0), np.uint8)
        cover[:2] = 255
        normals = np.broadcast_to(np.array([0.6, 0.0, 0.8], np.float32), (16, 16, 3)).copy()
        sample = {"bands": bands, "cover": cover, "normals": normals, "level": float(level)}
        samples.append(sample | {"vectors": np.ones((2, 3), np.float32)})
    return SampleSet.collect(samples, ("bands", "cover", "normals", "level", "vectors"))


OTHERS = {
    "bands": Reals(channels=2),
    "cover": Classes(("low", "high")),
    "normals": Directions(),
    "level": Scalar(),
    "vectors": Vectors(3, 2),
}


@pytest.mark.parametrize(
    ("source", "target", "method"),
    [("bands", "level", "ridge"), ("bands", "cover", "forest"), ("bands", "normals", "forest")],
)
def test_holes_are_no_obstacle(source, target, method):
    heldout = numbers_set(10, 1)
    rows = np.arange(10)
    found = answer_simply({source: heldout.take(source, rows)}, target, numbers_set(80, 0), OTHERS)
    truth = heldout.take(target, rows)
    scores = OTHERS[target].score(found.predicted, truth)
    assert found.method == method
    best = {"level": ("mae", 0.2), "cover": ("pixel_accuracy", 0.97), "normals": ("mean_angle", 1)}
    metric, bound = best[target]
    better = OTHERS[target].metrics[metric]
    assert scores[metric] > bound if better == "higher" else scores[metric] < bound


def test_a_classmap_shown_smaller_than_its_target_is_enlarged():
    training, heldout = numbers_set(60, 0), numbers_set(8, 1)
    small = SampleSet(
        training.size,
        training.columns
        | {
            "cover": training.columns["cover"]._replace(
                values=training.columns["cover"].values[:, ::2, ::2]
            )
        },
        {},
    )
    shown = {"cover": heldout.take("cover", np.arange(8))[:, ::2, ::2]}
    found = answer_simply(shown, "bands", small, OTHERS)
    assert found.predicted.shape == (8, 16, 16, 2)
    assert OTHERS["bands"].score(found.predicted, heldout.take("bands", np.arange(8)))["r2"] > 0.2


def test_there_is_none_for_kinds_that_it_does_not_read_or_without_samples():
    heldout = numbers_set(4, 1)
    shown = {"vectors": heldout.take("vectors", np.arange(4))}
    assert answer_simply(shown, "level", numbers_set(20, 0), OTHERS) is None
    bands = {"bands": heldout.take("bands", np.arange(4))}
    training = numbers_set(20, 0)
    columns = {
        name: column._replace(index=column.index[keep], values=column.values[keep])
        for name, keep in (("bands", slice(10)), ("level", slice(10, None)))
        for column in (training.columns[name],)
    }
    assert answer_simply(bands, "level", SampleSet(20, columns, {}), OTHERS) is None


def test_results_have_them_beside_the_model():
    config = EvaluationConfig(pairs=("rgb->depth", "rgb->caption"))
    model = FakeModel("constant")
    rows = Evaluator(model, make_set(90, seed=1), make_set(60), config).evaluate()
    assert {row["method"] for row in rows} == {"forest", "nearest"}
    for row in rows:
        assert list(row)[-2:] == ["simple", "method"]
        assert not beats_rival(row), row
    assert "simple" in format_table(rows).splitlines()[0]
    bare = EvaluationConfig(pairs=config.pairs, rivals=False)
    for row in Evaluator(model, make_set(9, seed=1), make_set(60), bare).evaluate():
        assert "simple" not in row and not beats_rival(row)


def test_one_that_fails_leaves_a_note_and_the_numbers_of_the_model(monkeypatch):
    def fail(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(rival_scores, "answer_simply", fail)
    config = EvaluationConfig(pairs=("rgb->depth",))
    rows = Evaluator(FakeModel(), make_set(9, seed=1), make_set(60), config).evaluate()
    for row in rows:
        assert row["value"] == row["ceiling"]
        assert row["note"].startswith("The simple method for depth could not be measured: Memory")


def test_the_same_samples_give_the_same_answers():
    assert answer(("rgb",), "depth") == answer(("rgb",), "depth")


def test_a_forest_learns_of_channels_that_are_known_where_others_are_not():
    rng = np.random.default_rng(0)
    shown = rng.normal(size=(12, 4, 4, 1)).astype(np.float32)
    answers = np.concatenate([shown, -shown], axis=-1)
    answers[:6, ..., 1] = np.nan
    values = {"a": Reals(), "b": Reals(channels=2, by_channel=True)}
    samples = [{"a": a, "b": b} for a, b in zip(shown, answers, strict=True)]
    found = answer_simply({"a": shown}, "b", SampleSet.collect(samples, ["a", "b"]), values)
    assert found.method == "forest" and np.isfinite(found.predicted).all()
    assert np.corrcoef(found.predicted[..., 0].ravel(), shown.ravel())[0, 1] > 0.9

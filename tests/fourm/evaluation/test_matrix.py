"""Cells of the matrix: which there are, that each is measured once, and how two runs compare."""

import json
from types import SimpleNamespace
from typing import ClassVar

import pytest

from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.matrix import (
    Cell,
    MatrixConfig,
    cells_of,
    compare_matrices,
    load_matrix,
    measure_matrix,
)
from fourm.presentation.heat_map import draw_matrix
from fourm.presentation.matrix_tables import (
    as_csv,
    as_markdown,
    as_text,
    comparison_as_text,
    pages_of,
)
from tests.fourm.fakes import MODALITIES, FakeModel, make_set
from tokenizers.values import Distances

NAMES = ("a", "b", "c")


class RmseFirst(Distances):
    metrics: ClassVar = dict(reversed(Distances.metrics.items()))


def evaluator(kind="perfect", model=None):
    config = EvaluationConfig(matrix_samples=12, seed=3)
    return Evaluator(model or FakeModel(kind), make_set(40, seed=1), make_set(60), config)


def subsets(**options):
    none = {"singles": False, "all_others": False}
    cells = cells_of(NAMES, ("a", "b"), MatrixConfig(**none | options))
    return [("+".join(cell.inputs), cell.target) for cell in cells]


def test_cells_are_what_is_asked_for_each_once():
    assert subsets(singles=True) == [("b", "a"), ("c", "a"), ("a", "b"), ("c", "b")]
    assert subsets(all_others=True) == [("b+c", "a"), ("a+c", "b")]
    assert sorted(subsets(all_but_each=True)) == sorted(subsets(singles=True))
    assert subsets(pairs=("c+b->a", "b->a", "b+c->a")) == [("b+c", "a"), ("b", "a")]
    cells = cells_of(NAMES, ("a",), MatrixConfig(hidden=(0.0, 0.5), draws=(1, 10)))
    assert len(cells) == len(set(cells)) == 3 * 4
    assert cells[1].key == "b->a hidden=0 draws=10"


def test_every_cell_has_its_metric_bounds_interval_and_time(tmp_path):
    rows = measure_matrix(evaluator(), MatrixConfig(), tmp_path / "m.json", {"model": "x"})
    assert len(rows) == 5 * 4 + 5
    assert {row["metric"] for row in rows} == {"psnr", "abs_rel", "miou", "f1_color", "f1_iou50"}
    for row in rows:
        low, high = row["interval"]
        assert low <= row["value"] <= high or row["value"] == pytest.approx(low)
        assert row["samples"] == 12 and row["seconds"] >= 0 and len(row["resampled"]) == 200
    miou = next(row for row in rows if row["target"] == "semseg")
    assert miou["value"] == miou["ceiling"] > miou["floor"]


def test_a_matrix_goes_on_where_it_stopped_and_only_does_what_is_new(tmp_path):
    file, of = tmp_path / "m.json", {"model": "x"}
    model = FakeModel("perfect")
    measure_matrix(evaluator(model=model), MatrixConfig(all_others=False), file, of)
    assert len(model.calls) == 20
    stored = json.loads(file.read_text())
    removed = list(stored["cells"])[4]
    del stored["cells"][removed]
    file.write_text(json.dumps(stored))
    rows = measure_matrix(evaluator(model=model), MatrixConfig(), file, of)
    assert len(model.calls) == 20 + 1 + 5 and len(rows) == 25
    again = measure_matrix(evaluator(model=model), MatrixConfig(), file, of)
    assert len(model.calls) == 26 and again == rows
    measure_matrix(evaluator(model=model), MatrixConfig(), file, {"model": "another"})
    assert len(model.calls) == 26 + 25


def test_a_cell_that_fails_has_a_note_and_is_tried_again(tmp_path):
    class Failing(FakeModel):
        fails = True

        def generate(self, inputs, targets, **options):
            if self.fails and "depth" in targets:
                raise ValueError("no")
            return super().generate(inputs, targets, **options)

    model, file = Failing("perfect"), tmp_path / "m.json"
    rows = measure_matrix(evaluator(model=model), MatrixConfig(all_others=False), file, {})
    notes = [row["note"] for row in rows if row["target"] == "depth"]
    assert len(notes) == 4 and notes[0] == "rgb -> depth could not be measured: no."
    assert "-" in as_markdown(rows) and as_text(rows) and as_csv(rows)
    model.fails = False
    rows = measure_matrix(evaluator(model=model), MatrixConfig(all_others=False), file, {})
    assert not any("note" in row for row in rows)


def test_tokens_are_hidden_and_draws_handed_on(tmp_path):
    model = FakeModel("perfect")
    config = MatrixConfig(all_others=False, pairs=(), hidden=(0.5,), draws=(3,))
    rows = measure_matrix(evaluator(model=model), config, tmp_path / "m.json", {})
    assert all(call[3] == 3 for call in model.calls) and len(rows) == 20
    # One token is all there is of these, and it is left.
    assert all(row["value"] == row["ceiling"] for row in rows if row["target"] == "depth")


def test_two_runs_are_compared_cell_by_cell(tmp_path):
    config = MatrixConfig(all_others=False)
    first = measure_matrix(evaluator("constant"), config, tmp_path / "1.json", {})
    second = measure_matrix(evaluator(), config, tmp_path / "2.json", {})
    rows = compare_matrices(first, second)
    assert len(rows) == 20 and all(row["winner"] == 2 for row in rows)
    assert all(row["winner"] == 0 and row["p"] == 1 for row in compare_matrices(first, first))
    assert {row["winner"] for row in compare_matrices(second, first)} == {1}
    assert comparison_as_text(rows).splitlines()[1].split()[-1] == "second"
    assert compare_matrices(first, second[:3])[0]["inputs"] == first[0]["inputs"]
    other_metric = [{**row, "metric": "another"} for row in second]
    assert compare_matrices(first, other_metric) == []


def test_small_numbers_keep_their_digits(tmp_path):
    model = FakeModel("perfect")
    heldout, training = make_set(40, seed=1), make_set(60)
    for each in (heldout, training):
        each.columns["depth"].values[:] *= 1e-6
    generate = model.generate

    def near(inputs, targets, **options):
        made = generate(inputs, targets, **options)
        made.values["depth"] = made.values["depth"] * 1.1e-6
        return made

    model.generate = near
    config = EvaluationConfig(matrix_samples=12)
    cells = MatrixConfig(singles=False, all_others=False, pairs=("rgb->depth",))
    model.tokenizers["depth"].values = RmseFirst(min_distance=1e-12)
    tested = Evaluator(model, heldout, training, config)
    tested.bounds = lambda *_: [SimpleNamespace(floor={"rmse": 1.0}, ceiling={"rmse": 0.0})]
    (row,) = measure_matrix(tested, cells, tmp_path / "m.json", {})
    assert row["metric"] == "rmse" and 1e-7 < row["value"] < 1e-6
    assert len(set(row["resampled"])) > 50


def test_pages_have_a_table_for_each_share_and_number_of_draws(tmp_path):
    config = MatrixConfig(all_but_each=True, hidden=(0.0, 0.5))
    rows = measure_matrix(evaluator(), config, tmp_path / "m.json", {})
    plain, hidden = pages_of(rows)
    assert plain.title == "all tokens shown, one draw" and "50% of the shown" in hidden.title
    assert plain.targets == list(MODALITIES)
    assert plain.lines[:5] == ["depth", "semseg", "caption", "boxes", "rgb"]
    assert plain.lines[5] == "every other" and "every other but depth" in plain.lines[6:]
    text = as_markdown(rows)
    assert "| rgb | " in text and "| rgb → depth | 0% | 1 | abs_rel |" in text
    header, first, *_ = as_csv(rows).splitlines()
    assert header.startswith("inputs,target,metric,better,hidden,draws,samples,floor")
    assert first.startswith("depth,rgb,psnr,higher,0.0,1,12")
    assert "100%" in as_text(rows)
    draw_matrix(tmp_path / "m.png", rows)
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hidden": (1.0,)}, "hidden is (1.0,)"),
        ({"hidden": ()}, "hidden is ()"),
        ({"draws": (0,)}, "draws is (0,)"),
        ({"pairs": ("a->b->a",)}, "a matrix reads nothing back"),
        ({"pairs": ("a",)}, "is not a direction"),
    ],
)
def test_impossible_cells_are_refused(options, told):
    with pytest.raises(ValueError) as error:
        MatrixConfig(**options)
    assert told in str(error.value)


def test_an_unknown_modality_and_a_damaged_file_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no modality 'd' in this run; it has a, b, c"):
        cells_of(NAMES, NAMES, MatrixConfig(pairs=("d->a",)))
    with pytest.raises(ValueError, match="--matrix writes it"):
        load_matrix(tmp_path / "m.json")
    (tmp_path / "m.json").write_text("[]")
    with pytest.raises(ValueError, match="can't be read"):
        load_matrix(tmp_path / "m.json")


def test_a_cell_has_a_name_that_a_person_can_read():
    assert Cell(("rgb", "depth"), "semseg", 0.5, 10).key == "rgb+depth->semseg hidden=0.5 draws=10"

import dataclasses
import math

import numpy as np
import pytest

from fourm.evaluation.config import EvaluationConfig, RegionConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.results import Pair, format_table, notes_of, readable
from fourm.run_directory.sample_set import Column, SampleSet
from tests.fourm.fakes import MODALITIES, FakeModel, make_sample, make_set
from tokenizers.base import Choices
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Colors

OBJECTS = RegionConfig("semseg", ("a", "b", "c"))
PAIRS = ("rgb->depth", "rgb->semseg", "depth->caption", "rgb->boxes", "caption->rgb->caption")


def evaluator(kind="perfect", heldout=None, **options):
    config = EvaluationConfig(**{"pairs": PAIRS, "region": OBJECTS, "rivals": False, **options})
    return Evaluator(FakeModel(kind), heldout or make_set(40, seed=1), make_set(60), config)


def test_a_perfect_model_scores_the_ceiling_in_every_metric():
    rows = evaluator().evaluate()
    assert len(rows) >= 14
    for row in rows:
        assert row["value"] == pytest.approx(row["ceiling"]), row
        sign = {"higher": 1, "lower": -1}[row["better"]]
        assert sign * row["value"] >= sign * row["floor"], row


def test_a_constant_model_does_not_beat_the_floor():
    samples = make_set(60)  # Also to train on: so the floor is the best of all constants.
    config = EvaluationConfig(pairs=PAIRS)
    for row in Evaluator(FakeModel("constant"), samples, samples, config).evaluate():
        sign = {"higher": 1, "lower": -1}[row["better"]]
        assert sign * row["value"] <= sign * row["floor"] + 1e-6, row


def test_rows_have_exactly_the_fields_of_the_report():
    for row in evaluator().evaluate():
        assert list(row) == ["inputs", "target", "metric", "better", "floor", "value", "ceiling"]
        assert row["better"] in ("lower", "higher")
        assert all(isinstance(row[name], float) for name in ("floor", "value", "ceiling"))


def test_dense_metrics_are_also_reported_on_the_region():
    heldout = make_set(40, seed=1)
    model = FakeModel()

    def wrong_on_the_ground(inputs, targets, **options):
        answer = FakeModel.generate(model, inputs, targets)
        answer.values["depth"][:, :, : answer.values["depth"].shape[2] // 2] = 50
        return answer

    model.generate = wrong_on_the_ground
    config = EvaluationConfig(pairs=("rgb->depth",), region=OBJECTS)
    rows = {r["metric"]: r for r in Evaluator(model, heldout, make_set(60), config).evaluate()}
    assert rows["abs_rel"]["value"] > 1
    assert rows["abs_rel_objects"]["value"] == pytest.approx(0)
    assert rows["abs_rel_objects"]["floor"] > 0
    text = evaluator(pairs=("rgb->caption", "rgb->boxes")).evaluate()
    assert not [row for row in text if row["metric"].endswith("_objects")]


def test_read_back_scores_the_models_own_picture_against_the_caption_given():
    model = FakeModel()
    config = EvaluationConfig(pairs=("caption->rgb->caption",))
    heldout, training = make_set(40, seed=1), make_set(60)
    rows = {r["metric"]: r for r in Evaluator(model, heldout, training, config).evaluate()}
    assert rows["readback_f1_color"]["value"] == rows["readback_f1_color"]["ceiling"] == 1
    assert 0.2 < rows["readback_f1_color"]["floor"] < 0.6
    assert rows["psnr"]["inputs"] == rows["readback_f1_color"]["inputs"] == ["caption"]
    assert rows["readback_f1_color"]["target"] == "rgb"

    painter = FakeModel("constant")
    painter_reads = FakeModel()
    painter.generate = lambda inputs, targets, **options: FakeModel.generate(
        painter if "caption" in inputs else painter_reads, inputs, targets, **options
    )
    rows = {r["metric"]: r for r in Evaluator(painter, heldout, training, config).evaluate()}
    assert rows["readback_f1_color"]["value"] < 0.5
    assert rows["readback_f1_color"]["ceiling"] == 1


def test_captions_are_compared_with_all_that_a_sample_has():
    heldout = make_set(40, seed=1)
    true = heldout.columns["caption"].values
    several = [Choices(["some red object", text]) for text in true]
    column = heldout.columns["caption"]
    heldout = dataclasses.replace(
        heldout,
        columns=heldout.columns | {"caption": column._replace(values=[c[0] for c in several])},
        references={"caption": column._replace(values=several)},
    )
    model = FakeModel("perfect")
    evaluator = Evaluator(
        model, heldout, make_set(60), EvaluationConfig(("depth->caption",), rivals=False)
    )
    evaluator._predict = lambda inputs, target: true
    *rows, cider = evaluator.evaluate()
    assert all(row["value"] == 1 for row in rows)
    assert cider["metric"] == "cider_d" and 0 < cider["floor"] < cider["value"]


def test_boxes_and_texts_have_further_metrics_beside_a_simple_method():
    rows = {
        (row["target"], row["metric"]): row
        for row in evaluator(pairs=("rgb->boxes", "rgb->caption"), rivals=True).evaluate()
    }
    assert {"ap", "ap50", "ap75"} <= {metric for target, metric in rows if target == "boxes"}
    for key in (("boxes", "ap"), ("caption", "cider_d")):
        row = rows[key]
        assert row["floor"] < row["value"] == row["ceiling"] and row["method"] == "nearest"
        assert row["simple"] == pytest.approx(row["value"], rel=0.2)


def test_pictures_may_be_compared_as_a_whole_with_true_ones():
    model = FakeModel("perfect")
    for tokenizer in model.tokenizers.values():
        tokenizer.token_shape, tokenizer.vocab_size = (1, 1), 4
    config = EvaluationConfig(("depth->rgb", "rgb->caption"), rivals=False, distributions=True)
    model.tokenizers["caption"].token_shape = (1,)
    rows = Evaluator(model, make_set(40, seed=1), make_set(60), config).evaluate()
    found = [row for row in rows if row["metric"] in ("frechet", "precision", "recall")]
    assert [row["target"] for row in found] == ["rgb"] * 3
    assert all(row["inputs"] == ["depth"] for row in found)
    assert found[0]["value"] == found[0]["ceiling"] < found[0]["floor"]


def test_samples_that_lack_a_modality_are_left_out():
    samples = [make_sample(number % 4) for number in range(12)]
    for sample in samples[:5]:
        del sample["depth"]
    for sample in samples[8:]:
        del sample["semseg"]
    heldout = SampleSet.collect(samples, MODALITIES)
    tested = evaluator(heldout=heldout, pairs=("rgb->depth", "rgb->caption"))
    assert tested.heldout.rows(["rgb", "depth"]).tolist() == list(range(5, 12))
    rows = tested.evaluate()
    assert {row["target"] for row in rows} == {"depth", "caption"}
    assert all(np.isfinite(row["value"]) for row in rows)
    nothing = SampleSet.collect([{"rgb": samples[0]["rgb"]}], MODALITIES)
    (row,) = evaluator(heldout=nothing, pairs=("rgb->depth",)).evaluate()
    assert (row["inputs"], row["target"], row["metric"]) == (["rgb"], "depth", "abs_rel")
    assert row["floor"] is row["value"] is row["ceiling"] is None
    assert "rgb -> depth could not be measured: no held-out sample has rgb and depth" in row["note"]
    assert "-" in format_table([row]) and notes_of([row, row]) == [row["note"]]


def test_a_modality_that_no_training_sample_has_has_no_floor_and_a_note():
    training = SampleSet.collect([make_sample(1) | {"boxes": None}], MODALITIES[:-1])
    training = dataclasses.replace(
        training, columns={**training.columns, "boxes": Column(np.zeros(0, int), [])}
    )
    config = EvaluationConfig(pairs=PAIRS, region=OBJECTS)
    tested = Evaluator(FakeModel(), make_set(40, seed=1), training, config)
    rows = {(row["target"], row["metric"]): row for row in tested.evaluate()}
    boxes = rows["boxes", "f1_iou50"]
    assert math.isnan(boxes["floor"]) and boxes["value"] == boxes["ceiling"] == 1.0
    assert "no training sample that was kept has boxes" in boxes["note"]
    assert "note" not in rows["depth", "abs_rel"]
    table = tested.tokenizers()
    assert table["boxes"]["note"] == boxes["note"] and table["boxes"]["value"] == 1.0


@pytest.mark.parametrize("broken", ["generate", "reconstruct", "tokenize"])
def test_whatever_fails_is_a_row_with_its_reason_and_the_others_are_measured(broken):
    tested = evaluator(pairs=("rgb->depth", "rgb->semseg"))
    works = getattr(tested.model, broken)

    def fail(*arguments, **options):
        if any("depth" in each for each in arguments if isinstance(each, str | dict | list)):
            raise ZeroDivisionError("by nothing")
        return works(*arguments, **options)

    setattr(tested.model, broken, fail)
    rows, table = tested.evaluate(), tested.tokenizers()
    failed = [row for row in (*rows, *table.values()) if row.get("value") is None]
    assert failed and all("ZeroDivisionError: by nothing" in row["note"] for row in failed)
    assert all(np.isfinite(row["value"]) for row in rows if row["target"] == "semseg")
    assert all(np.isfinite(table[name]["value"]) for name in MODALITIES if name != "depth")


def test_few_of_many_samples_lie_spread_over_all():
    numbers = np.repeat(np.arange(4), 25)
    by_class = SampleSet.collect([make_sample(int(number)) for number in numbers], MODALITIES)
    tested = evaluator(heldout=by_class, pairs=("rgb->depth", "caption->rgb"), num_samples=8)
    tested.evaluate()
    for example in tested.examples:
        assert numbers[example.rows].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_number_of_samples_is_kept_to_and_the_seed_handed_on():
    tested = evaluator(num_samples=3, seed=11, pairs=("rgb->depth",))
    shown = []
    generate = tested.model.generate
    tested.model.generate = lambda inputs, targets, **options: (
        shown.append((len(inputs["rgb"]), options)) or generate(inputs, targets)
    )
    tested.evaluate()
    assert shown == [(3, {"seed": 11, "settings": None})]


def test_without_pairs_the_first_modality_predicts_every_other():
    rows = evaluator(pairs=()).evaluate()
    assert {(tuple(row["inputs"]), row["target"]) for row in rows} == {
        (("rgb",), name) for name in MODALITIES[1:]
    }


def test_tokenizers_report_their_round_trip_and_how_many_ids_they_use():
    table = evaluator().tokenizers()
    assert list(table) == list(MODALITIES)
    assert table["rgb"]["metric"] == "psnr" and table["rgb"]["better"] == "higher"
    assert table["rgb"]["value"] == pytest.approx(20 * np.log10(255 / 3))
    assert table["rgb"]["codebook_usage"] == 0.5  # 4 of 8 ids.
    assert 3.5 < table["rgb"]["perplexity"] <= 4
    assert table["depth"]["value_objects"] == pytest.approx(0)


@pytest.mark.parametrize("text", ["rgb", "->rgb", "rgb->", "a->b->c->d", "rgb->rgb", "a->b->c"])
def test_a_direction_that_is_none_is_one_sentence(text):
    with pytest.raises(ValueError, match="is not a direction"):
        EvaluationConfig(pairs=(text,))


def test_directions_are_read():
    assert Pair.parse("rgb->depth") == Pair(("rgb",), "depth")
    assert Pair.parse("a + b -> c -> a") == Pair(("a", "b"), "c", "a")


def test_unknown_modalities_and_classes_are_one_sentence():
    with pytest.raises(ValueError, match="no modality 'heat' in this run; it has rgb, depth"):
        evaluator(pairs=("rgb->heat",)).evaluate()
    with pytest.raises(ValueError, match=r"classes \['d'\] are not in 'semseg', which has ground"):
        evaluator(region=RegionConfig("semseg", ("d",))).evaluate()


def test_an_empty_text_cannot_be_read_back_and_counts_as_absent():
    texts = ["a red thing", " ", "a pink thing"]
    assert readable(texts, Text()) == ["a red thing", None, "a pink thing"]
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    assert readable(pictures, Colors()) is pictures

import numpy as np
import pytest
from PIL import Image

from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.directions import Evaluator
from fourm.presentation.pictures import CELL, Column, _compose, _fit_text, draw_curves, draw_samples
from fourm.run_directory.sample_set import SampleSet
from tests.fourm.fakes import MODALITIES, FakeModel, make_sample, make_set

PAIRS = ("rgb->depth", "rgb->caption", "rgb->boxes", "caption->rgb->caption")


def evaluate(heldout: SampleSet, pairs=PAIRS) -> Evaluator:
    evaluator = Evaluator(FakeModel(), heldout, make_set(20), EvaluationConfig(pairs=pairs))
    evaluator.evaluate()
    return evaluator


def draw(path, evaluator: Evaluator, num_samples: int):
    draw_samples(path, evaluator.model, evaluator.heldout, evaluator.examples, num_samples)
    with Image.open(path) as page:
        assert page.format == "PNG"
        return np.asarray(page)


def test_the_page_of_samples_is_a_picture_of_reasonable_size(tmp_path):
    page = draw(tmp_path / "samples.png", evaluate(make_set(6)), 3)
    assert page.shape[0] > 6 * CELL and page.shape[1] > 6 * CELL
    assert (tmp_path / "samples.png").stat().st_size < 3e6
    assert [each.name for each in tmp_path.iterdir()] == ["samples.png"]


def test_every_pixel_of_a_cell_is_on_the_page():
    cell = np.random.default_rng(0).integers(0, 256, (CELL, CELL, 3)).astype(np.uint8)
    page = np.asarray(_compose([("a", [Column("rgb", "truth", [cell], (CELL, CELL))])]))
    corner = (page[..., :3] == cell[0, 0]).all(-1) & (page.sum(-1) > 0)
    found = [
        (y, x)
        for y, x in np.argwhere(corner)
        if np.array_equal(page[y : y + CELL, x : x + CELL], cell)
    ]
    assert len(found) == 1


def test_what_was_scored_is_what_is_drawn_without_another_prediction(tmp_path):
    evaluator = evaluate(make_set(6))
    calls = len(evaluator.model.calls)
    first = draw(tmp_path / "s.png", evaluator, 2)
    assert len(evaluator.model.calls) == calls
    assert [example.read is not None for example in evaluator.examples] == [0, 0, 0, 1]
    evaluator.examples[0].predicted[:] *= 0.5
    assert (draw(tmp_path / "s.png", evaluator, 2) != first).any()
    assert (draw(tmp_path / "s.png", evaluator, 1).shape[0]) < first.shape[0]


def test_samples_that_lack_a_modality_are_not_drawn(tmp_path):
    samples = [make_sample(number) for number in (0, 1, 2, 3)]
    del samples[0]["depth"], samples[2]["caption"]
    heldout = SampleSet.collect(samples, MODALITIES)
    evaluator = evaluate(heldout, ("rgb->depth", "rgb->caption"))
    shown = []
    take = SampleSet.take

    class Watched(SampleSet):
        def take(self, modality, rows):
            shown.append(rows.tolist())
            return take(self, modality, rows)

    watched = Watched(heldout.size, heldout.columns, heldout.metadata)
    draw_samples(tmp_path / "s.png", evaluator.model, watched, evaluator.examples)
    assert shown == [[1, 3]] * 3
    draw_samples(tmp_path / "s.png", evaluator.model, watched, [])


@pytest.mark.parametrize("words", [1, 20, 400])
def test_text_is_wrapped_into_its_cell_or_cut(words):
    from PIL import ImageDraw

    canvas = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    text, font = _fit_text(canvas, "sphere " * words, 180, 118)
    box = canvas.multiline_textbbox((0, 0), text, font=font, spacing=2)
    assert box[2] <= 190 and box[3] <= 128
    assert text.endswith("...") == (words == 400)


@pytest.mark.slow
def test_curves_survive_gaps_single_points_and_an_empty_log(tmp_path):
    lines = [
        {"stage": "tokenizer/rgb", "step": 10, "loss": 1.0, "reconstruction": 1.0, "usage": 0.5},
        {"stage": "model", "step": 10, "loss": 4.0, "loss/rgb": None, "entropy/rgb": 5.0},
        {"stage": "model", "step": 20, "loss": None, "loss/rgb": 4.0, "entropy/rgb": 5.0},
        {"stage": "model", "step": 30, "loss": 3.0, "loss/rgb": 3.0, "loss/depth": None},
    ]
    sizes = []
    for part in (lines, lines[:1], lines[1:], []):
        draw_curves(tmp_path / "curves.png", part)
        with Image.open(tmp_path / "curves.png") as picture:
            sizes.append(picture.height)
    assert max(sizes) < 1200
    assert [each.name for each in tmp_path.iterdir()] == ["curves.png"]

import numpy as np
import pytest
from PIL import Image

from fourm.pictures import CELL, Column, _compose, _fit_text, draw_curves, draw_samples
from fourm.sample_set import SampleSet
from tests.fourm.fakes import MODALITIES, FakeModel, make_sample, make_set

PAIRS = ("rgb->depth", "rgb->caption", "rgb->boxes", "caption->rgb->caption")


def test_the_page_of_samples_is_a_picture_of_reasonable_size(tmp_path):
    path = tmp_path / "samples.png"
    draw_samples(path, FakeModel(), make_set(6), PAIRS, num_samples=3)
    with Image.open(path) as page:
        assert page.format == "PNG"
        assert page.width > 6 * CELL and page.height > 6 * CELL
    assert path.stat().st_size < 3e6
    assert [each.name for each in tmp_path.iterdir()] == ["samples.png"]


def test_every_pixel_of_a_cell_is_on_the_page():
    cell = np.random.default_rng(0).integers(0, 256, (CELL, CELL, 3)).astype(np.uint8)
    page = np.asarray(_compose([("a", [Column("rgb", "truth", [cell])])]))
    corner = (page[..., :3] == cell[0, 0]).all(-1) & (page.sum(-1) > 0)
    found = [
        (y, x)
        for y, x in np.argwhere(corner)
        if np.array_equal(page[y : y + CELL, x : x + CELL], cell)
    ]
    assert len(found) == 1


def test_a_direction_shows_only_its_inputs_and_one_call_serves_each(tmp_path):
    model = FakeModel()
    draw_samples(tmp_path / "s.png", model, make_set(6), PAIRS, num_samples=2, seed=3)
    assert model.calls == [
        (("rgb",), ("depth",), 3),
        (("rgb",), ("caption",), 3),
        (("rgb",), ("boxes",), 3),
        (("caption",), ("rgb",), 3),
        (("rgb",), ("caption",), 3),
    ]


def test_samples_that_lack_a_modality_are_not_drawn(tmp_path):
    samples = [make_sample(number) for number in (0, 1, 2, 3)]
    del samples[0]["depth"]
    model = FakeModel()
    shown = []
    generate = model.generate
    model.generate = lambda inputs, targets, **options: (
        shown.append(len(inputs["rgb"])) or generate(inputs, targets, **options)
    )
    heldout = SampleSet.collect(samples, MODALITIES)
    draw_samples(tmp_path / "s.png", model, heldout, ("rgb->depth",), num_samples=4)
    assert shown == [3]
    nothing = SampleSet.collect([{"depth": samples[1]["depth"]}], MODALITIES)
    draw_samples(tmp_path / "s.png", model, nothing, ("rgb->depth",))
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize("words", [1, 20, 400])
def test_text_is_wrapped_into_its_cell_or_cut(words):
    from PIL import ImageDraw

    canvas = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    text, font = _fit_text(canvas, "sphere " * words, 180, 118)
    box = canvas.multiline_textbbox((0, 0), text, font=font, spacing=2)
    assert box[2] <= 190 and box[3] <= 128
    assert text.endswith("...") == (words == 400)


def test_curves_survive_gaps_single_points_and_an_empty_log(tmp_path):
    lines = [
        {"stage": "tokenizer/rgb", "step": 10, "loss": 1.0, "reconstruction": 1.0, "usage": 0.5},
        {"stage": "model", "step": 10, "loss": 4.0, "loss/rgb": None, "marginal_entropy/rgb": 5.0},
        {"stage": "model", "step": 20, "loss": None, "loss/rgb": 4.0, "marginal_entropy/rgb": 5.0},
        {"stage": "model", "step": 30, "loss": 3.0, "loss/rgb": 3.0, "loss/depth": None},
    ]
    sizes = []
    for part in (lines, lines[:1], lines[1:], []):
        draw_curves(tmp_path / "curves.png", part)
        with Image.open(tmp_path / "curves.png") as picture:
            sizes.append(picture.height)
    assert max(sizes) < 1200
    assert [each.name for each in tmp_path.iterdir()] == ["curves.png"]

"""Vectors, a map of them, points, outlines, palettes and bands beside a picture, to a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fourm
from configs.doctor import main as doctor
from fourm.generate import main as generate
from train import main

# Tests of one group run in one process, which makes the run that they share once.
pytestmark = [pytest.mark.xdist_group("shapes"), pytest.mark.slow]

CONFIG = """
import configs as c

config = c.RunConfig(
    modalities={
        "rgb": c.Modality(c.Colors()),
        "clip": c.Modality(c.Embedding(6)),
        "dino": c.Modality(c.Embedding(8, is_map=True), size=2, width=3),
        "bands": c.Modality(c.Reals(channels=3, by_channel=True)),
        "hues": c.Modality(c.Palette(colors=2, computed_from="rgb")),
        "eyes": c.Modality(c.Points(("cat", "dog"), ("left", "right"), max_instances=2)),
        "parts": c.Modality(c.Polygons(("cat", "dog"), max_instances=2, max_corners=4)),
    },
    data=c.FilesData(splits_by=c.SplitByFraction(folder="")),
    crops=c.CropConfig(size=16, width=24),
    evaluation=c.EvaluationConfig(
        pairs=("rgb->clip", "clip->dino", "eyes->rgb", "parts->eyes", "dino->parts", "clip->hues",
               "rgb->bands"),
    ),
)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Forty pictures with what is known of them; one in five lacks something."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("scenes")
    for name in ("rgb", "clip", "dino", "eyes", "parts", "bands"):
        (folder / name).mkdir()
    for number in range(40):
        key, hole = f"{number:02}", number % 10
        picture = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(picture).save(folder / "rgb" / f"{key}.png")
        if hole != 1:
            np.save(folder / "clip" / f"{key}.npy", rng.normal(size=6))
        if hole != 2:
            np.save(folder / "dino" / f"{key}.npy", rng.normal(size=(8, 4, 6)).astype(np.float16))
        bands = rng.normal(size=(20, 30, 3)).astype(np.float32)
        bands[..., number % 4 : number % 4 + 1] = np.nan  # One of four lacks none.
        np.save(folder / "bands" / f"{key}.npy", bands)
        class_name, (x, y) = ("cat", "dog")[number % 2], rng.uniform(0.2, 0.8, 2).tolist()
        eyes = [[x, y], None if hole == 4 else [x + 0.1, y]]
        corners = [[x, y], [x + 0.2, y], [x + 0.2, y + 0.2], [x, y + 0.2]]
        for name, points in {"eyes": eyes, "parts": corners}.items():
            content = {"instances": [{"points": points, "class_name": class_name}] * (hole != 3)}
            (folder / name / f"{key}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "scenes.py").write_text(CONFIG)
    small = [
        argument
        for name, size in (
            ("rgb", "width"),
            ("bands", "width"),
            ("clip", "hidden"),
            ("dino", "hidden"),
        )
        for knob, value in (("steps", "1"), (size, "8"), ("codebook-size", "8"))
        for argument in (f"--modalities.{name}.tokenizer.{knob}", value)
    ]
    arguments = [
        *(str(folder / "scenes.py"), "--data.path", str(scenes), "--run-dir", str(folder / "run")),
        *(*small, "--modalities.bands.tokenizer.hidden-channels", "0.3"),
        *("--crops.views", "2", "--training.steps", "1", "--training.batch-size", "4"),
        *("--training.evaluate-every", "0", "--loss.tile", "1", "--evaluation.num-samples", "4"),
        *("--model.dim", "16", "--model.num-heads", "2"),
        *("--model.encoder-layers", "1", "--model.decoder-layers", "1"),
    ]
    assert main(arguments) == 0
    return folder / "run"


def test_all_kinds_become_a_run_with_floors_and_ceilings(run):
    report = json.loads((run / "report.json").read_text())
    found = {(*row["inputs"], row["target"], row["metric"]) for row in report["results"]}
    assert found >= {
        *(("rgb", "clip", "cosine"), ("rgb", "clip", "neighbours"), ("clip", "dino", "cosine")),
        *(("parts", "eyes", "distance"), ("dino", "parts", "mask_iou")),
        *(("clip", "hues", "color_distance"), ("rgb", "bands", "r2")),
    }
    for row in report["results"]:
        assert np.isfinite([row["value"], row["floor"], row["ceiling"]]).all(), row
        assert "note" not in row
    assert (run / "samples.png").exists()


def test_any_predicts_any(run, scenes, tmp_path):
    out = tmp_path / "out"
    asked = ["--rgb", scenes / "rgb" / "00.png", "--targets", "clip", "dino", "--out", out]
    assert generate([str(run), *map(str, asked)]) == 0
    assert np.load(out / "clip_000.npy").shape == (6,)
    assert np.load(out / "dino_000.npy").shape == (2, 3, 8)
    asked = ["--eyes", tmp_path / "eyes.json", "--parts", tmp_path / "parts.json", "--out", out]
    eyes = {"instances": [{"points": [[0.1, 0.2], None], "class_name": "dog"}]}
    parts = {"instances": [{"points": [[0, 0], [1, 0], [1, 1]], "class_name": "cat"}]}
    (tmp_path / "eyes.json").write_text(json.dumps(eyes))
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    asked += ["--hues", "#ff0000:0.5 #0000ff:0.5", "--targets", "clip"]
    assert generate([str(run), *map(str, asked)]) == 0
    asked = ["--clip", scenes / "clip" / "00.npy", "--bands", scenes / "bands" / "00.npy"]
    asked += ["--targets", "eyes", "parts", "hues"]
    asked += ["--out", out]
    assert generate([str(run), *map(str, asked)]) == 0
    assert set(json.loads((out / "parts_000.json").read_text())) == {"points", "lengths", "classes"}
    asked = ["--clip", scenes / "clip" / "00.npy", "--dino", scenes / "dino" / "00.npy"]
    assert generate([str(run), *map(str, [*asked, "--targets", "rgb", "--out", out])]) == 0
    with Image.open(out / "rgb_000.png") as made:
        assert made.size == (24, 16)


def test_ids_lie_as_the_kinds_say(run):
    space = fourm.load(run).space
    assert space["clip"].token_shape == (4,)
    assert space["dino"].token_shape == (2, 3)
    assert space["eyes"].token_shape == (2 * 5 + 1,)
    assert space["parts"].token_shape == (2 * 9 + 1,)


def test_the_doctor_draws_all_kinds(scenes, tmp_path):
    (tmp_path / "scenes.py").write_text(CONFIG)
    asked = [tmp_path / "scenes.py", "--data.path", scenes, "--out", tmp_path / "out"]
    assert doctor(list(map(str, asked))) == 0
    page = (tmp_path / "out" / "doctor.html").read_text()
    assert "instances a sample" in page and page.count("<img") >= 7

"""A run over pictures that are wider than high, of many sizes, from their files to new pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fourm
from fourm.generate import main as generate
from fourm.run_directory.sample_set import load_heldout
from train import main

# Tests of one group run in one process, which makes the run that they share once.
pytestmark = [pytest.mark.xdist_group("wide run"), pytest.mark.slow]

CONFIG = """
from configs import *

SMALL = ImageTokenizerConfig(codebook_size=8, width=16, decoder_depth=1, steps=1, patch_size=4)
MODALITIES = {
    "rgb": Modality(Colors(), SMALL),
    "semseg": Modality(Classes(("ground", "thing")), SMALL, size=8),
}
config = RunConfig(
    modalities=MODALITIES,
    data=FilesData(modalities={name: ArrayFile() for name in MODALITIES}),
    crops=CropConfig(size=16, width=24, views=2),
    masking=MaskingConfig(
        (any_to_any(dict.fromkeys(MODALITIES, 1.0), num_inputs=(4, 8), num_targets=8),)
    ),
    loss=LossConfig(tile=1),
    model=ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1),
    training=TrainingConfig(steps=2, batch_size=8, log_every=1, checkpoint_every=2),
    generation=dict.fromkeys(MODALITIES, GenerationConfig(num_steps=1)),
    evaluation=EvaluationConfig(pairs=("rgb->semseg",), num_samples=2),
)
"""


def make_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 2)):
        for number in range(count):
            height, width = rng.integers(20, 40, 2)
            pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            labels = (pixels[..., 0] > 128).astype(np.uint8)
            for name, array in (("rgb", pixels), ("semseg", labels)):
                file = folder / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("wide")
    make_files(root / "data")
    (root / "config.py").write_text(CONFIG)
    arguments = ["--data.path", str(root / "data"), "--run-dir", str(root / "run")]
    assert main([str(root / "config.py"), *arguments]) == 0
    return root / "run"


def test_grids_and_pictures_have_the_aspect_ratio_of_the_crops(folder):
    run = fourm.load(folder)
    assert run.space["rgb"].token_shape == (4, 6) and run.space["semseg"].token_shape == (2, 3)
    heldout = load_heldout(folder, "validation")
    assert heldout.columns["rgb"].values.shape == (2, 16, 24, 3)
    assert heldout.columns["semseg"].values.shape == (2, 8, 12)
    results = json.loads((folder / "report.json").read_text())["results"]
    assert all(np.isfinite(row["value"]) and "note" not in row for row in results)
    with Image.open(folder / "samples.png") as page:
        assert page.width > 3 * 128 * 1.2


def test_pictures_of_any_size_are_cut_to_that_of_the_model(folder, tmp_path):
    picture = np.zeros((50, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "high.png")
    out = tmp_path / "out"
    arguments = ["--rgb", tmp_path / "high.png", "--targets", "semseg", "--out", out]
    assert generate([str(folder), *map(str, arguments)]) == 0
    with Image.open(out / "semseg_000.png") as made:
        assert made.size == (12, 8)

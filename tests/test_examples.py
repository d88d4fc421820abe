"""The examples run as their docstrings say, on little data and for a few steps."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT
from train import main

EXAMPLES = ROOT / "examples"
LESS = [
    *("--training.steps", "2", "--training.batch-size", "4", "--evaluation.num-samples", "4"),
    *("--training.evaluate-every", "2", "--loss.tile", "1"),
]
SMALL = [
    *("--model.dim", "16", "--model.num-heads", "2"),
    *("--model.encoder-layers", "1", "--model.decoder-layers", "1"),
]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("rgb", "caption"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for number in range(24):
        color = rng.integers(0, 256, 3)
        picture = np.broadcast_to(color, (70, 90, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / "rgb" / f"{number:03}.jpg")
        if number % 4:
            text = f"a wall of red {color[0]} and green {color[1]} and blue {color[2]}"
            (tmp_path / "photos" / "caption" / f"{number:03}.txt").write_text(text)
    return tmp_path / "photos"


@pytest.mark.slow
def test_photographs_with_captions_become_a_run(photos, tmp_path):
    few = ["--modalities.rgb.tokenizer.steps", "2", "--generation.rgb.num-steps", "2"]
    few += ["--modalities.caption.tokenizer.vocab-size", "340", "--crops.views", "1"]
    arguments = [str(EXAMPLES / "photos.py"), "--data.path", str(photos)]
    assert main([*arguments, "--run-dir", str(tmp_path / "run"), *few, *LESS, *SMALL]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    directions = {(*row["inputs"], row["target"]) for row in report["results"]}
    assert directions == {("rgb", "caption"), ("caption", "rgb")}


@pytest.mark.slow
@pytest.mark.xdist_group("tiny run")
def test_a_run_is_fine_tuned_on_its_own_data(tiny_scenes_run, tmp_path, monkeypatch):
    monkeypatch.setenv("FOURM_RUN", str(tiny_scenes_run))
    few = ["--run-dir", str(tmp_path / "tuned"), "--evaluation.pairs", "rgb->distance"]
    assert main([str(EXAMPLES / "fine_tune.py"), *few, *LESS, "--probes.tasks"]) == 0
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["start_from"] == str(tiny_scenes_run)
    assert config["training"]["optimizer"]["learning_rate"] == 5e-5


@pytest.mark.slow
@pytest.mark.xdist_group("tiny run")
@pytest.mark.parametrize("query", [[], ["a large red sphere"]], ids=["picture", "text"])
def test_an_encoder_is_probed_and_searched(tiny_scenes_run, query, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "probe_and_search.py"), str(tiny_scenes_run), *query],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "object_count" in done.stdout and "chance" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("  sample")]) == 5


def test_examples_are_short_and_say_how_they_are_run():
    files = sorted(EXAMPLES.glob("*.py"))
    assert len(files) == 4
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, file
        assert f"examples/{file.name}" in text.split('"""')[1]

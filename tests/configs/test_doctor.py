"""The doctor, on data made here, by its command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.doctor import main

CONFIG = """
from configs import (
    ArrayFile, CropConfig, Colors, FilesData, Modality, ModelConfig, NumberFile, RunConfig, Scalar,
    Text, TextFile, TrainingConfig
)

config = RunConfig(
    modalities={"rgb": Modality(Colors()), "caption": Modality(Text()), "age": Modality(Scalar())},
    data=FilesData(
        "PATH",
        modalities={"rgb": ArrayFile(), "caption": TextFile(), "age": NumberFile()},
    ),
    crops=CropConfig(size=16, views=2),
    model=ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1),
    training=TrainingConfig(steps=10, batch_size=4),
)
"""


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration of twelve pictures with captions and ages, and four more."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("rgb", "caption", "age"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
        for index in range(count):
            folder = tmp_path / "data" / split
            pixels = random.integers(0, 256, (12, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"rgb/{index:02}.png")
            (folder / f"caption/{index:02}.txt").write_text(f"picture <{index}>")
            (folder / f"age/{index:02}.txt").write_text(str(index))
    file = tmp_path / "mine.py"
    file.write_text(CONFIG.replace("PATH", f"{tmp_path}/data"))
    return file


def examine(config: Path, *arguments: str) -> int:
    return main([str(config), "--out", str(config.parent / "page"), *arguments])


@pytest.mark.slow
def test_sound_data_are_described_in_the_terminal_and_on_a_page(config, capsys):
    (config.parent / "data/train/age/03.txt").unlink()
    assert examine(config) == 0
    told = capsys.readouterr().out
    assert "train: 12 samples, 12 read" in told and "validation: 4 samples" in told
    assert "92%  range 0 to 11" in told and "shape 12x24x3" in told
    assert "together: age + caption + rgb 92%, caption + rgb 8%" in told
    assert "training: 10 steps of 4" in told and "memory of a step:" in told
    page = (config.parent / "page/doctor.html").read_text()
    assert page.count("data:image/png;base64") == 4 * 2 + 4
    assert "picture &lt;0&gt;" in page and "picture <0>" not in page
    assert not (config.parent / "runs").exists()


@pytest.mark.slow
def test_what_training_would_refuse_is_told_at_the_end_and_a_copy_between_splits(
    config, capsys, monkeypatch
):
    # The step is compiled in the other test.
    monkeypatch.setattr("configs.doctor.describe_plan", lambda config: ["a plan"])
    for index in (2, 5, 7):
        (config.parent / f"data/train/rgb/{index:02}.png").write_bytes(b"<html>not found</html>")
    copied = (config.parent / "data/train/rgb/00.png").read_bytes()
    (config.parent / "data/val/rgb/01.png").write_bytes(copied)
    assert examine(config) == 2
    captured = capsys.readouterr()
    assert "train, rgb: 3 unreadable" in captured.out
    assert "have the same value, such as 00 and 01: what is measured there was trained" in (
        captured.out
    )
    assert "3 of 12 values of rgb in the split train can't be used" in captured.err
    assert (config.parent / "page/doctor.html").exists()


def test_wrong_words_are_refused(config, capsys):
    assert examine(config, "--samples", "-1") == 2
    assert "--samples is -1; 0 or more is allowed." in capsys.readouterr().err
    assert examine(config, "--data.path", "nowhere") == 2
    assert "--data.path" in capsys.readouterr().err
    assert main([]) == 0
    assert "fourm doctor" in capsys.readouterr().out

"""The example of a table, a signal, a wide picture and a label, from files to a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fourm
from configs.schema import RunConfig
from fourm.generate import main as generate
from fourm.run_directory.sample_set import load_heldout
from tests.paths import ROOT
from tokenizers.settings.plain import from_plain
from train import main

# Tests of one group run in one process, which makes the run that they share once.
pytestmark = [pytest.mark.xdist_group("clinic"), pytest.mark.slow]

NAMES = ("patient", "ecg", "xray", "finding")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    """Twenty patients; every fifth lacks a cell, a signal, a picture or a label.

    The pictures are of many sizes.
    """
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("clinic")
    for name in NAMES[1:]:
        (folder / name).mkdir(parents=True)
    lines = ["key,age,weight,sex"]
    for number in range(20):
        key, hole = f"{number:02}", number % 5
        finding = number % 3
        lines.append(f"{key},{'' if hole == 4 else 20 + number},{60 + finding},{'fm'[number % 2]}")
        if hole != 1:
            steps = 512 if number % 2 else 300
            leads = np.sin(np.arange(steps)[:, None] * (0.1 + finding / 10) + [0, 1])
            np.savetxt(
                folder / "ecg" / f"{key}.csv", leads, "%.3f", ",", header="I,II", comments=""
            )
        if hole != 2:
            picture = rng.integers(0, 256, rng.integers(30, 60, 2), np.uint8)
            Image.fromarray(picture).save(folder / "xray" / f"{key}.png")
        if hole != 3:
            word = ("none", "acute", "chronic")[finding]
            (folder / "finding" / f"{key}.txt").write_text(word + "\n")
    (folder / "patients.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(clinic, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    small = [
        argument
        for name in ("ecg", "xray")
        for knob, value in (("steps", "1"), ("width", "8"), ("codebook-size", "8"))
        for argument in (f"--modalities.{name}.tokenizer.{knob}", value)
    ]
    arguments = [
        *(str(ROOT / "examples" / "clinic.py"), "--data.path", str(clinic)),
        *("--run-dir", str(run), *small, "--crops.views", "1", "--training.steps", "1"),
        *("--training.batch-size", "4", "--training.evaluate-every", "0", "--loss.tile", "1"),
        *("--model.dim", "16", "--model.num-heads", "2", "--evaluation.num-samples", "4"),
        *("--model.encoder-layers", "1", "--model.decoder-layers", "1"),
    ]
    assert main(arguments) == 0
    return run


def test_a_table_a_signal_a_picture_and_a_label_become_a_run(run):
    report = json.loads((run / "report.json").read_text())
    found = {(*row["inputs"], row["target"], row["metric"]) for row in report["results"]}
    wanted = {("ecg", "finding", "accuracy"), ("ecg", "patient", "error")}
    assert found >= wanted | {("patient", "xray", "ecg", "r2")}
    for row in report["results"]:
        assert np.isfinite([row["value"], row["floor"], row["ceiling"]]).all(), row
    assert (run / "samples.png").exists()
    config = json.loads((run / "config.json").read_text())
    assert config["modalities"]["ecg"]["tokenizer"]["patch_steps"] == 16
    assert config["generation"]["finding"]["decode"] == "expected"


def test_files_are_read_by_the_run_as_training_read_them(run, clinic):
    model = fourm.load(run)
    config = from_plain(json.loads((run / "config.json").read_text()), RunConfig)
    formats = {n: each for n, each in config.data.modalities.items() if n != "xray"}
    assert {name: model.formats[name] for name in formats} == formats
    assert json.loads((run / "pieces.json").read_text())["pieces"]["formats.json"]
    values = {name: tokenizer.values for name, tokenizer in model.tokenizers.items()}
    source = config.crops.apply(config.data.open("train"), values, config.sizes, 0, False)
    compared = 0
    for number, key in enumerate(source.keys):
        trained = source[number]
        files = {name: next((clinic / name).glob(f"{key}.*"), None) for name in NAMES[1:]}
        given = model.prepare({name: file for name, file in files.items() if file}).values
        for name, found in given.items():
            np.testing.assert_array_equal(found[0], trained[name])
            compared += 1
    assert compared > 20


def test_any_predicts_any(run, clinic, tmp_path, capsys):
    asked = ["--patient", '{"age": 30, "sex": "m"}', "--ecg", str(clinic / "ecg" / "00.csv")]
    out = ["--out", str(tmp_path / "out")]
    assert generate([str(run), *asked, *out, "--targets", "finding", "patient"]) == 0
    told = capsys.readouterr().out
    assert "finding 0: " in told and ", weight " in told, "no answer lacks a cell"
    assert generate([str(run), "--finding", "acute", *out, "--targets", "ecg", "xray"]) == 0
    assert np.load(tmp_path / "out" / "ecg_000.npy").shape == (512, 2)
    with Image.open(tmp_path / "out" / "xray_000.png") as made:
        assert made.size == (48, 32)


def test_grids_and_pictures_have_the_aspect_ratio_of_the_crops(run):
    assert fourm.load(run).space["xray"].token_shape == (4, 6)
    heldout = load_heldout(run, "test")
    assert heldout.columns["xray"].values.shape[1:] == (32, 48, 3)


def test_pictures_of_any_size_are_cut_to_that_of_the_model(run, tmp_path):
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(tmp_path / "high.png")
    asked = ["--xray", tmp_path / "high.png", "--targets", "finding", "--out", tmp_path / "out"]
    assert generate([str(run), *map(str, asked)]) == 0
    assert (tmp_path / "out").is_dir()

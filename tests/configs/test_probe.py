"""Probes by their command: of the samples that a run keeps, and of files with a table of labels."""

import json

import numpy as np
import pytest
from PIL import Image

from configs.probe import main
from fourm.run_directory.sample_set import TRAINING, SampleSet, save_heldout
from tests.fourm.tiny_run import SIDE, make_run, write_run

QUICK = ["--shares", "1", "--folds", "1", "--weight-decays", "0.1", "--head.epochs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    write_run(folder, make_run())
    for name, count in ((TRAINING, 24), ("test", 12)):
        samples = [{"rgb": picture(i), "metadata": {"tone": i % 2}} for i in range(count)]
        save_heldout(folder, name, SampleSet.collect(samples, ["rgb"]))
    return folder


def picture(number: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), 200 * (number % 2) + number, np.uint8)


@pytest.mark.slow
def test_the_samples_that_a_run_keeps_are_probed(run, capsys):
    assert main([str(run), "--label", "tone", *QUICK]) == 0
    written = json.loads((run / "probe_tone.json").read_text())
    by_features = {row["features"]: row["value"] for row in written["rows"]}
    assert by_features["raw_pixels"] == 1.0 and "tone: accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_files_are_probed_by_a_table_of_labels(run, tmp_path, capsys):
    rows = ["key,species"]
    for split, count in (("train", 12), ("val", 6)):
        (tmp_path / split / "rgb").mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(number)).save(tmp_path / split / "rgb" / f"{split}{number}.png")
            rows.append(f"{split}{number},{('cat', 'dog')[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    words = ["files", "--data.path", str(tmp_path), "--data.table", "labels.csv"]
    asked = [str(run), *words, "--label", "species", "--out", str(tmp_path / "out")]
    assert main([*asked, *QUICK, "--rivals", "False"]) == 0
    written = json.loads((tmp_path / "out" / "probe_species.json").read_text())
    assert {row["num_train"] for row in written["rows"]} == {12}
    (tmp_path / "labels.csv").write_text("key,species\nfrog,dog\n")
    assert main([*asked, *QUICK]) == 2
    assert "No row of" in capsys.readouterr().err


def test_bad_input_gets_one_sentence(run, capsys):
    for arguments, message in (
        ([], "Name a run directory first"),
        ([str(run)], "Say with --label what is read"),
        ([str(run), "--label", "age"], "There is no label 'age'; the samples have the facts tone"),
        ([str(run), "--label", "tone", "--inputs", "rbg"], "no modality 'rbg'"),
        ([str(run), "--label", "tone", "--shares", "2"], "--shares is"),
    ):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert message in told and "Traceback" not in told

"""A folder in place of a configuration, from its files to a run and back."""

import json

import numpy as np
import pytest

from configs.command_line import parse_command_line
from train import main

SMALL = [
    *("--model.dim", "16", "--model.num-heads", "2", "--model.encoder-layers", "1"),
    *("--model.decoder-layers", "1", "--training.steps", "1", "--training.batch-size", "4"),
    *("--training.evaluate-every", "0", "--loss.tile", "1", "--evaluation.num-samples", "4"),
]


@pytest.fixture
def folder(tmp_path):
    """Grids of ids, sequences of vectors that are only ever input, and numbers."""
    rng = np.random.default_rng(0)
    for name in ("tok_map", "text_emb", "height"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(12):
        np.save(tmp_path / f"data/tok_map/{number}.npy", rng.integers(0, 30, (4, 8)))
        np.save(tmp_path / f"data/text_emb/{number}.npy", rng.normal(size=(3, 6)))
        (tmp_path / f"data/height/{number}.txt").write_text(str(rng.normal()))
    return tmp_path / "data"


@pytest.mark.slow
def test_a_folder_becomes_a_run_whose_configuration_can_be_edited(folder, tmp_path, capsys):
    run = tmp_path / "runs" / "run"
    command = [str(folder), "--run-dir", str(run), *SMALL]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "tok_map: Codes (12 of 12 samples)" in told
    assert f"Written as a configuration to edit: {run / 'config.py'}" in told
    rows = json.loads((run / "report.json").read_text())["results"]
    assert {(*row["inputs"], row["target"]) for row in rows} == {("height", "tok_map")}
    written, _ = parse_command_line([str(run / "config.py")])
    inferred, _ = parse_command_line([str(folder), "--run-dir", str(run), *SMALL])
    assert written == inferred
    # What somebody wrote into it stays.
    (run / "config.py").write_text("# mine")
    assert main(command) == 0
    assert (run / "config.py").read_text() == "# mine"


def test_every_kind_of_data_is_understood_in_place_of_a_preset(folder, capsys):
    (folder / "rows.csv").write_text("a,b\n" + "\n".join(f"{n / 3},{n % 5}.5" for n in range(9)))
    config, _ = parse_command_line([str(folder / "rows.csv")])
    assert sorted(config.modalities) == ["a", "b"] and config.run_dir == "runs/rows"
    assert main([str(folder / "height" / "1.txt")]) == 2
    assert "is a single file; give the folder that holds it" in capsys.readouterr().err

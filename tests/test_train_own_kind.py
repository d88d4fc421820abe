"""The page's kind of one's own, from its file to a run that is used, with the file at hand."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fourm
from fourm.generate import main as generate
from tests.paths import ROOT
from tokenizers.settings.own_code import HANDED_OVER
from train import main

FILE = ROOT / "docs" / "own_kind.py"


@pytest.fixture
def landscapes(tmp_path):
    """Grey landscapes, most of them with the direction of the wind."""
    rng = np.random.default_rng(0)
    for name in ("rgb", "wind"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(20):
        picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "data" / "rgb" / f"{number:03}.png")
        if number % 5:
            degrees = str(rng.uniform(0, 360))
            (tmp_path / "data" / "wind" / f"{number:03}.txt").write_text(degrees)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_kind_of_ones_own_becomes_a_run_that_needs_its_file(landscapes, tmp_path, capsys):
    run = tmp_path / "run"
    begun = [
        *(str(FILE), "--data.path", str(landscapes), "--run-dir", str(run), "--crops.size", "8"),
        *("--modalities.rgb.tokenizer.steps", "1", "--modalities.rgb.tokenizer.width", "8"),
        *("--modalities.rgb.tokenizer.codebook-size", "8", "--modalities.wind.tokenizer.parts"),
        *("12", "--crops.views", "2", "--crops.turn", "True", "--model.dim", "16"),
        *("--model.num-heads", "2", "--model.encoder-layers", "1", "--model.decoder-layers", "1"),
        *("--training.steps", "1", "--training.batch-size", "4", "--loss.tile", "1"),
        *("--evaluation.pairs", "rgb->wind", "--evaluation.num-samples", "4"),
        *("--training.evaluate-every", "0"),
    ]
    assert main(begun) == 0
    config = json.loads((run / "config.json").read_text())
    wind = config["modalities"]["wind"]
    assert wind["values"] == {"class": "Bearing", "from": "own_kind.py"}
    assert wind["tokenizer"]["parts"] == 12
    (row,) = json.loads((run / "report.json").read_text())["results"]
    assert 0 <= row["value"] <= 180

    del sys.modules[f"{HANDED_OVER}own_kind"]
    with pytest.raises(ValueError, match=r"defined in own_kind\.py.*--code own_kind\.py, or code="):
        fourm.load(run)
    picture = str(landscapes / "rgb" / "000.png")
    asked = [str(run), "--rgb", picture, "--targets", "wind"]
    assert generate(asked) == 2
    assert generate([*asked, "--code", str(FILE)]) == 0
    assert "wind 0: " in capsys.readouterr().out

    del sys.modules[f"{HANDED_OVER}own_kind"]
    made = fourm.load(run, code=FILE).generate({"wind": [10.0]}, ["rgb"])
    assert made.values["rgb"].shape == (1, 8, 8, 3)
    assert main(begun) == 0, "the run goes on with the settings that it has"


@pytest.mark.slow
def test_processes_that_tokenize_get_the_file_that_was_handed_over(landscapes, tmp_path):
    """Tokens are made by the tokenizers of a folder alone, which name the class."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from data_pipeline.tokenize import main
from tokenizers.settings.own_code import run_file
from tokenizers.settings.plain import to_plain
import json
if __name__ == "__main__":
    mine = run_file(Path({str(FILE)!r}))
    run = Path("run")
    values = mine.Bearing()
    mine.BearingTokenizerConfig(8).fit(values, [], None).save(run / "tokenizers" / "wind")
    (run / "config.json").write_text(json.dumps({{"data": to_plain(mine.config.data)}}))
    sys.exit(main(["run", "--out", "tokens", "--processes", "2", "--num-shards", "2", "--code",
        {str(FILE)!r}, "--data.path", {str(landscapes)!r}]))
"""
    (tmp_path / "make.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "make.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tokens" / "index.json").is_file()

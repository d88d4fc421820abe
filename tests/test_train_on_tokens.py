"""Runs whose input has pixels and vectors, and runs that train on tokens made beforehand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.command_line import parse_command_line
from configs.runs.samples import check_tokenizers
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.kinds import NoData
from data_pipeline.tokenize import main as tokenize
from data_pipeline.tokens.store import TokenStore
from fourm.evaluate import main as evaluate
from tests.test_train import losses_of
from tokenizers.features import PixelTokenizer, Vectors, VectorTokenizer
from train import main

# Tests of one group run in one process, which makes the run that they share once.
pytestmark = [pytest.mark.xdist_group("run on tokens"), pytest.mark.slow]

CAPTIONS = ("a red cube", "a blue cone", "a green ball")
CONFIG = """
from configs.schema import CropConfig, RunConfig
from tokenizers.formats.formats import ArrayFile, NumberFile, TextFile
from configs.command_line import parse_command_line
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.kinds import NoData
from fourm.evaluation.config import EvaluationConfig
from fourm.training.masked_loss import LossConfig
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.model.config import ModelConfig
from fourm.evaluation.probes import ProbeConfig
from fourm.training.loop import TrainingConfig
from tokenizers.features import Vectors
from tokenizers.modality import Modality, SavedTokenizerConfig
from tokenizers.scalars import Scalar, ScalarTokenizerConfig
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Colors

MODALITIES = {{
    "rgb@8": Modality(Colors(), SavedTokenizerConfig({rgb!r})),
    "t5": Modality(Vectors(width=6, longest=4), SavedTokenizerConfig({t5!r})),
    "caption": Modality(
        Text(), TextTokenizerConfig(vocab_size=320, max_tokens=10, num_sentinels=4)
    ),
    "count": Modality(Scalar(), ScalarTokenizerConfig(num_bins=4)),
}}
config = RunConfig(
    modalities=MODALITIES,
    data=FilesData(
        path={data!r},
        modalities={{
            "rgb@8": ArrayFile("rgb"),
            "t5": ArrayFile(),
            "caption": TextFile(),
            "count": NumberFile(),
        }},
    ),
    crops=CropConfig(size=8, views=2),
    masking=MaskingConfig((
        MaskingComponent(
            inputs=dict.fromkeys(MODALITIES, 0.5),
            targets={{"caption": 0.5, "count": 0.5}},
            num_inputs=(1, 6),
            num_targets=(4, 4),
        ),
    )),
    loss=LossConfig(tile=1),
    model=ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1),
    training=TrainingConfig(steps=3, batch_size=8, log_every=1, checkpoint_every=3),
    evaluation=EvaluationConfig(pairs=("rgb@8->count",), num_samples=2),
    probes=ProbeConfig(input="rgb@8"),
)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run over pictures as pixels, vectors, captions and numbers, some of them missing."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for name in ("rgb", "t5", "caption", "count"):
            (folder / "data" / split / name).mkdir(parents=True)
        for key in range(count):
            place = folder / "data" / split
            (place / "caption" / f"{key}.txt").write_text(CAPTIONS[key % 3])
            (place / "count" / f"{key}.txt").write_text(str(key % 4))
            if key != 2:
                picture = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
                np.save(place / "rgb" / f"{key}.npy", picture)
            if key != 1:
                vectors = rng.normal(size=(key % 3 + 1, 6)).astype(np.float32)
                np.save(place / "t5" / f"{key}.npy", vectors)
    PixelTokenizer(8, 4).save(folder / "rgb")
    VectorTokenizer(Vectors(width=6, longest=4)).save(folder / "t5")
    paths = {name: str(folder / name) for name in ("rgb", "t5", "data")}
    (folder / "config.py").write_text(CONFIG.format(**paths))
    assert main([str(folder / "config.py"), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def model_losses(folder: Path) -> list[float]:
    return [line["loss"] for line in losses_of(folder) if line["stage"] == "model"]


def test_a_run_with_pixels_and_vectors_reaches_its_report(run):
    assert np.isfinite(model_losses(run)).all() and len(model_losses(run)) == 3
    last = losses_of(run)[-1]
    # What is never predicted has no floor.
    assert {name for name in last if "entropy/" in name} == {"entropy/caption", "entropy/count"}
    rows = json.loads((run / "report.json").read_text())["results"]
    assert {(*row["inputs"], row["target"]) for row in rows} == {("rgb@8", "count")}
    batch = TokenStore.open(run / "tokens").batch(np.arange(14))
    assert batch.num_real["rgb@8"].tolist() == [4] * 4 + [0] * 2 + [4] * 8
    assert batch.num_real["t5"].tolist() == [1, 1, 0, 0, 3, 3, 1, 1, 2, 2, 3, 3, 1, 1]


def test_the_command_makes_what_the_run_made_itself(run):
    made = {path: path.stat().st_mtime_ns for path in (run / "tokens").iterdir()}
    assert tokenize([str(run), "--out", str(run / "tokens")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "tokens").iterdir()} == made


@pytest.mark.slow
def test_a_run_trains_on_tokens_made_beforehand(run, tmp_path):
    """The run's own tokens, made apart and named, give the losses of the run."""
    config, tokens = str(run.parent / "config.py"), str(tmp_path / "tokens")
    assert tokenize([str(run), "--out", tokens, "--num-shards", "3"]) == 0
    folder = tmp_path / "again"
    assert main([config, "--tokens", tokens, "1.0", "--run-dir", str(folder)]) == 0
    assert not (folder / "tokens").exists()
    assert model_losses(folder) == model_losses(run)


@pytest.mark.slow
def test_a_run_trains_on_a_mixture_and_refuses_what_does_not_fit(run, tmp_path, capsys):
    config, texts = str(run.parent / "config.py"), str(tmp_path / "texts")
    assert tokenize([str(run), "--out", texts, "--modalities", "caption", "count"]) == 0
    mixture = ("--tokens", texts, "3.0", str(run / "tokens"), "1.0")
    folder = tmp_path / "mixed"
    assert main([config, *mixture, "--run-dir", str(folder)]) == 0
    losses = model_losses(folder)
    assert np.isfinite(losses).all() and losses != model_losses(run)
    capsys.readouterr()
    # Other captions make another tokenizer.
    other = ("--modalities.caption.tokenizer.num-sentinels", "5")
    assert main([config, *mixture, *other, "--run-dir", str(tmp_path / "other")]) == 2
    told = capsys.readouterr().err
    assert f"{texts} were made by other tokenizers of caption" in told


def test_tokens_and_tokenizers_are_all_that_training_needs(run, tmp_path, monkeypatch, capsys):
    """The data that they were made from may be elsewhere, and the model is measured there."""
    folder, tokens = tmp_path / "run", ("--tokens", str(run / "tokens"), "1.0")
    heldout = shutil.copytree(run / "heldout_tokens", tmp_path / "heldout")
    arguments = [str(run), "none", *tokens, "--run-dir", str(folder)]
    arguments += ["--heldout-tokens", str(heldout)]
    with monkeypatch.context() as patched:
        patched.setattr(FilesData, "open", lambda *_: pytest.fail("there is no data"))
        assert main(arguments) == 0
        made = (folder / "report.json").stat().st_mtime_ns
        assert main(arguments) == 0  # finds everything done
    assert (folder / "report.json").stat().st_mtime_ns == made
    losses, last = model_losses(folder), losses_of(folder)[-1]
    assert np.isfinite(last["heldout_loss"]) and not (folder / "heldout_tokens").exists()
    assert last["heldout_targets/count"] == losses_of(run)[-1]["heldout_targets/count"] > 0
    assert len(losses) == 3 and losses[0] < model_losses(run)[0]  # It starts from that model.
    assert json.loads((folder / "report.json").read_text())["results"] == []
    assert "without data to evaluate it on" in (folder / "report.md").read_text()
    assert not (folder / "heldout").exists() and (folder / "curves.png").exists()
    capsys.readouterr()
    assert evaluate([str(folder)]) == 2
    assert "it has none at all: python train.py" in capsys.readouterr().err
    data = ("files", "--data.path", str(run.parent / "data"), "--training.steps", "0")
    measured = tmp_path / "measured"
    assert main([str(folder), *data, "--run-dir", str(measured)]) == 0
    rows = json.loads((measured / "report.json").read_text())["results"]
    assert {(*row["inputs"], row["target"]) for row in rows} == {("rgb@8", "count")}
    assert not (measured / "tokens").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["RUN", "none"], "neither data nor a store of tokens; give --tokens"),
        (["CONFIG", "none", "--tokens", "TOKENS", "1.0"], "no data to make tokenizers of caption,"),
        (["RUN", "none", "--tokens", "nowhere", "1.0"], "There are no tokens in nowhere"),
        (
            ["RUN", "none", "--tokens", "TOKENS", "1.0", "--heldout-tokens", "nowhere"],
            "There are no tokens in nowhere",
        ),
        (
            ["RUN", "none", "--tokens", "TOKENS", "1.0", "--heldout-tokens", "TOKENS"],
            "which --tokens trains on; give tokens of other samples",
        ),
        (
            ["RUN", "file"],
            "no kind of data 'file'; there are scenes, files, tfds, parquet, arrays, coco, none",
        ),
        (
            ["RUN", "files", "--data.path", "nowhere", "--tokens", "TOKENS", "1.0"],
            "no data folder 'nowhere'; set --data.path to the data set; or, after the name of",
        ),
    ],
)
def test_what_is_missing_without_data_is_one_sentence(run, tmp_path, capsys, arguments, reason):
    places = {
        "RUN": str(run),
        "CONFIG": str(run.parent / "config.py"),
        "TOKENS": str(run / "tokens"),
    }
    words = [places.get(word, word) for word in arguments]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and reason in told and told.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("way", ["from its weights", "forked", "with its tokenizers"])
def test_tokens_of_other_tokenizers_are_refused_before_anything_is_written(
    run, tmp_path, capsys, way
):
    tokens, folder = shutil.copytree(run / "tokens", tmp_path / "tokens"), tmp_path / "again"
    index = json.loads((tokens / "index.json").read_text())
    index["modalities"]["caption"]["tokenizer"] = "another"
    (tokens / "index.json").write_text(json.dumps(index))
    begin = {
        "from its weights": [str(run), "none"],
        "forked": [str(run.parent / "config.py"), "--fork", str(run)],
        "with its tokenizers": [str(run), "--start-from", ""],
    }
    arguments = [*begin[way], "--tokens", str(tokens), "1.0", "--run-dir", str(folder)]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert f"{tokens} were made by other tokenizers of caption than this run has; take" in told
    assert told.count("\n") == 1 and not folder.exists()


@pytest.mark.slow
def test_a_fork_has_the_tokenizers_of_an_unfinished_run(run, tmp_path):
    begun, folder = tmp_path / "begun", tmp_path / "fork"
    begun.mkdir()
    shutil.copy(run / "config.json", begun)
    shutil.copytree(run / "tokenizers", begun / "tokenizers")
    tokens = ("--tokens", str(run / "tokens"), "1.0")
    config = str(run.parent / "config.py")
    assert main([config, "none", *tokens, "--fork", str(begun), "--run-dir", str(folder)]) == 0
    assert model_losses(folder) == model_losses(run)


def test_a_model_of_another_shape_starts_anew_on_the_tokens_of_a_run(run):
    knobs = ("--tokens", str(run / "tokens"), "1.0", "--start-from", "", "--model.dim", "32")
    config, _ = parse_command_line([str(run), "none", *knobs])
    check_tokenizers(config)
    assert (config.start_from, config.model.dim, config.data) == ("", 32, NoData())

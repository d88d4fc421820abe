"""A run directory stands for the configuration that trains its model further."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.command_line import load_preset, parse_command_line
from configs.presets.published import mixture
from configs.runs.further import load_run
from fourm.interop.ml4m import main as ml4m
from fourm.model.saved_model import load_model
from tests.fourm.tiny_run import CAPTIONS, SIDE, make_pictures, make_run, write_run
from tests.paths import GOLDENS
from tests.test_train import arrays_of, report_of
from tokenizers.formats.formats import (
    ArrayFile,
    BoxesFile,
    CodesFile,
    NumberFile,
    TextFile,
)
from tokenizers.modality import SavedTokenizerConfig
from tokenizers.settings.plain import to_plain
from train import main

GOLDENS = GOLDENS


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "source"
    write_run(folder, make_run())
    return folder


def write_data(folder: Path) -> None:
    """Writes aligned files that the tokenizers of the tiny run take."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for name in ("rgb", "depth", "caption", "boxes", "count"):
            (folder / split / name).mkdir(parents=True)
        for i, picture in enumerate(make_pictures(count)):
            Image.fromarray(picture).save(folder / split / "rgb" / f"{i}.png")
            depth = rng.uniform(1, 5, (SIDE, SIDE)).astype(np.float32)
            np.save(folder / split / "depth" / f"{i}.npy", depth)
            (folder / split / "caption" / f"{i}.txt").write_text(CAPTIONS[i % 4])
            box = {"boxes": [0.1, 0.2, 0.5, 0.6], "class_name": "cube"}
            (folder / split / "boxes" / f"{i}.json").write_text(json.dumps({"instances": [box]}))
            (folder / split / "count" / f"{i}.txt").write_text("2")


@pytest.mark.slow
def test_a_run_made_elsewhere_is_trained_further_on_files(source, tmp_path):
    write_data(tmp_path / "data")
    knobs = ["--data.path", str(tmp_path / "data"), "--training.batch-size", "4"]
    knobs += ["--loss.tile", "1"]  # the least to compile
    unchanged, tuned = tmp_path / "unchanged", tmp_path / "tuned"
    for folder, steps in ((unchanged, "0"), (tuned, "2")):
        knobs_here = ["--run-dir", str(folder), "--training.steps", steps]
        assert main([str(source), *knobs, *knobs_here, "--evaluation.num-samples", "2"]) == 0
        targets = {row["target"] for row in report_of(folder)["results"]}
        assert targets == {"depth", "caption", "boxes", "count"}
    before = arrays_of(source)
    for name, array in arrays_of(unchanged).items():
        np.testing.assert_array_equal(array, before[name], name)
    after = arrays_of(tuned)
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(moved) > len(before) / 2
    # Two steps of warm-up hardly move anything: training started from these weights.
    assert all(np.abs(after[name] - before[name]).max() < 0.01 for name in before)


def write_config(file: Path, source: Path, kept: Sequence[str]) -> list[str]:
    """Writes a configuration of numbers and what it keeps of a run; returns a command line."""
    write_data(file.parent / "data")
    file.write_text(
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from configs.runs.further import load_run\n"
        "from configs.presets.components import any_to_any\n"
        "from fourm.masking.ours import MaskingConfig\n"
        "from fourm.evaluation.directions import EvaluationConfig\n"
        "from tokenizers.modality import Modality\n"
        "from tokenizers.scalars import Scalar, ScalarTokenizerConfig\n"
        f"base, _ = load_run(Path({str(source)!r}))\n"
        "MODALITIES = {'count': Modality(Scalar(unit='m'), ScalarTokenizerConfig(num_bins=2))}\n"
        f"MODALITIES |= {{name: base.modalities[name] for name in {list(kept)}}}\n"
        "FILES = {name: base.data.modalities[name] for name in MODALITIES}\n"
        "EQUALLY = dict.fromkeys(MODALITIES, 1.0)\n"
        "MASKING = MaskingConfig((any_to_any(EQUALLY, num_inputs=(1, 4), num_targets=4),))\n"
        "config = replace(base, modalities=MODALITIES, masking=MASKING, generation={},\n"
        "    evaluation=EvaluationConfig(), data=replace(base.data, modalities=FILES))\n"
    )
    return [str(file), "--data.path", str(file.parent / "data")]


@pytest.mark.slow
def test_a_run_of_another_modality_keeps_what_it_shares(source, tmp_path, capsys):
    kept = ("depth", "rgb")
    arguments = write_config(tmp_path / "mine.py", source, kept)
    folder = tmp_path / "run"
    assert main([*arguments, "--training.steps", "0", "--run-dir", str(folder)]) == 0
    assert "depth, rgb; anew: count" in capsys.readouterr().out
    ours, theirs = load_model(folder / "model"), load_model(source / "model")
    for name in kept:
        here, there = ours.space[name], theirs.space[name]
        np.testing.assert_array_equal(
            ours.output_table[...][here.first_id :][: here.vocab_size],
            theirs.output_table[...][there.first_id :][: there.vocab_size],
        )


@pytest.mark.slow
def test_a_run_of_ours_keeps_its_own_settings(source, tmp_path):
    config, _ = load_preset("tests/fixtures/tiny_scenes.py")
    made = replace(config, run_dir="runs/x")
    folder = tmp_path / "ours"
    write_run(folder, make_run())
    (folder / "config.json").write_text(json.dumps(to_plain(made)))
    further, _ = load_run(folder)
    for name in ("data", "masking", "training", "evaluation", "crops", "loss", "generation"):
        assert getattr(further, name) == getattr(made, name)
    assert further.start_from == str(folder) and further.run_dir == f"{folder}-tuned"
    # Precision is this machine's choice again.
    assert further.model == replace(make_run().model.config, compute_dtype="auto")
    assert all(isinstance(m.tokenizer, SavedTokenizerConfig) for m in further.modalities.values())


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        (
            ["--crops.size", "64"],
            "--crops.size is 64, but every picture has a size of its own (",
        ),
        (
            ["--modalities.rgb.size", "64"],
            "--modalities.rgb.size is 64, but the tokenizer {source}/tokenizers/rgb reads pictures "
            "of 8 pixels; give 8.",
        ),
    ],
)
def test_sizes_that_saved_tokenizers_do_not_have_are_refused_at_once(
    source, tmp_path, capsys, knobs, told
):
    write_data(tmp_path / "data")
    arguments = [str(source), "--data.path", str(tmp_path / "data"), *knobs]
    assert main([*arguments, "--run-dir", str(tmp_path / "tuned")]) == 2
    assert told.format(source=source) in capsys.readouterr().err
    assert not (tmp_path / "tuned" / "heldout").exists()


@pytest.mark.slow
def test_an_imported_model_asks_for_files_of_its_modalities(tmp_path):
    folder = tmp_path / "imported"
    assert ml4m(["import", str(GOLDENS / "fm_4m7_tiny_gelu"), "--out", str(folder)]) == 0
    config, about = load_run(folder)
    assert str(folder) in about
    # Without tokenizers, ids are what there is to read; pixels are read as they are.
    assert config.data.modalities["tok_rgb@224"] == CodesFile(shape=(14, 14))
    assert config.data.modalities["rgb@224"] == ArrayFile("rgb", as_rgb=True)
    assert config.masking == mixture("7")
    assert config.evaluation.pairs[0] == "rgb@224->caption"
    assert all("rgb@224->" in pair for pair in config.evaluation.pairs)
    parsed, _ = parse_command_line([str(folder), "--data.path", "x", "--training.steps", "7"])
    assert parsed.training.steps == 7 and parsed.data.path == "x"


def test_files_are_told_by_what_the_values_are(source):
    files = load_run(source)[0].data.modalities
    assert files["caption"] == TextFile("caption") and files["count"] == NumberFile("count")
    assert files["boxes"] == BoxesFile("boxes", class_names=("cube", "ball"))
    assert files["depth"] == ArrayFile("depth")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "model").rename(run / "elsewhere"), "has no model yet to start from"),
        (lambda run: (run / "config.json").write_text("{"), "config.json can't be used"),
        (
            lambda run: (run / "config.json").write_text('{"class": "Mine"}'),
            "no configuration class 'Mine'.*FILE.py with --start-from",
        ),
    ],
)
def test_a_run_that_cannot_be_started_from_says_why(tmp_path, break_it, message):
    folder = tmp_path / "run"
    write_run(folder, make_run())
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        load_run(folder)


def test_no_steps_need_weights_to_start_from(capsys):
    assert main(["tests/fixtures/tiny_scenes.py", "--training.steps", "0"]) == 2
    assert "--training.steps is 0, which leaves" in capsys.readouterr().err


@pytest.mark.slow
def test_a_source_without_a_shared_tokenizer_is_refused(source, tmp_path, capsys):
    arguments = write_config(tmp_path / "mine.py", source, ())
    assert main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    assert "has no modality with the same tokenizer" in capsys.readouterr().err


@pytest.mark.slow
def test_an_imported_model_learns_from_pixels_and_ids_and_is_exported(tmp_path):
    source, tuned = tmp_path / "imported", tmp_path / "tuned"
    assert ml4m(["import", str(GOLDENS / "fm_4m7_tiny_gelu"), "--out", str(source)]) == 0
    space = load_model(source / "model").space
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for entry in space.ranges:
            name = "rgb" if entry.kind == "features" else entry.name
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                if entry.kind == "features":
                    picture = rng.integers(0, 256, (240, 240, 3)).astype(np.uint8)
                    Image.fromarray(picture).save(folder / f"{i}.png")
                elif entry.kind == "sequence":
                    np.save(folder / f"{i}.npy", rng.integers(205, entry.vocab_size, 7 + i))
                else:
                    np.save(folder / f"{i}.npy", rng.integers(0, 96, entry.token_shape))
    knobs = ["--data.path", str(tmp_path / "data"), "--run-dir", str(tuned)]
    knobs += ["--training.steps", "1", "--training.batch-size", "2", "--loss.tile", "1"]
    knobs += ["--evaluation.pairs", "rgb@224->tok_depth@224", "--evaluation.num-samples", "1"]
    assert main([str(source), *knobs]) == 0
    before, after = arrays_of(source), arrays_of(tuned)
    projection = next(name for name in before if "projection_2/kernel" in name)
    assert not np.array_equal(before[projection], after[projection])
    assert ml4m(["export", str(tuned), "--out", str(tmp_path / "exported")]) == 0
    assert ml4m(["import", str(tmp_path / "exported"), "--out", str(tmp_path / "again")]) == 0
    again = arrays_of(tmp_path / "again")
    assert all(np.array_equal(after[name], again[name]) for name in after)

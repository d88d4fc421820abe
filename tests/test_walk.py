"""Every file of a run directory is damaged in every way: same bits as before, or one sentence.

Tried here is a fixed sample, by what the commands load, which takes seconds. All files in all ways,
by the commands themselves and down to the trained bits, of a finished run and of a half-finished
one, take an hour or two:

FOURM_WALK=whole JAX_PLATFORMS=cpu python -m pytest -n 0 -s tests/test_walk.py

With FOURM_WALK=finished or FOURM_WALK=half-finished it is one of the two, without the many small
files of the checkpoints.
"""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import fourm
from configs.command_line import parse_command_line
from configs.runs.settings import open_run
from data_pipeline.tokens.mixture import TokenMixture
from fourm.evaluate import Command, evaluate_run
from fourm.model.saved_model import load_model, save_model
from fourm.run_directory.run_log import read_metrics
from fourm.run_directory.sample_set import SampleSet, load_heldout
from tests.conftest import TINY_SCENES
from tokenizers.modality import load_tokenizer
from tokenizers.storage.folders import fingerprint_files, load_folder, save_folder
from tokenizers.storage.pieces import record_pieces
from train import main

WHOLE = os.environ.get("FOURM_WALK", "")
CONFIG, _ = parse_command_line([TINY_SCENES])
NAMES = ("rgb", "semseg", "caption", "boxes", "distance")
NOT_READ = ("tensorboard", "report.md", "samples.png", "curves.png", "evaluation_test.json")
"""Made for people; no command reads them."""
SAMPLE = (
    *("config.json", "pieces.json", "report.json", "seconds.json", "metrics.jsonl"),
    *("tokenizers/rgb/description.json", "tokenizers/rgb/arrays.npz"),
    *("tokenizers/caption/description.json", "tokenizers/caption/sentencepiece.model"),
    *("heldout/test/description.json", "heldout/test/modality-2", "heldout/test/arrays.npz"),
    *("model/description.json", "model/arrays.npz"),
    *("tokens/index.json", "tokens/shard-00000-of-00001.json"),
    "tokens/shard-00000-of-00001.array_record",
)


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        rng = random.Random(path.name)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    write(path, bytes(content))


def write(path: Path, content: bytes) -> None:
    path.unlink()  # Another run may have the same file by another name.
    path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    "nothing": lambda path, _: path.unlink(),
    "half": lambda path, _: write(path, path.read_bytes()[: path.stat().st_size // 2]),
    "{}": lambda path, _: write(path, b"{}"),
    "[]": lambda path, _: write(path, b"[]"),
    "a folder": lambda path, _: make_folder(path),
    "a flipped bit": flip,
    "another run's": lambda path, other: write(path, other.read_bytes()),
}


def files_of(run: Path) -> list[str]:
    return sorted(
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] not in NOT_READ
    )


def tries_of(run: Path) -> list[tuple[str, str]]:
    files = files_of(run)
    if WHOLE != "whole":
        files = [file for file in files if not file.startswith("checkpoints/")]
    return [(file, damage) for file in files for damage in DAMAGE]


def digest(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def load_all(run: Path) -> dict[str, object]:
    """Returns in short all that the commands load of a finished run."""
    open_run(replace(CONFIG, run_dir=str(run)))
    loaded = fourm.load(run)
    _, state = nnx.split(loaded.model)
    samples = [load_heldout(run, split) for split in ("test", "train_reference")]
    made_by = {name: fingerprint_files(run / "tokenizers" / name) for name in NAMES}
    tokens = TokenMixture.open({str(run / "tokens"): 1.0}, loaded.tokenizers, made_by)
    batch = tokens.batch(np.arange(len(tokens)))
    return {
        "model": digest(*map(np.asarray, nnx.to_flat_state(state).leaves)),
        "settings": loaded.settings,
        "tokenizers": made_by,
        "samples": [(each.size, sorted(each.columns), sorted(each.metadata)) for each in samples],
        "boxes": digest(*(b.corners for b in samples[0].columns["boxes"].values)),
        "captions": samples[0].columns["caption"].values,
        "tokens": digest(*batch.ids.values(), *batch.num_real.values()),
        "entropy": tokens.marginal_entropy(),
    }


def fork_all(run: Path) -> dict[str, object]:
    """Returns in short what a fork of a run takes over."""
    folder = run.with_name(f"{run.name}-fork")
    longer = replace(CONFIG.training, steps=16)
    try:
        open_run(replace(CONFIG, run_dir=str(folder), training=longer), str(run))
        made_by = {name: fingerprint_files(folder / "tokenizers" / name) for name in NAMES}
        tokenizers = {name: load_tokenizer(folder / "tokenizers" / name) for name in NAMES}
        tokens = TokenMixture.open({str(folder / "tokens"): 1.0}, tokenizers, made_by)
        batch = tokens.batch(np.arange(len(tokens)))
        return {
            "tokenizers": made_by,
            "tokens": digest(*batch.ids.values(), *batch.num_real.values()),
            "samples": load_heldout(folder, "test").size,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def outcome(use: Callable[[Path], dict], run: Path, expected: dict) -> str:
    """Uses a run; returns "same bits", "one sentence", or what else happened."""
    try:
        found = use(run)
    except (ValueError, OSError) as error:
        return "one sentence" if "\n" not in str(error).strip() else f"many lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    differing = [name for name in found if found[name] != expected[name]]
    return f"other {', '.join(differing)}" if differing else "same bits"


def walk(
    run: Path, other: Path, place: Path, tries: list[tuple[str, str]], uses: dict[str, Callable]
) -> Counter:
    """Damages one file at a time in a copy; returns how often what happened."""
    expected = {}
    for name, use in uses.items():
        whole = shutil.copytree(run, place / "whole")
        expected[name] = use(whole)
        shutil.rmtree(whole)
    counts, wrong = Counter(), []
    for file, damage in tries:
        if damage == "another run's" and not (other / file).is_file():
            continue
        for name, use in uses.items():
            copy = shutil.copytree(run, place / "copy")
            DAMAGE[damage](copy / file, other / file)
            told = outcome(use, copy, expected[name])
            counts[told if told in ("same bits", "one sentence") else "else"] += 1
            if told not in ("same bits", "one sentence"):
                wrong.append(f"{name} with {damage} for {file}: {told}")
                print(wrong[-1], flush=True)
            shutil.rmtree(copy)
    assert not wrong, "\n".join(wrong)
    return counts


def make_other(run: Path, folder: Path) -> Path:
    """Makes a run of the same shapes with other weights, tokenizers and samples."""
    shutil.copytree(run, folder)
    (folder / "pieces.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "seed": 9}, indent=2))
    for name in NAMES:
        description, arrays, files = load_folder(folder / "tokenizers" / name)
        other = {n: a[::-1].copy() if a.dtype.kind == "f" else a for n, a in arrays.items()}
        save_folder(folder / "tokenizers" / name, {**description, "other": True}, other, files)
    samples = SampleSet.load(folder / "heldout" / "test")
    samples.columns["caption"].values[0] += " of another run"
    samples.save(folder / "heldout" / "test")
    model = load_model(folder / "model")
    model.output_table[...] = model.output_table[...] + 1
    save_model(folder / "model", model)
    record_pieces(folder)
    return folder


@pytest.fixture(scope="module")
def other(tiny_scenes_run, tmp_path_factory) -> Path:
    return make_other(tiny_scenes_run, tmp_path_factory.mktemp("runs") / "other")


@pytest.mark.slow
@pytest.mark.xdist_group("tiny run")
def test_a_damaged_file_of_a_run_is_noticed_or_changes_nothing(tiny_scenes_run, other, tmp_path):
    assert set(SAMPLE) <= set(files_of(tiny_scenes_run))
    ways = list(DAMAGE)
    # Every file in two ways, and every way for some description, file of arrays and list.
    tries = [(file, ways[(2 * n + k) % 7]) for n, file in enumerate(SAMPLE) for k in range(2)]
    counts = walk(tiny_scenes_run, other, tmp_path, tries, {"load": load_all, "fork": fork_all})
    assert counts["one sentence"] > counts["same bits"] > 0


@pytest.mark.xdist_group("tiny run")
@pytest.mark.parametrize(
    ("piece", "is_recorded"),
    [
        *((piece, True) for piece in ("tokenizers/rgb", "model", "heldout/test", "tokenizers")),
        # Nothing else follows from samples, but the model from the tokenizers.
        *((piece, False) for piece in ("tokenizers/rgb", "model", "tokenizers")),
    ],
)
def test_a_whole_piece_of_another_run_is_named(
    tiny_scenes_run, other, tmp_path, piece, is_recorded
):
    run = shutil.copytree(tiny_scenes_run, tmp_path / "run")
    shutil.rmtree(run / piece)
    shutil.copytree(other / piece, run / piece)
    if not is_recorded:
        (run / "pieces.json").unlink()
    named = "model|tokenizers/" if piece == "tokenizers" else piece
    for use in (load_all, fork_all):
        if is_recorded or use is load_all:
            with pytest.raises(ValueError, match=named) as error:
                use(run)
            assert "another run" in str(error.value) and "\n" not in str(error.value)


def trained(run: Path) -> dict[str, object]:
    """Trains a run to its end and returns in short what it is then."""
    assert_ends(main([TINY_SCENES, "--run-dir", str(run), *LESS]))
    # Curves may be lost as a whole; what was trained last is logged all the same.
    lines = [
        {**line, "samples_per_second": 0}
        for line in read_metrics(run)
        if line["stage"] == "model" and line["step"] > 8
    ]
    report = json.loads((run / "report.json").read_text())
    _, arrays, _ = load_folder(run / "model")
    found = {
        "model": digest(*(arrays[name] for name in sorted(arrays))),
        "results": report["results"],
    }
    return found | ({"metrics": lines} if lines else {})


def forked(run: Path) -> dict[str, object]:
    folder = run.with_name(f"{run.name}-fork")
    more = ["--fork", str(run), "--training.steps", "14"]
    try:
        assert_ends(main([TINY_SCENES, "--run-dir", str(folder), *LESS, *more]))
        _, arrays, _ = load_folder(folder / "model")
        return {"model": digest(*(arrays[name] for name in sorted(arrays)))}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def generated(run: Path) -> dict[str, object]:
    made = fourm.load(run).generate({}, ["rgb", "caption"], num_samples=2, seed=1)
    return {name: ids.tolist() for name, ids in made.ids.items()}


def evaluated(run: Path) -> dict[str, object]:
    return {"results": evaluate_run(Command(run, probes=False))["results"]}


def assert_ends(code: int) -> None:
    if code:
        raise ValueError("It was refused.")


LESS = ("--evaluation.pairs", "rgb->distance", "--probes.tasks")


@pytest.mark.skipif(WHOLE not in ("whole", "finished"), reason="takes an hour; see above")
def test_a_finished_run_survives_every_damage(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder, seed in ((run, "0"), (other, "1")):
        assert main([TINY_SCENES, "--run-dir", str(folder), "--seed", seed, *LESS]) == 0
    tries = tries_of(run)
    uses = {"train": trained, "fork": forked, "generate": generated, "evaluate": evaluated}
    print(f"{len(tries)} tries, each used in {len(uses)} ways:")
    print(dict(walk(run, other, tmp_path, tries, uses)))


@pytest.mark.skipif(WHOLE not in ("whole", "half-finished"), reason="takes an hour; see above")
def test_a_half_finished_run_survives_every_damage(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run, other = tmp_path / "run", tmp_path / "other"
    with monkeypatch.context() as patched:
        patched.setattr("train.save_model", interrupt)
        for folder, seed in ((run, "0"), (other, "1")):
            assert main([TINY_SCENES, "--run-dir", str(folder), "--seed", seed, *LESS]) == 130
            shutil.rmtree(folder / "checkpoints" / "model" / "12")
    tries = tries_of(run)
    print(f"{len(tries)} tries, each used in 2 ways:")
    print(dict(walk(run, other, tmp_path, tries, {"train": trained, "fork": forked})))

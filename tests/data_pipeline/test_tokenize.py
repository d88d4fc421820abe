"""The command that makes token stores, in one process and in several."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.crops import CropConfig
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.kinds import KINDS, NoData
from data_pipeline.tokenize import TokenizeConfig, main, parse
from data_pipeline.tokens.store import TokenStore
from tests.data_pipeline.token_samples import assert_same, everything
from tests.paths import ROOT
from tokenizers.base import SequenceTokens
from tokenizers.codes import Codes, CodeTokenizer
from tokenizers.features import PixelTokenizer
from tokenizers.formats.formats import ArrayFile, NumberFile
from tokenizers.scalars import Scalar, ScalarTokenizerConfig
from tokenizers.settings.plain import to_plain

SMALL = ("--num-shards", "3")


def save_tokenizers(folder: Path) -> None:
    PixelTokenizer(16, 8).save(folder / "rgb")
    distances = np.linspace(1, 20, 50, dtype=np.float32)
    ScalarTokenizerConfig(num_bins=8).fit(Scalar(unit="m"), distances, None).save(
        folder / "distance"
    )


def data_in(folder: Path) -> FilesData:
    files = {"rgb": ArrayFile(), "distance": NumberFile()}
    return FilesData(path=str(folder), modalities=files)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory with tokenizers that need no training, and six samples to train on."""
    save_tokenizers(tmp_path / "run" / "tokenizers")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for name in ("rgb", "distance"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
        for key in range(count):
            picture = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
            np.save(tmp_path / "data" / split / "rgb" / f"{key}.npy", picture)
            (tmp_path / "data" / split / "distance" / f"{key}.txt").write_text(str(key + 1))
    config = {
        "class": "RunConfig",
        "data": to_plain(data_in(tmp_path / "data")),
        "crops": to_plain(CropConfig(size=16, views=2)),
        "seed": 3,
        "model": {"class": "a class that only others know"},
    }
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"


def test_the_run_s_own_data_goes_through_its_own_tokenizers(run, tmp_path, capsys):
    out = tmp_path / "tokens"
    assert main([str(run), "--out", str(out)]) == 0
    assert f"--tokens {out} 1.0" in capsys.readouterr().out
    store = TokenStore.open(out)
    assert len(store) == 12  # Two views of each of six.
    batch = everything(store)
    source = CropConfig(size=16, views=2).apply(
        data_in(tmp_path / "data").open("train"),
        {"rgb": PixelTokenizer(16, 8).values, "distance": Scalar(unit="m")},
        {"rgb": (16, 16), "distance": (16, 16)},
        seed=3,
        with_views=True,
    )
    pixels = np.stack([sample["rgb"] for sample in source.__getitems__(range(12))])
    encoded = PixelTokenizer(16, 8).encode(pixels).reshape(12, 4, -1)
    assert batch.features["rgb"].tobytes() == encoded.tobytes()
    assert (batch.num_real["distance"] == 1).all()
    assert store.keys(np.array([2, 3])) == ["1", "1 (view 1)"]


def test_what_is_only_shown_is_of_changed_views_whoever_makes_the_tokens(run, tmp_path):
    knobs = ("--crops.augment.hue", "0.3", "--crops.augment.cut-out", "0.2")
    for name, more in (("plain", ()), ("one", knobs), ("two", (*knobs, "--processes", "2"))):
        assert main([str(run), "--out", str(tmp_path / name), *SMALL, *more]) == 0
    plain, one, two = (everything(TokenStore.open(tmp_path / n)) for n in ("plain", "one", "two"))
    assert_same(one, two)
    same = (one.features["rgb"] == plain.features["rgb"]).all(axis=(1, 2))
    assert same.tolist() == [True, False] * 6


def test_splits_modalities_and_other_data_can_be_chosen(run, tmp_path):
    out = tmp_path / "tokens"
    chosen = ("--split", "validation", "--modalities", "distance", "--crops.views", "1")
    assert main([str(run), "--out", str(out), *chosen]) == 0
    store = TokenStore.open(out)
    assert len(store) == 4 and list(store.index.layouts) == ["distance"]


def test_halves_made_apart_are_a_whole_and_are_not_made_twice(run, tmp_path, capsys):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main([str(run), "--out", str(whole), *SMALL]) == 0
    assert main([str(run), "--out", str(halves), *SMALL, "--shards", "1:3"]) == 0
    assert "lacks 1 more shards" in capsys.readouterr().out
    with pytest.raises(ValueError, match="tokens of 8 of 12 samples"):
        TokenStore.open(halves)
    made = (halves / "shard-00002-of-00003.array_record").stat().st_mtime_ns
    assert main([str(run), "--out", str(halves), *SMALL]) == 0
    assert (halves / "shard-00002-of-00003.array_record").stat().st_mtime_ns == made
    assert_same(everything(TokenStore.open(halves)), everything(TokenStore.open(whole)))


def test_tokens_of_something_else_are_replaced_only_when_asked_for(run, tmp_path, capsys):
    out = tmp_path / "tokens"
    assert main([str(run), "--out", str(out), *SMALL]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = [str(run), "--out", str(out), *SMALL, "--seed", "4", "--crops.views", "3"]
    assert main(other) == 2
    told = capsys.readouterr().err
    assert "differing: samples, made_from.crops.views, made_from.seed); give another --out" in told
    assert "or --replace to compute them again." in told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*other, "--replace"]) == 0
    assert len(TokenStore.open(out)) == 18
    (out / "index.json").write_text("{")
    assert main(other) == 2
    assert "its index, which is damaged" in capsys.readouterr().err
    assert main([*other, "--replace"]) == 0
    assert len(TokenStore.open(out)) == 18


def test_what_is_damaged_is_found_and_made_again_when_asked_for(run, tmp_path):
    out = tmp_path / "tokens"
    assert main([str(run), "--out", str(out), *SMALL]) == 0
    shard = out / "shard-00001-of-00003.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])
    assert main([str(run), "--out", str(out), *SMALL]) == 0
    assert shard.read_bytes() != whole
    assert main([str(run), "--out", str(out), *SMALL, "--check"]) == 0
    assert shard.read_bytes() == whole


@pytest.mark.slow
def test_several_processes_make_the_same_bytes(run, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main([str(run), "--out", str(alone), *SMALL]) == 0
    arguments = [str(run), "--out", str(together), *SMALL, "--processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "data_pipeline.tokenize", *arguments],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "12/12" in done.stderr
    names = sorted(path.name for path in alone.iterdir())
    assert names == sorted(path.name for path in together.iterdir())
    for name in names:
        assert (alone / name).read_bytes() == (together / name).read_bytes(), name


@pytest.mark.slow
def test_processes_end_with_the_first_one_though_it_is_killed(run, tmp_path):
    """Every process has an environment variable of this test's own, by which it is found."""
    mark = f"MARK={tmp_path}"
    arguments = ["-m", "data_pipeline.tokenize", str(run), "--out", str(tmp_path / "tokens")]
    process = subprocess.Popen(
        [sys.executable, *arguments, *SMALL, "--num-shards", "12", "--processes", "2"],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu", MARK=str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def alive() -> list[Path]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(entry)
        return found

    def wait_until(condition) -> None:
        for _ in range(1200):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError("It takes too long.")

    wait_until(lambda: len(alive()) >= 4)  # With the one that counts what processes share.
    time.sleep(0.5)
    process.kill()
    process.wait(60)
    wait_until(lambda: not alive())


def test_files_are_read_as_the_tokenizers_of_an_imported_run_need_them(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data" / "train"
    PixelTokenizer(16, 8).save(run / "tokenizers" / "rgb@16")
    CodeTokenizer(Codes(100, (2, 2))).save(run / "tokenizers" / "tok_depth@16")
    special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=2)
    texts = CodeTokenizer(Codes(50, (7,), is_sequence=True), special)
    texts.save(run / "tokenizers" / "caption")
    (run / "config.json").write_text('{"imported_from": ["a file"]}')
    rng = np.random.default_rng(0)
    for name, shape in (("rgb", (16, 16, 3)), ("tok_depth@16", (2, 2)), ("caption", (5,))):
        (data / name).mkdir(parents=True)
        for key in ("a", "b", "c")[: 2 if name == "caption" else 3]:
            values = rng.integers(0, 50, shape).astype(np.uint8)
            np.save(data / name / f"{key}.npy", values)
    out = ("--out", str(tmp_path / "tokens"))
    knobs = ("--data.path", str(data.parent), "--crops.no-flip", "--num-shards", "1")
    assert main([str(run), "files", *out, *knobs]) == 0
    store = TokenStore.open(tmp_path / "tokens")
    assert store.keys(np.arange(3)) == ["a", "b", "c"]
    assert store.batch(np.arange(3)).num_real["caption"].tolist() == [5, 5, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a run directory"),
        (["nowhere", "--out", "x"], "nowhere has no folder of tokenizers"),
        (["RUN", "scens", "--out", "x"], "no kind of data 'scens'; there are scenes, files, tfds"),
        (["RUN"], "Say with --out in which folder"),
        (["RUN", "--out", "x", "--processes", "0"], "--processes is 0"),
        (["RUN", "--out", "x", "--shards", "2"], "--shards is '2'; it must be FIRST:LAST"),
        (["RUN", "--out", "x", "--shards", "1:3"], "--shards is 1:3; of 1 shards, 0:1 are there"),
        (["RUN", "--out", "x", "--num-shards", "13"], "12 samples can't be divided into 13"),
        (["RUN", "--out", "x", "--modalities", "depth"], "tokenizers of distance, rgb"),
        (["RUN", "--out", "x", "--crops.views", "-1"], "--crops.views -1; both must be at least 1"),
        (["RUN", "--out", "x", "--split", "valid"], "no split 'valid'"),
        (["RUN", "tfds", "--out", "x", "--data.name", "nothing"], "TFDS can't read the split"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if each == "RUN" else each for each in arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and message in told and told.endswith(".")
    assert not (tmp_path / "x").exists()


def test_a_run_without_data_needs_a_kind(run):
    (run / "config.json").write_text('{"imported_from": []}')
    with pytest.raises(ValueError, match="has no data of its own; name a kind: scenes, files"):
        parse([str(run), "--out", "x"])
    for kind in KINDS[:-1]:
        _, config = parse([str(run), kind, "--out", "x"])
        assert type(config.data).__name__.lower().startswith(kind)


def test_no_data_makes_no_tokens(run, tmp_path, capsys):
    assert main([str(run), "none", "--out", str(tmp_path / "x")]) == 2
    assert "There is no data to read" in capsys.readouterr().err


def test_help_names_the_kinds_and_the_knobs(run, capsys):
    for arguments, word in (([], "RUN [scenes|files|tfds"), ([str(run)], "--data.path")):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0
        assert word in capsys.readouterr().out


def test_tokenizers_of_another_run_make_no_tokens(run, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "tokens")]) == 0
    distances = np.linspace(1, 90, 50, dtype=np.float32)
    other = ScalarTokenizerConfig(num_bins=8).fit(Scalar(unit="m"), distances, None)
    other.save(tmp_path / "other")
    shutil.rmtree(run / "tokenizers" / "distance")
    (tmp_path / "other").rename(run / "tokenizers" / "distance")
    capsys.readouterr()
    assert main([str(run), "--out", str(tmp_path / "more")]) == 2
    told = capsys.readouterr().err
    assert f"{run}/tokenizers/distance is not the one" in told and told.count("\n") == 1
    assert not (tmp_path / "more").exists()


def test_strays_beside_tokenizers_are_passed_over(run, tmp_path):
    assert main([str(run), "--out", str(tmp_path / "tokens")]) == 0
    before = (tmp_path / "tokens" / "index.json").stat().st_mtime_ns
    for stray in (".DS_Store", "README", "rgb/.DS_Store", "rgb/notes.txt"):
        (run / "tokenizers" / stray).write_text("stray")
    assert main([str(run), "--out", str(tmp_path / "tokens")]) == 0
    assert (tmp_path / "tokens" / "index.json").stat().st_mtime_ns == before


def test_samples_come_in_one_view_unless_more_are_asked_for():
    """A store that an earlier version began says one view, and goes on."""
    assert TokenizeConfig(data=NoData()).crops.views == 1

"""A fork takes over what still holds, and never touches the run that it comes from."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from configs.command_line import load_preset
from configs.runs import fork
from configs.runs.fork import fork_run, read_fork
from fourm.run_directory.checksums import MARKER
from fourm.training.train_state import OptimizerConfig
from tests.fourm.tiny_run import make_tokenizers
from tests.paths import FIXTURES
from tokenizers.settings.plain import to_plain
from tokenizers.storage.pieces import record_pieces

TINY = str(FIXTURES / "tiny_scenes.py")
NAMES = ("rgb", "caption", "boxes")


def make_config(run_dir: Path, **changes):
    config, _ = load_preset(TINY)
    modalities = {name: config.modalities[name] for name in NAMES}
    return replace(config, modalities=modalities, run_dir=str(run_dir), **changes)


def content_of(folder: Path) -> dict[str, bytes]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run directory with something of everything, of which fork reads no more than names."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    tokenizers = make_tokenizers()
    for name in NAMES:
        tokenizers[name].save(folder / "tokenizers" / name)
    names = [
        *("checkpoints/model/2/params/data", "checkpoints/model/4/params/data", "metrics.jsonl"),
        *("checkpoints/model/6.orbax-checkpoint-tmp/params/data", "checkpoints/tokenizer-rgb/3/x"),
        *("heldout/test/arrays.npz", "tokens/shard-0", "tokens/.shard-1.partial-9"),
        *("model/arrays.npz", "report.md", "seconds.json"),
        *(f"checkpoints/{name}/{MARKER}" for name in ("model/2", "model/4", "tokenizer-rgb/3")),
        *(f"checkpoints/model/{step}/params/{MARKER}" for step in (2, 4)),
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of {name}\n")
    (folder / "config.json").write_text(json.dumps(to_plain(make_config(folder))))
    return folder


@pytest.fixture
def old(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "old")


def test_what_still_holds_is_taken_over_and_the_other_run_stays_as_it_is(old, tmp_path):
    before = content_of(old)
    new = tmp_path / "runs" / "new"
    config = make_config(new)
    longer = replace(config.training, steps=99, optimizer=OptimizerConfig(learning_rate=5e-4))
    fork_run(old, replace(config, training=longer))
    taken = content_of(new)
    record = json.loads(taken.pop("fork.json"))
    kept = [name for name in before if name.startswith(("tokenizers/", "heldout/"))]
    kept += ["tokens/shard-0", "metrics.jsonl"]
    kept += ["checkpoints/model/4/params/data", "checkpoints/tokenizer-rgb/3/x"]
    kept += [
        f"checkpoints/{name}/{MARKER}" for name in ("model/4", "model/4/params", "tokenizer-rgb/3")
    ]
    assert taken == {name: before[name] for name in sorted(kept)}
    assert record["from"] == str(old)
    assert record["steps"] == {"model": 4, "tokenizer-rgb": 3}
    assert record["knobs"] == ["training.steps", "training.optimizer.learning_rate"]
    assert record["config"] == json.loads(before["config.json"])
    assert read_fork(new) == record and read_fork(old) == {}
    # What is appended to is a copy.
    with (new / "metrics.jsonl").open("a") as stream:
        stream.write("more\n")
    shutil.rmtree(new / "checkpoints")
    assert content_of(old) == before
    assert not [path for path in new.parent.iterdir() if path != new]


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        (dict(seed=3), ("tokens", "heldout")),
        (dict(tokenizer_samples=7), ("heldout",)),
        (dict(data="other"), ("tokens", "heldout")),
    ],
)
def test_what_follows_from_other_data_is_made_anew(old, tmp_path, changes, gone):
    config = make_config(tmp_path / "new")
    if "data" in changes:
        changes = dict(data=replace(config.data, num_train=40))
    fork_run(old, replace(config, **changes))
    there = {path.name for path in (tmp_path / "new").iterdir()}
    everything = {"tokenizers", "tokens", "heldout", "checkpoints", "metrics.jsonl", "fork.json"}
    assert there == everything - set(gone)


@pytest.mark.slow
def test_links_are_made_where_the_file_system_can_and_copies_elsewhere(old, tmp_path, monkeypatch):
    name = "tokens/shard-0"
    fork_run(old, make_config(tmp_path / "linked"))
    assert (tmp_path / "linked" / name).samefile(old / name)

    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(fork.os, "link", refuse)
    fork_run(old, make_config(tmp_path / "copied"))
    assert not (tmp_path / "copied" / name).samefile(old / name)
    assert content_of(tmp_path / "copied") == content_of(tmp_path / "linked")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "modality",
            r"other values of modalities.rgb.tokenizer.codebook_size: tokens would not mean what "
            r"they meant; keep them, or start a new run .* --start-from .*old\.$",
        ),
        ("model", r"other values of model.dim: .* is float32\[.*\] there and float32\["),
        ("optimizer", r"other values of training.optimizer.name: .* missing here"),
    ],
)
def test_what_makes_the_weights_useless_is_refused_in_one_sentence(old, tmp_path, what, message):
    new = tmp_path / "new"
    config = make_config(new)
    match what:
        case "modality":
            rgb = config.modalities["rgb"]
            other = replace(rgb, tokenizer=replace(rgb.tokenizer, codebook_size=64))
            config = replace(config, modalities={**config.modalities, "rgb": other})
        case "model":
            config = replace(config, model=replace(config.model, dim=64))
        case "optimizer":
            optimizer = replace(config.training.optimizer, name="muon")
            config = replace(config, training=replace(config.training, optimizer=optimizer))
    with pytest.raises(ValueError, match=message) as error:
        fork_run(old, config)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_before_the_model_has_a_checkpoint_its_shape_may_change(old, tmp_path):
    shutil.rmtree(old / "checkpoints" / "model")
    config = make_config(tmp_path / "new")
    fork_run(old, replace(config, model=replace(config.model, dim=64)))
    assert read_fork(tmp_path / "new")["steps"] == {"tokenizer-rgb": 3}


def test_only_a_run_can_be_forked_and_only_into_a_new_folder(old, tmp_path):
    new = make_config(tmp_path / "new")
    for content in (None, "no json", "[]", '{"class": "Other"}'):
        if content is not None:
            (old / "config.json").write_text(content)
        message = r"--fork .* is not a readable run directory of train.py; give one"
        with pytest.raises(ValueError, match=message):
            fork_run(old if content else tmp_path / "nowhere", new)
    (old / "config.json").write_text(json.dumps(to_plain(make_config(old))))
    (tmp_path / "taken").mkdir()
    for folder in (old, tmp_path / "taken"):
        with pytest.raises(ValueError, match="is there already; give --fork a new --run-dir"):
            fork_run(old, make_config(folder))
    fork_run(old, new)
    fork_run(old, new)  # its settings did not fit the data, so that it was never opened


def test_a_run_that_goes_on_meanwhile_is_one_sentence(old, tmp_path, monkeypatch):
    monkeypatch.setattr(fork, "choose_steps", lambda *_: {"tokenizer-rgb": 2})
    with pytest.raises(ValueError, match=r"changed while it was read, .*; try again"):
        fork_run(old, make_config(tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.slow
def test_the_checkpoint_that_is_taken_over_can_be_chosen_and_lies_before_the_end(old, tmp_path):
    def fork_to(name: str, steps: int, use: str = "last") -> dict:
        config = make_config(tmp_path / name)
        training = replace(config.training, steps=steps)
        fork_run(old, replace(config, training=training), use)
        return read_fork(tmp_path / name)

    shorter = fork_to("shorter", 3)
    assert (shorter["use"], shorter["steps"]) == ("last", {"model": 2, "tokenizer-rgb": 3})
    assert fork_to("step", 99, "2")["steps"]["model"] == 2
    (old / "checkpoints/model/2/metrics").mkdir()
    (old / "checkpoints/model/2/metrics" / MARKER).touch()
    (old / "checkpoints/model/2/metrics/metrics").write_text('{"heldout_loss": 2.0}')
    assert fork_to("best", 99, "best")["steps"]["model"] == 2
    with pytest.raises(ValueError, match=r"no checkpoint at or before step 1 in .*/model"):
        fork_to("none", 1)
    with pytest.raises(ValueError, match=r"no checkpoint of step 4 in .*; it has 2,"):
        fork_to("none", 3, "4")
    shutil.rmtree(old / "checkpoints/model")
    with pytest.raises(ValueError, match=r"--use is best, but .* no checkpoint of a model yet"):
        fork_to("none", 99, "best")


def test_strays_beside_checkpoints_are_passed_over(old, tmp_path):
    (old / "checkpoints" / "README").write_text("stray")
    (old / "checkpoints" / ".DS_Store").write_text("stray")
    (old / "checkpoints" / "model" / "500").write_text("stray")
    fork_run(old, make_config(tmp_path / "new"))
    assert read_fork(tmp_path / "new")["steps"] == {"model": 4, "tokenizer-rgb": 3}


def test_a_full_disk_is_told_as_what_it_is(old, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    monkeypatch.setattr(fork.os, "link", refuse)
    monkeypatch.setattr(fork.shutil, "copyfile", refuse)
    with pytest.raises(OSError, match="No space left on device: 'a file'"):
        fork_run(old, make_config(tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_run_with_a_piece_of_another_is_not_forked(old, tmp_path):
    record_pieces(old)
    rgb, other = (old / "tokenizers" / name for name in ("rgb", NAMES[1]))
    shutil.rmtree(rgb)
    shutil.copytree(other, rgb)
    with pytest.raises(ValueError, match=r"old/tokenizers/rgb is not .* belongs to another run"):
        fork_run(old, make_config(tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]

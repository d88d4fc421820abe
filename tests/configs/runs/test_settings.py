"""A run directory goes on under the settings that it was made with, and refuses others."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from configs.command_line import parse_command_line
from configs.runs.settings import (
    as_begun,
    is_changeable,
    is_reported,
    open_run,
    write_config,
)
from configs.schema import RunConfig
from fourm.run_directory.sample_set import HELDOUT
from fourm.run_directory.stages import SECONDS
from tokenizers.settings.plain import to_plain
from tokenizers.storage.folders import save_folder


def begin(folder: Path, *knobs: str) -> RunConfig:
    folder.mkdir(exist_ok=True)
    return parse_command_line(["scenes", "--run-dir", str(folder), *knobs])[0]


def test_the_same_settings_go_on(tmp_path):
    config = begin(tmp_path / "run")
    write_config(config)
    assert open_run(config) == tmp_path / "run"


def test_how_often_a_run_is_saved_may_change(tmp_path):
    write_config(begin(tmp_path / "run"))
    often = ("--training.checkpoint-minutes", "3", "--training.keep-checkpoints", "7")
    changed = begin(tmp_path / "run", *often)
    assert open_run(changed) == tmp_path / "run"
    plain = json.loads((tmp_path / "run" / "config.json").read_text())
    assert plain["training"]["keep_checkpoints"] == 7


def test_other_settings_are_refused_by_name(tmp_path):
    write_config(begin(tmp_path / "run"))
    changed = begin(tmp_path / "run", "--seed", "3", "--training.checkpoint-every", "5")
    with pytest.raises(ValueError, match=r"made with other values of seed; give --run-dir"):
        open_run(changed)


def test_a_knob_is_free_with_all_its_parts_and_not_by_its_first_letters():
    assert is_changeable("evaluation.pairs") and is_changeable("run_dir")
    assert (
        not is_changeable("evaluations")
        and not is_changeable("training")
        and not is_changeable("training.steps")
    )


def test_what_settings_without_their_data_left_is_gone(tmp_path):
    config = begin(tmp_path / "run")
    (tmp_path / "run" / HELDOUT / "test").mkdir(parents=True)
    (tmp_path / "run" / SECONDS).write_text("{}")
    open_run(config)
    assert not (tmp_path / "run" / HELDOUT).exists()


def test_a_report_is_of_one_configuration(tmp_path):
    config = begin(tmp_path / "run")
    assert not is_reported(config)
    for name in ("report.md", "samples.png", "curves.png"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "report.json").write_text(json.dumps({"config": to_plain(config)}))
    assert is_reported(config)
    assert not is_reported(replace(config, seed=5))


@pytest.mark.parametrize("piece", ["model/x", "tokens/x", "checkpoints/model/4/x", "report.json"])
def test_pieces_without_settings_are_refused(tmp_path, piece):
    config = begin(tmp_path / "run", "--model.dim", "32", "--seed", "7")
    (tmp_path / "run" / piece).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / piece).write_text("")
    with pytest.raises(
        ValueError, match=r"holds pieces of a run \(.*\) without its settings: conf"
    ):
        open_run(config)
    assert not (tmp_path / "run" / "config.json").exists()


def test_settings_that_were_there_are_missed(tmp_path):
    config = begin(tmp_path / "run")
    write_config(config)
    open_run(config)
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"without its settings: config\.json is missing"):
        open_run(config)


def test_settings_changed_by_hand_are_noticed(tmp_path):
    config = begin(tmp_path / "run")
    write_config(config)
    open_run(config)
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace('"generation": {', '"generation": { ', 1))
    with pytest.raises(ValueError, match=r"config\.json is not the one that this run was"):
        open_run(config)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"x"', "{", '{"config"'])
def test_a_report_that_is_none_is_one_sentence_with_the_file(tmp_path, content):
    config = begin(tmp_path / "run")
    for name in ("report.md", "samples.png", "curves.png"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is no report .*, or delete it"):
        is_reported(config)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", "nonsense\n", r"metrics\.jsonl is damaged in line 1"),
        ("seconds.json", "[3]", r"seconds\.json does not say"),
        ("fork.json", "{}", r"fork\.json does not say from which run"),
        ("fork.json", '{"from": 3, "steps": {}}', r"fork\.json does not say from which run"),
        ("fork.json", '{"from": "x", "steps": {"model": "4"}}', r"fork\.json does not say"),
        ("pieces.json", "{}", r"pieces\.json, which says .*, is damaged"),
        ("tokens", "", "tokens is a file, where a run directory has a folder"),
        ("config.json", None, r"config\.json is a folder, where a run directory has a file"),
    ],
)
def test_what_is_damaged_is_named_before_anything_is_done(tmp_path, name, content, message):
    config = begin(tmp_path / "run")
    if name != "config.json":
        write_config(config)
    path = tmp_path / "run" / name
    path.mkdir() if content is None else path.write_text(content)
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ValueError, match=message):
        open_run(config)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_a_log_cut_in_half_is_noticed_when_its_model_is_there(tmp_path):
    config, folder = begin(tmp_path / "run"), tmp_path / "run"
    write_config(config)
    lines = '{"stage": "model", "step": 1}\n{"stage": "model", "step": 2}\n'
    (folder / "metrics.jsonl").write_text(lines)
    save_folder(folder / "model", {}, {})
    open_run(config)
    (folder / "metrics.jsonl").write_text(lines[: len(lines) // 2])
    with pytest.raises(ValueError, match=r"metrics\.jsonl is not the one"):
        open_run(config)
    (folder / "metrics.jsonl").unlink()
    open_run(config)


def test_what_killed_processes_left_is_cleared_at_the_start(tmp_path):
    config, folder = begin(tmp_path / "run"), tmp_path / "run"
    write_config(config)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    names = ["../.run", ".config.json", ".model", "tokenizers/.rgb", "heldout/.test"]
    left = [folder / f"{name}.partial-{process.pid}" for name in [*names, "tokens/.index.json"]]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if path.name.startswith((".run", ".model", ".rgb")) else path.touch()
    ours = folder / f".model.partial-{os.getpid()}"
    # Another machine may be making a shard.
    shard = folder / "tokens" / f".shard-00000-of-00002.array_record.partial-{process.pid}"
    for path in (ours, shard):
        path.touch()
    open_run(config)
    assert not any(path.exists() for path in left)
    assert ours.exists() and shard.exists()


def test_a_run_of_before_goes_on_without_knobs_that_came_later_and_says_so(tmp_path, capsys):
    config = begin(tmp_path / "run")
    assert as_begun(config) == config
    write_config(config)
    assert as_begun(config) == config and not capsys.readouterr().out
    file = tmp_path / "run" / "config.json"
    plain = json.loads(file.read_text())
    del plain["model"]["same_place"], plain["modalities"]["rgb"]["tokenizer"]["shown_numbers"]
    file.write_text(json.dumps(plain))
    found = as_begun(config)
    assert not found.model.same_place
    assert found.modalities["rgb"].tokenizer.shown_numbers == 0
    assert found.modalities["depth"] == config.modalities["depth"]
    said = capsys.readouterr().out
    assert "modalities.rgb.tokenizer.shown_numbers, model.same_place; it goes on without" in said
    # So does a fork of it.
    forked = as_begun(begin(tmp_path / "fork"), str(tmp_path / "run"))
    assert not forked.model.same_place
    assert open_run(found) == tmp_path / "run"

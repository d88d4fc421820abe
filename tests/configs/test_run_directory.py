"""A run directory goes on under the settings that it was made with, and refuses others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.presets import parse_command_line
from configs.run_directory import is_free, is_reported, open_run, write_config
from configs.schema import RunConfig
from data_pipeline.plain import to_plain
from fourm.sample_set import HELDOUT
from fourm.stages import SECONDS


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
    assert is_free("evaluation.pairs") and is_free("run_dir")
    assert not is_free("evaluations") and not is_free("training") and not is_free("training.steps")


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

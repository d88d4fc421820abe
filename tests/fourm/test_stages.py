"""The seconds of a run's stages add up over attempts."""

import json

import pytest

from fourm.stages import SECONDS, Stages


def test_seconds_add_up_across_interruptions_and_say_what_is_done(tmp_path, capsys):
    (tmp_path / SECONDS).write_text(json.dumps({"model": 100.0, "tokens": 3.0}))
    stage = Stages(tmp_path)
    with pytest.raises(KeyboardInterrupt), stage("model", tmp_path / "model"):
        raise KeyboardInterrupt
    assert 100 <= stage.seconds["model"] < 110
    assert Stages(tmp_path).seconds == stage.seconds
    assert stage.seconds["tokens"] == 3
    assert capsys.readouterr().out == f"model -> {tmp_path / 'model'}\n"

"""The seconds of a run's stages add up over attempts."""

import json
import shutil

import pytest

from fourm.run_directory.stages import SECONDS, Stages
from tokenizers.storage.folders import save_folder
from tokenizers.storage.pieces import has_entry


def test_seconds_add_up_across_interruptions_and_say_what_is_done(tmp_path, capsys):
    (tmp_path / SECONDS).write_text(json.dumps({"model": 100.0, "tokens": 3.0}))
    stage = Stages(tmp_path)
    with pytest.raises(KeyboardInterrupt), stage("model", tmp_path / "model"):
        raise KeyboardInterrupt
    assert 100 <= stage.seconds["model"] < 110
    assert Stages(tmp_path).seconds == stage.seconds
    assert stage.seconds["tokens"] == 3
    assert capsys.readouterr().out == f"model -> {tmp_path / 'model'}\n"


@pytest.mark.parametrize(
    "content", ["[]", "null", '"x"', '{"model": "fast"}', '{"model": -1}', '{"model": NaN}', "{"]
)
def test_seconds_that_are_none_are_one_sentence_with_the_file(tmp_path, content):
    (tmp_path / SECONDS).write_text(content)
    with pytest.raises(
        ValueError, match=r"seconds\.json does not say how many seconds .* delete it"
    ):
        Stages(tmp_path)


def test_pieces_that_a_stage_made_are_known_at_its_end(tmp_path):
    with Stages(tmp_path)("samples", tmp_path / "heldout"):
        save_folder(tmp_path / "heldout" / "test", {}, {})
    assert has_entry(tmp_path, "heldout/test") and has_entry(tmp_path, SECONDS)
    save_folder(tmp_path / "other", {"other": 1}, {})
    shutil.copy(tmp_path / "other" / "description.json", tmp_path / "heldout" / "test")
    is_refused = pytest.raises(ValueError, match="heldout/test is not the one that this run was")
    with is_refused, Stages(tmp_path)("tokens", tmp_path / "tokens"):
        pass

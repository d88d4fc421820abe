"""--help shows everyday knobs, and the others by the name of their group."""

import pytest

from configs.command_line import parse_command_line
from configs.help import EVERYDAY, split_groups


def help_of(capsys, *arguments: str) -> dict[str, str]:
    with pytest.raises(SystemExit) as ended:
        parse_command_line(["scenes", *arguments])
    assert ended.value.code == 0
    return split_groups(capsys.readouterr().out)[1]


def test_help_shows_everyday_knobs_first_and_names_the_rest(capsys):
    groups = help_of(capsys, "--help")
    assert tuple(groups) == EVERYDAY
    assert "--training.steps" in groups["training"] and "--fork" in groups[""]
    (last,) = groups["evaluation"].splitlines()[-1:]
    assert last.startswith("More knobs: --help GROUP, one of modalities, data, masking, ")
    assert sum(len(text.splitlines()) for text in groups.values()) < 250


def test_help_of_a_group_has_its_parts(capsys):
    groups = help_of(capsys, "--help", "model")
    assert list(groups) == ["model", "model.published"]
    assert "--model.published.qkv-bias" in groups["model.published"]


def test_all_knobs_can_be_shown(capsys):
    groups = help_of(capsys, "--seed", "3", "--help", "all")
    assert {"generation.rgb", "modalities.rgb.tokenizer", "masking.components.0"} <= set(groups)


def test_a_group_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no group of knobs 'modle'; did you mean model\? There"):
        parse_command_line(["scenes", "--help", "modle"])

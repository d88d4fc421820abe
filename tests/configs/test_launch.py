"""How a run is started: options of the command line beside the run's knobs."""

import json

import pytest

from configs.command_line import parse_command_line
from configs.launch import Launch, read_launch
from tokenizers.settings.plain import to_plain

TOGETHER = ("--coordinator", "10.0.0.1:1234", "--num-processes", "2", "--process-index", "1")


def test_the_options_stand_beside_the_knobs_of_the_run():
    config, launch = parse_command_line(
        ["scenes", "--distributed", *TOGETHER, "--seed", "7", "--crops.flip", "False"]
    )
    assert launch == Launch(True, "10.0.0.1:1234", 2, 1)
    assert (config.seed, config.crops.flip) == (7, False)


def test_the_options_are_read_without_the_rest():
    rest = ("no_such_preset", "--model.dim", "no number", "--help")
    assert read_launch([*rest, "--distributed", *TOGETHER]) == Launch(True, "10.0.0.1:1234", 2, 1)
    assert read_launch(rest) == Launch()


def test_a_cluster_may_know_the_rest():
    assert read_launch(["--distributed"]) == Launch(distributed=True)


def test_what_a_run_is_does_not_depend_on_how_it_is_started():
    plain, _ = parse_command_line([])
    started, _ = parse_command_line(["--distributed", *TOGETHER])
    assert json.dumps(to_plain(plain)) == json.dumps(to_plain(started))


def test_help_and_typos_know_the_options(capsys):
    with pytest.raises(SystemExit):
        parse_command_line(["--distribute"])
    captured = capsys.readouterr()
    assert "--distributed" in captured.err + captured.out
    with pytest.raises(SystemExit):
        parse_command_line(["--help"])
    told = capsys.readouterr().out
    assert all(knob in told for knob in ("--coordinator", "--process-index", "--model.dim"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TOGETHER, "--coordinator, --num-processes, --process-index says .*; add --distributed"),
        (("--distributed", *TOGETHER[:4]), "--process-index is missing; give"),
        (("--distributed", *TOGETHER[2:]), "--coordinator is missing; give"),
        (("--distributed", *TOGETHER[:5], "2"), "--process-index is 2 of --num-processes 2; it"),
        (("--distributed", "--coordinator", "here", *TOGETHER[2:]), "'here'; it must be HOST:PORT"),
        (("--distributed", "--coordinator", "a:0", *TOGETHER[2:]), "'a:0'; it must be HOST:PORT"),
    ],
)
def test_options_that_do_not_fit_each_other_are_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        read_launch(arguments)
    assert "\n" not in str(error.value)

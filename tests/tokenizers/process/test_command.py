"""Commands begin silently and end in one sentence, whatever the system or a library does."""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from tests.paths import ROOT
from tokenizers.process.command import describe_error, run_command
from tokenizers.process.huge_pages import TUNABLES
from tokenizers.process.termination import Terminated

# Each with the file whose start it is: all commands that the README names.
COMMANDS = {
    "train.py": ["train.py"],
    "fourm/generate.py": ["-m", "fourm.generate"],
    "fourm/complete.py": ["-m", "fourm.complete"],
    "fourm/evaluate.py": ["-m", "fourm.evaluate"],
    "fourm/score.py": ["-m", "fourm.score"],
    "fourm/interop/ml4m.py": ["-m", "fourm.interop.ml4m"],
    "data_pipeline/tokenize.py": ["-m", "data_pipeline.tokenize"],
    "configs/doctor.py": ["-m", "configs.doctor"],
    "configs/probe.py": ["-m", "configs.probe"],
}


LONG = "x" * (1000 - len("RuntimeError: "))


def start(*arguments, **changes) -> subprocess.Popen:
    """Starts Python; `changes` are of the environment, PROGRAM of the working folder."""
    environment = {**os.environ, TUNABLES: "", "JAX_PLATFORMS": "cpu", **changes}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, **pipes)


def run(*arguments, **changes) -> tuple[int, str, str]:
    process = start(*arguments, **changes)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def program(body: str) -> list[str]:
    return ["-c", f"from tokenizers.process.command import begin, run_command\nbegin()\n{body}"]


def test_every_program_of_the_packages_begins_and_ends_as_commands_do():
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("fourm", "tokenizers", "data_pipeline", "configs")
        for path in (ROOT / folder).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    found.remove("fourm/__main__.py")  # It starts one of the others.
    assert found | {"train.py"} == COMMANDS.keys()
    for name in COMMANDS:
        text = (ROOT / name).read_text()
        begin, main = (text.index(part) for part in ("    begin(", "return run_command("))
        assert begin < text.index("\nimport sys\n") < main


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("No\n  such\x1b[2J knob."), 2, r"error: No such\x1b[2J knob."),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            1,
            "error: The system refuses /a/b: Permission denied; give the right to it, or another "
            "place.",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a"),
            1,
            "error: The system refuses /a: No space left on device; make room, or give another "
            "place.",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "a", None, "b"),
            1,
            "error: The system refuses a and b: File name too long.",
        ),
        (MemoryError(), 1, "error: There is not enough memory. (--debug shows where)"),
        (KeyError("dim"), 1, "error: KeyError: 'dim' (--debug shows where)"),
        (
            RuntimeError("x" * 5000),
            1,
            f"error: RuntimeError: {'x' * 986} ... (--debug shows where)",
        ),
        (AssertionError(), 1, "error: AssertionError (--debug shows where)"),
        (KeyboardInterrupt(), 130, "\nInterrupted; the same command resumes it."),
        (
            Terminated(),
            75,
            "\nTerminated by a signal to another process; the same command resumes it.",
        ),
    ],
)
def test_what_goes_wrong_is_one_sentence(error, code, told, capsys):
    def work(arguments):
        raise error

    assert run_command(work, []) == code
    assert capsys.readouterr().err == f"{told}\n"


def test_debug_shows_the_place_and_is_no_argument_of_the_command(capsys, monkeypatch):
    def work(arguments):
        raise ValueError(str(arguments))

    monkeypatch.setenv("FOURM_DEBUG", "0")
    assert run_command(work, ["--debug", "run"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and told.endswith("ValueError: ['run']\n")


def test_what_is_done_has_exit_code_0_and_warnings_are_a_line_each(capsys):
    def work(arguments):
        warnings.warn("Texts are\ncut.", stacklevel=2)

    assert run_command(work, []) == 0
    assert capsys.readouterr().err == "warning: Texts are cut.\n"


def test_an_error_without_words_has_its_name():
    assert describe_error(ValueError()) == "ValueError"
    assert describe_error(OSError("nothing more")) == "nothing more"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted_during_imports_a_command_says_nothing(name):
    # The first import that takes long is replaced by one that never ends.
    body = """
import runpy, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "jax", "tyro"):
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""
    process = start("-c", body, COMMANDS[name][-1])
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"JAX_PLATFORMS": "foo"}, 1, "foo"),
        ({"JAX_NUM_CPU_DEVICES": "abc"}, 1, "abc"),
        ({"MPLBACKEND": "nonsense"}, 0, ""),
        ({"JAX_ENABLE_X64": "1"}, 0, ""),
    ],
)
def test_a_wrong_environment_is_one_sentence_or_no_matter(changes, code, told):
    body = """
import sys
import jax.numpy as jnp
import fourm.presentation.pictures
def work(arguments):
    print(jnp.arange(2.0).dtype)
sys.exit(run_command(work, []))
"""
    returned, out, err = run(*program(body), **changes)
    assert (returned, out) == (code, "" if told else "float32\n")
    assert told in err and err.count("\n") == bool(told), err


@pytest.mark.parametrize(
    "redirection", ["| head -c 5", "> /dev/full", ">&-", "2>&-", "2> /dev/full"]
)
def test_work_goes_on_without_its_screen(redirection, tmp_path):
    body = f"""
import sys
from tqdm import tqdm
def work(arguments):
    print("a line on the screen", flush=True)
    for _ in tqdm(range(3)):
        for _ in range(5000):
            print("more")
    with open({str(tmp_path / "done")!r}, "w") as file:
        print("an error", file=sys.stderr)
        file.write("done")
sys.exit(run_command(work, []))
"""
    command = f'"$0" "$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    ran = subprocess.run(
        ["bash", "-c", command, sys.executable, *program(body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
    assert "Traceback" not in ran.stderr and "Exception" not in ran.stderr


def test_a_restart_that_the_system_refuses_is_none(monkeypatch):
    from tokenizers.process import huge_pages

    def refuse(*_):
        raise PermissionError

    monkeypatch.delenv(TUNABLES, raising=False)
    monkeypatch.setattr(huge_pages.os, "execv", refuse)
    huge_pages.restart_with_huge_pages()


@pytest.mark.slow
def test_sigterm_ends_a_command_with_75():
    body = """
import sys, time
def work(arguments):
    print("working", flush=True)
    time.sleep(60)
sys.exit(run_command(work, []))
"""
    for number in (signal.SIGTERM, signal.SIGHUP):
        process = start(*program(body))
        assert process.stdout.readline() == "working\n"
        time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75 and signal.Signals(number).name in err

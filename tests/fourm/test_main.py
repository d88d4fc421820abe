"""`fourm NAME` finds every command, from any folder, and our `tokenizers` come first."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv

import pytest

import fourm
from fourm.__main__ import COMMANDS, main
from tests.paths import ROOT


def run_python(*arguments, python=sys.executable, cwd, **environment):
    return subprocess.run(
        [str(python), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **environment},
    )


def test_every_command_is_a_module_and_says_what_it_does(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    for name, (module, about) in COMMANDS.items():
        assert importlib.util.find_spec(module)
        assert name in told and about in told


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: There is no command 'trian'; did you mean train? There are "
        f"{', '.join(COMMANDS)}.\n"
    )


@pytest.mark.slow
def test_a_command_gets_its_options_and_returns_its_code():
    done = run_python("-m", "fourm", "generate", "no/such/run", cwd=ROOT)
    assert done.returncode == 2
    assert "There is no run directory no/such/run" in done.stderr


def test_fourm_exports_what_users_type():
    for name in fourm.__all__:
        assert getattr(fourm, name) is not None and name in dir(fourm)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = fourm.lode


def test_tokenizers_of_hugging_face_that_are_imported_already_are_named(tmp_path):
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "__init__.py").touch()
    program = f"import tokenizers, sys; sys.path.append({str(ROOT)!r}); import fourm"
    done = run_python("-c", program, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: The package tokenizers of Hugging Face is imported already, and fourm has"
    )


@pytest.mark.slow
def test_an_installed_clone_works_in_any_folder(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = run_python("-c", "import site; print(site.getsitepackages()[0])", python=python, cwd="/")
    # The packages of this environment, Hugging Face's tokenizers among them.
    with open(os.path.join(site.stdout.strip(), "this.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    install = ("-m", "pip", "install", "-q", "--no-deps", "-e", ROOT)
    done = run_python(*install, python=python, cwd=tmp_path)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("no package index can be reached to build with")
    assert done.returncode == 0, done.stderr
    program = (
        "import json, configs, fourm, tokenizers; "
        "print(json.dumps([tokenizers.__file__, fourm.load.__name__, configs.Modality.__name__]))"
    )
    done = run_python("-c", program, python=python, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(ROOT / "tokenizers" / "__init__.py"), "load", "Modality"]
    command = tmp_path / "venv" / "bin" / "fourm"
    done = subprocess.run([command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "train a model" in done.stdout

"""Compiled programs are kept between processes, unless somebody says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tokenizers.process.compile_cache import KNOB, keep_compiled_programs, processor

JAX = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def environment(monkeypatch, tmp_path) -> pytest.MonkeyPatch:
    """That of a user who has set nothing."""
    for name in (JAX, KNOB, "JAX_COMPILATION_CACHE_MAX_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return monkeypatch


def test_programs_are_kept_in_the_users_cache_by_processor(environment, tmp_path):
    keep_compiled_programs()
    folder = tmp_path / "cache" / "fourm" / "compiled" / processor()
    assert os.environ[JAX] == str(folder) and folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    assert int(os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"]) == 2 * 2**30


def test_a_folder_can_be_named_and_off_keeps_nothing(environment, tmp_path):
    environment.setenv(KNOB, "off")
    keep_compiled_programs()
    assert JAX not in os.environ and not (tmp_path / "cache").exists()
    environment.setenv(KNOB, str(tmp_path / "other"))
    keep_compiled_programs()
    assert os.environ[JAX].startswith(str(tmp_path / "other"))


def test_jaxs_own_variable_comes_first(environment, tmp_path):
    environment.setenv(JAX, "elsewhere")
    keep_compiled_programs()
    assert os.environ[JAX] == "elsewhere" and not (tmp_path / "cache").exists()


def test_what_can_not_be_made_is_no_error(environment, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    keep_compiled_programs()
    assert JAX not in os.environ


@pytest.mark.slow
def test_the_next_process_takes_what_was_compiled_and_damage_is_compiled_anew(tmp_path):
    program = (
        "from tokenizers.process.command import begin; begin()\n"
        "import jax, jax.numpy as jnp\n"
        "print(jax.jit(lambda x: jnp.sort(jnp.sin(x)))(jnp.arange(9.0)))"
    )
    given = {name: value for name, value in os.environ.items() if name != JAX}
    given |= {KNOB: str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run() -> str:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kept() -> list[Path]:
        return sorted(tmp_path.rglob("*-cache"))

    first, programs = run(), kept()
    assert programs
    assert run() == first and kept() == programs
    for program_file in programs:
        program_file.write_bytes(program_file.read_bytes()[:20])
    assert run() == first

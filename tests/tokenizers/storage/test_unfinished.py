import os
import subprocess
import sys

import pytest

from tokenizers.storage.unfinished import clear_unfinished, partial_name, replaced_name, write_file


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_cleared_and_nothing_else(tmp_path, gone):
    for name in (f".a.json.partial-{gone}", f".b.replaced-{gone}", f".a.json.partial-{10**30}"):
        (tmp_path / name).write_text("")
    (tmp_path / f".model.partial-{gone}").mkdir()
    (tmp_path / f".model.partial-{gone}" / "arrays.npz").write_text("")
    (tmp_path / "b").mkdir()
    kept = [".a.json", ".x.partial-", f"a.partial-{gone}", f".a.json.partial-{os.getpid()}"]
    for name in kept:
        (tmp_path / name).write_text("")
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "b"])


def test_what_was_moved_aside_comes_back_if_nothing_took_its_place(tmp_path, gone):
    (tmp_path / f".model.replaced-{gone}").mkdir()
    (tmp_path / f".model.replaced-{gone}" / "x").write_text("old")
    clear_unfinished(tmp_path)
    assert (tmp_path / "model" / "x").read_text() == "old"


def test_only_what_was_to_have_a_name_is_cleared(tmp_path, gone):
    for name in ("run", "other"):
        (tmp_path / f".{name}.partial-{gone}").mkdir()
    clear_unfinished(tmp_path, "run.*")
    assert [path.name for path in tmp_path.iterdir()] == [f".other.partial-{gone}"]
    clear_unfinished(tmp_path / "absent")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_file(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    write_file(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_names_tell_the_process(tmp_path):
    assert partial_name(tmp_path / "a").name == f".a.partial-{os.getpid()}"
    assert replaced_name(tmp_path / "a").name == f".a.replaced-{os.getpid()}"

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenizers.storage.folders import check_made_with, fingerprint_files, save_folder
from tokenizers.storage.pieces import (
    RECORD,
    check_folder,
    check_pieces,
    has_entry,
    pieces_of,
    record_pieces,
    write_piece,
)


def save(folder: Path, number: int, **description) -> None:
    save_folder(folder, {"number": number, **description}, {"x": np.full(3, number)})


@pytest.fixture
def run(tmp_path) -> Path:
    run = tmp_path / "run"
    for number, name in enumerate(("tokenizers/a", "tokenizers/b", "heldout/test", "model")):
        save(run / name, number)
    (run / "config.json").write_text("{}")
    (run / "metrics.jsonl").write_text("")
    record_pieces(run)
    return run


def exchange(run: Path) -> None:
    (run / "tokenizers" / "a").rename(run / "c")
    (run / "tokenizers" / "b").rename(run / "tokenizers" / "a")
    (run / "c").rename(run / "tokenizers" / "b")


def test_pieces_are_recorded_once_and_compared(run):
    names = ["config.json", "tokenizers/a", "tokenizers/b", "heldout/test", "model"]
    assert pieces_of(run) == [*names, "metrics.jsonl"]
    before = (run / RECORD).stat().st_mtime_ns
    record_pieces(run)
    check_pieces(run)
    assert (run / RECORD).stat().st_mtime_ns == before


def test_exchanged_pieces_are_refused_by_name(run):
    exchange(run)
    for check in (check_pieces, record_pieces):
        with pytest.raises(ValueError, match=r"tokenizers/a is not .* belongs to another run"):
            check(run)
    with pytest.raises(ValueError, match="tokenizers/b is not"):
        check_folder(run / "tokenizers" / "b")
    check_pieces(run, ["model", "config.json"])


def test_a_changed_file_is_refused_until_the_record_is_gone(run):
    (run / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json is not .* or was changed; .* or delete"):
        check_pieces(run)
    (run / RECORD).unlink()
    record_pieces(run)
    check_pieces(run)


def test_strays_are_no_pieces_and_change_nothing(run):
    before, fingerprint = pieces_of(run), fingerprint_files(run / "tokenizers" / "a")
    for stray in ("tokenizers/.DS_Store", "tokenizers/README", "tokenizers/a/.DS_Store"):
        (run / stray).write_text("stray")
    (run / "tokenizers" / "a" / "notes.txt").write_text("stray")
    (run / "heldout" / "empty").mkdir()
    assert pieces_of(run) == before
    assert fingerprint_files(run / "tokenizers" / "a") == fingerprint
    check_pieces(run)


def test_a_piece_that_is_made_anew_gets_a_new_entry(run):
    save(run / "model", 7)
    assert not has_entry(run, "model") and has_entry(run, "tokenizers/a")
    save(run / "tokenizers" / "a", 8)
    assert not has_entry(run, "tokenizers/a")
    write_piece(run, "config.json", b"[1]")
    assert not has_entry(run, "config.json")
    record_pieces(run)
    assert has_entry(run, "model") and has_entry(run, "config.json")
    check_pieces(run)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "", '"x"', '{"pieces": 3}', "[" * 9999])
def test_a_damaged_record_is_one_sentence(run, content):
    (run / RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"pieces\.json, which says .* is damaged; .* delete it"):
        check_pieces(run)


def test_an_edited_record_is_damaged(run):
    content = json.loads((run / RECORD).read_text())
    content["pieces"]["model"] = "0" * 64
    (run / RECORD).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged"):
        check_pieces(run)


def test_a_run_of_before_gets_its_record_where_it_can_be_written(run, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    (run / RECORD).unlink()
    with monkeypatch.context() as patched:
        patched.setattr("tokenizers.storage.pieces.write_file", refuse)
        record_pieces(run)
    assert not (run / RECORD).exists()
    record_pieces(run, ["model"])
    assert has_entry(run, "model") and not has_entry(run, "config.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"config\.json is a folder, where a run directory has a file"),
        ("metrics.jsonl", r"metrics\.jsonl is a folder, where a run directory has a file"),
        ("tokens", "tokens is a file, where a run directory has a folder"),
        ("checkpoints", "checkpoints is a file, where a run directory has a folder"),
        ("tokenizers", "tokenizers is a file, where a run directory has a folder"),
    ],
)
def test_a_file_for_a_folder_is_named_and_the_other_way_round(run, name, message):
    path = run / name
    if "." in name:
        path.unlink()
        path.mkdir()
    else:
        shutil.rmtree(path, ignore_errors=True)
        path.write_text("")
    with pytest.raises(ValueError, match=message):
        check_pieces(run)


def test_a_model_knows_its_tokenizers_without_a_record(run):
    (run / RECORD).unlink()
    made_with = {n: fingerprint_files(run / "tokenizers" / n) for n in ("a", "b")}
    save(run / "model", 3, tokenizers=made_with)
    check_made_with(run / "model", run / "tokenizers")
    exchange(run)
    with pytest.raises(ValueError, match=r"tokenizers/a is not the one that the model was trained"):
        check_made_with(run / "model", run / "tokenizers")

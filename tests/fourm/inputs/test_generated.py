"""The record beside generated files: what it lists, and what is made of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fourm.inputs.generated import (
    GENERATED,
    JOURNAL,
    GeneratedFolder,
    Output,
    digest_of,
    find_origin,
    read_record,
)
from fourm.requests.outputs import outputs_of
from tests.fourm.inputs.test_files import npy, reader_of
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.formats.formats import ArrayFile
from tokenizers.labels import Label
from tokenizers.rows import Row
from tokenizers.scalars import Scalar
from tokenizers.settings.plain import to_plain
from tokenizers.signals.values import Signal
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

RANDOM = np.random.default_rng(3)
UNIT = RANDOM.normal(size=(8, 8, 3))
ONE_BOX = Boxes(np.array([[0.1, 0.2, 1 / 3, 0.7]], np.float32), np.array([0]))
VALUES = {
    "colors": (Colors(), RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)),
    "distances": (Distances(), RANDOM.uniform(1, 9, (8, 8)).astype(np.float32)),
    "directions": (Directions(), (UNIT / np.linalg.norm(UNIT, axis=-1, keepdims=True))),
    "classes": (Classes(("a", "b", "c")), RANDOM.integers(0, 3, (8, 8)).astype(np.uint8)),
    "reals": (Reals(2), RANDOM.normal(size=(8, 8, 2)).astype(np.float32)),
    "text": (Text(), "a red cube"),
    "padded text": (Text(), " a red cube "),
    "boxes": (BoxList(("a",)), ONE_BOX),
    "scalar": (Scalar(unit="m"), 3.14159265),
    "count": (Scalar(), 2.0),
    "label": (Label(("cat", "dog")), 1),
    "labels": (Label(("cat", "dog", "cow"), several=True), np.array([True, False, True])),
    "row": (Row(("age",), {"sex": ("f", "m")}), np.array([33.14159, 1.0])),
    "signal": (Signal(8, 2), RANDOM.normal(size=(8, 2)).astype(np.float32)),
    "ids": (Codes(9, (2, 2)), np.array([[1, 2], [3, 4]])),
}
COMMAND = {"seed": 0, "values": {}}


@pytest.mark.parametrize("case", VALUES)
def test_what_is_written_is_read_as_the_same_value_whatever_the_format(case, tmp_path):
    values, value = VALUES[case]
    value = values.check(value, "x")
    outputs, _ = outputs_of("x", "x_000", value, values)
    GeneratedFolder(tmp_path, {"values": {"x": to_plain(values)}}).write(outputs)
    # A format that would change every number, and can't read some of these at all.
    reader = reader_of({"x": values}, {"x": ArrayFile(scale=7.0, offset=1.0)})
    holders = [each for each in outputs if each.holds == "value"]
    assert len(holders) == 1
    read = reader.read(tmp_path / holders[0].name, "x")
    assert read.is_value
    for ours, theirs in (
        zip(read.value, value, strict=True) if case == "boxes" else [(read.value, value)]
    ):
        assert np.array_equal(ours, theirs)
    for each in outputs:
        if each.holds == "drawing":
            with pytest.raises(ValueError, match="is a drawing of x, made to be looked at"):
                reader.read(tmp_path / each.name, "x")


def test_only_listed_bytes_are_values(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    value = np.full((8, 8), 2.0, np.float32)
    GeneratedFolder(out, COMMAND).write([Output("x_000.npy", npy(value), "x", "value")])
    reader = reader_of({"x": Reals(1)}, {"x": ArrayFile(scale=3.0)})
    assert reader.read(out / "x_000.npy", "x").value.max() == 2
    # Renamed, it is the same; with other bytes, or elsewhere, it is a file like any other.
    (out / "b.npy").write_bytes(npy(value))
    assert reader.read(out / "b.npy", "x").value.max() == 2
    (out / "x_000.npy").write_bytes(npy(value + 1))
    assert reader.read(out / "x_000.npy", "x").value.max() == 9
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "x_000.npy").write_bytes(npy(value))
    assert reader.read(tmp_path / "else" / "x_000.npy", "x").value.max() == 6
    stored = replace(reader, inputs_are="stored")
    assert stored.read(out / "b.npy", "x").value.max() == 6


def test_earlier_files_stay_listed_until_they_are_replaced(tmp_path):
    def write(name, number, seed):
        folder = GeneratedFolder(tmp_path, {"seed": seed, "values": {}})
        folder.write([Output(name, npy(np.full((8, 8), number)), "x", "value")])
        folder.close()

    write("a.npy", 1, 0)
    write("b.npy", 2, 1)
    write("a.npy", 3, 2)
    record = read_record(tmp_path / GENERATED)
    assert [each["name"] for each in record["files"]] == ["b.npy", "a.npy"]
    assert [each["seed"] for each in record["commands"]] == [1, 2]
    assert find_origin(tmp_path / "a.npy", npy(np.full((8, 8), 3)), "x").holds == "value"
    assert find_origin(tmp_path / "a.npy", npy(np.full((8, 8), 1)), "x") is None


def test_a_command_that_was_killed_leaves_no_file_that_is_not_listed(tmp_path, monkeypatch):
    first = GeneratedFolder(tmp_path, COMMAND)
    first.write([Output("a.npy", b"old", "x", "value")])
    first.close()
    with monkeypatch.context() as patched:
        patched.setattr("fourm.inputs.generated.write_file", _fails_at(2))
        with pytest.raises(OSError, match="killed"):
            GeneratedFolder(tmp_path, COMMAND).write([Output("a.npy", b"new", "x", "value")])
    for content in (b"old", b"new"):
        assert find_origin(tmp_path / "a.npy", content, "x") is not None


def test_a_long_command_adds_to_its_list_instead_of_writing_it_again(tmp_path, monkeypatch):
    first = GeneratedFolder(tmp_path, {"seed": 0, "values": {}})
    first.write([Output("old.npy", b"old", "x", "value")])
    first.close()
    folder = GeneratedFolder(tmp_path, COMMAND)
    about = {"key": "k", "inputs": {}}
    sizes = []
    for number in range(40):
        content = f"{number}".encode()
        folder.write(
            [Output(f"{number}.npy", content, "x", "value", {**about, "key": content.decode()})]
        )
        sizes.append((tmp_path / GENERATED).stat().st_size)
        assert find_origin(tmp_path / "a.npy", content, "x").holds == "value"
    assert len(set(sizes)) == 1
    # Killed here, in the middle of a line, nothing is lost and nothing is made again.
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"name": "40.np')
    again = GeneratedFolder(tmp_path, COMMAND)
    assert all(again.has(str(number), {}, ["x"], 1) for number in range(40))
    again.write([Output("0.npy", b"new", "x", "value", about)])
    assert not (tmp_path / JOURNAL).exists()
    again.close()
    files = read_record(tmp_path / GENERATED)["files"]
    names = [each["name"] for each in files]
    assert sorted(names) == sorted({"old.npy", *(f"{number}.npy" for number in range(40))})
    assert [each["sha256"] for each in files if each["name"] == "0.npy"] == [digest_of(b"new")]


def _fails_at(number):
    from tokenizers.storage.unfinished import write_file

    calls = []

    def write(path, content):
        calls.append(path)
        if len(calls) == number:
            raise OSError("killed")
        write_file(path, content)

    return write


def test_a_value_of_another_meaning_is_refused(tmp_path):
    values = Classes(("a", "b"))
    command = {"values": {"x": to_plain(values)}}
    content = npy(np.zeros((8, 8), np.uint8))
    GeneratedFolder(tmp_path, command).write([Output("a.npy", content, "x", "value")])
    with pytest.raises(ValueError, match="by a run whose x has values of another meaning"):
        reader_of({"x": Classes(("b", "a"))}, {}).read(tmp_path / "a.npy", "x")


def test_a_value_of_another_modality_is_read_as_a_file_and_said(tmp_path):
    GeneratedFolder(tmp_path, COMMAND).write(
        [Output("a.npy", npy(np.ones((8, 8), np.float32)), "y", "value")]
    )
    said = []
    reader = reader_of({"x": Reals(1)}, {"x": ArrayFile(scale=3.0)}, say=said.append)
    assert reader.read(tmp_path / "a.npy", "x").value.max() == 3
    assert "was generated as y, and is read as a file of x" in said[0]


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "files": [{}]}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / GENERATED).write_text(content)
    (tmp_path / "a.npy").write_bytes(npy(np.ones((8, 8))))
    with pytest.raises(ValueError, match=r"generated\.json, which says what was generated, can't"):
        reader_of({"x": Reals(1)}, {}).read(tmp_path / "a.npy", "x")


def test_the_record_is_plain_json(tmp_path):
    GeneratedFolder(tmp_path, COMMAND).write([Output("a.txt", b"a", "x", "value")])
    assert set(json.loads((tmp_path / GENERATED).read_text())) == {"format", "commands", "files"}

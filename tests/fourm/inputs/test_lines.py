"""Lines that grow, and go on where they stopped."""

from fourm.inputs.lines import LineFile


def test_lines_are_kept_of_the_same_thing_alone(tmp_path):
    path = tmp_path / "lines.jsonl"
    LineFile(path, {"run": (1, 2)}).add({"a": {"score": 1.0}, "b": {"score": 2.0}})
    again = LineFile(path, {"run": [1, 2]})
    assert dict(again) == {"a": {"key": "a", "score": 1.0}, "b": {"key": "b", "score": 2.0}}
    again.add({"a": {"score": 3.0}})
    assert LineFile(path, {"run": [1, 2]})["a"]["score"] == 3.0 and len(again) == 2
    assert len(LineFile(path, {"run": 3})) == 0
    assert path.read_text() == '{"of": {"run": 3}}\n'


def test_a_line_that_was_not_finished_is_made_again(tmp_path):
    path = tmp_path / "lines.jsonl"
    LineFile(path, {}).add({"a": {}, "b": {}})
    path.write_text(path.read_text()[:-5])
    found = LineFile(path, {})
    assert list(found) == ["a"]
    found.add({"b": {}})
    assert list(LineFile(path, {})) == ["a", "b"]
    path.write_text("no JSON\n[1]\n")
    assert len(LineFile(path, {})) == 0

"""The command line of scoring: words, classes, matches and maps of a folder, and going on."""

import json

import numpy as np
import pytest
from PIL import Image

import fourm.score as command
from fourm.load_run import load
from fourm.requests.scoring import classify, score_pairs, surprise
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run, write_run

pytestmark = pytest.mark.slow

KEYS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    path.mkdir()
    write_run(path, make_run())
    return path


@pytest.fixture(scope="module")
def model(run):
    return load(run)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("rgb", "caption"):
        (folder / name).mkdir()
    for key, picture, text in zip(KEYS, make_pictures(4), CAPTIONS, strict=True):
        Image.fromarray(picture).save(folder / "rgb" / f"{key}.png")
        (folder / "caption" / f"{key}.txt").write_text(text)
    return folder


def score(run, *arguments):
    return command.main([str(run), *map(str, arguments)])


def lines_of(folder):
    first, *lines = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    assert set(first) == {"of"}
    return {line["key"]: line for line in lines}


def both(data):
    return ["--rgb", data / "rgb", "--caption", data / "caption"]


def test_texts_and_words_are_scored_given_their_pictures(run, model, data, tmp_path, capsys):
    arguments = [*both(data), "--target", "caption", "--out", tmp_path, "--drop", 0.25]
    assert score(run, *arguments) == 0
    lines = lines_of(tmp_path)
    expected = model.log_likelihood({"caption": CAPTIONS}, {"rgb": make_pictures(4)}, relative=True)
    assert [lines[key]["score"] for key in KEYS] == pytest.approx(expected.total, rel=1e-3)
    for key, text in zip(KEYS, CAPTIONS, strict=True):
        assert [word for word, _ in lines[key]["words"]] == text.split()
    least = KEYS[int(np.argmin(expected.total))]
    assert (tmp_path / "dropped.txt").read_text() == f"{least}\n"
    assert f"fit least, in nats: {least} (" in capsys.readouterr().out


def test_what_is_there_is_not_made_again(run, data, tmp_path, monkeypatch):
    arguments = [*both(data), "--target", "caption", "--out", tmp_path]
    assert score(run, *arguments) == 0
    whole = (tmp_path / "scores.jsonl").read_text()
    made = []
    each = command.score_each
    monkeypatch.setattr(
        command, "score_each", lambda m, c, some, f: made.append(list(some)) or each(m, c, some, f)
    )
    assert score(run, *arguments) == 0
    assert made == [] and (tmp_path / "scores.jsonl").read_text() == whole
    (tmp_path / "scores.jsonl").write_text(whole[: whole.index('{"key": "d"') + 30])
    assert score(run, *arguments) == 0
    assert made == [["d"]] and lines_of(tmp_path).keys() == set(KEYS)
    assert score(run, *arguments, "--seed", 1) == 0
    assert made[1:] == [KEYS]


def test_odd_places_are_maps(run, model, data, tmp_path):
    assert score(run, *both(data), "--target", "rgb", "--out", tmp_path) == 0
    expected = surprise(model, {"rgb": make_pictures(4)}, {"caption": CAPTIONS})
    for row, (key, line) in enumerate(lines_of(tmp_path).items()):
        cells = np.load(tmp_path / line["map"])
        np.testing.assert_allclose(cells, expected[row], rtol=1e-3, atol=1e-4)
        assert line["surprise"] == pytest.approx(expected[row].mean(), rel=1e-3)
        assert line["error"] > 0
        assert Image.open(tmp_path / "maps" / f"{key}.png").size == (8, 8)


def test_classes_are_told_by_what_is_written_of_them(run, model, data, tmp_path, capsys):
    classes = ("red", "blue", "green")
    arguments = ["--rgb", data / "rgb", "--target", "caption", "--classes", *classes]
    arguments += ["--templates", "a {} cube", "a {} ball", "--out", tmp_path]
    assert score(run, *arguments) == 0
    templates = ("a {} cube", "a {} ball")
    expected = classify(model, {"rgb": make_pictures(4)}, classes, "caption", templates)
    for row, line in zip(expected, lines_of(tmp_path).values(), strict=True):
        assert list(line["probabilities"].values()) == pytest.approx(row.tolist(), rel=1e-3)
        assert line["class"] == classes[int(row.argmax())]
    assert "red: " in capsys.readouterr().out


def test_every_sample_is_compared_with_all_answers(run, model, data, tmp_path, capsys):
    arguments = [*both(data), "--target", "caption", "--match", 2, "--out", tmp_path]
    assert score(run, *arguments) == 0
    expected = score_pairs(model, {"rgb": make_pictures(4)}, {"caption": CAPTIONS})
    for row, key in enumerate(KEYS):
        line = lines_of(tmp_path)[key]
        assert line["among"] == 4 and line["score"] == pytest.approx(expected[row, row], rel=1e-3)
        assert line["place"] == 1 + (expected[row] > expected[row, row]).sum()
        order = np.argsort(-expected[row])[:2]
        assert [each["key"] for each in line["best"]] == [KEYS[number] for number in order]
    assert "of 4 samples among 4 (chance 0.250 / 1.000 / 1.000)" in capsys.readouterr().out


def test_values_may_be_given_one_by_one_and_damaged_ones_are_listed(run, data, tmp_path):
    words = ["--caption", *CAPTIONS[:2], "--rgb", data / "rgb" / "a.png", "--target", "caption"]
    assert score(run, *words, "--out", tmp_path / "few") == 0
    assert list(lines_of(tmp_path / "few")) == ["000", "001"]
    damaged = tmp_path / "rgb"
    damaged.mkdir()
    (damaged / "a.png").write_bytes((data / "rgb" / "a.png").read_bytes())
    (damaged / "b.png").write_bytes(b"no picture")
    arguments = ["--rgb", damaged, "--caption", data / "caption", "--target", "caption"]
    assert score(run, *arguments, "--out", tmp_path / "some") == 0
    assert list(lines_of(tmp_path / "some")) == ["a"]
    listed = (tmp_path / "some" / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in listed] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--caption", "a red cube", "--target", "caption"], "Nothing is given that caption could"),
        (["--count", "1", "--target", "caption"], "--caption is not given; give what is to be"),
        (["--count", "1", "--target", "text"], "no modality 'text' in this run"),
        (
            ["--caption", "a", "--count", "1", "--target", "caption", "--classes", "a", "b"],
            "--caption is given, and --classes are to be told by it",
        ),
        (["--caption", "a", "--target", "count", "--classes", "a", "b"], "count, which is no text"),
        (
            ["--count", "1", "--target", "caption", "--classes", "a", "b", "--match", "1"],
            "one thing is done at a time",
        ),
        (["--count", "1", "--target", "caption", "--classes", "a"], "give at least two"),
        (["--caption", "a", "--count", "1", "--target", "caption", "--drop", "1"], "a share below"),
        (
            ["--caption", "a", "b", "--count", "1", "2", "5", "--target", "caption"],
            "--caption has 2 values, but another input has 3",
        ),
    ],
)
def test_what_can_not_be_done_is_one_sentence(run, tmp_path, capsys, arguments, told):
    assert score(run, *arguments, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert told in error and error.splitlines()[-1].startswith("error: ")

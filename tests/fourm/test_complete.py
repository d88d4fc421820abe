"""Edits on the command line: which part, of what, and what stays."""

import json

import numpy as np
import pytest
from PIL import Image

import fourm
from fourm.complete import main
from fourm.inference.settings import GenerationConfig
from fourm.load_run import load
from fourm.requests.variations import interpolate, outpaint
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run, write_run

pytestmark = [pytest.mark.xdist_group("fourm/test_any2any"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    path.mkdir()
    write_run(path, make_run(), {"rgb": {"num_steps": 2}})
    return path


@pytest.fixture
def picture(tmp_path):
    (found,) = make_pictures(1)
    Image.fromarray(found).save(tmp_path / "a.png")
    return found


def complete(folder, out, *arguments) -> int:
    return main([str(folder), *map(str, arguments), "--out", str(out)])


def test_a_box_in_pixels_in_fractions_and_a_mask_are_the_same_edit(folder, tmp_path, picture):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    made = []
    for number, words in enumerate(
        (["box", "0,0,4,8"], ["box", "0,0,0.5,1"], ["mask", tmp_path / "m.png"])
    ):
        out = tmp_path / str(number)
        assert complete(folder, out, "--rgb", tmp_path / "a.png", "--redo", *words) == 0
        made.append(np.asarray(Image.open(out / "rgb_000.png")))
    assert all(np.array_equal(each, made[0]) for each in made)
    assert np.array_equal(made[0][:, 4:], picture[:, 4:])
    assert (made[0][:, :4] != picture[:, :4]).any()
    record = json.loads((tmp_path / "0" / "generated.json").read_text())
    assert record["commands"][0]["redo"] == ["box", "0,0,4,8"]
    expected = load(folder).complete({"rgb": picture}, redo=(0.0, 0.0, 0.5, 1.0))
    assert np.array_equal(made[0], expected.values["rgb"][0])


def test_blanks_are_filled_and_what_is_watched_is_said(folder, tmp_path, picture, capsys):
    arguments = ["--caption", "a ___ cube", "--rgb", tmp_path / "a.png", "--watch"]
    assert complete(folder, tmp_path / "out", *arguments) == 0
    text = (tmp_path / "out" / "caption_000.txt").read_text()
    assert text.startswith("a") and "_" not in text
    assert "Progress(caption, 1: " in capsys.readouterr().err


def test_a_picture_is_painted_beyond_its_edges(folder, tmp_path, picture):
    assert complete(folder, tmp_path / "out", "--rgb", tmp_path / "a.png", "--outpaint", "1") == 0
    run = load(folder)
    found = outpaint(run, {"rgb": picture}, margin=1.0)
    assert found.values["rgb"].shape == (1, 8, 8, 3)
    made = np.asarray(Image.open(tmp_path / "out" / "rgb_000.png"))
    assert np.array_equal(made, found.values["rgb"][0])
    with pytest.raises(ValueError, match="depth would show less of it"):
        outpaint(run, {"rgb": picture}, {"depth": np.ones((8, 8), np.float32)}, margin=0.5)
    with pytest.raises(ValueError, match="The margin is 'wide'"):
        outpaint(run, {"rgb": picture}, margin="wide")


def test_steps_lead_from_one_condition_to_another(folder):
    run = load(folder)
    ends = {"caption": CAPTIONS[0]}, {"caption": CAPTIONS[1]}
    config = GenerationConfig(num_steps=2, temperature=0.0)
    found = fourm.interpolate(run, *ends, "rgb", steps=3, settings=config)
    assert found.values["rgb"].shape == (3, 8, 8, 3)
    middle = [(ends[0], 0.5), (ends[1], 0.5)]
    alone = run.generate({}, "rgb", conditions=middle, settings=config)
    assert np.array_equal(alone.ids["rgb"][0], found.ids["rgb"][1])
    with pytest.raises(ValueError, match="steps is 1"):
        interpolate(run, *ends, "rgb", steps=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rgb", "a.png"], "Give either redo or keep"),
        (["--rgb", "a.png", "--redo", "box", "1,2,3"], "give 4 numbers with commas"),
        (["--rgb", "a.png", "--redo", "box", "0,0,9,9"], "larger than its picture"),
        (["--rgb", "a.png", "--redo", "circle", "3"], "give box X0,Y0,X1,Y1, mask FILE"),
        (["--rgb", "a.png", "--keep", "class", "sky"], "this run has none"),
        (["--rgb", "a.png", "--redo", "share", "2"], "0 to 1 is allowed"),
        (["--caption", "a cube", "--redo", "share", "0.5"], "say by --edit what is edited"),
        (["--rgb", "a.png", "--edit", "depth"], "which is not given; give --depth"),
        (["--rgb", "a.png", "--outpaint", "1", "--redo", "share", "1"], "leave --redo and --keep"),
    ],
)
def test_what_is_no_edit_is_one_sentence(folder, tmp_path, picture, capsys, arguments, told):
    words = [tmp_path / "a.png" if word == "a.png" else word for word in arguments]
    assert complete(folder, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("error: ") == 1
    assert not (tmp_path / "out").exists()

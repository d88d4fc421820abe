"""The command line of generation: what is typed, what is written, what is said."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fourm.generate import main, read_inputs
from fourm.inference.settings import GenerationConfig
from fourm.inputs.generated import GENERATED, GeneratedFolder
from fourm.load_run import load
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run, write_run
from tokenizers.formats.formats import ArrayFile
from tokenizers.formats.recorded import RunFormats, as_json
from tokenizers.storage.run_paths import FORMATS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    path.mkdir()
    write_run(path, make_run(), {"depth": {"num_steps": 1}, "rgb": {"num_steps": 2}})
    return path


def generate(folder, *arguments) -> int:
    return main([str(folder), *map(str, arguments)])


@pytest.mark.slow
def test_text_in_pictures_out(folder, tmp_path, capsys):
    arguments = ["--caption", "a red cube left of a blue cone", "--targets", "rgb", "depth"]
    assert generate(folder, *arguments, "--num-samples", 2, "--out", tmp_path) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "generated.json",
        "generated.png",
        *(
            f"{stem}_00{i}.{end}"
            for i in (0, 1)
            for stem, end in (("rgb", "png"), ("depth", "png"), ("depth", "npy"))
        ),
    }
    assert Image.open(tmp_path / "rgb_000.png").size == (8, 8)
    assert np.load(tmp_path / "depth_001.npy", allow_pickle=False).dtype == np.float32
    said = capsys.readouterr().out
    assert f"Wrote 2 samples of rgb and depth to {tmp_path}; " in said
    assert "generated.png" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--seed", 2**63],
            "seed is 9223372036854775808; it must be a whole number, 0 to 4294967",
        ),
        (["--seed", -1], "seed is -1; it must be"),
        (["--num-samples", 10**12], "--num-samples is 1000000000000, which makes 1000000000000"),
        (["--num-samples", 0], "--num-samples is 0"),
        (
            ["--count", -500],
            "--count is -500; the numbers that this run was trained on lie",
        ),
        (["--count", "nan"], "count"),
        (["--num-steps", 10**9], "--num-steps is 1000000000; allowed is 1 to 10,000"),
        (["--use", "best"], "There is no checkpoint in"),
        (["--use", "500"], "There is no checkpoint of step 500"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(folder, tmp_path, capsys, arguments, told):
    given = [] if "--count" in arguments else ["--caption", "a red cube"]
    assert generate(folder, *given, "--targets", "depth", *arguments, "--out", tmp_path) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_text_that_is_cut_is_told_with_its_tokens(folder, tmp_path, capsys):
    caption = " ".join(["a red cube left of a blue cone"] * 20)
    arguments = ["--caption", caption, "--targets", "count", "--out", tmp_path]
    assert generate(folder, *arguments) == 0
    told = capsys.readouterr().err
    assert "warning: 1 of 1 values of caption have more than" in told and "cut off" in told


def bomb(path):
    """A PNG whose header says that it has 900 million pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def claim(path):
    """An array whose header says that 3 TB follow."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 750_000)}
        np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modality", "name", "write"),
    [
        ("rgb", "a.png", bomb),
        ("rgb", "a.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)),
        ("rgb", "a.npy", claim),
        ("rgb", "a.npy", lambda path: path.mkdir()),
        ("depth", "a.npy", lambda path: path.write_bytes(b"")),
        ("boxes", "a.json", lambda path: path.write_text("[" * 100_000)),
        ("boxes", "a.json", lambda path: path.write_text('{"corners": 1, "classes": {}}')),
        ("caption", "a.txt", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_hostile_or_damaged_input_is_one_sentence(
    folder, tmp_path, capsys, modality, name, write
):
    write(tmp_path / name)
    arguments = [f"--{modality}", tmp_path / name, "--targets", "count", "--out", tmp_path / "out"]
    assert generate(folder, *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and name in told


@pytest.mark.slow
def test_pictures_of_any_size_in_text_and_boxes_out(folder, tmp_path, capsys):
    for number, size in enumerate([(8, 8), (31, 17)]):
        picture = np.full((*size, 3), 200, np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    given = [tmp_path / "0.png", tmp_path / "1.png"]
    out = tmp_path / "out"
    arguments = ["--rgb", *given, "--targets", "caption", "boxes", "count", "--out", out]
    assert generate(folder, *arguments) == 0
    said = capsys.readouterr().out
    text = (out / "caption_001.txt").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "caption 1: " in said
    assert set(json.loads((out / "boxes_000.json").read_text())) == {"corners", "classes"}
    assert (out / "boxes_000.png").is_file()
    assert float((out / "count_000.txt").read_text()) in (1.0, 2.0, 5.0)


@pytest.mark.slow
def test_what_is_written_can_be_given_again(folder, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert generate(folder, "--targets", "depth", "boxes", "--out", first) == 0
    arguments = ["--depth", first / "depth_000.npy", "--boxes", first / "boxes_000.json"]
    assert generate(folder, *arguments, "--targets", "rgb", "--out", second) == 0
    assert (second / "rgb_000.png").is_file()


@pytest.mark.slow
def test_generated_values_come_back_and_other_files_go_through_the_run_s_format(
    folder, tmp_path, capsys
):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(folder, run)
    recorded = RunFormats({"depth": ArrayFile(scale=0.002, missing=7)})
    (run / FORMATS).write_bytes(as_json(recorded))
    assert generate(run, "--targets", "depth", "boxes", "--out", out) == 0
    value = np.load(out / "depth_000.npy")
    stored = np.round(value * 500).astype(np.uint16)
    stored[0, 0] = 7
    Image.fromarray(stored).save(tmp_path / "mine.png")
    model = load(run)

    def given(file, inputs_are="auto"):
        return read_inputs(model, {"depth": (str(file),)}, 1, inputs_are)[0]["depth"][0]

    assert np.array_equal(given(out / "depth_000.npy"), value)
    assert np.array_equal(given(out / "depth_000.npy", "values"), value)
    expected = np.where(stored == 7, 0, stored.astype(np.float32) * np.float32(0.002))
    assert np.array_equal(given(tmp_path / "mine.png"), expected)
    assert (
        "Files of depth are read as training read them: ArrayFile(scale=" in capsys.readouterr().err
    )
    shutil.copy(out / "depth_000.npy", tmp_path / "depth.npy")
    arguments = ["--targets", "rgb", "--out", tmp_path / "more"]
    assert generate(run, "--depth", tmp_path / "depth.npy", *arguments) == 2
    assert "give --inputs-are values" in capsys.readouterr().err
    again = ["--depth", tmp_path / "depth.npy", "--inputs-are", "values", *arguments]
    assert generate(run, *again) == 0
    assert generate(run, "--depth", out / "depth_000.png", *arguments) == 2
    assert "is a drawing of depth" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_in_writes_into_the_run(folder):
    assert generate(folder, "--targets", "count") == 0
    assert (folder / "generated" / "count_000.txt").is_file()


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(folder, tmp_path):
    for name in ("one", "two", "other"):
        seed = 1 if name == "other" else 0
        arguments = ["--targets", "depth", "--seed", seed, "--out", tmp_path / name]
        assert generate(folder, *arguments) == 0
    one, two, other = (
        (tmp_path / n / "depth_000.npy").read_bytes() for n in ("one", "two", "other")
    )
    assert one == two != other


def test_only_knobs_that_are_typed_replace_the_runs_own(folder, tmp_path, monkeypatch):
    seen = {}

    def remember(self, inputs, targets, *, settings, **rest):
        seen.update(settings)
        raise ValueError("seen")

    monkeypatch.setattr("fourm.any2any.Any2Any.generate", remember)
    arguments = ["--targets", "depth", "rgb", "caption", "--temperature", 0.5]
    assert generate(folder, *arguments) == 2
    assert seen == {
        "depth": GenerationConfig(num_steps=1, temperature=0.5),
        "rgb": GenerationConfig(num_steps=2, temperature=0.5),
        "caption": GenerationConfig(temperature=0.5),
    }


@pytest.mark.slow
def test_one_input_serves_all_samples_of_another(folder, tmp_path):
    for number, picture in enumerate(make_pictures(2)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    pictures = [tmp_path / "0.png", tmp_path / "1.png"]
    arguments = ["--caption", "a red cube", "--rgb", *pictures, "--targets", "count"]
    assert generate(folder, *arguments, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "count_001.txt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "dpeth"], "no modality 'dpeth' in this run; did you mean depth"),
        (["--rgb", "none.png", "--targets", "depth"], "There is no file none.png"),
        (["--rgb", "red", "--targets", "depth"], "rgb"),
        (["--count", "many", "--targets", "rgb"], "one number per sample is allowed"),
        (
            ["--caption", "a", "b", "--count", "1", "2", "3", "--targets", "rgb"],
            "--caption has 2 values, but another input has 3",
        ),
        (["--targets", "rgb", "--num-samples", "0"], "--num-samples is 0"),
        (["--targets", "rgb", "--temperature", "-1"], "temperature is -1.0; allowed is 0 or"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(folder, tmp_path, capsys, arguments, message):
    assert generate(folder, *arguments, "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_picture_is_named(folder, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert generate(folder, "--rgb", tmp_path / "broken.png", "--targets", "depth") == 2
    assert "broken.png is a text, and no array" in capsys.readouterr().err


def test_a_missing_run_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), "--targets", "rgb"]) == 2
    assert "There is no run directory" in capsys.readouterr().err


@pytest.mark.slow
def test_help_lists_every_modality_and_knob_and_typos_get_the_nearest(folder, capsys):
    with pytest.raises(SystemExit):
        generate(folder, "--help")
    text = capsys.readouterr().out
    for option in ("--rgb", "--caption", "--targets", "--choice-noise", "--top-p", "--guidance"):
        assert option in text
    with pytest.raises(SystemExit) as ended:
        generate(folder, "--targets", "rgb", "--captoin", "a red cube")
    assert ended.value.code == 2
    assert "--caption" in capsys.readouterr().err


def write_folder(folder, number=5):
    """Pictures of several sizes, captions of some, one of each damaged."""
    for name in ("rgb/a", "caption"):
        (folder / name).mkdir(parents=True)
    for place, picture in enumerate(make_pictures(number)):
        wide = np.tile(picture, (1, 2, 1)) if place == 1 else picture
        Image.fromarray(wide).save(folder / "rgb" / "a" / f"{place}.png")
    (folder / "rgb" / "a" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    (folder / "caption" / "a").mkdir()
    for place in (0, 2, 9):
        (folder / "caption" / "a" / f"{place}.txt").write_text("a red cube")
    (folder / "caption" / "a" / "3.txt").write_bytes(b"\xff\xfe\x00")


def run_folder(folder, source, out, *more):
    arguments = ["--rgb", source / "rgb", "--caption", source / "caption", "--out", out, *more]
    return generate(folder, *arguments, "--targets", "depth", "count")


def contents(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_a_folder_becomes_a_folder(folder, tmp_path, capsys):
    source, out = tmp_path / "data", tmp_path / "out"
    write_folder(source)
    assert run_folder(folder, source, out) == 0
    said = capsys.readouterr().out
    assert f"Wrote 6 samples of depth and count to {out}; {out / 'left_out.jsonl'} lists 2" in said
    depth = {path.stem for path in (out / "depth" / "a").glob("*.npy")}
    # 2 has a caption left, 3 a picture, 9 never had one.
    assert depth == {"0", "1", "2", "3", "4", "9"}
    notes = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    found = [(note["kind"], note["modality"], note["key"]) for note in notes]
    assert found == [("unreadable", "rgb", "a/2"), ("unreadable", "caption", "a/3")]
    # What was generated is a value wherever in the folder it lies.
    value = np.load(out / "depth" / "a" / "0.npy")
    given = read_inputs(load(folder), {"depth": (str(out / "depth" / "a" / "0.npy"),)}, 1)[0]
    assert np.array_equal(given["depth"][0], value)
    # So a folder of generated values is one of inputs, without the drawings.
    again = ["--depth", out / "depth", "--targets", "caption", "--out", tmp_path / "more"]
    assert generate(folder, *again) == 0
    assert len(list((tmp_path / "more" / "caption" / "a").glob("*.txt"))) == 6


@pytest.mark.slow
def test_a_folder_goes_on_where_it_stopped_with_the_same_values(
    folder, tmp_path, monkeypatch, capsys
):
    source, whole, out = tmp_path / "data", tmp_path / "whole", tmp_path / "out"
    write_folder(source)
    assert run_folder(folder, source, whole) == 0
    monkeypatch.setattr("fourm.generate_folder.AT_ONCE", 2)
    made = []
    write = GeneratedFolder.write

    def stop_at_the_second(self, outputs):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(outputs)
        write(self, outputs)

    with monkeypatch.context() as patched:
        patched.setattr(GeneratedFolder, "write", stop_at_the_second)
        assert run_folder(folder, source, out) == 130
    assert {key.split("/")[-1] for key in contents(out / "depth")} == {
        "0.npy",
        "0.png",
        "1.npy",
        "1.png",
    }
    capsys.readouterr()
    assert run_folder(folder, source, out) == 0
    assert "Wrote 4 samples of depth and count" in (said := capsys.readouterr().out)
    assert "beside 2 that were there" in said
    first, second = (contents(each) for each in (whole, out))
    assert {n for n in first if n != GENERATED} == {n for n in second if n != GENERATED}
    assert all(second[name] == content for name, content in first.items() if name != GENERATED)
    # A file that has changed is made anew, and so is one that was lost; nothing else is.
    Image.fromarray(make_pictures(1, seed=9)[0]).save(source / "rgb" / "a" / "4.png")
    (out / "depth" / "a" / "0.npy").unlink()
    assert run_folder(folder, source, out) == 0
    assert "Wrote 2 samples of depth and count" in capsys.readouterr().out
    third = contents(out)
    assert third["depth/a/0.npy"] == first["depth/a/0.npy"]
    assert third["depth/a/4.npy"] != first["depth/a/4.npy"]
    assert third["left_out.jsonl"] == first["left_out.jsonl"]
    # Another seed is another command.
    assert run_folder(folder, source, out, "--seed", 1) == 0
    assert "Wrote 6 samples" in capsys.readouterr().out


@pytest.mark.slow
def test_outputs_in_the_size_of_the_picture(folder, tmp_path):
    (tmp_path / "rgb").mkdir()
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(tmp_path / "rgb" / "a.png")
    arguments = ["--targets", "depth", "caption", "--original-size", "--num-samples", 2]
    for given, name in (
        (tmp_path / "rgb" / "a.png", "depth_001"),
        (tmp_path / "rgb", "depth/a_001"),
    ):
        assert generate(folder, "--rgb", given, *arguments, "--out", tmp_path / "out") == 0
        assert np.load(tmp_path / "out" / f"{name}.npy").shape == (20, 20)
        assert Image.open(tmp_path / "out" / f"{name}.png").size == (20, 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "arguments", "told"),
    [
        (lambda d: None, ["--rgb", "rgb"], "rgb has no file of rgb; readable are png"),
        (lambda d: [(d / "rgb" / n).write_bytes(b"") for n in ("a.png", "a.npy")],
         ["--rgb", "rgb"], "are both the rgb of the sample a; leave one"),
        (lambda d: [(d / n).write_bytes(b"") for n in ("rgb/a.png", "depth/b.npy")],
         ["--rgb", "rgb", "--depth", "depth"], "No file of rgb, such as a, has the key of one"),
        (lambda d: (d / "rgb" / "a.png").write_bytes(b""),
         ["--rgb", "rgb"], "Not one of 1 samples can be used"),
        (lambda d: Image.fromarray(make_pictures(1)[0]).save(d / "rgb" / "a.png"),
         ["--rgb", "rgb", "--count=-500"], "the numbers that this run was trained on lie between"),
    ],
    ids=["empty", "twice", "apart", "damaged", "outlandish"],
)  # fmt: skip
def test_a_folder_of_no_use_is_one_sentence(folder, tmp_path, capsys, write, arguments, told):
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    write(tmp_path)
    given = [word if word.startswith("--") else tmp_path / word for word in arguments]
    assert generate(folder, *given, "--targets", "count", "--out", tmp_path / "out") == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_draws_conditions_and_their_spread_on_the_command_line(folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(folder), "--targets", "depth", "--out", str(out), "--num-draws", "3"]
    arguments += ["--guide", f"caption={CAPTIONS[0]}:2.5", "caption=a green ball:-1"]
    assert main([*arguments, "--num-samples", "2"]) == 0
    spread = np.load(out / "depth_000.spread.npy")
    value = np.load(out / "depth_000.npy")
    assert spread.shape == value.shape and np.nanmax(spread) > 0
    assert (out / "depth_001.spread.png").exists()
    record = json.loads((out / "generated.json").read_text())
    assert "depth_000.spread.npy" in json.dumps(record) and '"num_draws": 3' in json.dumps(record)
    found = load(folder).generate(
        {},
        "depth",
        num_draws=3,
        num_samples=2,
        conditions=[({"caption": CAPTIONS[0]}, 2.5), ({"caption": "a green ball"}, -1.0)],
    )
    np.testing.assert_array_equal(found.spread["depth"][0].astype(np.float32), spread)
    # A plan on one line, the best draw by a score, and words for every pass.
    plan = [str(folder), "--out", str(tmp_path / "plan"), "--watch", "--seed", "3"]
    plan += ["--caption", CAPTIONS[0], "--targets", "count[temperature=0.5] -> depth[num-steps=1]"]
    plan += ["--num-draws", "3", "--combine", "best", "--score", "read-back"]
    assert main(plan) == 0
    assert "Progress(count, 1: " in capsys.readouterr().err
    (about,) = json.loads((tmp_path / "plan" / "generated.json").read_text())["commands"]
    assert about["targets"] == ["count", "depth"] and about["score"] == "read-back"
    assert about["settings"]["count"]["temperature"] == 0.5
    for guide, told in (
        ("caption", "give MODALITY=VALUE:WEIGHT"),
        ("caption=a:much", "whose weight 'much' is no number"),
        ("captoin=a:1", "did you mean caption"),
    ):
        assert main([*arguments[:5], "--guide", guide]) == 2
        assert told in capsys.readouterr().err

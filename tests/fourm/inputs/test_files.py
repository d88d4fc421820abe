"""What generation reads of a file is what training reads of it, for every format and knob."""

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipeline.crops import TransformedSource
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.source import NOTES
from fourm.inputs.files import FileReader, describe_format
from fourm.inputs.samples import prepare
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.formats.annotations import BoxesFile
from tokenizers.formats.cells import TableColumn
from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.formats import ArrayFile, CodesFile, JsonFile, NumberFile, TextFile
from tokenizers.formats.recorded import as_json, formats_of, read_formats
from tokenizers.formats.signals import LogMel, SignalFile
from tokenizers.labels import Label
from tokenizers.rows import Row
from tokenizers.scalars import Scalar
from tokenizers.settings.plain import to_plain
from tokenizers.signals.values import Signal
from tokenizers.storage.run_paths import FORMATS
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

SIZE = (8, 8)
RANDOM = np.random.default_rng(0)
SHORT = RANDOM.integers(500, 4000, (12, 20)).astype(np.uint16)
COLORS = RANDOM.integers(0, 256, (12, 20, 3)).astype(np.uint8)
LAND = Classes(("water", "trees", "crops"))
PLANES = [Distances(), LAND, Reals(2), Colors(), Directions()]


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def picture(array, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(COLORS, "JPEG", exif=exif)


def wave() -> bytes:
    from scipy.io import wavfile

    stream = io.BytesIO()
    wavfile.write(stream, 8000, RANDOM.integers(-9000, 9000, 64).astype(np.int16))
    return stream.getvalue()


INSTANCES = json.dumps(
    {
        "width": 20,
        "height": 12,
        "instances": [
            {"bbox": [5, 2, 9, 7], "class_name": "dog", "score": 0.9},
            {"bbox": [6, 3, 4, 4], "class_name": "cat", "score": 0.2},
        ],
    }
).encode()
KINDS = BoxList(("cat", "dog"))
IN_PIXELS = BoxesFile(class_names=("cat", "dog"), corners="xywh", unit="pixels", minimum_score=0.5)
CHANNELS_FIRST = np.moveaxis(COLORS, -1, 0)
BLACK_AND_WHITE = np.repeat(np.where(COLORS[..., :1] > 99, np.uint8(0), np.uint8(255)), 3, 2)
COLUMNS = b"\n".join(b"%d,%d" % (step, step * step) for step in range(20))
CASES = {
    "scale": (Distances(), ArrayFile(scale=0.002), "png", picture(SHORT)),
    "offset": (Reals(1), ArrayFile(offset=-3.5), "npy", npy(SHORT.astype(np.float32))),
    "missing": (Reals(1), ArrayFile(missing=int(SHORT[3, 4])), "npy", npy(SHORT)),
    "missing nan": (Reals(1), ArrayFile(scale=2, missing=0), "npy", npy(SHORT % 3)),
    "channels first": (Reals(3), ArrayFile(channels_first=True), "npy", npy(CHANNELS_FIRST)),
    "bands": (Reals(2), ArrayFile(bands=(2, 0)), "npy", npy(COLORS)),
    "field": (Reals(1), ArrayFile(field="b"), "npz", npz(a=SHORT * 0, b=SHORT)),
    "values": (
        LAND,
        ArrayFile(values={7: 0, 8: 2}, other=1),
        "png",
        picture(np.uint8(SHORT % 3 + 6)),
    ),
    "colors": (
        LAND,
        ArrayFile(colors={(0, 0, 0): 1, (255, 255, 255): 2}, other=255),
        "png",
        picture(BLACK_AND_WHITE),
    ),
    "as rgb": (Colors(), ArrayFile(as_rgb=True), "png", picture(np.uint8(SHORT % 250))),
    "16 bits": (Colors(), ArrayFile(as_rgb=True), "png", picture(SHORT * 16)),
    "exif": (Colors(), ArrayFile(as_rgb=True), "jpg", turned()),
    "background": (
        Colors(),
        ArrayFile(as_rgb=True, background=(1, 2, 3)),
        "png",
        picture(np.dstack([COLORS, COLORS[..., :1]])),
    ),
    "directions": (Directions(), ArrayFile(), "png", picture(COLORS)),
    "as stored": (Distances(), ArrayFile(), "png", picture(SHORT)),
    "codes of views": (
        Codes(9, (2, 2)),
        CodesFile(shape=(2, 2)),
        "npy",
        npy(np.arange(8).reshape(2, 4) % 9),
    ),
    "lines": (Text(), TextFile(lines=True), "txt", "a dog\na cat\n".encode("utf-16")),
    "captions": (Text(), TextFile(field="told"), "json", b'[{"told": "a dog"}, {"told": "a cat"}]'),
    "number": (Scalar(), NumberFile(field="n"), "json", b'{"n": 2.5}'),
    "label": (Label(("cat", "dog")), JsonFile(field="is"), "json", b'{"is": "dog"}'),
    "row": (Row(("age",), {"sex": ("f", "m")}), JsonFile(), "json", b'{"age": 3, "sex": "m"}'),
    "boxes": (KINDS, IN_PIXELS, "json", INSTANCES),
    "boxes mended": (KINDS, BoxesFile(), "txt", b"1 0.5 0.5 1.05 0.4"),
    "cell": (
        Label(("cat", "dog")),
        TableColumn(holds="class", class_names=("cat", "dog")),
        "txt",
        b"dog\n",
    ),
    "signal": (
        Signal(16, 2),
        SignalFile(extension="csv", start=2, length=9, scale=0.5, columns=(1, 0)),
        "csv",
        COLUMNS,
    ),
    "log mel": (Signal(16, 4), SignalFile(log_mel=LogMel(8000.0, 4, 16, 8)), "wav", wave()),
    "gzip": (Text(), TextFile(), "txt.gz", gzip.compress(b"a dog")),
}


def reader_of(values, formats, size=SIZE, **options) -> FileReader:
    """A reader of a run whose pictures all have one size."""
    dense = Distances | Classes | Reals | Colors | Directions
    tokenizers = {
        name: fake_tokenizer(each, **({"picture_size": size} if isinstance(each, dense) else {}))
        for name, each in values.items()
    }
    return FileReader(tokenizers, formats, **options)


def fake_tokenizer(values, **attributes) -> SimpleNamespace:
    """A tokenizer that knows its values, and what pictures it reads."""
    unused = dict.fromkeys(("encode", "decode", "save", "load"), lambda *_: None)
    shape = dict(vocab_size=9, token_shape=(2, 2), special=None)
    return SimpleNamespace(values=values, **unused, **shape, **attributes)


def recorded(data: FilesData, folder: Path) -> dict[str, FileFormat]:
    """What a run of these data keeps of formats, and reads again."""
    folder.mkdir()
    (folder / FORMATS).write_bytes(as_json(formats_of(data)))
    kept = read_formats(folder, {}).formats
    (folder / FORMATS).unlink()
    # Runs of before have their configuration alone.
    assert read_formats(folder, {"data": json.loads(json.dumps(to_plain(data)))}).formats == kept
    return kept


@pytest.mark.parametrize("case", CASES)
def test_a_file_given_is_read_as_training_reads_it(case, tmp_path):
    values, file_format, ending, content = CASES[case]
    (tmp_path / "data" / "train" / "x").mkdir(parents=True)
    file = tmp_path / "data" / "train" / "x" / f"a.{ending}"
    file.write_bytes(content)
    # A table's cells are no files; everything else is read by way of the source.
    data = FilesData(str(tmp_path / "data"), {"x": file_format}, max_pixels=10_000)
    if isinstance(file_format, TableColumn):
        trained = values.check(file_format.read(content, ending), "x")
    else:
        source = TransformedSource(data.open("train"), {"x": values}, SIZE)
        sample = source[0]
        trained = sample["x"]
    said: list[str] = []
    reader = reader_of({"x": values}, recorded(data, tmp_path / "run"), say=said.append)
    given = prepare({"x": [file]}, reader).values["x"][0]
    assert type(given) is type(trained)
    pairs = zip(given, trained, strict=True) if isinstance(given, Boxes) else [(given, trained)]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)  # NaN equals NaN here.
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)
    if case == "boxes mended":
        assert "cut at the picture's edge" in said[0]
        assert "cut at the picture's edge" in sample[NOTES][0].reason
    if case in ("codes of views", "captions", "lines"):
        assert "holds 2 values of x; the first is taken" in said[0]


def test_every_format_and_knob_is_among_the_cases():
    knobs = {
        name
        for _, file_format, _, _ in CASES.values()
        for name in describe_format(file_format, NumberFile())
        .replace("(", " ")
        .replace("=", " ")
        .split()
    }
    wanted = {"scale", "offset", "missing", "channels_first", "as_rgb", "field", "bands", "values"}
    assert wanted | {"colors", "other", "background", "lines", "start", "log_mel"} <= knobs
    found = {type(file_format) for _, file_format, _, _ in CASES.values()}
    assert {ArrayFile, CodesFile, TextFile, NumberFile, JsonFile, BoxesFile, SignalFile} <= found


def test_a_picture_of_too_many_pixels_is_refused_as_in_training(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(COLORS))
    data = FilesData(str(tmp_path), {"x": ArrayFile()}, max_pixels=100)
    reader = reader_of({"x": Colors()}, recorded(data, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"a\.png is a picture of 20 by 12 pixels, and 100 are"):
        reader.read(tmp_path / "a.png", "x")


def test_pictures_and_boxes_of_a_sample_are_cut_alike(tmp_path):
    values = {"rgb": Colors(), "depth": Distances(), "boxes": KINDS}
    formats = {
        "rgb": ArrayFile(as_rgb=True),
        "depth": ArrayFile(scale=0.001),
        "boxes": CASES["boxes"][1],
    }
    contents = {"rgb": ("png", picture(COLORS)), "depth": ("png", picture(SHORT[::2, ::2])),
                "boxes": ("json", INSTANCES)}  # fmt: skip
    for name, (ending, content) in contents.items():
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / f"a.{ending}").write_bytes(content)
    data = FilesData(str(tmp_path), formats)
    trained = TransformedSource(data.open("train"), values, SIZE)[0]
    files = {
        name: [tmp_path / "train" / name / f"a.{ending}"] for name, (ending, _) in contents.items()
    }
    given = prepare(files, reader_of(values, formats))
    for name in ("rgb", "depth"):
        assert np.array_equal(given.values[name][0], trained[name])
    assert np.array_equal(given.values["boxes"][0].corners, trained["boxes"].corners)
    assert given.windows == [(12, 12)]
    with pytest.raises(ValueError, match="depth is 12x12 but rgb is 12x20; pictures of one sample"):
        prepare({**files, "depth": [SHORT[:, :12] / 1000]}, reader_of(values, formats))


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("depth", np.full(SIZE, 2.0, np.float32), "has no number that is known, or all lie out"),
        ("land", np.full(SIZE, 3, np.uint8), "has the class index 3"),
    ],
)
def test_what_no_file_of_the_run_can_hold_names_the_knob(tmp_path, name, array, told):
    (tmp_path / "a.npy").write_bytes(npy(array))
    values = {"depth": Distances(), "land": LAND}
    formats = {"depth": ArrayFile(scale=0.001), "land": ArrayFile(values={1: 0})}
    reader = reader_of(values, formats)
    for each in reader.tokenizers.values():
        each.statistics = {}
    with pytest.raises(ValueError, match=told) as raised:
        reader.read(tmp_path / "a.npy", name)
    assert "give --inputs-are values" in str(raised.value)
    assert f"ArrayFile({'scale' if name == 'depth' else 'values'}=" in str(raised.value)
    if name == "depth":
        read = replace(reader, inputs_are="values").read(tmp_path / "a.npy", name)
        assert read.is_value and np.array_equal(read.value, array)
        read = replace(reader, inputs_are="stored").read(tmp_path / "a.npy", name)
        assert not read.value.any()


def test_a_format_that_changes_numbers_is_told_once(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(SHORT))
    said: list[str] = []
    notes = {"depth": "two data sets differ"}
    options = {"notes": notes, "say": said.append, "tells_formats": True}
    reader = reader_of({"depth": Distances()}, {"depth": ArrayFile(scale=0.001)}, **options)
    for _ in range(2):
        reader.read(tmp_path / "a.png", "depth")
    assert said == [
        "Files of depth are read as training read them: ArrayFile(scale=0.001).",
        "depth: two data sets differ.",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_read_whatever_their_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("héllo\n".encode(encoding))
    assert reader_of({"x": Text()}, {}).read(tmp_path / "a.txt", "x").value == "héllo"


@pytest.mark.parametrize("inputs_are", ["auto", "values"])
def test_a_page_in_place_of_a_text_is_refused(tmp_path, inputs_are):
    (tmp_path / "a.txt").write_bytes(b"<!DOCTYPE html><html>404</html>")
    with pytest.raises(ValueError, match="is an HTML page, and no text"):
        reader_of({"x": Text()}, {}, inputs_are=inputs_are).read(tmp_path / "a.txt", "x")


def test_boxes_as_generation_writes_them_are_values(tmp_path):
    boxes = Boxes(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), np.array([1], np.int32))
    plain = {key: part.tolist() for key, part in boxes._asdict().items()}
    (tmp_path / "a.json").write_text(json.dumps(plain))
    read = reader_of({"x": KINDS}, {}, inputs_are="values").read(tmp_path / "a.json", "x")
    assert read.is_value and np.array_equal(read.value.corners, boxes.corners)

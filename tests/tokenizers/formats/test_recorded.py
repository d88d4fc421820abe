"""What a run knows of its files: found in any configuration of data, kept, and read again."""

import json
from dataclasses import dataclass

import pytest

import configs
from data_pipeline.sources.coco import CocoData
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.mixed import MixedData
from data_pipeline.sources.parquet import ParquetData
from data_pipeline.sources.scenes.data import ScenesData
from data_pipeline.sources.tfds import TfdsData
from tokenizers.formats.file_format import FileFormat
from tokenizers.formats.formats import ArrayFile, TextFile
from tokenizers.formats.recorded import (
    RunFormats,
    UnknownFormat,
    as_json,
    formats_of,
    read_formats,
    usual_format,
)
from tokenizers.formats.signals import SignalFile
from tokenizers.settings.plain import to_plain
from tokenizers.signals.values import Signal
from tokenizers.storage.run_paths import FORMATS
from tokenizers.values import Colors, Distances

MILLIMETRES = ArrayFile("depth", scale=0.001, missing=0)
PALETTE = ArrayFile(colors={(1, 2, 3): 0, (4, 5, 6): 1}, other=255)


@dataclass(frozen=True)
class OwnData:
    """A data set that says nothing."""

    path: str = ""


@dataclass(frozen=True)
class OwnDataThatSays:
    """A data set that says it in its own way."""

    @property
    def file_formats(self):
        return {"depth": MILLIMETRES}


@dataclass(frozen=True)
class OwnFormat(FileFormat):
    """A format of a user's own."""

    factor: float = 2.0

    def read(self, data, extension):
        return float(data) * self.factor


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FilesData(modalities={"depth": MILLIMETRES, "x": OwnFormat()}),
         {"depth": MILLIMETRES, "x": OwnFormat()}),
        (ParquetData(columns={"a": "b"}, formats={"semseg": PALETTE}), {"semseg": PALETTE}),
        (CocoData(modalities={"rgb": "image", "boxes": "boxes"}), {"rgb": ArrayFile(as_rgb=True)}),
        (MixedData(sources={"a": ScenesData(), "b": FilesData(modalities={"depth": MILLIMETRES})}),
         {"depth": MILLIMETRES}),
        (TfdsData(features={"depth": "depth"}), {}),
        (ScenesData(), {}),
        (OwnDataThatSays(), {"depth": MILLIMETRES}),
    ],
    ids=["files", "parquet", "coco", "mixed", "tfds", "scenes", "own"],
)  # fmt: skip
def test_formats_are_found_and_kept(data, expected, tmp_path):
    found = formats_of(data)
    assert found == RunFormats(expected)
    (tmp_path / FORMATS).write_bytes(as_json(found))
    assert read_formats(tmp_path, {}) == found
    if not isinstance(data, OwnDataThatSays):
        assert formats_of(json.loads(json.dumps(to_plain(data)))) == found


def test_data_s_own_limit_of_pixels_holds_where_a_format_has_none():
    own = ArrayFile(max_pixels=7)
    found = formats_of(FilesData(modalities={"a": own, "b": ArrayFile()}, max_pixels=100)).formats
    assert found == {"a": own, "b": ArrayFile(max_pixels=100)}


def test_of_data_sets_that_differ_the_first_decides_and_a_note_says_so():
    other = ArrayFile("elsewhere", scale=0.01)
    sources = {
        "a": FilesData(modalities={"depth": MILLIMETRES, "rgb": ArrayFile("rgb")}),
        "b": FilesData(modalities={"depth": other, "rgb": ArrayFile("pictures")}),
    }
    found = formats_of(MixedData(sources=sources))
    assert found.formats == {"depth": MILLIMETRES, "rgb": ArrayFile("rgb")}
    assert set(found.notes) == {"depth"}
    assert "store depth differently" in found.notes["depth"] and "of b" in found.notes["depth"]


def test_data_that_say_nothing_are_told_where_a_file_is_read():
    found = formats_of(OwnData()).of({"depth": Distances(), "rgb": Colors()})
    assert found.formats == {"depth": ArrayFile("depth"), "rgb": ArrayFile("rgb", as_rgb=True)}
    assert "of the class OwnData, does not say how files are stored" in found.notes["depth"]


def test_a_format_of_a_file_that_is_not_at_hand_says_so_when_it_is_needed(tmp_path):
    plain = {"class": "Gone", "from": "mine.py", "knob": 1}
    found = formats_of(
        {"class": "FilesData", "modalities": {"depth": plain, "rgb": {"class": "TextFile"}}}
    )
    assert found.formats["rgb"] == TextFile()
    assert isinstance(found.formats["depth"], UnknownFormat)
    with pytest.raises(ValueError, match=r"'Gone' is defined in mine\.py.*--code mine\.py"):
        found.formats["depth"].read(b"", "dat")
    # It is kept as it was, for those who have the file.
    assert json.loads(as_json(found))["formats"]["depth"] == plain


def test_formats_of_signals_read_more_than_arrays():
    assert usual_format("ecg", Signal(8)) == SignalFile()


@pytest.mark.parametrize("content", ["", "[]", '{"formats": {}}', '{"formats": {"a": 1}}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / FORMATS).write_text(content)
    with pytest.raises(ValueError, match=r"formats\.json, which says how files of the run"):
        read_formats(tmp_path, {})


def test_a_format_with_a_knob_that_is_gone_says_so_when_it_is_needed():
    plain = {"modalities": {"a": {"class": "ArrayFile", "skale": 1}}}
    with pytest.raises(ValueError, match="no knob 'skale'"):
        formats_of(plain).formats["a"].read(b"", "npy")


def test_every_format_can_be_read_where_there_is_no_data_pipeline():
    # All that a configuration can name is imported here.
    elsewhere = {
        value.__module__
        for value in map(configs.__getattr__, configs.__all__)
        if isinstance(value, type) and issubclass(value, FileFormat)
    }
    assert elsewhere and all(name.startswith("tokenizers.formats.") for name in elsewhere)

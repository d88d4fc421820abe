"""Parquet files that the tests write, as the library datasets does."""

import io
import json
import pickle
import wave

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.parquet import ParquetData
from data_pipeline.sources.row_groups import ParquetRows
from data_pipeline.sources.source import NOTES, DataConfig
from tokenizers.base import Choices, Mended
from tokenizers.formats.formats import ArrayFile, BoxesFile, NumberFile, TextFile
from tokenizers.formats.signals import SignalFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["night_stand", "sofa"], "_type": "ClassLabel"},
    "objects": {
        "feature": {
            "bbox": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
            "category": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        },
        "_type": "Sequence",
    },
}


def png(number: int, height: int = 4, width: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), number, np.uint8)).save(stream, "png")
    return stream.getvalue()


def rows(numbers) -> dict[str, list]:
    return {
        "image": [{"bytes": png(n), "path": f"{n}.png"} for n in numbers],
        "caption": [[[f"a {n}", f"the {n}"], [f"one {n}"], [], None][n % 4] for n in numbers],
        "label": [n % 3 - 1 for n in numbers],
        "width": [8] * len(numbers),
        "height": [4] * len(numbers),
        "objects": [{"bbox": [[2.0, 1.0, 4.0, 2.0]] * (n % 2), "category": [1] * (n % 2)}
                    for n in numbers],
        "info": [{"place": {"name": f"town {n}", "north": n / 2}, "tags": [{"word": "old"}]}
                 for n in numbers],
        "vector": [[n, n + 1] for n in numbers],
        "key": [f"k{n}" for n in numbers],
    }  # fmt: skip


def write(file, columns, group: int = 3) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(about), file, row_group_size=group)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("hub")
    write(root / "data" / "train-00000-of-00002.parquet", rows(range(7)))
    write(root / "data" / "train-00001-of-00002.parquet", rows(range(7, 12)))
    write(root / "data" / "validation-00000-of-00001.parquet", rows(range(12, 14)))
    return str(root)


def hub(folder: str, **changes) -> ParquetData:
    columns = {"rgb": "image", "caption": "caption", "boxes": "objects"}
    return ParquetData(**({"path": folder, "columns": columns} | changes))


def test_rows_are_samples_in_any_order(folder):
    data = hub(folder)
    assert isinstance(data, DataConfig) and data.splits == ("train", "validation")
    source = data.open("train")
    assert len(source) == 12 and len(data.open("validation")) == 2
    order = [11, 0, 5, 5, 8]
    for number, sample in zip(order, source.__getitems__(order), strict=True):
        assert NOTES not in sample
        assert sample["rgb"].shape == (4, 8, 3) and sample["rgb"][0, 0, 0] == number
        texts = [(f"a {number}", f"the {number}"), f"one {number}", None, None][number % 4]
        assert sample.get("caption") == texts
        assert isinstance(sample.get("caption"), Choices) == (number % 4 == 0)
        np.testing.assert_allclose(
            sample["boxes"].corners,
            np.array([[0.25, 0.25, 0.75, 0.75]] * (number % 2)).reshape(-1, 4),
        )
        assert sample["boxes"].classes.tolist() == [1] * (number % 2)


def test_class_names_come_from_the_schema_and_minus_one_is_none(folder):
    data = hub(folder, columns={"kind": "label"}, class_names_as_text={"words": "label"},
               metadata=("label", "info.place.north"))  # fmt: skip
    source = data.open("train")
    assert source.metadata_names == {"label": ("night_stand", "sofa")}
    assert source[0] == {"metadata": {"info.place.north": 0.0}}
    assert source[2] == {
        **{"kind": 1, "words": "sofa"},
        "metadata": {"label": 1, "info.place.north": 1.0},
    }


def test_fields_of_structures_and_of_lists_of_them_are_reached_by_dots(folder):
    columns = {"town": "info.place.name", "tag": "info.tags.word"}
    assert hub(folder, columns=columns).open("train")[3] == {"town": "town 3", "tag": "old"}


def test_formats_apply_to_what_columns_store(folder):
    formats = {"rgb": ArrayFile(scale=2.0), "vector": ArrayFile(missing=4.0), "words": TextFile()}
    columns = {"rgb": "image", "vector": "vector", "words": "caption", "north": "info.place.north"}
    sample = hub(folder, columns=columns, formats=formats | {"north": NumberFile()}).open("train")[
        4
    ]
    assert sample["rgb"][0, 0, 0] == 8 and sample["north"] == 2.0
    assert sample["vector"].mask[0] and sample["vector"][1] == 5


def test_modalities_have_columns_of_their_names_unless_they_are_given(folder):
    data = ParquetData(folder, formats={"image": ArrayFile(), "caption": TextFile()})
    assert set(data.open("train")[0]) == {"image", "caption"}


def test_the_file_of_a_sample_and_its_state_are_told(folder):
    source = hub(folder).open("train")
    assert source.file_of(7, "rgb").endswith("train-00001-of-00002.parquet")
    assert source.state_of(0) == source.state_of(6) != source.state_of(7)


def test_keys_are_a_column_if_it_is_named(folder):
    assert not hasattr(hub(folder).open("train"), "keys")
    assert hub(folder, key_column="key").open("validation").keys == ["k12", "k13"]


def test_a_single_split_is_cut_and_slices_are_taken(tmp_path):
    write(tmp_path / "a.parquet", rows(range(20)))
    for path in (tmp_path, tmp_path / "a.parquet"):
        data = hub(str(path))
        assert data.splits == ("train", "validation")
        assert [len(data.open(split)) for split in data.splits] == [18, 2]
    names = {"train": "train[:4]", "test": "train[10:50%]"}
    with pytest.raises(ValueError, match=r"'train\[10:50%\]' is no sample of 20"):
        hub(str(tmp_path), split_names=names).open("test")
    assert len(hub(str(tmp_path), split_names=names).open("train")) == 4


def test_splits_with_names_of_their_own_are_found_in_folders(tmp_path):
    write(tmp_path / "unseen_towns" / "0.parquet", rows([1]))
    write(tmp_path / "train" / "0.parquet", rows([2, 3]))
    data = hub(str(tmp_path), split_names={"train": "train", "test": "unseen_towns"})
    assert len(data.open("test")) == 1 and len(data.open("train")) == 2
    with pytest.raises(ValueError, match="says no split, as those of other files do"):
        hub(str(tmp_path)).open("train")


@pytest.mark.parametrize("corners", ["", "xyxy"])
def test_boxes_in_pixels_need_a_size_and_are_cut_at_the_edge(tmp_path, corners):
    columns = rows([1])
    del columns["width"]
    right = {"": 4.5, "xyxy": 8.5}[corners]
    columns["objects"] = [[{"bbox": [4.0, 1.0, right, 3.0], "category": "dog"}]]
    write(tmp_path / "train.parquet", columns)
    formats = {"boxes": BoxesFile(class_names=("cat", "dog"), corners=corners)}
    data = hub(str(tmp_path), formats=formats, split_names={"train": "train"})
    mended = data.open("train")[0]["boxes"]
    assert isinstance(mended, Mended) and "cut at the picture's edge" in mended.how
    np.testing.assert_allclose(
        mended.value.corners, [[0.5, 0.25, 1.0, {"": 1.0, "xyxy": 0.75}[corners]]]
    )
    assert mended.value.classes.tolist() == [1]
    sample = hub(str(tmp_path), columns={"boxes": "objects"}, formats=formats).open("train")[0]
    assert "not the size of the picture" in sample[NOTES][0].reason


def test_classes_of_boxes_are_matched_by_name_where_both_sides_have_names(folder):
    formats = {"boxes": BoxesFile(class_names=("dog", "horse", "cat"))}
    sample = hub(folder, formats=formats).open("train")[1]
    assert sample["boxes"].classes.tolist() == [0]
    formats = {"boxes": BoxesFile(class_names=("horse",))}
    assert "has the class 'dog'" in hub(folder, formats=formats).open("train")[1][NOTES][0].reason


def test_what_can_not_be_read_is_noted_and_the_rest_is_kept(tmp_path):
    columns = rows([1, 2])
    columns["image"][0]["bytes"] = b"no picture"
    columns["image"][1] = {"bytes": None, "path": "elsewhere.png"}
    write(tmp_path / "train.parquet", columns)
    source = hub(str(tmp_path), split_names={"train": "train"}).open("train")
    reasons = [sample[NOTES][0] for sample in (source[0], source[1])]
    assert all(note.modality == "rgb" and note.file.endswith("train.parquet") for note in reasons)
    assert "has the path 'elsewhere.png' of a picture and not its bytes" in reasons[1].reason
    assert "rgb" not in source[0] and source[0]["caption"] == "one 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "nowhere"}, "no parquet file or folder 'nowhere'; set --data.path"),
        ({"columns": {"rgb": "picture"}}, "no column 'picture'; its columns are image, caption"),
        ({"columns": {"rgb": "image.pixels"}}, r"no field 'pixels' \(image.pixels\); it has bytes"),
        ({"columns": {}}, "No modality is to be read; set --data.columns"),
        ({"class_names_as_text": {"words": "caption"}}, "'caption', which is no class label"),
        ({"split_names": {"train": "all"}}, "no parquet file of the split 'all'; there are files"),
        ({"split_names": {"test": "test"}}, "no split 'train'; there are test"),
        ({"split_names": {"train": "train[1"}}, r"'train\[1' is no split"),
        ({"cache_megabytes": 0}, "cache_megabytes is 0; it must be at least 1"),
    ],
)
def test_what_is_not_there_is_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        hub(folder, **changes).open("train")


def test_damaged_files_are_named(tmp_path):
    file = tmp_path / "train.parquet"
    write(file, rows(range(4)))
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"train\.parquet is damaged or no parquet file"):
        hub(str(tmp_path)).open("train")
    file.write_bytes(whole[:4] + bytes(600) + whole[604:])
    (note,) = hub(str(tmp_path), split_names={"train": "train"}).open("train")[0][NOTES]
    assert (note.kind, note.modality, note.key) == ("unreadable", "", "0")
    assert "train.parquet is damaged or no parquet file" in note.reason


def plain(row) -> dict:
    return {name: value.as_py() for name, value in row.items()}


def test_row_groups_are_read_in_blocks_that_fit_the_cache(tmp_path):
    file = tmp_path / "a.parquet"
    numbers = np.random.default_rng(0).integers(0, 2**60, 4000)
    pq.write_table(pa.table({"number": numbers, "other": numbers}), file, row_group_size=3000)
    reader = ParquetRows([file], ["number"], cache_bytes=4000)
    assert len(reader) == 4000 and reader.place(3001).group == 1
    assert 1 < reader.place(0).block_rows < 200
    for index in [0, 1, 3999, 2500, 130, 129, 2999, 3000, 0]:
        assert plain(reader.row(index)) == {"number": numbers[index]}
        assert reader._kept_bytes <= 4000
    assert plain(pickle.loads(pickle.dumps(reader)).row(7)) == {"number": numbers[7]}


def test_all_sounds_have_the_rate_of_the_first(tmp_path):
    sounds = []
    for rate in (8000, 8000, 16000):
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(np.arange(20, dtype="<i2").tobytes())
        sounds.append({"bytes": stream.getvalue(), "path": None})
    pq.write_table(pa.table({"sound": sounds}), tmp_path / "train.parquet")
    data = ParquetData(
        str(tmp_path), formats={"sound": SignalFile()}, split_names={"train": "train"}
    )
    first, _, last = data.open("train").__getitems__([0, 1, 2])
    assert first["sound"].shape == (20, 1)
    assert "16000 steps per second, and 8000 are wanted" in last[NOTES][0].reason

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction
from data_pipeline.sources.source import NOTES
from tests.paths import SHARED
from tokenizers.base import Choices
from tokenizers.formats.cells import TableColumn
from tokenizers.formats.formats import ArrayFile, BoxesFile, NumberFile, TextFile

EO = {
    "rgb": ArrayFile(folder="S2RGB", as_rgb=True),
    "bands": ArrayFile(folder="S2L2A", channels_first=True, scale=1e-4),
    "radar": ArrayFile(folder="S1RTC", channels_first=True),
    "elevation": ArrayFile(folder="DEM"),
    "vegetation": ArrayFile(folder="NDVI"),
    "landcover": ArrayFile(folder="LULC"),
}
KEYS = ["38D_378R_2_3", "282D_485L_3_3", "433D_629L_3_1", "609U_541L_3_0", "637U_59R_1_3"]
NYU = SHARED / "data" / "nyuv2"


@pytest.fixture
def eo(tmp_path, eo_folder) -> FilesData:
    """A copy that a test may damage."""
    shutil.copytree(eo_folder, tmp_path / "eo")
    return FilesData(str(tmp_path / "eo"), EO, SplitByFolder({"test": "val"}))


def in_shards(data: FilesData, write_tar) -> FilesData:
    """The same samples as tar shards of two."""
    source, target = Path(data.path, "val"), Path(data.path, "shards")
    for folder in source.iterdir():
        files = sorted((folder / "all").iterdir())
        for start in range(0, len(files), 2):
            members = {file.name: file.read_bytes() for file in files[start : start + 2]}
            write_tar(target / folder.name / f"shard-{start:05d}.tar", members)
    return replace(data, splits_by=SplitByFolder({"test": "shards"}))


def test_a_user_s_own_modalities_are_read_from_a_config_alone(eo):
    source = eo.open("test")
    assert source.keys == KEYS
    assert source.present == dict.fromkeys(EO, 5)
    shapes = {name: (value.shape, str(value.dtype)) for name, value in source[0].items()}
    assert shapes == {
        "rgb": ((32, 32, 3), "uint8"),
        "bands": ((32, 32, 12), "float32"),
        "radar": ((32, 32, 2), "float16"),
        "elevation": ((32, 32), "int16"),
        "vegetation": ((32, 32), "float16"),
        "landcover": ((32, 32), "uint8"),
    }
    stored = np.load(Path(eo.path, "val", "S2L2A", "all", f"{KEYS[3]}.npy"))
    np.testing.assert_allclose(source[3]["bands"][..., 5], stored[5] * 1e-4, rtol=1e-5)


def test_shards_and_folders_hold_the_same_samples(eo, write_tar):
    plain, shards = eo.open("test"), in_shards(eo, write_tar).open("test")
    assert plain.keys == shards.keys
    for ours, theirs in zip(
        plain.__getitems__(range(5)), shards.__getitems__(range(5)), strict=True
    ):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("shards", [False, True])
def test_a_missing_file_costs_only_its_own_modality(eo, write_tar, shards):
    Path(eo.path, "val", "DEM", "all", f"{KEYS[1]}.npy").unlink()
    Path(eo.path, "val", "S2RGB", "all", f"{KEYS[2]}.png").unlink()
    data = in_shards(eo, write_tar) if shards else eo
    source = data.open("test")
    assert source.keys == KEYS
    assert source.present == dict.fromkeys(EO, 5) | {"elevation": 4, "rgb": 4}
    assert EO.keys() - source[1].keys() == {"elevation"}
    assert EO.keys() - source[2].keys() == {"rgb"}
    needs = replace(data, required=("elevation", "rgb")).open("test")
    assert needs.keys == [KEYS[0], *KEYS[3:]]


def test_a_corrupt_file_is_left_out_with_a_note(eo, write_tar):
    file = Path(eo.path, "val", "S2RGB", "all", f"{KEYS[1]}.png")
    file.write_bytes(file.read_bytes()[:600])
    for data in (eo, in_shards(eo, write_tar)):
        source = data.open("test")
        assert len(source[0]) == 6
        (note,) = source[1].pop(NOTES)
        assert source[1].keys() == source[0].keys() - {"rgb"} | {NOTES}
        assert (note.kind, note.modality, note.key) == ("unreadable", "rgb", KEYS[1])
        assert f"{KEYS[1]}.png" in note.file and f"{KEYS[1]}.png" in note.reason
        assert "is damaged" in note.reason


def test_a_missing_path_names_the_option_to_set(tmp_path):
    for path in ("", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=r"no data folder.*--data\.path"):
            FilesData(path, EO).open("train")


def test_a_missing_folder_names_those_that_exist(eo):
    data = replace(eo, modalities={"depth": ArrayFile()})
    with pytest.raises(
        ValueError, match=r"for the modality depth.*DEM, LULC.*data\.modalities\.depth\.folder"
    ):
        data.open("test")
    data = replace(eo, splits_by=SplitByFolder({"train": "train"}))
    with pytest.raises(ValueError, match=r"train/S2RGB.* has val\. Set"):
        data.open("train")


def test_wrong_configs_are_refused(eo):
    with pytest.raises(ValueError, match="no split 'train'; there are test"):
        eo.open("train")
    with pytest.raises(ValueError, match=r"set data\.modalities"):
        replace(eo, modalities={}).open("test")
    with pytest.raises(ValueError, match="`required` names depth"):
        replace(eo, required=("depth",)).open("test")


def test_modalities_that_share_no_sample_are_refused_with_the_likeliest_reason(eo):
    for file in Path(eo.path, "val", "LULC", "all").iterdir():
        file.rename(file.with_name(f"landcover_{file.name}"))
    with pytest.raises(ValueError, match=r"landcover shares no sample.*begin with 'landcover_'"):
        eo.open("test")
    pattern = "{split}/{modality}/all/landcover_{key}.{ext}"
    landcover = replace(EO["landcover"], pattern=pattern)
    data = replace(eo, modalities=EO | {"landcover": landcover})
    assert data.open("test").keys == KEYS


def test_columns_of_the_table_become_metadata(eo):
    scenes = ["a", "b", "c", "a", "b"]
    rows = [
        f"{key},{scene},{'sea' if i % 2 else 'land'},{i / 2}"
        for i, (key, scene) in enumerate(zip(KEYS, scenes, strict=True))
    ]
    Path(eo.path, "table.csv").write_text("\n".join(["key,scene,kind,cloud", *rows]))
    splits = SplitByFraction("val", "scene", validation=0.2, test=0.2)
    data = replace(eo, splits_by=splits, table="table.csv")
    found = {}
    for split in data.splits:
        source = data.open(split)
        assert source.metadata_names == {"kind": ("land", "sea")}
        for key, sample in zip(source.keys, source.__getitems__(range(len(source))), strict=True):
            found[key] = sample["metadata"]
    assert found == {key: {"kind": i % 2, "cloud": i / 2} for i, key in enumerate(KEYS)}


def test_class_folders_become_metadata(tmp_path):
    for name in ("dog/1", "cat/1", "cat/2"):
        file = tmp_path / "train" / "caption" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"a {name}")
    data = FilesData(str(tmp_path), {"caption": TextFile()}, class_folders=True)
    source = data.open("train")
    assert source.keys == ["cat/1", "cat/2", "dog/1"]
    assert [source[i]["metadata"]["class"] for i in range(3)] == [0, 0, 1]
    assert source.metadata_names == {"class": ("cat", "dog")}


def test_a_class_has_one_number_in_all_splits(tmp_path, write_tar):
    write(tmp_path, "train/caption/cat/1.txt", "train/caption/dog/2.txt", "train/caption/fox/3.txt")
    write(tmp_path, "val/caption/dog/4.txt", "train/caption/README", "val/caption/.git/x")
    data = FilesData(str(tmp_path), {"caption": TextFile()}, class_folders=True)
    assert data.open("train")[1]["metadata"] == data.open("validation")[0]["metadata"]
    write_tar(tmp_path / "test" / "caption" / "a.tar", {"all/fox/1.txt": b"a"})
    splits = SplitByFolder({"train": "train", "validation": "val", "test": "test", "none": "no"})
    data = replace(data, splits_by=splits)
    assert data.open("test")[0]["metadata"] == {"class": 2}
    assert data.open("train")[2]["metadata"] == {"class": 2}


def test_pictures_captions_and_boxes_go_together(tmp_path):
    def file(name: str) -> Path:
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file("rgb/7.png"))
    file("caption/7.txt").write_text("a chair")
    box = {"boxes": [0, 0, 1, 1], "class_name": "chair"}
    file("det/7.json").write_text(json.dumps({"instances": [box]}))
    modalities = {
        "rgb": ArrayFile(as_rgb=True),
        "caption": TextFile(),
        "boxes": BoxesFile(folder="det", class_names=("chair",)),
    }
    sample = FilesData(str(tmp_path), modalities).open("train")[0]
    assert list(sample) == ["rgb", "caption", "boxes"]
    assert sample["caption"] == "a chair" and sample["boxes"].classes.tolist() == [0]


@pytest.mark.skipif(not NYU.is_dir(), reason="needs NYU Depth v2")
def test_nyuv2_is_read_and_split_by_scene():
    names = tuple(json.loads((NYU / "class_names.json").read_text()))
    data = FilesData(
        path=str(NYU),
        modalities={
            "rgb": ArrayFile(as_rgb=True),
            "depth": ArrayFile(scale=0.001),
            "normals": ArrayFile(folder="normal"),
            "semseg": ArrayFile(),
            "caption": TextFile(),
            "boxes": BoxesFile(folder="det", class_names=names[:39]),
        },
        splits_by=SplitByFraction(group_column="scene", validation=0.1, test=0.15),
        table="train_scenes.csv",
    )
    sources = {split: data.open(split) for split in data.splits}
    assert sum(len(source) for source in sources.values()) == 795
    for source in sources.values():
        assert len(source.metadata_names["scene_type"]) == 27
        sample = source[len(source) - 1]
        assert sample.keys() == {*data.modalities, "metadata"}
        assert sample["depth"].dtype == np.float32 and 0.3 < sample["depth"].mean() < 10
        assert sample["semseg"].max() <= 39 and sample["boxes"].classes.max() < 39


def write(folder: Path, *files: str, text: str = "") -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text or name, encoding="utf-8")


def reasons(source) -> list[tuple[str, str, str]]:
    return [(note.kind, note.modality, note.key) for note in source.notes]


CAPTIONS = {"caption": TextFile()}
TWO = {"caption": TextFile(), "title": TextFile()}


def test_names_written_on_a_mac_and_elsewhere_are_one_sample(tmp_path):
    write(tmp_path / "train", "caption/Zu\u0308rich.txt", "title/Z\u00fcrich.txt")
    source = FilesData(str(tmp_path), TWO).open("train")
    assert source.keys == ["Z\u00fcrich"] and len(source[0]) == 2


def test_compound_endings_and_mixed_extensions_are_read_and_duplicates_listed(tmp_path):
    write(tmp_path / "train", "caption/1.caption.json", "title/1.title.txt", text='"a"')
    write(tmp_path / "train", "caption/2.txt", "caption/2.json", "title/2.JSON", text='"b"')
    write(tmp_path / "train", "caption/Thumbs.db", "title/__MACOSX/._2.txt", "title/notes.doc")
    source = FilesData(str(tmp_path), TWO).open("train")
    assert source.keys == ["1", "2"] and source.present == {"caption": 2, "title": 2}
    assert sorted(reasons(source)) == [
        ("ignored", "caption", ""),
        ("ignored", "title", ""),
        ("ignored", "title", ""),
        ("listed twice", "caption", "2"),
    ]
    assert source[1]["caption"] == "b"


def test_one_archive_holds_all_modalities_that_its_names_tell_apart(tmp_path, write_tar):
    for shard in range(2):
        members = {}
        for key in (f"{shard}0", f"{shard}1"):
            members |= {f"{key}.caption.txt": b"a", f"{key}.title.json": b'"b"'}
        again = {"00.caption.txt": b"c", "01.caption.txt": b"c"} if shard else {}
        write_tar(tmp_path / "train" / f"{shard}.tar", members | again)
    data = FilesData(str(tmp_path), TWO)
    source = data.open("train")
    assert source.keys == ["00", "01", "10", "11"]
    assert source[0] == {"caption": "a", "title": "b"}
    assert [note.kind for note in source.notes] == ["listed twice", "listed twice"]


def test_extensions_tell_modalities_of_one_archive_apart(tmp_path, write_tar):
    members = {"1.txt": b"a", "1.json": b'{"title": "b", "width": 3}', "1.cls": b"7"}
    for name in ("train-00000.tar", "train-00001.tar", "val-00000.tar"):
        moved = {f"{name[:-4]}/{member}": data for member, data in members.items()}
        write_tar(tmp_path / name, moved)
    modalities = {
        "caption": TextFile(extension="txt"),
        "title": TextFile(extension="json", field="title"),
        "width": NumberFile(extension="json", field="width"),
        "class": NumberFile(extension="cls"),
    }
    data = FilesData(str(tmp_path), modalities)
    assert data.open("train").keys == ["train-00000/1", "train-00001/1"]
    assert data.open("train")[0] == {"caption": "a", "title": "b", "width": 3.0, "class": 7.0}
    splits = SplitByFolder({"train": "train-{00000..00000}.tar", "test": "*.tar"})
    data = replace(data, splits_by=splits)
    assert len(data.open("train")) == 1 and len(data.open("test")) == 3
    with pytest.raises(ValueError, match=r"holds files of several kinds.*caption\.extension"):
        replace(data, modalities=TWO).open("train")


@pytest.mark.parametrize("name", ["all.tar", "archives/all.tar"])
def test_one_archive_may_hold_the_whole_data_set(tmp_path, write_tar, name):
    members = {
        f"{split}/{modality}/{key}.txt": key.encode()
        for split, keys in {"train": "abc", "val": "de"}.items()
        for modality in TWO
        for key in keys
    }
    file = write_tar(tmp_path / name, members)
    for data in (
        FilesData(str(file), TWO),
        FilesData(str(file.parent), TWO),
        FilesData(str(file), TWO, pattern="{split}/{modality}/{key}.txt"),
    ):
        assert data.open("train").keys == ["a", "b", "c"]
        assert data.open("validation")[1] == {"caption": "e", "title": "e"}


def test_files_of_all_modalities_may_lie_in_one_folder(tmp_path):
    write(tmp_path / "train", "1.caption.txt", "1.title.txt", "a/2.caption.txt", "3/title.txt")
    data = FilesData(str(tmp_path), {name: TextFile(folder=".") for name in TWO})
    assert data.open("train").keys == ["1", "3", "a/2"]


def test_patterns_find_what_no_layout_does(tmp_path):
    city = "train/ulm/ulm_1"
    write(tmp_path / "photo", f"{city}_photo.txt", f"{city}_photo.json", "val/ulm/ulm_2_photo.txt")
    write(tmp_path / "gt", f"{city}_gt_ids.txt", f"{city}_gt_color.txt", "val/ulm/ulm_2_gt_ids.txt")
    write(tmp_path, "train/1.txt", "trainannot/1.txt", "val/2.txt", "valannot/2.txt")
    modalities = {
        "caption": TextFile(pattern="photo/{split}/{key}_photo.txt"),
        "title": TextFile(pattern="gt/{split}/{key}_gt_ids.txt"),
    }
    data = FilesData(str(tmp_path), modalities)
    assert data.open("train").keys == ["ulm/ulm_1"]
    assert data.open("train")[0]["title"] == "train/ulm/ulm_1_gt_ids.txt"
    annotated = {"caption": TextFile(), "title": TextFile(pattern="{split}annot/{key}.txt")}
    data = FilesData(str(tmp_path), annotated, pattern="{split}/{key}.{ext}")
    assert data.open("validation").keys == ["2"] and len(data.open("validation")[0]) == 2
    with pytest.raises(
        ValueError, match=r"No file below .* matches the pattern .*such as '1\.txt'"
    ):
        replace(data, pattern="{split}/{key}_rgb.txt").open("train")
    with pytest.raises(ValueError, match=r"FilesData\.pattern.*has no \{key\}"):
        replace(data, pattern="{split}/{modality}")


def test_a_filter_that_matches_nothing_says_what_there_is(tmp_path):
    write(tmp_path / "train", "caption/1.txt", "caption/2.txt", "caption/3.json")
    data = FilesData(str(tmp_path), {"caption": TextFile(extension="csv")})
    with pytest.raises(ValueError, match=r"holds no \.csv file.*there are 2 txt, 1 json"):
        data.open("train")
    both = FilesData(str(tmp_path), {"caption": TextFile(extension="txt, json")})
    assert both.open("train").keys == ["1", "2", "3"]
    write(tmp_path / "val", "caption/.hidden")
    with pytest.raises(ValueError, match=r"holds no file.*\.hidden is hidden"):
        FilesData(str(tmp_path), CAPTIONS).open("validation")


def test_a_table_of_file_names_gives_modalities_and_facts(tmp_path):
    lines = [
        {"file_name": "1.txt", "title": ["a", "b"], "kind": "sea", "label": 0, "size": 0.5},
        {"file_name": "2.txt", "title": "", "kind": "", "label": -1, "size": float("nan")},
        {"file_name": "3.txt", "title": "c", "kind": "land", "label": 1, "size": -1},
    ]
    write(tmp_path / "train", "1.txt", "2.txt", "3.txt")
    write(tmp_path / "val", "9.txt")
    table = "\n".join(map(json.dumps, lines))
    write(tmp_path / "train", "metadata.jsonl", text=table)
    write(tmp_path / "val", "metadata.jsonl", text='{"file_name": "9.txt", "kind": "sea"}')
    modalities = {"caption": TextFile(), "title": TableColumn()}
    data = FilesData(str(tmp_path), modalities, table="{split}/metadata.jsonl")
    source = data.open("train")
    assert source.keys == ["1", "2", "3"]
    samples = source.__getitems__(range(3))
    assert samples[0]["title"] == Choices(("a", "b")) and samples[2]["title"] == "c"
    assert "title" not in samples[1]
    assert [sample["metadata"] for sample in samples] == [
        {"kind": 1, "label": 0, "size": 0.5},
        {},
        {"kind": 0, "label": 1, "size": -1.0},
    ]
    source = replace(data, modalities=CAPTIONS).open("validation")
    assert source[0]["metadata"] == {"kind": 1}, "The word has one number in all splits."


def test_the_table_may_be_all_there_is(tmp_path):
    write(tmp_path, "a.csv", text="id,caption,age\n1,a dog,3\n2,a cat,\n3,,4\n4,,\n")
    modalities = {"caption": TableColumn(), "age": TableColumn(holds="number")}
    splits = SplitByFraction("", validation=0.0, test=0.0)
    data = FilesData(str(tmp_path), modalities, splits, table="a.csv", key_column="id")
    source = data.open("train")
    assert source.__getitems__(range(3)) == [
        {"caption": "a dog", "age": 3.0},
        {"caption": "a cat"},
        {"age": 4.0},
    ]
    with pytest.raises(ValueError, match=r"column 'title' of .*has caption, age"):
        replace(data, modalities={"title": TableColumn()}).open("train")
    with pytest.raises(ValueError, match=r"set data\.table"):
        replace(data, table="").open("train")


def test_a_table_that_matches_nothing_is_refused(tmp_path):
    write(tmp_path, "train/caption/0001.txt", "train/caption/0002.txt")
    write(tmp_path, "a.csv", text="key,kind\n1,a\n2,b\n")
    data = FilesData(str(tmp_path), CAPTIONS, table="a.csv")
    with pytest.raises(ValueError, match=r"No row of .*a\.csv is of any.*leading zeros"):
        data.open("train")


def test_the_state_of_a_sample_changes_with_its_files(tmp_path):
    write(tmp_path, "train/caption/1.txt", "train/caption/2.txt", "train/title/1.txt")
    data = FilesData(str(tmp_path), TWO)
    before = [data.open("train").state_of(index) for index in range(2)]
    assert before == [data.open("train").state_of(index) for index in range(2)]
    assert "caption:" in before[0] and "title:" in before[0] and str(tmp_path) not in before[0]
    write(tmp_path, "train/title/1.txt", text="new")
    after = [data.open("train").state_of(index) for index in range(2)]
    assert after[0] != before[0] and after[1] == before[1]

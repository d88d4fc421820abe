import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.formats import ArrayFile, BoxesFile, TextFile
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction
from tests.paths import SHARED

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


def test_a_corrupt_file_is_named_with_its_sample_and_modality(eo, write_tar):
    file = Path(eo.path, "val", "S2RGB", "all", f"{KEYS[1]}.png")
    file.write_bytes(file.read_bytes()[:600])
    for data in (eo, in_shards(eo, write_tar)):
        source = data.open("test")
        assert len(source[0]) == 6
        with pytest.raises(
            ValueError, match=rf"{KEYS[1]}\.png.*\(rgb of the sample '{KEYS[1]}'\) is damaged"
        ):
            source[1]


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


def test_modalities_that_share_no_sample_cause_a_warning(eo):
    for file in Path(eo.path, "val", "LULC", "all").iterdir():
        file.rename(file.with_name(f"landcover_{file.name}"))
    with pytest.warns(UserWarning, match="landcover shares no sample.*'landcover_"):
        source = eo.open("test")
    assert len(source) == 10


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

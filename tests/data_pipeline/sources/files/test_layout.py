"""Which file is which modality's, where patterns and archives say it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction
from tokenizers.formats.cells import FolderName
from tokenizers.formats.formats import ArrayFile

BESIDE = FilesData(
    modalities={
        "rgb": ArrayFile(pattern="{split}/{key}.{ext}", skip=("{split}/{key}_mask.{ext}",)),
        "mask": ArrayFile(pattern="{split}/{key}_mask.{ext}"),
    },
    splits_by=SplitByFolder({"train": "train"}),
)


def picture(shade: int) -> np.ndarray:
    return np.full((4, 4), shade, np.uint8)


def write_pictures(folder, names) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(shade)).save(folder / name)


def test_skipped_files_are_another_modality_s(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "train/a_mask.png", "train/b.png"])
    source = replace(BESIDE, path=str(tmp_path)).open("train")
    assert source.keys == ["a", "b"]
    np.testing.assert_array_equal(source[0]["mask"], picture(1))
    assert list(source[1]) == ["rgb"]


def test_without_it_they_are_samples_of_their_own(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "train/a_mask.png"])
    formats = BESIDE.modalities | {"rgb": ArrayFile(pattern="{split}/{key}.{ext}")}
    source = replace(BESIDE, path=str(tmp_path), modalities=formats).open("train")
    assert source.keys == ["a", "a_mask"]


def test_skip_belongs_to_a_pattern():
    with pytest.raises(ValueError, match="there is no pattern from which to take"):
        FilesData(modalities={"rgb": ArrayFile(skip=("{key}_mask.{ext}",))})
    with pytest.raises(ValueError, match="must say where the key is"):
        FilesData(modalities={"rgb": ArrayFile(pattern="{key}.{ext}", skip=("a.{ext}",))})


def test_the_split_of_a_pattern_may_be_the_names_of_archives(tmp_path, write_tar):
    write_pictures(tmp_path / "out", ["a.png", "a_mask.png", "b.png"])
    members = {file.name: file.read_bytes() for file in sorted((tmp_path / "out").iterdir())}
    write_tar(tmp_path / "in/train-00000.tar", members)
    source = replace(BESIDE, path=str(tmp_path / "in")).open("train")
    assert source.keys == ["a", "b"]
    # An archive that holds the split's folder itself is read as before.
    inner = {f"train/{name}": content for name, content in members.items()}
    write_tar(tmp_path / "other/train.tar", inner)
    assert replace(BESIDE, path=str(tmp_path / "other")).open("train").keys == ["a", "b"]


def test_a_folder_s_name_is_a_value(tmp_path):
    write_pictures(tmp_path, ["cat/0.png", "cat/1.png", "dog/0.png", "2.png"])
    data = FilesData(
        path=str(tmp_path),
        modalities={"rgb": ArrayFile(folder="."), "label": FolderName()},
        splits_by=SplitByFraction(folder="", validation=0.25, test=0.0),
    )
    found = {}
    for split in data.splits:
        source = data.open(split)
        found |= {key: source[index].get("label") for index, key in enumerate(source.keys)}
    assert found == {"2": None, "cat/0": "cat", "cat/1": "cat", "dog/0": "dog"}
    with pytest.raises(ValueError, match="a folder's name has none"):
        FolderName(extension="png")


def test_a_picture_is_no_data_set(tmp_path):
    write_pictures(tmp_path, ["photo.png"])
    data = replace(BESIDE, path=str(tmp_path / "photo.png"))
    with pytest.raises(
        ValueError, match=r"photo\.png is a PNG picture, not a folder or an archive"
    ):
        data.open("train")

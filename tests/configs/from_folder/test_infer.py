"""Folders as people have them, and what is made of them."""

import json

import numpy as np
import pytest

from configs import (
    ArrayFile,
    BoxesFile,
    BoxList,
    Classes,
    Colors,
    Directions,
    Distances,
    Label,
    NumberFile,
    Reals,
    Scalar,
    SplitByFolder,
    SplitByFraction,
    Text,
    TextFile,
    TextTokenizerConfig,
)
from configs.from_folder.infer import config_from_folder
from tests.configs.from_folder.folders import RANDOM, colors, infer, save, write


def test_photographs_of_different_sizes_with_captions_for_some(tmp_path):
    for index in range(12):
        size = RANDOM.integers(70, 120, 2)
        save(tmp_path / f"IMG_{index}.{'jpg' if index % 3 else 'png'}", colors(*size))
        if index % 3:
            write(tmp_path / f"IMG_{index}.txt", "a photograph of something")
    config, _ = infer(tmp_path)
    assert set(config.modalities) == {"rgb", "caption"}
    assert config.modalities["rgb"].values == Colors()
    assert config.modalities["caption"].values == Text()
    assert config.crops.size == 64
    assert config.data.splits_by == SplitByFraction(folder="")
    assert sum(len(config.data.open(split)) for split in config.data.splits) == 12


def test_folders_of_modalities_within_splits(tmp_path):
    for split, count in (("training", 6), ("val", 2)):
        for index in range(count):
            folder = tmp_path / split
            save(folder / f"rgb/{index}.png", colors())
            depth = RANDOM.integers(500, 4000, (40, 56)).astype(np.uint16)
            save(folder / f"depth/{index}.png", depth)
            normals = RANDOM.integers(0, 256, (40, 56, 3)).astype(np.uint8)
            save(folder / f"surface normals/{index}.png", normals)
            labels = RANDOM.choice([0, 1, 4, 255], (40, 56)).astype(np.uint8)
            save(folder / f"semseg/{index}.png", labels)
            save(folder / f"bands/{index}.npy", RANDOM.normal(size=(5, 40, 56)).astype("f4"))
            write(folder / f"temperature/{index}.txt", f"{index}.5")
            box = {"boxes": [0.1, 0.1, 0.5, 0.5], "class_name": ["cat", "dog"][index % 2]}
            write(folder / f"det/{index}.json", json.dumps({"instances": [box] * (index + 1)}))
    config, _ = infer(tmp_path)
    values = {name: each.values for name, each in config.modalities.items()}
    assert values == {
        "bands": Reals(channels=5, picture=(0, 1, 2)),
        "depth": Distances(max_distance=5.0, min_distance=0.005),
        "det": BoxList(("cat", "dog"), max_boxes=6),
        "rgb": Colors(),
        "semseg": Classes(("class_0", "class_1", "class_2", "class_3", "class_4"), ignore=255),
        "surface_normals": Directions(),
        "temperature": Scalar(),
    }
    formats = config.data.modalities
    assert formats["bands"] == ArrayFile(channels_first=True)
    assert formats["surface_normals"] == ArrayFile(folder="surface normals")
    assert formats["det"] == BoxesFile(class_names=("cat", "dog"))
    assert formats["temperature"] == NumberFile()
    assert config.data.splits_by == SplitByFolder({"train": "training", "validation": "val"})
    assert config.crops.size == 40


def test_splits_within_folders_of_modalities(tmp_path):
    for split, count in (("train", 5), ("test", 2)):
        for index in range(count):
            save(tmp_path / f"images/{split}/{index}.png", colors())
            mask = RANDOM.choice([0, 255], (40, 56)).astype(np.uint8)
            save(tmp_path / f"masks/{split}/{index}.png", mask)
    config, _ = infer(tmp_path)
    assert config.modalities["images"].values == Colors()
    assert config.modalities["masks"].values == Classes(("background", "foreground"))
    assert config.data.splits == ("train", "test")
    found = config.data.open("train")[0]["masks"]
    assert set(np.unique(found)) == {0, 1}


def test_class_folders_are_a_label_and_a_fact_to_probe(tmp_path):
    for number, name in enumerate(("cat", "dog", "horse")):
        for index in range(4):
            save(tmp_path / name / f"{number}{index}.jpg", colors())
    config, told = infer(tmp_path)
    assert config.modalities["label"].values == Label(("cat", "dog", "horse"))
    assert config.data.class_folders and config.probes.tasks == ("class",)
    source = config.data.open("train")
    for key, index in zip(source.keys, range(len(source)), strict=True):
        assert source[index]["label"] == key.partition("/")[0]
    assert any(line.startswith("class, a fact") for line in told)


def test_every_class_folder_may_have_files_of_the_same_names(tmp_path):
    for name in "abcdefgh":
        save(tmp_path / name / "0.png", colors(8, 8))
    config, _ = infer(tmp_path)
    assert list(config.modalities) == ["rgb", "label"] and config.data.class_folders


@pytest.mark.parametrize("split", ["", "train/"])
def test_folders_of_scenes_have_a_folder_per_modality(tmp_path, split):
    for scene in ("kitchen", "office"):
        for number in range(4):
            save(tmp_path / f"{split}{scene}/rgb/{number}.png", colors())
            save(tmp_path / f"{split}{scene}/depth/{number}.npy", np.ones((1, 40, 56), np.float32))
    config, _ = infer(tmp_path)
    kinds = {name: type(each.values) for name, each in config.modalities.items()}
    assert kinds == {"depth": Distances, "rgb": Colors}
    sample = config.data.open("train")[0]
    assert {"depth", "rgb"} <= set(sample)


def test_a_folder_around_the_splits_is_passed_over(tmp_path):
    for number in range(3):
        for split in ("train", "val"):
            save(tmp_path / f"data/{split}/rgb/{number}.png", colors())
            write(tmp_path / f"data/{split}/caption/{number}.txt", "one")
    config, _ = infer(tmp_path)
    assert set(config.modalities) == {"rgb", "caption"} and set(config.data.splits) > {"train"}


def test_files_that_go_with_nothing_are_left_alone_and_said(tmp_path):
    for number in range(24):
        word = ".edited" if number == 3 else ""
        save(tmp_path / f"JPEGImages/{number}{word}.png", colors())
        write(tmp_path / f"labels/{number}{word}.txt", "0 0.5 0.5 0.1 0.1")
    write(tmp_path / "labels/classes.txt", "cat")
    write(tmp_path / "ImageSets/train.txt", "1")
    write(tmp_path / "depth/1.exr", "?")
    write(tmp_path / "captions.csv", "image,caption")
    config, told = infer(tmp_path, damaged=1)
    kinds = {name: type(each.values) for name, each in config.modalities.items()}
    assert kinds == {"jpegimages": Colors, "labels": BoxList}
    assert [line for line in told if line.startswith("left alone")] == [
        "left alone: the 1 files of imagesets, of which none has the name of another's",
        "left alone: 1 of .exr in depth, which can not be read",
        "left alone: captions.csv, which has no row",
    ]


def test_words_that_few_names_have_are_no_modality(tmp_path):
    for number in range(24):
        save(tmp_path / f"{number}{'.edited' if number == 3 else ''}.png", colors())
        write(tmp_path / f"{number}.json", json.dumps({"caption": ["one", "two words"]}))
    config, _ = infer(tmp_path)
    kinds = {name: type(each.values) for name, each in config.modalities.items()}
    assert kinds == {"rgb": Colors, "about": Text}


def test_a_table_of_captions_beside_pictures(tmp_path):
    lines = []
    for index in range(8):
        save(tmp_path / f"train/{index}.png", colors())
        row = {"file_name": f"{index}.png", "text": f"picture {index}", "year": index}
        lines.append(json.dumps(row))
    write(tmp_path / "train/metadata.jsonl", "\n".join(lines))
    config, _ = infer(tmp_path)
    assert set(config.modalities) == {"rgb", "caption"}
    sample = config.data.open("train")[0]
    assert sample["caption"].startswith("picture ") and "year" in sample["metadata"]


def test_what_nobody_can_tell_is_left_alone_and_said(tmp_path):
    for index in range(4):
        save(tmp_path / f"rgb/{index}.png", colors())
        save(tmp_path / f"odd/{index}.npy", RANDOM.normal(size=(2, 3, 4, 5)))
    config, told = infer(tmp_path)
    assert list(config.modalities) == ["rgb"]
    assert any("odd" in line and "write a configuration" in line for line in told)


def test_colours_of_class_maps_long_captions_and_damaged_files(tmp_path):
    palette = np.array([[0, 0, 0], [128, 64, 128], [70, 70, 70]], np.uint8)
    for index in range(5):
        save(tmp_path / f"labels/{index}.png", palette[RANDOM.integers(0, 3, (40, 56))])
        write(tmp_path / f"story/{index}.txt", "word " * 90)
        write(tmp_path / f"lines/{index}.txt", "one caption\nanother caption")
    (tmp_path / "labels/9.png").write_bytes(b"nothing")
    config, _ = infer(tmp_path, damaged=1)
    assert config.modalities["labels"].values == Classes(("class_0", "class_1", "class_2"))
    assert config.modalities["story"].tokenizer == TextTokenizerConfig(max_tokens=144)
    assert config.data.modalities["lines"] == TextFile(lines=True)
    labels = config.data.open("train")[0]["labels"]
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_folders_without_anything_to_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is an empty folder"):
        config_from_folder(tmp_path)
    write(tmp_path / "only/a.exr", "nothing")
    with pytest.raises(ValueError, match=r"no file that can be read.*1 of .exr in only"):
        config_from_folder(tmp_path)
    write(tmp_path / "only/a.npy", "nothing")
    with pytest.raises(ValueError, match=r"Nothing in .* could be told: None of 1 files of only"):
        config_from_folder(tmp_path)


def test_few_words_in_a_folder_of_labels_are_labels(tmp_path):
    for index in range(12):
        save(tmp_path / f"rgb/{index}.png", colors())
        write(tmp_path / f"label/{index}.txt", ["cat", "dog", "sea lion"][index % 3])
        write(tmp_path / f"class/{index}.txt", str(index % 4))
        write(tmp_path / f"labels/{index}.txt", f"a text of its own, number {index}")
    config, _ = infer(tmp_path)
    assert config.modalities["label"].values == Label(("cat", "dog", "sea lion"))
    assert config.modalities["class"].values == Label(tuple(f"class_{n}" for n in range(4)))
    assert config.modalities["labels"].values == Text()


def test_folders_that_may_be_classes_are_mentioned(tmp_path):
    for name in ("cat", "dog"):
        for index in range(3):
            save(tmp_path / name / f"{index}.png", colors())
    _, told = infer(tmp_path)
    assert any("if the folders are classes" in line for line in told)

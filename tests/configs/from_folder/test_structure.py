"""Layouts of folders: which files are of which modality and split, and of the same sample."""

import numpy as np
import pytest

from configs import Classes, Colors, Distances, SplitByFolder, SplitByFraction
from configs.from_folder.places import choose_split
from configs.from_folder.words import find_words
from tests.configs.from_folder.folders import RANDOM, colors, infer, kinds, samples, save, write


def depth() -> np.ndarray:
    """Returns a depth map in millimetres."""
    return RANDOM.integers(500, 4000, (40, 56)).astype(np.uint16)


def classes() -> np.ndarray:
    """Returns a class map."""
    return RANDOM.integers(0, 5, (40, 56)).astype(np.uint8)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{}_rgb.png", "{}_depth.png"),
        ("{}-rgb.png", "{}-depth.png"),
        ("{}.rgb.png", "{}.depth.png"),
        ("{} rgb.png", "{} depth.png"),
        ("rgb_{}.png", "depth_{}.png"),
        ("frame{}.png", "depth{}.png"),
        ("{}.png", "{}_depth.png"),
        ("{}.jpg", "{}_depth.png"),
        ("{}.jpg", "{}.depth.png"),
        ("{}/rgb.png", "{}/depth.png"),
        ("a/{}_color.png", "a/{}_depth.png"),
        ("rgb/rgb_{}.png", "depth/depth_{}.png"),
        ("rgb/{}.png", "depth/{}_depth.png"),
        ("rgb/{}_image.png", "depth/{}_depth_map.png"),
    ],
)
def test_words_in_names_divide_files_into_modalities(tmp_path, first, second):
    wanted = {}
    for number in range(12):
        key = f"{number:04d}"
        picture = save(tmp_path / first.format(key), colors())
        wanted[key] = (picture, save(tmp_path / second.format(key), depth()))
    config, _ = infer(tmp_path)
    assert sorted(kinds(config).values()) == ["Colors", "Distances"]
    found = samples(config)
    names = {type(each.values): name for name, each in config.modalities.items()}
    assert len(found) == 12
    for key, sample in found.items():
        picture, distances = wanted[key.rpartition("/")[2]]
        np.testing.assert_array_equal(sample[names[Distances]], distances)
        if ".jpg" not in first:
            np.testing.assert_array_equal(sample[names[Colors]], picture)


def test_words_may_stand_within_names(tmp_path):
    wanted = {}
    for room in ("bath", "big_hall", "kitchen"):
        for number in range(4):
            save(tmp_path / f"{room}_rgb_{number:04d}.png", colors())
            found = save(tmp_path / f"{room}_depth_{number:04d}.png", depth())
            wanted[f"{room}/{number:04d}"] = found
    config, _ = infer(tmp_path)
    assert kinds(config) == {"rgb": "Colors", "depth": "Distances"}
    assert config.data.modalities["depth"].pattern == "{start}_depth_{key}.{ext}"
    found = samples(config)
    assert set(found) == set(wanted)
    for key, sample in found.items():
        np.testing.assert_array_equal(sample["depth"], wanted[key])


def test_many_names_are_compared_by_some_samples():
    stems = [f"{number:06d}_{word}" for number in range(30_000) for word in ("rgb", "depth")]
    found = find_words(stems, lambda stem: "").affixes
    assert len(found) == 60_000 and {affix.name for affix in found.values()} == {"rgb", "depth"}


def test_pictures_do_not_take_the_masks_beside_them(tmp_path):
    for number in range(10):
        save(tmp_path / f"train/{number}.png", colors())
        save(tmp_path / f"val/{number}.png", colors())
        if number % 2:
            save(tmp_path / f"train/{number}_mask.png", classes())
            save(tmp_path / f"val/{number}_mask.png", classes())
    config, _ = infer(tmp_path)
    assert kinds(config) == {"rgb": "Colors", "mask": "Classes"}
    assert config.data.modalities["rgb"].skip == ("{split}/{key}_mask.{ext}",)
    found = samples(config)
    assert len(found) == 10 and sum("mask" in each for each in found.values()) == 5


def test_a_sample_may_lack_any_of_many_modalities(tmp_path):
    for number in range(20):
        save(tmp_path / f"scene_{number}_rgb.jpg", colors())
        if number % 3:
            save(tmp_path / f"scene_{number}_depth.npy", depth().astype(np.float32) / 1000)
        if number % 4:
            write(tmp_path / f"scene_{number}_caption.txt", f"a scene of number {number}")
        if number % 5:
            save(tmp_path / f"scene_{number}_semantic.png", classes())
    config, _ = infer(tmp_path)
    assert kinds(config) == {
        "rgb": "Colors",
        "caption": "Text",
        "depth": "Distances",
        "semantic": "Classes",
    }
    found = samples(config)
    assert set(found) == {f"scene_{number}" for number in range(20)}
    assert found["scene_7"]["caption"] == "a scene of number 7"
    assert "depth" not in found["scene_9"] and "semantic" not in found["scene_5"]


def test_cityscapes_has_words_of_its_own_in_every_folder(tmp_path):
    wanted = {}
    for split in ("train", "val"):
        for city in ("aachen", "bonn"):
            for number in range(4):
                name = f"{city}_{number:06d}_000019"
                place = f"{split}/{city}/{name}"
                save(tmp_path / f"leftImg8bit/{place}_leftImg8bit.png", colors())
                found = save(tmp_path / f"gtFine/{place}_gtFine_labelIds.png", classes())
                wanted[f"{city}/{name}"] = found
                many = RANDOM.integers(24000, 33000, (40, 56)).astype(np.uint16)
                save(tmp_path / f"gtFine/{place}_gtFine_instanceIds.png", many)
    config, told = infer(tmp_path)
    labels = next(name for name, kind in kinds(config).items() if kind == "Classes")
    assert sorted(kinds(config).values()) == ["Classes", "Colors"]
    assert config.data.splits_by == SplitByFolder({"train": "train", "validation": "val"})
    found = samples(config)
    assert set(found) == set(wanted)
    for key, sample in found.items():
        np.testing.assert_array_equal(sample[labels], wanted[key])
        assert len(sample) == 2
    assert any("number instances" in line for line in told)


@pytest.mark.parametrize(
    ("images", "labels", "texts"),
    [
        ("imagesTr", "labelsTr", ("imagesVa", "labelsVa")),
        ("train_images", "train_masks", ("val_images", "val_masks")),
        ("images_train", "masks_train", ("images_val", "masks_val")),
        ("train", "trainannot", ("val", "valannot")),
        ("train/images", "train/masks", ("valid/images", "valid/masks")),
        ("images/train", "masks/train", ("images/val", "masks/val")),
        (
            "images/training",
            "annotations/training",
            ("images/validation", "annotations/validation"),
        ),
    ],
)
def test_splits_may_be_said_anywhere(tmp_path, images, labels, texts):
    wanted = {}
    for folder, masks in ((images, labels), texts):
        for number in range(4):
            save(tmp_path / f"{folder}/{number}.png", colors())
            wanted[folder, str(number)] = save(tmp_path / f"{masks}/{number}.png", classes())
    config, _ = infer(tmp_path)
    assert sorted(kinds(config).values()) == ["Classes", "Colors"]
    assert set(config.data.splits) == {"train", "validation"}
    name = next(name for name, kind in kinds(config).items() if kind == "Classes")
    for split, folder in (("train", images), ("validation", texts[0])):
        source = config.data.open(split)
        assert len(source) == 4
        for index, key in enumerate(source.keys):
            np.testing.assert_array_equal(source[index][name], wanted[folder, key])


def test_channels_may_be_numbered(tmp_path):
    for number in range(5):
        for channel in range(2):
            save(tmp_path / f"imagesTr/a_{number:03d}_{channel:04d}.png", colors()[..., 0])
        save(tmp_path / f"labelsTr/a_{number:03d}.png", classes())
        save(tmp_path / f"imagesTs/b_{number:03d}_0000.png", colors()[..., 0])
    config, told = infer(tmp_path)
    assert kinds(config) == {
        "images_0000": "Colors",
        "images_0001": "Colors",
        "labels": "Classes",
    }
    assert config.data.splits_by == SplitByFraction(folder="Tr")
    assert all(len(each) == 3 for each in samples(config).values())
    assert any(line.startswith("left alone: the split test") for line in told)


def test_pictures_of_two_kinds_under_one_name_are_two_modalities(tmp_path):
    for number in range(8):
        save(tmp_path / f"{number}.jpg", colors())
        save(tmp_path / f"{number}.png", classes())
    config, _ = infer(tmp_path)
    assert kinds(config) == {"rgb": "Colors", "png": "Classes"}


@pytest.mark.parametrize(
    "names",
    [
        [f"{animal}.{number}.jpg" for number in range(6) for animal in ("cat", "dog")],
        [f"holiday_{place}_{day}.jpg" for place in ("rome", "paris") for day in "abcdef"],
        [f"IMG_{number:04d}.jpg" for number in range(6)] + [f"DSC_{n:04d}.jpg" for n in range(6)],
        [f"{number:032x}.jpg" for number in RANDOM.integers(0, 1 << 62, 12)],
        [f"frame_{a}_{b}.jpg" for a in range(3) for b in range(4)],
    ],
    ids=["animals", "holidays", "cameras", "hashes", "frames"],
)
def test_names_of_photographs_are_no_modalities(tmp_path, names):
    for name in names:
        save(tmp_path / name, colors())
    config, _ = infer(tmp_path)
    assert kinds(config) == {"rgb": "Colors"}
    assert len(samples(config)) == len(names)


def test_doubtful_words_are_said(tmp_path):
    for number in range(6):
        for word in ("cat", "dog"):
            save(tmp_path / f"{word}.{number}.jpg", colors())
    _, told = infer(tmp_path)
    assert any("names differ in cat, dog alone" in line for line in told)


def test_files_of_another_kind_among_others_are_said(tmp_path):
    for number in range(10):
        save(tmp_path / f"rgb/{number}.png", colors() if number % 3 else depth())
    _, told = infer(tmp_path)
    assert any("4 of 10 files that were looked at are of another kind" in line for line in told)


def test_files_of_no_split_are_said(tmp_path):
    for number in range(4):
        save(tmp_path / f"train/{number}.png", colors())
        save(tmp_path / f"val/{number}.png", colors())
        save(tmp_path / f"extra/{number}.png", colors())
    _, told = infer(tmp_path)
    assert "left alone: 4 files in extra, which are of no split" in told


def test_without_training_samples_the_only_split_is_cut():
    chosen = choose_split([("val/rgb/1.png", None), ("val/rgb/2.png", None)])  # type: ignore[list-item]
    assert chosen.splits_by == SplitByFraction(folder="val")
    assert [name for name, _ in chosen.files] == ["{split}/rgb/1.png", "{split}/rgb/2.png"]


def test_words_are_chosen_that_most_samples_have():
    stems = [f"{room}_{side}_{kind}" for room in ("bath", "hall") for side in "ab"
             for kind in ("rgb", "depth")]  # fmt: skip
    found = find_words(stems, lambda stem: "").affixes
    assert {affix.name for affix in found.values()} == {"rgb", "depth"}


def test_few_classes_of_many_are_renumbered(tmp_path):
    for number in range(4):
        save(tmp_path / f"rgb/{number}.png", colors())
        stored = RANDOM.choice([0, 40, 90], (40, 56)).astype(np.uint8)
        save(tmp_path / f"label/{number}.png", stored)
    config, _ = infer(tmp_path)
    assert config.modalities["label"].values == Classes(("class_0", "class_40", "class_90"))
    assert set(np.unique(samples(config)["0"]["label"])) == {0, 1, 2}

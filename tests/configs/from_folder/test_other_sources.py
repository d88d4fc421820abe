"""Archives, Parquet files and COCO's annotations in place of a configuration."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from configs import BoxList, Classes, Label, Scalar, SplitByFolder, SplitByFraction, Text
from configs.from_folder.infer import config_from_folder
from tests.configs.from_folder.folders import RANDOM, colors, infer, kinds, samples, save, write


def packed(array: np.ndarray, kind: str = "png") -> bytes:
    """Returns the bytes of a picture, or of an array."""
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, array)
    else:
        Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def classes() -> np.ndarray:
    return RANDOM.integers(0, 4, (40, 56)).astype(np.uint8)


def archive(file, members: dict[str, bytes], mode: str = "w") -> None:
    """Writes a tar archive."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as opened:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


def sample_files(number: int, label: np.ndarray, first: str, second: str) -> dict[str, bytes]:
    """Returns the members of one sample."""
    return {
        first.format(number): packed(colors()),
        second.format(number): packed(label),
        f"{number}.txt": f"the scene of number {number}".encode(),
    }


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
@pytest.mark.parametrize(
    ("first", "second"),
    [("{}.rgb.png", "{}.seg.png"), ("{}_rgb.png", "{}_seg.png"), ("{}.png", "{}.seg.png")],
    ids=["dots", "words", "one"],
)
def test_one_archive_of_all_modalities(tmp_path, monkeypatch, ending, mode, first, second):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    written, members = {}, {}
    for number in range(8):
        written[str(number)] = classes()
        members |= sample_files(number, written[str(number)], first, second)
    archive(tmp_path / f"data/all.{ending}", members, mode)
    for path in (tmp_path / f"data/all.{ending}", tmp_path / "data"):
        config, _ = infer(path)
        assert kinds(config) == {"rgb": "Colors", "seg": "Classes", "caption": "Text"}
        found = samples(config)
        assert len(found) == 8
        for key, label in written.items():
            np.testing.assert_array_equal(np.asarray(found[key]["seg"]), label)
            assert found[key]["caption"] == f"the scene of number {key}"


@pytest.mark.parametrize("folders", ["train/{}.tar", "train-{}.tar"])
@pytest.mark.parametrize("second", ["{}.seg.png", "{}_seg.png"])
def test_shards_of_all_modalities(tmp_path, folders, second):
    written = {}
    for split, count in (("train", 3), ("val", 1)):
        for shard in range(count):
            members = {}
            for number in range(10 * shard, 10 * shard + 4):
                written[split, str(number)] = classes()
                members |= sample_files(number, written[split, str(number)], "{}.jpg", second)
            place = folders.format(f"{shard:05d}").replace("train", split)
            archive(tmp_path / place, members)
    config, _ = infer(tmp_path)
    assert kinds(config) == {"rgb": "Colors", "seg": "Classes", "caption": "Text"}
    assert config.data.splits_by == SplitByFolder({"train": "train", "validation": "val"})
    for split, folder in (("train", "train"), ("validation", "val")):
        source = config.data.open(split)
        assert len(source) == sum(each == folder for each, _ in written)
        for index, key in enumerate(source.keys):
            label = written[folder, key.rpartition("/")[2]]
            np.testing.assert_array_equal(np.asarray(source[index]["seg"]), label)


@pytest.mark.parametrize("split", ["", "train/"])
def test_an_archive_for_each_modality(tmp_path, split):
    labels = {f"{number}.png": packed(classes()) for number in range(6)}
    archive(tmp_path / f"{split}rgb.tar", {f"{n}.png": packed(colors()) for n in range(6)})
    archive(tmp_path / f"{split}seg.tar", labels)
    if split:
        archive(tmp_path / "val/rgb.tar", {f"{n}.png": packed(colors()) for n in range(2)})
        archive(tmp_path / "val/seg.tar", {f"{n}.png": packed(classes()) for n in range(2)})
    config, _ = infer(tmp_path)
    assert kinds(config) == {"rgb": "Colors", "seg": "Classes"}
    source = config.data.open("train")
    for index, key in enumerate(source.keys):
        stored = np.asarray(Image.open(io.BytesIO(labels[f"{key}.png"])))
        np.testing.assert_array_equal(np.asarray(source[index]["seg"]), stored)


def test_numbered_archives_of_modalities_need_folders(tmp_path):
    for modality in ("rgb", "seg"):
        for shard in range(2):
            members = {f"{shard}{n}.png": packed(classes()) for n in range(3)}
            archive(tmp_path / f"{modality}-{shard:05d}.tar", members)
    with pytest.raises(ValueError, match="as several modalities do; put rgb-00000"):
        config_from_folder(tmp_path)


def test_folders_within_an_archive(tmp_path):
    members = {}
    for split in ("train", "val"):
        for number in range(5):
            members[f"{split}/rgb/{number}.png"] = packed(colors(48, 48))
            members[f"{split}/tok_rgb/{number}.npy"] = packed(
                RANDOM.integers(0, 200, (8, 8)), "npy"
            )
    archive(tmp_path / "all.tar", members)
    config, _ = infer(tmp_path / "all.tar")
    assert kinds(config) == {"rgb": "Colors", "tok_rgb": "Codes"}
    assert len(config.data.open("validation")) == 5


def parquet_file(file, columns: dict[str, list], features: dict | None = None) -> None:
    """Writes a Parquet file, with Hugging Face's features if there are any."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.table(columns)
    if features:
        about = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)


def pets(count: int) -> dict[str, list]:
    return {
        "image": [{"bytes": packed(colors()), "path": f"{n}.png"} for n in range(count)],
        "mask": [{"bytes": packed(classes()), "path": None} for n in range(count)],
        "captions": [[f"a pet of number {n}", "something with four legs"] for n in range(count)],
        "label": [n * 2 // count for n in range(count)],
        "breed": [["pug", "boxer", "siamese"][n * 3 // count] for n in range(count)],
        "weight": [n / 3 for n in range(count)],
        "objects": [
            {"bbox": [[2.0, 3.0, 10.0, 4.0]] * (n % 3), "category": [1] * (n % 3)}
            for n in range(count)
        ],
        "embedding": [RANDOM.normal(size=16).tolist() for _ in range(count)],
        "tok_image": [RANDOM.integers(0, 100, 15).tolist() for _ in range(count)],
        "id": [f"{n:08x}" for n in range(count)],
    }


FEATURES = {
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    "objects": {
        "feature": {
            "bbox": {"feature": {"dtype": "float32"}, "length": 4},
            "category": {"names": ["head", "tail"], "_type": "ClassLabel"},
        }
    },
}


def test_parquet_files_of_hugging_face(tmp_path):
    columns = pets(30)
    parquet_file(tmp_path / "data/train-00000-of-00001.parquet", columns, FEATURES)
    parquet_file(tmp_path / "data/validation-00000-of-00001.parquet", pets(6), FEATURES)
    config, _ = infer(tmp_path)
    values = {name: each.values for name, each in config.modalities.items()}
    assert {name: type(each).__name__ for name, each in values.items()} == {
        "rgb": "Colors",
        "mask": "Classes",
        "caption": "Text",
        "label": "Label",
        "breed": "Label",
        "weight": "Scalar",
        "objects": "BoxList",
        "embedding": "Embedding",
        "tok_image": "Codes",
    }
    assert values["label"] == Label(("cat", "dog"))
    assert values["breed"] == Label(("boxer", "pug", "siamese"))
    assert values["objects"] == BoxList(("head", "tail"), max_boxes=2)
    source = config.data.open("train")
    assert len(source) == 30
    for index in (0, 17, 29):
        sample = source[index]
        picture = np.asarray(Image.open(io.BytesIO(columns["image"][index]["bytes"])))
        label = np.asarray(Image.open(io.BytesIO(columns["mask"][index]["bytes"])))
        np.testing.assert_array_equal(sample["rgb"], picture)
        np.testing.assert_array_equal(np.asarray(sample["mask"]), label)
        assert sample["label"] == columns["label"][index]
        assert sample["weight"] == columns["weight"][index]
        assert tuple(sample["caption"]) == tuple(columns["captions"][index])
        assert sample["breed"] == columns["breed"][index]
        np.testing.assert_array_equal(np.ravel(sample["tok_image"]), columns["tok_image"][index])
    assert len(config.data.open("validation")) == 6


def test_one_parquet_file_by_itself_is_cut(tmp_path):
    columns = {name: cells for name, cells in pets(20).items() if name in ("image", "weight")}
    parquet_file(tmp_path / "pets.parquet", columns)
    config, _ = infer(tmp_path / "pets.parquet")
    assert config.modalities["weight"].values == Scalar()
    assert set(config.data.splits) == {"train", "validation"}


def coco(count: int, name: str, captions: bool = False) -> str:
    """Returns annotations of pictures that are 56 pixels wide and 40 high."""
    images = [
        {"id": n, "file_name": f"{name}{n}.png", "height": 40, "width": 56} for n in range(count)
    ]
    if captions:
        notes = [
            {"id": 2 * n + k, "image_id": n, "caption": f"text {k} of {n}"}
            for n in range(count)
            for k in range(2)
        ]
        return json.dumps({"images": images, "annotations": notes})
    square = [8, 8, 24, 8, 24, 24, 8, 24]
    notes = [
        {
            "id": n,
            "image_id": n,
            "category_id": 3 + 4 * (n % 2),
            "bbox": [8, 8, 16, 16],
            "segmentation": [square],
            "iscrowd": 0,
            "area": 256,
        }
        for n in range(count)
    ]
    categories = [{"id": 3, "name": "cup"}, {"id": 7, "name": "jar"}, {"id": 9, "name": "unused"}]
    return json.dumps({"images": images, "annotations": notes, "categories": categories})


def test_annotations_as_coco_has_them(tmp_path):
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            save(tmp_path / f"{split}2017/{split}{number}.png", colors())
        place = tmp_path / "annotations"
        write(place / f"instances_{split}2017.json", coco(count, split))
        write(place / f"captions_{split}2017.json", coco(count, split, captions=True))
    write(tmp_path / "annotations/person_keypoints_val2017.json", coco(3, "val"))
    config, told = infer(tmp_path)
    assert "left alone: annotations/person_keypoints_val2017.json" in told
    assert config.modalities["boxes"].values == BoxList(("cup", "jar"), max_boxes=1)
    assert config.modalities["classes"].values == Classes(("nothing", "cup", "jar"))
    assert config.modalities["caption"].values == Text()
    assert config.data.split_names == {"train": "train", "validation": "val"}
    assert config.data.image_folder == "{split}2017"
    sample = config.data.open("validation")[1]
    assert set(np.unique(sample["classes"])) == {0, 2}
    assert (sample["classes"] == 2).sum() == 256
    np.testing.assert_allclose(sample["boxes"].corners, [[8 / 56, 0.2, 24 / 56, 0.6]], rtol=1e-6)
    assert tuple(sample["caption"]) == ("text 0 of 1", "text 1 of 1")


@pytest.mark.parametrize("is_file", [False, True])
def test_annotations_beside_the_pictures_of_every_split(tmp_path, is_file):
    for split in ("train", "valid"):
        for number in range(5):
            save(tmp_path / f"{split}/{split}{number}.png", colors())
        write(tmp_path / f"{split}/_annotations.coco.json", coco(5, split))
    path = tmp_path / "train/_annotations.coco.json" if is_file else tmp_path
    config, _ = infer(path)
    assert kinds(config) == {"rgb": "Colors", "boxes": "BoxList", "classes": "Classes"}
    assert len(config.data.open("train")) in (4, 5)


def test_annotations_without_their_pictures_are_refused(tmp_path):
    write(tmp_path / "annotations/instances_train2017.json", coco(3, "train"))
    with pytest.raises(
        ValueError, match="none of the pictures that they are about, such as train0"
    ):
        config_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photo.png", "is a single file; give the folder that holds it"),
        ("number.npy", "is a single file; give the folder that holds it"),
        ("galaxies.h5", "is a file which a configuration with ArraysData reads"),
        ("about.md", "is a single file; give the folder that holds it"),
        ("about.json", "is no file of annotations as COCO has them"),
        ("damaged.tar", "has no file that can be read"),
    ],
)
def test_a_single_file_that_is_no_data_set(tmp_path, name, said):
    if name.endswith("png"):
        save(tmp_path / name, colors())
    else:
        write(tmp_path / name, '{"a": 1}')
    with pytest.raises(ValueError, match=said):
        config_from_folder(tmp_path / name)


def test_too_few_samples_are_refused(tmp_path):
    save(tmp_path / "1_rgb.png", colors())
    save(tmp_path / "1_depth.png", np.ones((40, 56), np.uint16))
    with pytest.raises(ValueError, match="holds 1 sample; at least 3 are needed"):
        config_from_folder(tmp_path)


def test_a_split_that_lacks_a_modality_is_left_alone(tmp_path):
    for split in ("train", "val", "test"):
        for number in range(4):
            save(tmp_path / f"{split}/rgb/{number}.png", colors())
            if split == "train":
                save(tmp_path / f"{split}/seg/{number}.png", classes())
    config, told = infer(tmp_path)
    assert config.data.splits_by == SplitByFraction(folder="train")
    assert sum(line.startswith("left alone: the split ") for line in told) == 2

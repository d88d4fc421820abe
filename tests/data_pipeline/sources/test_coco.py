"""Annotations as COCO has them, written by the tests."""

import json

import numpy as np
import pytest
from PIL import Image

from data_pipeline.crops import CropConfig
from data_pipeline.sources.coco import CocoData, coco_class_names
from data_pipeline.sources.kinds import blank_data
from data_pipeline.sources.source import NOTES, DataConfig
from tokenizers.base import Boxes, Choices, Mended
from tokenizers.boxes import BoxList
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Distances

CATEGORIES = [
    {"id": 90, "name": "toothbrush"},
    {"id": 1, "name": "person"},
    {"id": 3, "name": "car"},
]
NAMES = ("person", "car")
PARTS = {"rgb": "image", "boxes": "boxes", "labels": "classes", "caption": "captions"}


def annotation(image: int, category: int, box: list, **more) -> dict:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"image_id": image, "category_id": category, "bbox": box, "iscrowd": 0,
            "segmentation": [corners]} | more  # fmt: skip


def instances(**more) -> dict:
    images = [{"id": n, "file_name": f"{n:04}.png", "height": 4, "width": 8} for n in (7, 8, 9)]
    annotations = [
        annotation(7, 3, [0, 0, 4, 4]),
        annotation(7, 1, [2, 1, 1, 2]),
        annotation(7, 90, [0, 0, 8, 4]),
        annotation(8, 1, [6, 1, 2.5, 2]),
        annotation(8, 3, [0, 0, 8, 1], iscrowd=1,
                   segmentation={"size": [4, 8], "counts": [0, 1, 31]}),
    ]  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": CATEGORIES} | more


def captions() -> dict:
    told = [(7, "a car"), (7, " a person in a car "), (8, "a crowd")]
    annotations = [{"image_id": image, "caption": text} for image, text in told]
    return {"images": instances()["images"], "annotations": annotations}


@pytest.fixture
def write(tmp_path):
    def write(about=None, **changes) -> CocoData:
        (tmp_path / "train2017").mkdir(exist_ok=True)
        for number in (7, 8, 9):
            picture = np.full((4, 8, 3), number, np.uint8)
            Image.fromarray(picture).save(tmp_path / "train2017" / f"{number:04}.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for name, content in {"instances": about or instances(), "captions": captions()}.items():
            file = tmp_path / "annotations" / f"{name}_train2017.json"
            file.write_text(content if isinstance(content, str) else json.dumps(content))
        files = tuple(f"annotations/{n}_{{split}}2017.json" for n in ("instances", "captions"))
        options = {"path": str(tmp_path), "modalities": PARTS, "class_names": NAMES}
        return CocoData(**(options | {"annotations": files} | changes))

    return write


def test_pictures_have_what_all_files_say_of_them(write):
    data = write()
    assert isinstance(data, DataConfig) and data.splits == ("train", "validation")
    source = data.open("train")
    assert source.keys == ["0007", "0008", "0009"]
    first, second, third = source.__getitems__([0, 1, 2])
    assert first["rgb"].shape == (4, 8, 3) and first["rgb"][0, 0, 0] == 7
    assert isinstance(first["caption"], Choices)
    assert first["caption"] == ("a car", "a person in a car")
    np.testing.assert_allclose(first["boxes"].corners, [[0, 0, 0.5, 1], [0.25, 0.25, 0.375, 0.75]])
    assert first["boxes"].classes.tolist() == [1, 0]
    expected = np.zeros((4, 8), int)
    expected[:, :4] = 2
    expected[1:3, 2] = 1
    np.testing.assert_array_equal(first["labels"], expected)
    assert second["caption"] == "a crowd" and "caption" not in third
    assert isinstance(third["boxes"], Boxes) and len(third["boxes"].classes) == 0
    assert third["labels"].shape == (4, 8) and not third["labels"].any()
    assert all(NOTES not in sample for sample in (first, second, third))


def test_boxes_over_the_edge_are_cut_and_crowds_are_no_boxes(write):
    mended = write().open("train")[1]["boxes"]
    assert isinstance(mended, Mended) and mended.how == "boxes cut at the picture's edge"
    np.testing.assert_allclose(mended.value.corners, [[0.75, 0.25, 1, 0.75]])
    assert write(crowds=True).open("train")[1]["boxes"].value.classes.tolist() == [0, 1]
    labels = write().open("train")[1]["labels"]
    assert labels[0].tolist() == [2, 0, 0, 0, 0, 0, 0, 0] and (labels[1:3, 6:] == 1).all()


def test_pictures_without_annotations_may_be_unknown_ones(write):
    sample = write(unannotated="absent").open("train")[2]
    assert set(sample) == {"rgb"}


def test_where_values_are_and_whether_they_changed_is_told(write, tmp_path):
    source = write().open("train")
    assert source.file_of(0, "rgb").endswith("0007.png")
    assert source.file_of(0, "caption").endswith("instances_train2017.json")
    before = [source.state_of(index) for index in range(3)]
    assert len(set(before)) == 3
    Image.new("RGB", (8, 4)).save(tmp_path / "train2017" / "0008.png", "bmp")
    again = [source.state_of(index) for index in range(3)]
    assert [a == b for a, b in zip(before, again, strict=True)] == [True, False, True]


def test_names_of_a_file_are_in_the_order_of_their_ids(write, tmp_path):
    write()
    file = tmp_path / "annotations" / "instances_train2017.json"
    assert coco_class_names(str(file)) == ("person", "car", "toothbrush")
    with pytest.raises(ValueError, match="has no categories"):
        coco_class_names(str(tmp_path / "annotations" / "captions_train2017.json"))


def test_splits_may_be_parts_and_layouts_others(write, tmp_path):
    data = write(split_names={"train": "train[:2]", "test": "train[2:]"})
    assert [data.open(split).keys for split in data.splits] == [["0007", "0008"], ["0009"]]
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "_annotations.coco.json").write_text(json.dumps(instances()))
    Image.new("L", (8, 4)).save(tmp_path / "valid" / "0007.png")
    data = CocoData(
        str(tmp_path),
        {"rgb": "image"},
        image_folder="{split}",
        annotations=("{split}/_annotations.coco.json",),
        split_names={"validation": "valid"},
    )
    samples = data.open("validation").__getitems__([0, 1])
    assert samples[0]["rgb"].shape == (4, 8, 3) and samples[1] == {}


def test_what_is_wrong_with_one_value_leaves_the_others(write):
    about = instances()
    about["images"][0]["width"] = 4
    about["annotations"][3]["segmentation"] = {"size": [1, 1], "counts": [1]}
    about["annotations"].append({"image_id": 9, "category_id": 77, "bbox": [0, 0, 1, 1]})
    samples = write(about).open("train").__getitems__([0, 1, 2])
    assert "boxes" in samples[1] and all("rgb" in sample for sample in samples)
    reasons = [[(n.modality, n.reason) for n in sample[NOTES]] for sample in samples]
    assert [name for name, _ in reasons[0]] == ["boxes", "labels"]
    assert "says that 0007.png has 4 x 4 pixels, but it has 4 x 8" in reasons[0][0][1]
    assert "runs of pixels for a picture of [1, 1]" in reasons[1][0][1]
    assert "the category 77, which has no name" in reasons[2][0][1]


@pytest.mark.parametrize("changes", [{"segmentation": []}, {"segmentation": None}])
def test_annotations_with_boxes_alone_make_no_class_map(write, changes):
    about = instances()
    about["annotations"][1] |= changes
    about["annotations"][2] |= changes  # Of a category that is not wanted.
    first, second = write(about).open("train").__getitems__([0, 1])
    assert "labels" not in first and "labels" in second and len(first["boxes"].classes) == 2
    assert [note.reason for note in first[NOTES]] == [
        "has an annotation without a `segmentation`, only with a box"
    ]


def test_pictures_listed_twice_count_once(write):
    about = instances()
    about["images"].append({"id": 10, "file_name": "0007.png", "height": 4, "width": 8})
    about["annotations"].append(annotation(10, 1, [0, 0, 1, 1]))
    source = write(about).open("train")
    assert len(source) == 3 and len(source[0]["boxes"].classes) == 2
    (note,) = source[0][NOTES]
    assert not note.leaves_out and note.reason == "is listed again, as 0007.png with the id 10"


@pytest.mark.parametrize(
    ("part", "missing", "message"),
    [
        ("captions", "captions", "caption is to be captions, and no annotation of .* has captions"),
        ("boxes", "instances", "boxes is to be boxes, and no annotation of .* has a `bbox`"),
        ("classes", "instances", "labels is to be classes, and no annot.* has a `segmentation`"),
    ],
)
def test_a_modality_of_which_no_file_says_anything_is_refused(write, part, missing, message):
    files = ("annotations/instances_{split}2017.json", "annotations/captions_{split}2017.json")
    files = [each for each in files if missing not in each]
    parts = {name: each for name, each in PARTS.items() if each in ("image", part)}
    about = instances()
    if missing == "instances":
        for each in about["annotations"]:
            del each["bbox"], each["segmentation"]
        files.append("annotations/instances_{split}2017.json")
    with pytest.raises(ValueError, match=f"{message}.*data.annotations"):
        write(about, modalities=parts, annotations=tuple(files)).open("train")


def test_no_path_leads_out_of_the_folder(write):
    about = instances()
    about["images"][0]["file_name"] = "../train2017/0007.png"
    about["images"][0]["id"] = 70
    notes = write(about).open("train")[0][NOTES]
    assert "leads out of its folder" in " ".join(note.reason for note in notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "nowhere"}, "no data folder 'nowhere'; set --data.path"),
        ({"modalities": {}}, "No modality is to be read"),
        ({"image_folder": "pictures"}, "no folder .*pictures; .* has annotations, train2017"),
        ({"annotations": ("a.json",)}, "a.json can't be read: No such file .*data.annotations"),
        ({"annotations": ()}, "data.annotations names no picture"),
        ({"class_names": ()}, "data.class_names is empty; .*: person, car, toothbrush"),
        ({"class_names": ("cat",)}, "data.class_names is 'cat'; did you mean 'car'"),
        ({"split_names": {"test": "test"}}, "no split 'train'; there are test"),
        ({"about": "{"}, "is no JSON file"),
        ({"about": "[]"}, "holds a list; an object with images"),
        ({"about": "[" * 100_000}, "is no JSON file"),
        ({"about": instances(images=3)}, "has `images` that are no list"),
        ({"about": instances(images=[{}])}, "entry of `images` without id and file_name"),
        (
            {"about": instances(annotations=[annotation(70, 1, [0, 0, 1, 1])])},
            "has 1 of 1 annotations of pictures that it lacks: the ids",
        ),
    ],
)
def test_what_is_not_there_is_named(write, changes, message):
    with pytest.raises(ValueError, match=message):
        write(**changes).open("train")


def test_modalities_follow_from_their_values():
    values = {
        **{"photo": Colors(), "depth": Distances(), "caption": Text()},
        **{"map": Classes(names=("none", *NAMES)), "boxes": BoxList(class_names=NAMES)},
    }
    assert blank_data("coco", values) == CocoData(
        class_names=NAMES,
        modalities={
            **{"photo": "image", "caption": "captions"},
            **{"map": "classes", "boxes": "boxes"},
        },
    )


def test_crops_keep_boxes_maps_and_captions_aligned(write):
    values = {
        **{"rgb": Colors(), "caption": Text(), "boxes": BoxList(class_names=NAMES)},
        "labels": Classes(names=("nothing", *NAMES)),
    }
    crops = CropConfig(size=4, views=2, flip=False)
    views = crops.apply(write().open("train"), values, dict.fromkeys(values, (4, 4)), 0, True)
    first, other = views.__getitems__([0, 1])
    assert {first["caption"], other["caption"]} == {"a car", "a person in a car"}
    assert first["labels"].shape == (4, 4) and (first["labels"][:, :2] == 2).sum() == 6
    np.testing.assert_allclose(first["boxes"].corners, [[0, 0, 0.5, 1], [0, 0.25, 0.25, 0.75]])


def test_outlines_and_keypoints_follow_what_coco_says(write):
    content = instances()
    person = content["annotations"][1]
    person["keypoints"] = [2, 1, 2, 0, 0, 0, 3, 3, 1]
    content["annotations"][0]["keypoints"] = [0, 0, 0] * 3
    person["segmentation"].append([4, 2, 6, 2, 4, 4])
    parts = {"parts": "polygons", "pose": "keypoints"}
    first, second, third = write(content, modalities=parts).open("train").__getitems__([0, 1, 2])
    assert first["parts"].classes.tolist() == [1, 0, 0], "an outline for each part of a thing"
    np.testing.assert_allclose(first["parts"].parts()[2], [[0.5, 0.5], [0.75, 0.5], [0.5, 1]])
    np.testing.assert_allclose(first["pose"].points, [[0.25, 0.25], [np.nan] * 2, [0.375, 0.75]])
    assert first["pose"].classes.tolist() == [0] and first["pose"].lengths.tolist() == [3]
    assert isinstance(second["parts"], Mended) and second["parts"].value.classes.tolist() == [0]
    assert third["parts"].parts() == [] and third["pose"].parts() == []


@pytest.mark.parametrize(
    ("change", "part", "message"),
    [
        ({"segmentation": {"size": [4, 8], "counts": [0, 32]}}, "polygons", "without outlines"),
        ({"segmentation": [[1, 2, 3]]}, "polygons", "has an outline that is not"),
        ({"keypoints": [1, 2]}, "keypoints", r"has `keypoints` that are not \[x, y, v"),
    ],
)
def test_outlines_and_keypoints_that_are_none_are_left_out(write, change, part, message):
    content = instances()
    content["annotations"][1] |= change
    sample = write(content, modalities={"it": part}).open("train")[0]
    assert set(sample) == {NOTES}
    with pytest.raises(ValueError, match=message):
        raise ValueError(sample[NOTES][0].reason)


def test_blank_data_has_the_parts_of_the_kinds():
    data = blank_data("coco", {"a": Polygons(NAMES), "b": Points(("person",))})
    assert data.modalities == {"a": "polygons", "b": "keypoints"} and data.class_names == NAMES

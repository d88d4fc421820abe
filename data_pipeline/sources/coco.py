"""Pictures with annotations as COCO has them: a JSON file about all pictures of a split."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data_pipeline.sources.files.storage import MayBeRemote, local_path
from data_pipeline.sources.masks import class_map, keypoints_of, outlines_of
from data_pipeline.sources.slices import name_of_slice, rows_of_slice
from data_pipeline.sources.source import NOTES, Note, Sample
from data_pipeline.sources.values import boxes_of, picture_size, plain_value, put
from tokenizers.base import Boxes, Mended
from tokenizers.formats.formats import ArrayFile, BoxesFile
from tokenizers.formats.instances import fit_into_picture
from tokenizers.settings.checked import unknown_word

Part = Literal["image", "boxes", "classes", "captions", "polygons", "keypoints"]

SEGMENTATION, KEYPOINTS = BESIDE = ("segmentation", "keypoints")
"""What an annotation has beside its box."""


@dataclass(frozen=True)
class CocoData(MayBeRemote):
    """A folder of pictures per split, and JSON files of annotations as COCO has them.

    Of `instances`, boxes, class maps and polygons are read, of `person_keypoints` the keypoints; of
    `captions`, several per picture: every view takes one of them.
    """

    path: str = ""
    """Folder of the data set, or its URL."""
    modalities: dict[str, Part] = field(default_factory=dict)
    """What each modality is: image, boxes, classes, captions, polygons or keypoints. `classes` is a
    map of classes: 0 where none is, then 1 and more in the order of `class_names`; small regions
    lie on large ones. `polygons` are outlines one by one, without those of crowds; a thing in
    several parts is an outline for each. `keypoints` are those of things that have any."""
    class_names: tuple[str, ...] = ()
    """Categories that become classes, in the order of their indices; others are left out.
    `coco_class_names` reads all of a file. All but image and captions need them."""
    image_folder: str = "{split}2017"
    """Folder of a split's pictures below the path; {split} stands for the split's name."""
    annotations: tuple[str, ...] = ("annotations/instances_{split}2017.json",)
    """Files of a split's annotations below the path, which may be about the same pictures."""
    split_names: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "validation": "val"}
    )
    """What stands for {split} in each split; slices such as train[:90%] are allowed."""
    unannotated: Literal["empty", "absent"] = "empty"
    """What a picture without any annotation has: no box and an empty class map, as something that
    is known; or neither of them."""
    crowds: bool = False
    """Whether a box around a crowd is a box like others. In class maps, crowds always are."""
    image_format: ArrayFile = ArrayFile(as_rgb=True)  # noqa: RUF009  Frozen, so it may be shared.
    """How the pictures are stored."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        for name in self.split_names.values():
            name_of_slice(name)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.split_names)

    def open(self, split: str) -> "CocoSource":
        """Returns one split.

        Raises:
            ValueError: If a folder, a file or a class is not there, or a file is damaged.
        """
        if split not in self.splits:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(self.splits)}.")
        if not self.modalities:
            raise ValueError("No modality is to be read; set data.modalities.")
        root = local_path(self.path, self.cache_folder)
        if not self.path or not root.is_dir():
            raise ValueError(
                f"There is no data folder {self.path!r}; set --data.path to the data set."
            )
        name = name_of_slice(self.split_names[split])
        folder = root / self.image_folder.replace("{split}", name)
        if not folder.is_dir():
            have = sorted(each.name for each in root.iterdir() if each.is_dir())
            raise ValueError(
                f"There is no folder {folder}; {root} has {', '.join(have) or 'no folders'}. Set "
                "data.image_folder or data.split_names."
            )
        files = [root / each.replace("{split}", name) for each in self.annotations]
        parts = set(self.modalities.values())
        wanted = {SEGMENTATION: {"classes", "polygons"} & parts, KEYPOINTS: {KEYPOINTS} & parts}
        pictures, categories = _read_all(files, [name for name, by in wanted.items() if by])
        needs_classes = parts - {"image", "captions"}
        if needs_classes and not self.class_names:
            raise ValueError(
                f"data.class_names is empty; name those of the categories of {files[0]} that are "
                f"wanted, in the order of the modality's classes: {', '.join(categories.values())}."
            )
        for class_name in self.class_names if needs_classes else ():
            if class_name not in categories.values():
                raise ValueError(
                    unknown_word("data.class_names", class_name, [*categories.values()])
                )
        _check_parts(self.modalities, pictures, files)
        rows = rows_of_slice(self.split_names[split], len(pictures))
        return CocoSource([pictures[row] for row in rows], categories, folder, self)


class _Annotation(NamedTuple):
    """What is said of one thing; what is not wanted, or not there, is None."""

    category: Any
    bbox: Any
    is_crowd: bool
    segmentation: Any
    keypoints: Any


class _Picture(NamedTuple):
    """What is said of one picture, in all files."""

    file: str
    annotations_file: str
    height: int
    width: int
    captions: list[str]
    annotations: list["_Annotation"]
    notes: list[str]


class CocoSource:
    """One split of a `CocoData`.

    Attributes:
        keys: Of every sample: its picture's path without the extension.
    """

    def __init__(
        self,
        pictures: list[_Picture],
        categories: dict[Any, str],
        folder: Path,
        config: CocoData,
    ):
        self._pictures, self._folder, self._config = pictures, folder, config
        self.keys = [picture.file.rpartition(".")[0] or picture.file for picture in pictures]
        # Categories that are not wanted have no index.
        self._index_of = {
            category: config.class_names.index(name) if name in config.class_names else None
            for category, name in categories.items()
        }
        if "image" in config.modalities.values() and not any(map(self._file_of, pictures)):
            raise ValueError(
                f"{folder} has none of the pictures that {pictures[0].annotations_file} is about, "
                f"such as {pictures[0].file}; set data.image_folder."
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample; what can't be read is absent, with a note."""
        picture, key = self._pictures[index], self.keys[index]
        sample: Sample = {}
        if picture.notes:
            notes = [Note("listed twice", "", key, picture.annotations_file, each)
                     for each in picture.notes]  # fmt: skip
            sample[NOTES] = notes
        # Pictures first: what is said of them is compared with their size.
        parts = sorted(self._config.modalities.items(), key=lambda item: item[1] != "image")
        for name, part in parts:
            file = str(self._folder / picture.file) if part == "image" else picture.annotations_file
            put(sample, name, lambda part=part: self._value(part, picture, sample), key, file)
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def file_of(self, index: int, modality: str) -> str:
        """Returns where a value is stored."""
        picture = self._pictures[index]
        is_image = self._config.modalities.get(modality) == "image"
        return str(self._folder / picture.file) if is_image else picture.annotations_file

    def state_of(self, index: int) -> str:
        """Returns a text that is another one if what a sample is made of has changed."""
        picture = self._pictures[index]
        file = self._file_of(picture)
        state = file.stat() if file else None
        seen = f"{state.st_size}:{state.st_mtime_ns}" if state else ""
        # As plain as earlier versions wrote it, so that their tokens do not count as outdated.
        about = [
            tuple(each) if each.keypoints is not None else tuple(each)[:-1]
            for each in picture.annotations
        ]
        return f"{seen} {(*picture[2:5], about, picture.notes)}"

    def _value(self, part: Part, picture: _Picture, sample: Sample) -> Any:
        if part == "image":
            if not _is_inside(picture.file):
                raise ValueError(f"has the path {picture.file!r}, which leads out of its folder")
            file = self._file_of(picture)
            if file is None:
                return None
            return self._config.image_format.read(file.read_bytes(), file.suffix[1:].lower())
        if part == "captions":
            return plain_value(picture.captions)
        if not picture.annotations and self._config.unannotated == "absent":
            return None
        size = _size(picture, picture_size(sample))
        known = [
            (number, each)
            for each in picture.annotations
            if (number := self._number_of(each.category)) is not None
        ]
        match part:
            case "classes":
                regions = [(number, each.segmentation) for number, each in known]
                if not all(stored for _, stored in regions):
                    raise ValueError("has an annotation without a `segmentation`, only with a box")
                return class_map(regions, *size)
            case "polygons":
                things = [
                    (number, outline)
                    for number, each in known
                    if not each.is_crowd
                    for outline in outlines_of(each.segmentation)
                ]
            case "keypoints":
                things = [
                    (number, points)
                    for number, each in known
                    if (points := keypoints_of(each.keypoints)) is not None
                ]
            case _:
                return self._boxes(known, size)
        height, width = size
        parts = [points / np.array([width, height]) for _, points in things]
        return fit_into_picture(parts, [number for number, _ in things], part == "polygons")

    def _boxes(self, known: list[tuple[int, _Annotation]], size: tuple[int, int]) -> Boxes | Mended:
        kept = [(n, each.bbox) for n, each in known if self._config.crowds or not each.is_crowd]
        if any(not isinstance(box, list) or len(box) != 4 for _, box in kept):
            raise ValueError("has an annotation without a `bbox` of four numbers")
        numbers, boxes = [number for number, _ in kept], [box for _, box in kept]
        return boxes_of(boxes, numbers, size, BoxesFile(corners="xywh", unit="pixels"))

    def _number_of(self, category: Any) -> int | None:
        if category not in self._index_of:
            raise ValueError(f"has an annotation of the category {category!r}, which has no name")
        return self._index_of[category]

    def _file_of(self, picture: _Picture) -> Path | None:
        """Returns where a picture is, below its folder; None if it is not there."""
        if not _is_inside(picture.file):
            return None
        parts = picture.file.replace("\\", "/").split("/")
        # Some files name pictures by a path that begins elsewhere.
        for name in ("/".join(parts), parts[-1]):
            if (self._folder / name).is_file():
                return self._folder / name
        return None


def _is_inside(path: str) -> bool:
    """True unless a path may lead out of the folder that it is below."""
    parts = path.replace("\\", "/").split("/")
    return ".." not in parts and parts[0] != "" and ":" not in parts[0]


def coco_class_names(file: str) -> tuple[str, ...]:
    """Returns the names of all categories of a file of annotations, in the order of their ids.

    Raises:
        ValueError: If it can't be read, or has none.
    """
    path = Path(file).expanduser()
    names = tuple(_categories(_load(path), path).values())
    if not names:
        raise ValueError(f"{path} has no categories.")
    return names


def _check_parts(
    modalities: Mapping[str, Part], pictures: Sequence[_Picture], files: Sequence[Path]
) -> None:
    """Raises ValueError for a modality of which nothing is in any file."""
    told = [each for picture in pictures for each in picture.annotations]
    has: dict[str, bool] = {
        "captions": any(picture.captions for picture in pictures),
        "a `bbox`": any(each.bbox is not None for each in told),
        "a `segmentation`": any(each.segmentation for each in told),
        "`keypoints`": any(each.keypoints for each in told),
    }
    needed = {
        **{"captions": "captions", "boxes": "a `bbox`", "classes": "a `segmentation`"},
        **{"polygons": "a `segmentation`", "keypoints": "`keypoints`"},
    }
    for name, part in modalities.items():
        if not has.get(needed.get(part, ""), True):
            raise ValueError(
                f"The modality {name} is to be {part}, and no annotation of "
                f"{', '.join(map(str, files))} has {needed[part]}; set data.annotations to files "
                f"that have, or leave {name} out of data.modalities."
            )


def _read_all(
    files: Sequence[Path], wanted: Sequence[str]
) -> tuple[list[_Picture], dict[Any, str]]:
    """Returns what files say of their pictures, and their categories by id.

    Args:
        files: Of annotations.
        wanted: What is kept of an annotation beside its box, as it takes much memory.
    """
    pictures: dict[Any, _Picture] = {}
    by_file: dict[str, _Picture] = {}
    doubled: set[Any] = set()  # Ids of pictures that are left out.
    categories: dict[Any, str] = {}
    for file in files:
        content = _load(file)
        for category, name in _categories(content, file).items():
            if categories.setdefault(category, name) != name:
                raise ValueError(
                    f"{file} calls the category {category} {name!r}, another file "
                    f"{categories[category]!r}; give annotations with the same categories."
                )
        here = set()
        for each in _entries(content, "images", file, ("id", "file_name")):
            number, name = each["id"], str(each["file_name"])
            by_number, by_name = pictures.get(number), by_file.get(name)
            first = by_number or by_name
            if first is None:
                size = (_whole(each.get("height")), _whole(each.get("width")))
                pictures[number] = by_file[name] = _Picture(name, str(file), *size, [], [], [])
            elif by_number is not by_name or number in here:
                first.notes.append(f"is listed again, as {name} with the id {number}")
                doubled.add(number)
            here.add(number)
        strangers = 0
        given = _entries(content, "annotations", file, ("image_id",))
        for each in given:
            picture = pictures.get(each["image_id"])
            if picture is None:
                strangers += each["image_id"] not in doubled
            elif isinstance(each.get("caption"), str):
                picture.captions.append(each["caption"].strip())
            else:
                more = [each.get(name) if name in wanted else None for name in BESIDE]
                about = each.get("category_id"), each.get("bbox"), bool(each.get("iscrowd"))
                picture.annotations.append(_Annotation(*about, *more))
        if strangers:
            said = f"{file} has {strangers} of {len(given)} annotations of pictures that it lacks"
            if strangers == len(given):
                raise ValueError(f"{said}: the ids in `images` and `annotations` differ.")
            warnings.warn(f"{said}; they are left out.", stacklevel=3)
    if not pictures:
        raise ValueError(f"{', '.join(map(str, files)) or 'data.annotations'} names no picture.")
    return list(pictures.values()), categories


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"{file} can't be read: {error.strerror}; set data.annotations."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a list; an object with images and annotations is wanted.")
    return content


def _entries(
    content: dict[str, Any], name: str, file: Path, wanted: Sequence[str]
) -> list[dict[str, Any]]:
    entries = content.get(name, [])
    if not isinstance(entries, list):
        raise ValueError(f"{file} has `{name}` that are no list.")
    for each in entries:
        if not isinstance(each, dict) or not all(
            isinstance(each.get(key), int | str) for key in wanted
        ):
            raise ValueError(f"{file} has an entry of `{name}` without {' and '.join(wanted)}.")
    return entries


def _categories(content: dict[str, Any], file: Path) -> dict[Any, str]:
    entries = _entries(content, "categories", file, ("id", "name"))
    return {
        each["id"]: str(each["name"]) for each in sorted(entries, key=lambda e: _order(e["id"]))
    }


def _order(number: int | str) -> tuple[int, int | str]:
    return (0, number) if isinstance(number, int) else (1, number)


def _whole(number: Any) -> int:
    return number if isinstance(number, int) else 0


def _size(picture: _Picture, seen: tuple[int, int] | None) -> tuple[int, int]:
    """Returns a picture's height and width, as annotations count them.

    Raises:
        ValueError: If it is not known, or the picture itself has other proportions.
    """
    said = (picture.height, picture.width)
    if min(said) < 1:
        if seen is None:
            raise ValueError(f"says no height and width of {picture.file}")
        return seen
    if seen is not None and abs(said[0] * seen[1] - said[1] * seen[0]) > max(*said, *seen):
        raise ValueError(
            f"says that {picture.file} has {said[0]} x {said[1]} pixels, but it has "
            f"{seen[0]} x {seen[1]}"
        )
    return said

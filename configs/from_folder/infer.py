"""Data in place of a configuration: what is in a folder or file says what a run needs.

What was inferred is printed, and written into the run directory as a configuration to edit.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs.from_folder.align import keys_of, parts_apart
from configs.from_folder.arrays import Inferred, ids_that_do_not_fit
from configs.from_folder.boxes import class_list
from configs.from_folder.coco import annotation_files, infer_coco
from configs.from_folder.content import infer
from configs.from_folder.parquet import infer_parquet, parquet_files
from configs.from_folder.places import data_folder_in
from configs.from_folder.structure import HINTS, TABLES, Structure, find_structure, pattern_of
from configs.from_folder.tables import find_table, splits_for
from configs.schema import RunConfig
from data_pipeline.crops import CropConfig
from data_pipeline.sources.files.data import FilesData, FilesSource
from data_pipeline.sources.files.listing import ARCHIVE_ENDINGS, is_archive
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction, Splits
from data_pipeline.sources.source import Source
from fourm.evaluation.probes import ProbeConfig
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.formats.cells import FolderName
from tokenizers.formats.file_format import FileFormat
from tokenizers.labels import Label
from tokenizers.modality import Modality
from tokenizers.values import Colors

USUAL_SIDE = 64
"""Height and width of pictures, in pixels, unless they are smaller."""
PATCH = 8
"""Pixels that the sides of pictures are a multiple of."""
LEAST_SAMPLES = 3
"""Samples that can be divided into those to train on, to validate and to test."""
DATA_ENDINGS = (*ARCHIVE_ENDINGS, *(f".{each}" for each in (*TABLES, "parquet", "json")))
"""Files that may be a data set by themselves."""


class FromFolder(NamedTuple):
    """What data say.

    Attributes:
        config: Of a run.
        told: What was concluded and from what, a line each.
    """

    config: RunConfig
    told: list[str]


def is_data(path: Path) -> bool:
    """True for a folder, and for a file that is no configuration."""
    return path.is_dir() or (path.is_file() and path.suffix != ".py")


def config_from_folder(root: Path) -> FromFolder:
    """Returns the configuration that fits the data in a folder, or in one file.

    Raises:
        ValueError: If nothing in it can be read, or nobody could tell what it is.
    """
    if root.is_file() and (hint := HINTS.get(root.suffix[1:].lower())):
        raise ValueError(f"{root} is a file {hint}; write one that names its arrays.")
    if root.is_file() and not root.name.lower().endswith(DATA_ENDINGS):
        raise ValueError(
            f"{root} is a single file; give the folder that holds it and others like it, of at "
            f"least {LEAST_SAMPLES} samples. A file by itself may be one of "
            f"{', '.join(('.tar', *DATA_ENDINGS[len(ARCHIVE_ENDINGS) :]))}."
        )
    if root.is_dir() and not any(root.iterdir()):
        raise ValueError(f"{root} is an empty folder; give one with data.")
    root = data_folder_in(root)
    if parquet_files(root):
        data, found, told = infer_parquet(root)
        sources = {split: data.open(split) for split in data.splits}
        return _compose(data, found, [], list(told), {}, sources, {})
    if annotations := annotation_files(root):
        around = root if root.is_dir() else _around(root)
        data, found, told = infer_coco(around, annotations)
        sources = {split: data.open(split) for split in data.splits}
        return _compose(data, found, [], list(told), {}, sources, {})
    if root.is_file() and root.suffix.lower() == ".json":
        raise ValueError(
            f"{root} is no file of annotations as COCO has them, with `images` and `annotations`; "
            "give the folder that holds the data."
        )
    return _from_files(root)


def _around(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _from_files(root: Path) -> FromFolder:
    """Returns the configuration of files, archives and tables."""
    structure = _structure_of(root)
    folder = root if root.is_dir() or is_archive(root.name) else root.parent
    apart = parts_apart(structure.parts)
    apart = apart if len(apart) < len(structure.parts) else []
    found: dict[str, Inferred] = {}
    untold = [
        f"the {len(part.files):,} files of {part.name}, of which none has the name of another's"
        for part in apart
    ]
    for part in structure.parts:
        if part in apart:
            continue
        try:
            found[part.name] = infer(part)
        except ValueError as error:
            untold.append(str(error))
    for name, reason in ids_that_do_not_fit(found).items():
        untold.append(f"{name}, {reason}")
        del found[name]
    _name_boxes(found, folder)
    parts = [part for part in structure.parts if part.name in found]
    keys = set().union(*map(keys_of, parts)) if parts else set()
    table, others = find_table(folder, structure.tables, keys, structure.splits_by)
    untold += [*structure.left_alone, *others]
    modalities: dict[str, Modality] = {}
    formats: dict[str, FileFormat] = {}
    why: dict[str, str] = {}
    if table:
        for name, modality in table.modalities.items():
            name_here = name if name not in found else f"{name}_column"
            modalities[name_here], formats[name_here] = modality, table.formats[name]
            why[name_here] = f"{table.why[name]} of {table.table}"
    if structure.class_names and len(structure.class_names) > 1:
        name = "label" if "label" not in found and "label" not in modalities else "folder"
        modalities[name] = Modality(Label(structure.class_names))
        formats[name] = FolderName()
        why[name] = f"the {len(structure.class_names)} folders that files lie in"
    if not found and not modalities:
        raise ValueError(f"Nothing in {root} could be told: {' '.join(untold)}")
    if found and len(keys) < LEAST_SAMPLES and isinstance(structure.splits_by, SplitByFraction):
        raise ValueError(
            f"{root} holds {len(keys)} sample{'s' if len(keys) > 1 else ''}; at least "
            f"{LEAST_SAMPLES} are needed, to train on, to validate and to test."
        )
    told = [*structure.told, *(table.told if table else ())]
    required: tuple[str, ...] = ()
    if table and isinstance(table.splits_by, SplitByFolder) and found and formats:
        # The files of all splits lie together, and those with a row of its table are a split's.
        for part in parts:
            file_format = replace(found[part.name].file_format, folder="", pattern=pattern_of(part))
            found[part.name] = replace(found[part.name], file_format=file_format)
        required = (next(iter(formats)),)
        told.append(
            f"{table.table} says of which split samples are; without {required[0]}, of none"
        )
    data = FilesData(
        path=str(root if folder is root else folder),
        modalities={name: each.file_format for name, each in found.items()} | formats,
        splits_by=splits_for(structure.splits_by, table),
        required=required,
        table=table.table if table and (modalities or table.splits_by) else "",
        key_column=table.key_column if table else FilesData().key_column,
        class_folders=bool(structure.class_names),
    )
    data, sources, dropped = _opened(data)
    told += [f"left alone: {reason}" for reason in (*untold, *dropped)]
    counts = Counter()
    for source in sources.values():
        counts.update(source.present)
    return _compose(data, found, list(modalities.items()), told, why, sources, counts)


def _name_boxes(found: dict[str, Inferred], root: Path) -> None:
    """Gives boxes whose classes are numbers the names that a list of them has."""
    for name, each in found.items():
        values, names = each.modality.values, ()
        if isinstance(values, BoxList) and not getattr(each.file_format, "class_names", ()):
            names = class_list(root)
        if isinstance(values, BoxList) and len(set(names)) == len(names) >= len(values.class_names):
            modality = Modality(replace(values, class_names=names))
            why = each.why.replace(str(len(values.class_names)), str(len(names)), 1)
            found[name] = replace(each, modality=modality, why=f"{why}, named by a list of them")


def _structure_of(root: Path) -> Structure:
    """Returns how files lie; of a single table, those that it names."""
    if root.is_file() and root.suffix.lower()[1:] in TABLES:
        structure = find_structure(root.parent)
        tables = [entry for entry in structure.tables if entry[0] == root.name]
        own = find_table(root.parent, tables, _keys(structure), structure.splits_by)[0]
        if own is None or not structure.parts:  # No column names a file.
            splits = SplitByFraction(folder="")
            return Structure(splits, [], tables)
        return structure._replace(tables=tables)
    return find_structure(root)


def _keys(structure: Structure) -> set[str]:
    return set().union(*map(keys_of, structure.parts)) if structure.parts else set()


def _opened(data: FilesData) -> tuple[FilesData, dict[str, FilesSource], list[str]]:
    """Returns data without splits that can't be opened, the others, and why some can't.

    Raises:
        ValueError: If it is the split to train on that can't be opened.
    """
    splits, left_alone = data.splits_by, []
    sources = {"train": data.open("train")}
    if isinstance(splits, SplitByFolder):
        folders = dict(splits.folders)
        for split in [name for name in folders if name != "train"]:
            try:
                sources[split] = data.open(split)
            except ValueError as error:
                left_alone.append(f"the split {split}, as {str(error).rstrip('.')}")
                del folders[split]
        splits = _splits_of(folders)
    data = replace(data, splits_by=splits)
    if len(sources) == 1:
        sources = {split: data.open(split) for split in data.splits}
    return data, sources, left_alone


def _splits_of(folders: Mapping[str, str]) -> Splits:
    if len(folders) > 1:
        return SplitByFolder(dict(folders))
    return SplitByFraction(folder=folders["train"])


def _compose(
    data: Any,
    found: Mapping[str, Inferred],
    others: Sequence[tuple[str, Modality]],
    told: list[str],
    why: Mapping[str, str],
    sources: Mapping[str, Source],
    counts: Mapping[str, int],
) -> FromFolder:
    """Returns a configuration, and what is to be said of it.

    Args:
        data: To read the samples.
        found: Modalities that are in files.
        others: Modalities that are not.
        told: What else is to be said.
        why: What the others were concluded from.
        sources: By split, if they are known.
        counts: How many samples have each modality, if that is known.
    """
    modalities = {name: each.modality for name, each in found.items()} | dict(others)
    reasons = {name: each.why for name, each in found.items()} | dict(why)
    total = sum(len(source) for source in sources.values())
    lines = []
    for name, each in modalities.items():
        share = f" ({counts[name]:,} of {total:,} samples)" if name in counts else ""
        lines.append(f"{name}: {type(each.values).__name__}{share}, from {reasons[name]}")
    crops = _crops_of(found, modalities)
    lines += _sizes_told(crops, found, data, sources)
    lines += [f"{name}: {sentence}" for name, each in found.items() for sentence in each.told]
    pictures = [name for name, each in modalities.items() if isinstance(each.values, Colors)]
    if len(pictures) > 1 and len(pictures) == len(modalities):
        lines.append(
            f"{' and '.join(pictures)} were taken for pictures of the same things, as their files "
            "have the same names; if the folders are classes, give their files different names"
        )
    lines += told
    probes = ProbeConfig()
    if getattr(data, "class_folders", False) and pictures:
        probes = ProbeConfig(input=pictures[0], tasks=("class",))
        lines.append("class, a fact for linear probes, from the folders that files lie in")
    return FromFolder(RunConfig(modalities, data, crops=crops, probes=probes), lines)


def _sizes_told(
    crops: CropConfig, found: Mapping[str, Inferred], data: Any, sources: Mapping[str, Source]
) -> list[str]:
    """Returns how samples are divided and at which size pictures are shown."""
    lines = []
    if sources:
        shown = ", ".join(f"{len(source):,} of {split}" for split, source in sources.items())
        is_drawn = isinstance(getattr(data, "splits_by", None), SplitByFraction)
        how = ", divided by chance, as no name says of which split they are" if is_drawn else ""
        lines.append(f"samples: {shown}{how}")
    shapes = [each.shape for each in found.values() if min(each.shape)]
    if shapes:
        is_uniform = len(set(shapes)) == 1 and all(each.is_uniform for each in found.values())
        stored = " by ".join(map(str, shapes[0])) if is_uniform else "different sizes"
        wanted = " by ".join(map(str, crops.shape))
        lines.append(
            f"pictures: shown {wanted} pixels large, cut and resized from {stored}; --crops.size "
            "and --crops.width change that"
        )
    return lines


def _crops_of(found: Mapping[str, Inferred], modalities: Mapping[str, Modality]) -> CropConfig:
    """Returns crops of a size that all pictures have, at least."""
    shapes = [each.shape for each in found.values() if min(each.shape)]
    sides = [min(each) for each in shapes]
    size = min([USUAL_SIDE, *(side // PATCH * PATCH for side in sides if side >= PATCH)])
    can_flip = all(each.can_flip for each in found.values())
    if not any(isinstance(each.values, Codes) for each in modalities.values()):
        return CropConfig(size=size, flip=can_flip)
    # Ids stand for the whole picture, which is cut to its own proportions.
    grids = [each.values.shape for each in modalities.values() if isinstance(each.values, Codes)]
    shapes += [(shape[0], shape[1]) for shape in grids if len(shape) > 1]
    rows, columns = shapes[0] if shapes else (1, 1)
    common = math.gcd(rows, columns)
    height, wide = rows // common * PATCH, columns // common * PATCH
    times = max(size // height, 1)
    width = 0 if height == wide else times * wide
    return CropConfig(size=times * height, width=width, views=1, scale=(1.0, 1.0), flip=False)

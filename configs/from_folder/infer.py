"""A folder of data in place of a configuration: what is in it says what a run needs.

What was inferred is printed, and written into the run directory as a configuration to edit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from configs.from_folder.content import Inferred, infer
from configs.from_folder.structure import (
    Structure,
    data_folder_in,
    find_structure,
    parts_apart,
)
from configs.schema import RunConfig
from data_pipeline.crops import CropConfig
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.tables import TableColumn, load_table
from fourm.evaluation.probes import ProbeConfig
from tokenizers.formats.file_format import FileFormat
from tokenizers.modality import Modality
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Colors

USUAL_SIDE = 64
"""Height and width of pictures, in pixels, unless they are smaller."""
PATCH = 8
"""Pixels that the sides of pictures are a multiple of."""
TEXT_COLUMNS = ("text", "caption", "prompt", "description")
"""Names of a table's columns that hold a caption."""


class FromFolder(NamedTuple):
    """What a folder says.

    Attributes:
        config: Of a run.
        told: What was concluded and from what, a line each.
    """

    config: RunConfig
    told: list[str]


def config_from_folder(root: Path) -> FromFolder:
    """Returns the configuration that fits the files of a folder.

    Raises:
        ValueError: If nothing in it can be read, or nobody could tell what it is.
    """
    root = data_folder_in(root)
    structure = find_structure(root)
    found: dict[str, Inferred] = {}
    apart = parts_apart(structure.parts)
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
    modalities = {name: each.modality for name, each in found.items()}
    formats: dict[str, FileFormat] = {name: each.file_format for name, each in found.items()}
    told = [
        f"{name}: {type(each.modality.values).__name__}, from {each.why}"
        for name, each in found.items()
    ]
    for name, column in _captions(root, structure).items():
        if name not in modalities:
            modalities[name], formats[name] = Modality(Text()), TableColumn(column=column)
            told.append(f"{name}: Text, from the column {column} of {structure.table}")
    if not modalities:
        raise ValueError(f"Nothing in {root} could be told: {' '.join(untold)}")
    told += [f"left alone: {reason}" for reason in (*untold, *structure.left_alone)]
    pictures = [name for name, each in modalities.items() if isinstance(each.values, Colors)]
    if len(pictures) > 1 and len(pictures) == len(modalities):
        told.append(
            f"{' and '.join(pictures)} were taken for pictures of the same things, as their files "
            "have the same names; if the folders are classes, give their files different names"
        )
    if structure.class_folders:
        told.append("class, a fact for linear probes, from the folders that files lie in")
    sides = [min(each.shape) for each in found.values() if min(each.shape)]
    size = min([USUAL_SIDE, *(side // PATCH * PATCH for side in sides if side >= PATCH)])
    probes = ProbeConfig()
    if structure.class_folders and "rgb" in modalities:
        probes = ProbeConfig(input="rgb", tasks=("class",))
    config = RunConfig(
        modalities=modalities,
        data=FilesData(
            path=str(root),
            modalities=formats,
            splits_by=structure.splits_by,
            table=structure.table,
            class_folders=structure.class_folders,
            pattern=structure.pattern,
        ),
        crops=CropConfig(size=size),
        probes=probes,
    )
    return FromFolder(config, told)


def _captions(root: Path, structure: Structure) -> Mapping[str, str]:
    """Returns the columns of a table that are modalities, by the modality's name."""
    if not structure.table:
        return {}
    file = structure.table.replace("{split}", structure.splits_by.folder_of("train"))
    columns = load_table(root / file, "key").columns
    named = [column for column in columns if column.lower() in TEXT_COLUMNS]
    return {"caption": named[0]} if named else {}

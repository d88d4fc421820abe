"""Parquet files, as data sets on Hugging Face are stored: which of their columns are modalities."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.from_folder.align import Part
from configs.from_folder.arrays import Inferred, ids_that_do_not_fit, infer_arrays
from configs.from_folder.boxes import described
from configs.from_folder.content import CAPTION_FIELDS, infer, text_modality
from configs.from_folder.structure import modality_name
from configs.from_folder.tables import infer_column
from data_pipeline.sources.files.locations import Location
from data_pipeline.sources.parquet import BOX_LABELS, ParquetData, class_names_in
from data_pipeline.sources.row_groups import parquet, schema_of
from tokenizers.base import Boxes
from tokenizers.content.kinds import PICTURE_KINDS, kind_of
from tokenizers.formats.annotations import BoxesFile
from tokenizers.formats.file_names import split_name
from tokenizers.formats.formats import JsonFile, NumberFile, TextFile, format_for
from tokenizers.labels import Label
from tokenizers.modality import Modality
from tokenizers.scalars import Scalar
from tokenizers.values import Colors

LOOKED_AT = 512
"""Rows that are read to know what columns hold."""
MOST_ROWS = 1_000_000
"""Rows of which all words and numbers are read."""
PLAIN = (
    *("string", "large_string", "bool", "float", "double", "halffloat"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""Types of columns of words and numbers, as arrow calls them."""
MOST_NUMBERS = 8
"""Columns of numbers that are modalities."""
KEYS = ("key", "id", "file_name", "filename", "__key__")


class FoundParquet(NamedTuple):
    """What Parquet files give.

    Attributes:
        data: To read them.
        found: By modality.
        told: What else is to be said, a sentence each.
    """

    data: ParquetData
    found: dict[str, Inferred]
    told: tuple[str, ...]


def parquet_files(root: Path) -> list[Path]:
    """Returns the Parquet files that a path stands for; [] if there are none."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".parquet" else []
    found = sorted(root.rglob("*.parquet"))
    return [each for each in found if not any(p.startswith(".") for p in each.parts)]


def infer_parquet(root: Path) -> FoundParquet:
    """Returns the modalities of Parquet files.

    Raises:
        ValueError: If they can't be read, or nobody could tell what is in them.
    """
    blank = ParquetData(path=str(root))
    by_split = blank.find_files()
    files = by_split.get("train") or next(iter(by_split.values()))
    schema = schema_of(files[0])
    rows = _first_rows(files)
    plain = _plain_columns(files, schema)
    columns: dict[str, str] = {}
    found: dict[str, Inferred] = {}
    metadata, told = [], []
    for column in schema.names:
        cells = plain.get(column) or [row[column] for row in rows]
        cells = [each for each in cells if each is not None]
        names = class_names_in(schema, column, ())
        try:
            inferred = _infer(column, cells, names)
        except ValueError as error:
            told.append(f"left alone: {error}")
            continue
        if isinstance(inferred, str):
            told.append(f"left alone: the column {column}, {inferred}")
            continue
        values = inferred.modality.values
        numbers = sum(isinstance(each.modality.values, Scalar) for each in found.values())
        if isinstance(values, Scalar) and numbers >= MOST_NUMBERS:
            told.append(f"left alone: the column {column}, as {MOST_NUMBERS} others are numbers")
            continue
        name = modality_name(column)
        if isinstance(values, Colors) and not any(
            isinstance(each.modality.values, Colors) for each in found.values()
        ):
            name = "rgb"
        elif column.lower() in CAPTION_FIELDS and "caption" not in found:
            name = "caption"
        columns[name], found[name] = column, inferred
        if isinstance(values, Label):
            metadata.append(column)
    for name, reason in ids_that_do_not_fit(found).items():
        told.append(f"left alone: the column {columns.pop(name)}, {reason}")
        del found[name]
    if not found:
        raise ValueError(
            f"No column of {files[0]} could be told: {', '.join(schema.names)}; write a "
            "configuration with ParquetData."
        )
    # What values say is how they are read, unless their files need settings of their own.
    formats = {
        name: each.file_format
        for name, each in found.items()
        if each.file_format != replace(format_for(name, each.modality.values), folder="")
    }
    key_column = next((each for each in KEYS if each in schema.names and each not in columns), "")
    data = ParquetData(
        path=str(root),
        columns=columns,
        formats=formats,
        metadata=tuple(metadata),
        key_column=key_column,
    )
    return FoundParquet(data, found, tuple(told))


def _first_rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for file in files:
        opened = parquet().ParquetFile(file, pre_buffer=False)
        for batch in opened.iter_batches(batch_size=64):
            rows += batch.to_pylist()
            if len(rows) >= LOOKED_AT:
                return rows
    return rows


def _plain_columns(files: Sequence[Path], schema: Any) -> dict[str, list[Any]]:
    """Returns all cells of columns of words and numbers; their rows may be in the order of classes.

    Of many rows there are none.
    """
    wanted = [field.name for field in schema if str(field.type) in PLAIN]
    opened = [parquet().ParquetFile(file, pre_buffer=False) for file in files]
    if sum(each.metadata.num_rows for each in opened) > MOST_ROWS or not wanted:
        return {}
    tables = [each.read(columns=wanted) for each in opened]
    return {
        name: [cell for table in tables for cell in table.column(name).to_pylist()]
        for name in wanted
    }


def _infer(column: str, cells: list[Any], names: tuple[str, ...]) -> Inferred | str:
    """Returns what a column holds, or in a few words why it is no modality."""
    if not cells:
        return "which is empty"
    first = cells[0]
    if isinstance(first, dict) and "bbox" in first:
        return _infer_boxes(cells, names)
    if isinstance(first, list) and first and isinstance(first[0], dict) and "bbox" in first[0]:
        joined = [{key: [each[key] for each in own] for key in own[0]} for own in cells if own]
        return _infer_boxes(joined, names)
    if isinstance(first, bytes) or (isinstance(first, dict) and "bytes" in first):
        return _infer_files(column, cells)
    if isinstance(first, dict):
        return f"which holds structures of {', '.join(first)}"
    if names:
        why = f"the {len(names)} classes of the column {column}"
        return Inferred(Modality(Label(names)), JsonFile(), why)
    if isinstance(first, list) and not isinstance(_inner(first), str | dict | None):
        arrays = [np.asarray(each) for each in cells if each]
        return infer_arrays(column, arrays, {}, lambda _: arrays, is_picture=False)
    kind = infer_column(column, cells)
    why = f"the column {column}, {kind.why}"
    match kind.holds:
        case "text":
            return Inferred(text_modality(kind.longest), TextFile(), why)
        case "label":
            return Inferred(Modality(Label(kind.names)), JsonFile(), why)
        case "number":
            return Inferred(Modality(Scalar()), NumberFile(), why)
    return kind.why


def _inner(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value


def _infer_files(column: str, cells: list[Any]) -> Inferred | str:
    files = []
    for number, cell in enumerate(cells):
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        path = (cell.get("path") or "") if isinstance(cell, dict) else ""
        if not content:
            continue
        extension = split_name(path)[1] or _extension_of(content)
        key = str(number)
        location = Location(column, 0, len(content), f"row {key}", extension, content=content)
        files.append((key, location))
    if not files:
        return "which has paths of files and not their bytes"
    return infer(Part(column, column, files))


def _extension_of(content: bytes) -> str:
    kind = kind_of(content)
    if kind in PICTURE_KINDS:
        return "png"
    return {"zip": "npz", "text": "txt"}.get(kind, kind)


def _infer_boxes(cells: list[dict[str, Any]], names: tuple[str, ...]) -> Inferred | str:
    label = next((each for each in BOX_LABELS if each in cells[0]), "")
    if not label:
        return "whose boxes have no class"
    given = [each for cell in cells for each in cell[label] if each is not None]
    if not names and given and isinstance(given[0], str):
        names = tuple(sorted(set(given)))
    most = max(len(cell["bbox"]) for cell in cells)
    highest = max((each for each in given if isinstance(each, int)), default=0)
    found = [Boxes(np.zeros((1, 4), np.float32), np.array([highest], np.int32))]
    largest = max((abs(n) for cell in cells for box in cell["bbox"] for n in box), default=2.0)
    unit = "fractions" if largest <= 1 else "pixels"
    corners = "xywh"
    if all(box[2] >= box[0] and box[3] >= box[1] for cell in cells for box in cell["bbox"]):
        told = (
            f"the four numbers of boxes are taken for a corner and a size, in {unit}, as in COCO; "
            "should they be two corners, set corners='xyxy' in config.py",
        )
    else:
        told = ()
    file_format = BoxesFile(class_names=names, corners=corners, unit=unit)
    inferred = described(names, found, max(most, 1), file_format)
    return replace(inferred, told=(*inferred.told, *told))

"""Parquet files, as data sets on Hugging Face are stored: a row per sample, read in any order."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.sources.files.storage import MayBeRemote, local_path
from data_pipeline.sources.row_groups import ParquetRows, parquet, schema_of
from data_pipeline.sources.slices import (
    group_by_split,
    name_of_slice,
    rows_of_slice,
    split_of_path,
    usual_splits,
)
from data_pipeline.sources.source import NOTES, Note, Sample
from data_pipeline.sources.values import (
    boxes_of,
    class_number,
    class_text,
    picture_size,
    plain_value,
    put,
)
from tokenizers.formats.file_names import natural_order
from tokenizers.formats.formats import ArrayFile, BoxesFile, FileFormat, TextFile
from tokenizers.settings.checked import name_knob

MOST_LOOKED_AT = 20
"""Values of a modality that are looked at for what all of them must share."""
BOX_LABELS = ("category", "category_id", "label", "labels", "class", "classes")
"""How the field beside `bbox` is called that says of which class a box is."""


@dataclass(frozen=True)
class ParquetData(MayBeRemote):
    """Parquet files with a row per sample, such as a folder fetched from Hugging Face.

    A picture is a column of bytes, or of structures with bytes and a path. A list of texts gives
    every view of a sample one of them. What is null, an empty list, or a class label of -1, the
    sample does not have.
    """

    path: str = ""
    """A .parquet file, or a folder of such, or the URL of either. Their names, or those of their
    folders, say of which split they are: data/train-00000-of-00004.parquet, val/0.parquet."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column of each modality, such as rgb: image. Fields of structures are joined by a dot:
    answers.text. A structure, or a list of such, with `bbox` and `category` becomes boxes. If
    empty, the modalities are those of `formats`, from columns of their names."""
    formats: dict[str, FileFormat] = field(default_factory=dict)
    """How a modality's bytes or texts store what they mean, where that is not as usual. Boxes are
    `xywh` in `pixels`, as in COCO, unless their `BoxesFile` says otherwise."""
    class_names_as_text: dict[str, str] = field(default_factory=dict)
    """Text modalities made of a class label's name, such as caption: label."""
    metadata: tuple[str, ...] = ()
    """Columns that become metadata for probing, such as label: numbers or short strings."""
    split_names: dict[str, str] = field(default_factory=dict)
    """What each split is called in the files' names; slices such as train[:90%] are allowed. If
    empty: what is there, and of a single split the last tenth for validation."""
    width_column: str = "width"
    """Column with the picture's width, for boxes in pixels; that of the sample's picture if there
    is no such column."""
    height_column: str = "height"
    """Column with its height."""
    key_column: str = ""
    """Column that names each sample; its number if empty."""
    cache_megabytes: int = 256
    """How much of what was read is kept in memory, in every process that reads."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if self.cache_megabytes < 1:
            raise ValueError(
                f"{name_knob(knob, 'cache_megabytes')} is {self.cache_megabytes}; it must be at "
                "least 1."
            )
        for name in self.split_names.values():
            name_of_slice(name)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._split_names())

    def open(self, split: str) -> "ParquetSource":
        """Returns one split.

        Raises:
            ValueError: If files, the split or a column are not there, or a file is damaged.
        """
        parquet()
        root = self._root
        if not self.path or not root.exists():
            raise ValueError(
                f"There is no parquet file or folder {self.path!r}; set --data.path to the data."
            )
        names = self._split_names()
        if split not in names:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(names)}.")
        wanted = name_of_slice(names[split])
        found = self.find_files()
        files = found.get(wanted) or found.get(split_of_path(wanted), [])
        if not files:
            raise ValueError(
                f"{self.path} has no parquet file of the split {names[split]!r}; there are files "
                f"of {', '.join(found) or 'none'}. Set --data.split-names."
            )
        return ParquetSource(files, names[split], self)

    @property
    def _root(self) -> Path:
        return local_path(self.path, self.cache_folder, ".parquet")

    def _split_names(self) -> dict[str, str]:
        return dict(self.split_names) or usual_splits([*self.find_files()])

    def find_files(self) -> dict[str, list[Path]]:
        """Returns the files by split; all are for training if no name says anything else."""
        root = self._root
        if not self.path or root.is_file():
            return {"train": [root]}
        names = {name_of_slice(name) for name in self.split_names.values()}
        inner = sorted(
            (path.relative_to(root).as_posix() for path in root.rglob("*.parquet")),
            key=natural_order,
        )
        found = group_by_split(inner, names, ".parquet")
        return {split: [root / path for path in paths] for split, paths in found.items()}


class _Column(NamedTuple):
    """A column, or a field of its structures: how it is called, and the fields that lead there."""

    name: str
    fields: tuple[str, ...]
    class_names: tuple[str, ...]
    """Of a class label, or of the boxes' classes."""
    has_boxes: bool


class ParquetSource:
    """One split of a `ParquetData`.

    Attributes:
        keys: Of every sample; only there if a column has them.
        metadata_names: Of every class label in the metadata: the name of each number.
    """

    keys: list[str]

    def __init__(self, files: list[Path], part: str, config: ParquetData):
        self._config = config
        schema = schema_of(files[0])
        unnamed = [name for name in config.formats if name not in config.class_names_as_text]
        own = config.columns or {name: name for name in unnamed}
        if not own and not config.class_names_as_text:
            raise ValueError(
                f"No modality is to be read; set --data.columns. The columns of {files[0]} are "
                f"{', '.join(schema.names)}."
            )
        self._columns = {name: _find_column(schema, each, files[0]) for name, each in own.items()}
        self._texts, self._facts = (
            {name: _find_column(schema, each, files[0]) for name, each in chosen.items()}
            for chosen in (config.class_names_as_text, {each: each for each in config.metadata})
        )
        for name, column in self._texts.items():
            if not column.class_names:
                raise ValueError(
                    f"The text of {name} is to be the class name of {column.name!r}, which is no "
                    "class label; use `columns` for columns that are text already."
                )
        sizes = [each for each in (config.width_column, config.height_column) if each]
        self._size_columns = sizes if all(each in schema.names for each in sizes) else []
        wanted = [
            column for part in (self._columns, self._texts, self._facts) for column in part.values()
        ]
        read = dict.fromkeys([_path_to_read(schema, each) for each in wanted] + self._size_columns)
        self._rows = ParquetRows(files, list(read), config.cache_megabytes * 2**20)
        self._chosen = rows_of_slice(part, len(self._rows))
        self._formats = {
            name: each.settled(self._first(self._columns[name])) if name in self._columns else each
            for name, each in config.formats.items()
        }
        self.metadata_names = {
            name: column.class_names for name, column in self._facts.items() if column.class_names
        }
        if config.key_column:
            _find_column(schema, config.key_column, files[0])
            keys = self._rows.column(config.key_column)
            self.keys = [str(keys[row]) for row in self._chosen]

    def _first(self, column: _Column) -> Iterator[bytes]:
        """Yields the bytes of the first few values that can be read."""
        for row_number in self._chosen[:MOST_LOOKED_AT]:
            with contextlib.suppress(ValueError):
                value = _value_at(self._rows.row(row_number), column)
                value = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(value, bytes):
                    yield value

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample; what can't be read is absent, with a note."""
        row_number = self._chosen[index]
        file = str(self._rows.place(row_number).file)
        key = self.keys[index] if self._config.key_column else str(index)
        try:
            row = self._rows.row(row_number)
        except ValueError as error:
            return {NOTES: [Note("unreadable", "", key, file, str(error))]}
        sample: Sample = {}
        # Boxes last, for those in pixels need the picture's size.
        for name, column in sorted(self._columns.items(), key=lambda item: item[1].has_boxes):
            read = self._boxes if column.has_boxes else self._value
            put(sample, name, lambda n=name, c=column, r=read: r(row, sample, n, c), key, file)
        for name, column in self._texts.items():
            put(
                sample,
                name,
                lambda c=column: class_text(_value_at(row, c), c.class_names),
                key,
                file,
            )
        for name, column in self._facts.items():
            put(sample, name, lambda c=column: _fact(_value_at(row, c), c), key, file, fact=True)
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        # In the order of the files, so that nothing is decoded twice.
        order = sorted(range(len(indices)), key=lambda place: indices[place])
        samples: list[Sample] = [{}] * len(indices)
        for place in order:
            samples[place] = self[indices[place]]
        return samples

    def file_of(self, index: int, modality: str) -> str:
        """Returns in which file a sample is."""
        return str(self._rows.place(self._chosen[index]).file)

    def state_of(self, index: int) -> str:
        """Returns a text that is another one if the file of a sample has changed."""
        return self._rows.state(self._chosen[index])

    def _value(self, row: dict, sample: Sample, name: str, column: _Column) -> Any:
        value, path = _value_at(row, column), ""
        file_format = self._formats.get(name)
        if isinstance(value, dict):
            if "bytes" not in value:
                raise ValueError(
                    f"has the fields {', '.join(value)}; only one with bytes can be read, or with "
                    f"bbox and a class ({', '.join(BOX_LABELS)}). Name a field, such as "
                    f"{column.name}.{next(iter(value), 'text')}"
                )
            path, value = value.get("path") or "", value["bytes"]
            if value is None and path:
                raise ValueError(f"has the path {path!r} of a picture and not its bytes")
        if isinstance(value, bytes):
            return (file_format or ArrayFile()).read(value, _extension(value, path, file_format))
        if isinstance(value, str) and file_format and not isinstance(file_format, TextFile):
            is_json = value.lstrip()[:1] in ("{", "[")
            return file_format.read(value.encode(), "json" if is_json else "txt")
        if column.class_names and not isinstance(value, list):
            return class_number(value, column.class_names)
        value = plain_value(value)
        if isinstance(value, np.ndarray) and isinstance(file_format, ArrayFile):
            stored = io.BytesIO()
            np.save(stored, value)
            return file_format.read(stored.getvalue(), "npy")
        return value

    def _boxes(self, row: dict, sample: Sample, name: str, column: _Column) -> Any:
        value = _value_at(row, column)
        if value is None:
            return None
        if isinstance(value, list):
            fields = value[0] if value else {"bbox": (), BOX_LABELS[0]: ()}
            value = {field: [each[field] for each in value] for field in fields}
        label = next((each for each in BOX_LABELS if each in value), "")
        if not label:
            raise ValueError(
                f"has boxes with the fields {', '.join(value)}, none of which says their class "
                f"({', '.join(BOX_LABELS)})"
            )
        given = self._config.formats.get(name)
        given = given if isinstance(given, BoxesFile) else BoxesFile()
        file_format = replace(given, corners=given.corners or "xywh", unit=given.unit or "pixels")
        labels = value[label]
        if given.class_names and column.class_names:
            # By name, for the schema may have others, or others first.
            labels = [_name_of(each, column.class_names) for each in labels]
        size = picture_size(sample)
        if self._size_columns:
            height, width = (row[each].as_py() for each in reversed(self._size_columns))
            size = (height, width) if height and width else size
        return boxes_of(value["bbox"], labels, size, file_format)


def _find_column(schema: Any, path: str, file: Path) -> _Column:
    """Returns the column of a name, or the field of a structure that the name leads to."""
    name, fields = (path, ()) if path in schema.names else _split(path)
    if name not in schema.names:
        raise ValueError(
            f"{file} has no column {name!r}; its columns are {', '.join(schema.names)}."
        )
    kind = schema.field(name).type
    for field_name in fields:
        kind = _unwrapped(kind)
        have = [each.name for each in kind.fields] if _is_struct(kind) else []
        if field_name not in have:
            raise ValueError(
                f"The column {name!r} of {file} has no field {field_name!r} ({path}); it has "
                f"{', '.join(have) or 'no fields'}."
            )
        kind = kind.field(field_name).type
    kind = _unwrapped(kind)
    has_boxes = _is_struct(kind) and any(each.name == "bbox" for each in kind.fields)
    return _Column(name, fields, class_names_in(schema, name, fields), has_boxes)


def _split(path: str) -> tuple[str, tuple[str, ...]]:
    name, *fields = path.split(".")
    return name, tuple(fields)


def _unwrapped(kind: Any) -> Any:
    """Returns what a list is a list of."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind


def _is_struct(kind: Any) -> bool:
    return hasattr(kind, "fields") and kind.num_fields > 0


def _path_to_read(schema: Any, column: _Column) -> str:
    """Returns what is read for a column: no more than the field, unless it is inside of lists."""
    kind, path = schema.field(column.name).type, column.name
    for field_name in column.fields:
        if hasattr(kind, "value_type"):
            break
        path, kind = f"{path}.{field_name}", kind.field(field_name).type
    return path


def class_names_in(schema: Any, name: str, fields: Sequence[str]) -> tuple[str, ...]:
    """Returns a class label's names, as the library datasets writes them into a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = _inner(features[name])
        for field_name in fields:
            feature = _inner(feature[field_name])
        label = next((each for each in BOX_LABELS if each in feature and "bbox" in feature), None)
        names = (_inner(feature[label]) if label else feature)["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return ()
    is_named = isinstance(names, list) and all(isinstance(each, str) for each in names)
    return tuple(names) if is_named else ()


def _inner(feature: Any) -> Any:
    """Returns the feature that a list of features is of."""
    while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    return feature


def _value_at(row: dict[str, Any], column: _Column) -> Any:
    value = row[column.name].as_py()
    for field_name in column.fields:
        if isinstance(value, list):
            value = [each[field_name] for each in value if each is not None]
        elif value is not None:
            value = value[field_name]
    return value


def _name_of(label: Any, names: Sequence[str]) -> str | None:
    number = None if isinstance(label, str) else class_number(label, names)
    return label if isinstance(label, str) else None if number is None else names[number]


def _fact(value: Any, column: _Column) -> Any:
    if column.class_names and not isinstance(value, list):
        return class_number(value, column.class_names)
    return plain_value(value)


def _extension(data: bytes, path: str, file_format: FileFormat | None) -> str:
    """Returns of what kind a file is: by the end of its path, or by what its bytes look like."""
    ending = path.rpartition(".")[2].lower() if "." in path else ""
    if ending:
        return ending
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data.startswith(b"PK\x03\x04"):
        return "npz"
    if isinstance(file_format, ArrayFile | None):
        return "png"  # Any picture: which it is, is seen by its bytes.
    return "json" if data.lstrip()[:1] in (b"{", b"[") else "txt"

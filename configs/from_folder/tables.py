"""A table with a row per sample, beside files or alone: which of its columns are modalities."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from configs.from_folder.content import (
    CAPTION_FIELDS,
    IS_LABEL,
    is_number,
    label_names,
    text_modality,
)
from configs.from_folder.places import SPLIT_NAMES, Files, split_meant
from configs.from_folder.structure import modality_name
from data_pipeline.sources.files.splits import (
    SplitByColumn,
    SplitByFolder,
    SplitByFraction,
    Splits,
)
from data_pipeline.sources.files.tables import NONE, TableColumn, TableRow, read_rows
from tokenizers.formats.file_format import READABLE
from tokenizers.formats.file_names import normal_key, split_name
from tokenizers.labels import Label
from tokenizers.modality import Modality
from tokenizers.rows import Row
from tokenizers.scalars import Scalar

Holds = Literal["text", "label", "number", "fact"]
IS_KEY = re.compile(r"(.*_)?(id|index|key|uuid|hash|md5|sha\d*|url|path|file|filename|file_name)|")
"""Names of columns that tell rows apart."""
WORDS = 2.5
"""Words that a text has on average, at least, unless its column is called so."""
USUAL_KEYS = ("key", "file_name", "filename", "file", "image", "image_path", "path", "id")
"""Columns that hold a sample's key, those first that are likeliest."""
NAMED = 0.5
"""Share of rows whose key is that of a file, at least."""
MOST_APART = 3
"""Numbers and labels that are modalities of their own; of more, a row is one modality."""
DOUBLED = 0.1
MOST_LISTED = 6


class Column(NamedTuple):
    """What a column holds.

    Attributes:
        holds: A text, one of several names, a number; or something that tells rows apart.
        names: Of a label.
        is_named: Whether a label's cells are names; otherwise they are numbers.
        longest: Words of the longest text.
        why: In a few words.
    """

    holds: Holds
    names: tuple[str, ...] = ()
    is_named: bool = False
    longest: int = 0
    why: str = ""


@dataclass(frozen=True)
class FoundTable:
    """What a table gives.

    Attributes:
        table: As `FilesData.table`.
        key_column: As `FilesData.key_column`.
        modalities: By name.
        formats: By name.
        why: What each was concluded from.
        told: What else is to be said, a sentence each.
        splits_by: How it splits the samples; None if it doesn't.
    """

    table: str
    key_column: str
    modalities: dict[str, Modality] = field(default_factory=dict)
    formats: dict[str, TableColumn] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    splits_by: Splits | None = None


def find_table(
    root: Path, tables: Files, keys: Collection[str], splits_by: Splits
) -> tuple[FoundTable | None, tuple[str, ...]]:
    """Returns what the table of a data set gives, and why others are left alone.

    Args:
        root: Folder of the data set.
        tables: Name below it, and where it is.
        keys: Of the files of the split to train on; none if there are no files.
        splits_by: How the files are split.
    """
    best: tuple[tuple[float, ...], str, str, list[Any], int] | None = None
    left_alone = []
    for name, _ in tables:
        if _is_of_another_split(name, splits_by):
            continue
        try:
            columns, lines = read_rows(root / name)
        except ValueError as error:
            left_alone.append(str(error))
            continue
        rows = [row for row in lines if isinstance(row, dict)]
        if not rows:
            left_alone.append(f"{name}, which has no row")
            continue
        key_column, share = _key_column(columns, rows, keys)
        if keys and share < NAMED:
            left_alone.append(f"{name}, of which no column names the files")
            continue
        is_usual = name.rpartition("/")[2].startswith("metadata.")
        score = (is_usual, share, len(columns), len(rows))
        if best is not None and score <= best[0]:
            left_alone.append(f"{name}, as {best[1]} is read")
            continue
        if best is not None:
            left_alone.append(f"{best[1]}, as {name} is read")
        best = (score, name, key_column, rows, len(lines))
    if best is None:
        return None, tuple(left_alone)
    _, name, key_column, rows, _ = best
    found = _modalities_of(rows, key_column)
    table, by_table = _template(name, [each for each, _ in tables], splits_by, bool(keys))
    told = list(found.told)
    if doubled := _doubled(rows, key_column):
        told.append(
            f"of the rows of {name}, {doubled:,} are of samples that have one; the first counts"
        )
    splits = by_table or found.splits_by
    if isinstance(splits_by, SplitByFolder) and not by_table:
        splits = None
    found = FoundTable(
        *(table, key_column, found.modalities, found.formats, found.why),
        told=tuple(told),
        splits_by=splits,
    )
    return found, tuple(left_alone)


def _key_column(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]], keys: Collection[str]
) -> tuple[str, float]:
    """Returns the column that names the samples, and in which share of rows it names a file."""
    order = [each for each in USUAL_KEYS if each in columns]
    order += [each for each in columns if each not in order]
    if not keys:
        for name in order:
            cells = [str(row.get(name) or "") for row in rows]
            is_key = name.lower() in ("key", "id", "file_name", "filename")
            if is_key and all(cells) and len(set(cells)) == len(cells):
                return name, 0.0
        return "", 0.0
    bare = {key.rpartition("/")[2] for key in keys} | set(keys)
    best, most = "", 0.0
    for name in order:
        cells = [str(row.get(name) or "") for row in rows]
        share = sum(_names_file(cell, bare) for cell in cells) / len(cells)
        if share > most:
            best, most = name, share
    return best, most


def _names_file(cell: str, keys: Collection[str]) -> bool:
    name = normal_key(cell.strip().replace("\\", "/"))
    if name in keys:
        return True
    stem, extension = split_name(name)
    stem = stem if extension in READABLE else name
    return stem in keys or stem.rpartition("/")[2] in keys


def _doubled(rows: Sequence[Mapping[str, Any]], key_column: str) -> int:
    if not key_column:
        return 0
    counted = Counter(str(row.get(key_column)) for row in rows)
    doubled = len(rows) - len(counted)
    return doubled if doubled > DOUBLED * len(rows) else 0


def _is_of_another_split(name: str, splits_by: Splits) -> bool:
    """True if a table lies in the folder of a split, but not of the one to train on."""
    own = splits_by.folder_of("train")
    first = name.partition("/")[0]
    if "/" in name and isinstance(splits_by, SplitByFolder):
        return first != own and first in splits_by.folders.values()
    meant = split_meant(split_name(name.rpartition("/")[2])[0])
    return meant not in ("", "train")


def _template(
    name: str, names: Sequence[str], splits_by: Splits, has_files: bool
) -> tuple[str, Splits | None]:
    """Returns a table's name with the split replaced, and the splits that tables make."""
    own = splits_by.folder_of("train")
    if isinstance(splits_by, SplitByFolder) and name.startswith(f"{own}/"):
        return "{split}" + name[len(own) :], None
    stem, extension = split_name(name)
    is_divided = has_files and splits_by != SplitByFraction(folder="")
    if split_meant(stem) == "train" and not is_divided:
        there = {split_name(each)[0]: each for each in names}
        texts = {
            split: word
            for split, words in SPLIT_NAMES.items()
            for word in words
            if there.get(word, "").endswith(f".{extension}")
        }
        if len(texts) > 1:
            return "{split}" + f".{extension}", SplitByFolder(texts)
    if isinstance(splits_by, SplitByFolder) and stem == own:
        return "{split}" + f".{extension}", None
    return name, None


def _modalities_of(rows: Sequence[Mapping[str, Any]], key_column: str) -> FoundTable:
    columns = dict.fromkeys(name for row in rows for name in row if name != key_column)
    cells = {
        name: [
            cell
            for cell in (row.get(name) for row in rows)
            if cell not in (None, [], {}) and str(cell).strip().lower() not in NONE
        ]
        for name in columns
    }
    kinds = {name: infer_column(name, own) for name, own in cells.items()}
    modalities: dict[str, Modality] = {}
    formats: dict[str, TableColumn] = {}
    why: dict[str, str] = {}

    def add(name: str, modality: Modality, file_format: TableColumn, reason: str) -> None:
        modalities[name], formats[name], why[name] = modality, file_format, reason

    splits_by = None
    texts = [name for name, each in kinds.items() if each.holds == "text"]
    for name in texts:
        is_caption = name.lower() in CAPTION_FIELDS and "caption" not in modalities
        called = "caption" if is_caption else modality_name(name)
        reason = f"the column {name}, {kinds[name].why}"
        add(called, text_modality(kinds[name].longest), TableColumn(column=name), reason)
    others = {name: each for name, each in kinds.items() if each.holds in ("label", "number")}
    for name in [name for name in others if name.lower() in ("split", "fold", "set", "subset")]:
        if splits := _splits_of(name, cells[name]):
            splits_by = splits
            del others[name]
    apart = {name: each for name, each in others.items() if _is_target(name, each)}
    together = {name: each for name, each in others.items() if name not in apart}
    if len(together) <= MOST_APART:
        apart, together = others, {}
    for name, each in apart.items():
        reason = f"the column {name}, {each.why}"
        if each.holds == "number":
            file_format = TableColumn(column=name, holds="number")
            add(modality_name(name), Modality(Scalar()), file_format, reason)
            continue
        names = each.names if each.is_named else ()
        file_format = TableColumn(column=name, holds="class", class_names=names)
        add(modality_name(name), Modality(Label(each.names)), file_format, reason)
    if together:
        numbers = tuple(name for name, each in together.items() if each.holds == "number")
        categories = {name: each.names for name, each in together.items() if each.holds == "label"}
        shown = ", ".join([*together][:MOST_LISTED]) + (", ..." if len(together) > 6 else "")
        reason = f"{len(together)} columns of numbers and words: {shown}"
        add(
            "row" if "row" not in modalities else "table_row",
            Modality(Row(numbers, categories)),
            TableRow(columns=(*numbers, *categories)),
            reason,
        )
    facts = [name for name, each in kinds.items() if each.holds == "fact"]
    told = tuple(
        f"the column {name} is a fact, no modality: {kinds[name].why}"
        for name in facts[:MOST_LISTED]
    )
    return FoundTable("", "", modalities, formats, why, told, splits_by)


def _is_target(name: str, column: Column) -> bool:
    return column.holds == "label" and bool(IS_LABEL.fullmatch(name.lower()))


def _splits_of(name: str, cells: Sequence[Any]) -> Splits | None:
    """Returns the splits that a column names."""
    values = {split_meant(word): word for word in map(str, dict.fromkeys(cells))}
    if "train" not in values or "" in values or len(values) < 2:
        return None
    return SplitByColumn(name, {split: values[split] for split in SPLIT_NAMES if split in values})


def splits_for(splits_by: Splits, found: FoundTable | None) -> Splits:
    """Returns how samples are split, by the table if that says it."""
    if found is None or found.splits_by is None:
        return splits_by
    if isinstance(found.splits_by, SplitByColumn) and isinstance(splits_by, SplitByFraction):
        return SplitByColumn(
            found.splits_by.column, found.splits_by.values, folder=splits_by.folder
        )
    return found.splits_by


def infer_column(name: str, cells: Sequence[Any]) -> Column:
    """Returns what cells, of which empty ones are left out, hold.

    Example:
        >>> infer_column("breed", ["pug", "beagle", "pug", "beagle", "pug"]).names
        ('beagle', 'pug')
        >>> infer_column("age", ["3", "4.5", "2"]).holds, infer_column("id", [7, 8, 9]).holds
        ('number', 'fact')
    """
    if not cells or not all(isinstance(each, str | int | float | list) for each in cells):
        return Column("fact", why="no text or number")
    if any(isinstance(each, list) for each in cells):
        texts = [each for several in cells if isinstance(several, list) for each in several]
        if texts and all(isinstance(each, str) for each in texts):
            longest = max(len(each.split()) for each in texts)
            return Column("text", longest=longest, why=f"lists of texts of up to {longest} words")
        return Column("fact", why="lists")
    words = [str(each).strip() for each in cells]
    lower = name.lower()
    counted = Counter(words)
    if all(map(is_number, words)):
        return _infer_numbers(lower, words, counted)
    longest = max(len(each.split()) for each in words)
    if lower in CAPTION_FIELDS:
        return Column("text", longest=longest, why=f"texts of up to {longest} words")
    names = label_names(counted)
    if names and not all(each.isdecimal() for each in counted):
        return Column("label", names, is_named=True, why=f"{len(names)} different words")
    if IS_KEY.fullmatch(lower) or sum(len(each.split()) for each in words) < WORDS * len(words):
        return Column("fact", why="a name of its own in most rows")
    return Column("text", longest=longest, why=f"texts of up to {longest} words")


def _infer_numbers(name: str, words: list[str], counted: Counter[str]) -> Column:
    is_whole = all(re.fullmatch(r"[+-]?\d+", each) for each in words)
    if IS_LABEL.fullmatch(name) and is_whole:
        counted.pop("-1", None)
        if names := label_names(counted):
            return Column("label", names, why=f"{len(counted)} different numbers, and the name")
    if len(counted) < 2:
        return Column("fact", why="the same number in all rows")
    numbers = sorted(map(float, counted))
    in_a_row = len(counted) == len(words) and numbers[-1] - numbers[0] < 2 * len(words)
    if is_whole and (IS_KEY.fullmatch(name) or (in_a_row and len(words) > 2)):
        return Column("fact", why="another whole number in every row")
    return Column("number", why=f"numbers from {numbers[0]:g} to {numbers[-1]:g}")

"""Tables with a row per sample: facts, groups to split by, and modalities that are a column."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.sources.files.locations import Location, read_bytes, why_apart
from data_pipeline.sources.source import Note

# Configurations of earlier versions import TableRow from here.
from tokenizers.formats.cells import NONE, Cells, TableColumn, TableRow  # noqa: F401
from tokenizers.formats.file_format import READABLE
from tokenizers.formats.file_names import normal_key, split_name

FILE_NAME = "file_name"
"""Column with keys in the tables of Hugging Face's imagefolder."""
BYTE_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Table(NamedTuple):
    """A table with a row per sample.

    Attributes:
        rows: By key.
        columns: All columns but the key's.
        notes: On rows that are not used.
        file: Where it was read from.
    """

    rows: dict[str, Cells]
    columns: tuple[str, ...]
    notes: tuple[Note, ...] = ()
    file: str = ""


def load_table(file: Path, key_column: str) -> Table:
    """Returns a table with a header (CSV, TSV) or of lines of JSON as rows by key.

    A key may be the name of a file, as in Hugging Face's metadata.csv; without a column, rows are
    numbered from 0. Of two rows for one key the
    first counts, and a row of another length is left out; notes say so.

    Raises:
        ValueError: If it is not there, can't be read, or has no such column.
    """
    columns, lines = read_rows(file)
    if key_column and key_column not in columns and FILE_NAME in columns:
        key_column = FILE_NAME
    if key_column and key_column not in columns:
        raise ValueError(
            f"{file} has the columns {_shown(columns)}; set key_column, now {key_column!r}, to "
            "the one with the samples' keys."
        )
    rows: dict[str, Cells] = {}
    notes: list[Note] = []
    for number, row in enumerate(lines, 1):
        where = f"row {number} of {file}"
        if isinstance(row, str):
            notes.append(Note("ignored", "", "", where, row))
            continue
        value = row.pop(key_column, None) if key_column else number - 1
        key = "" if value is None else normal_key(str(value).strip())
        if not key:
            notes.append(Note("ignored", "", "", where, "has no key"))
        elif key in rows:
            reason = f"is another row for the key {key!r}"
            notes.append(Note("listed twice", "", key, where, reason))
        else:
            rows[key] = row
    if not rows:
        reason = f": {notes[0].file} {notes[0].reason}" if notes else ""
        raise ValueError(f"The table {file} has no row that can be used{reason}; check `table`.")
    others = tuple(each for each in columns if each != key_column)
    return Table(rows, others, tuple(notes), str(file))


def read_rows(file: Path) -> tuple[tuple[str, ...], list[Cells | str]]:
    """Returns the columns and the rows of a table; in place of a row of no use, the reason.

    Raises:
        ValueError: If it is not there or can't be read.
    """
    try:
        size = file.stat().st_size
        extension = split_name(file.name)[1]
        data = read_bytes(Location(str(file), 0, size, "", extension))
        encoding = next(
            (name for mark, name in BYTE_MARKS.items() if data[:2] == mark), "utf-8-sig"
        )
        read = _read_json_lines if extension in ("jsonl", "ndjson", "json") else _read_csv
        columns, lines = read(data.decode(encoding), extension)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The table {file} is no UTF-8 text, from byte {error.start} on; save it as UTF-8."
        ) from error
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"The table {file} can't be read ({error}); check `table`.") from error
    return columns, lines


def rows_of(
    table: Table, files: Mapping[str, Mapping[str, Location]], root: str, folders: Sequence[str]
) -> Table:
    """Returns a table whose rows are by the keys of files, as far as these are known.

    A row's own key may be a file's name: with an extension, below a folder, or with whatever else
    a pattern says.

    Args:
        table: As it was read.
        files: By modality and key. Rows of none of them keep their keys, without an extension.
        root: Folder of the data set.
        folders: What may stand before a row's key: the split's, and train/rgb.

    Raises:
        ValueError: If there are files, and no row is of any of them.
    """
    known = set().union(*files.values())
    rows: dict[str, Cells] = {}
    notes = list(table.notes)
    key_of = {name: _known_key(name, known, folders) for name in table.rows}
    met = {key for key in key_of.values() if key}
    if len(met) < len(known):
        by_file = _keys_by_file(files, root, folders[0] if folders else "")
        key_of = {name: key or by_file.get(name, "") for name, key in key_of.items()}
        met = {key for key in key_of.values() if key}
    for name, row in table.rows.items():
        key = key_of[name] or list(_names_of(name, folders))[-1]
        if key in rows:
            reason = f"{name!r} is another row for the key {key!r}"
            notes.append(Note("listed twice", "", key, table.file, reason))
        else:
            rows[key] = row
    if known and not met:
        reason = why_apart(rows, known)
        raise ValueError(
            f"No row of {table.file or 'the table'} is of any sample: its keys look like "
            f"{next(iter(table.rows), '')!r}, those of files like {min(known)!r}"
            f"{f': {reason}' if reason else ''}. Set key_column or `table`."
        )
    if lacking := known - met:
        reason = f"has no row for {len(lacking):,} of {len(known):,} keys, such as {min(lacking)!r}"
        notes.append(Note("incomplete", "", "", table.file, reason))
    return table._replace(rows=rows, notes=tuple(notes))


def cells_of(table: Table, name: str, column: TableColumn) -> dict[str, Location]:
    """Returns where each key's cell of a column is, if it has one.

    Raises:
        ValueError: If there is no such column, or it is empty.
    """
    columns = column.columns_of(name)
    wanted = next((each for each in columns if each not in table.columns), columns[0])
    if wanted not in table.columns:
        raise ValueError(
            f"The modality {name} is to be the column {wanted!r} of {table.file}, which has "
            f"{_shown(table.columns)}; set data.modalities.{name}.column."
        )
    found = {}
    for key, row in table.rows.items():
        cell = column.cell_of(row, columns)
        if not column.is_absent(cell):
            is_text = isinstance(cell, str)
            content = (cell if is_text else json.dumps(cell)).encode("utf-8", "replace")
            where = f"column {wanted}, row {key}"
            extension = "txt" if is_text else "json"
            found[key] = Location(table.file, 0, len(content), where, extension, content=content)
    if not found:
        raise ValueError(
            f"The column {wanted!r} of {table.file} is empty in all rows; set "
            f"data.modalities.{name}.column."
        )
    return found


def facts_of(table: Table, leave_out: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns the columns that hold words or numbers, by name and key.

    Args:
        table: With rows by the keys of samples.
        leave_out: Columns that are no facts: the group, which is in one split only, so that nothing
            about it can be learnt and then tested; and modalities.
    """
    columns = [column for column in table.columns if column not in set(leave_out)]
    facts: dict[str, dict[str, str]] = {column: {} for column in columns}
    for key, row in table.rows.items():
        for column in columns:
            value = row.get(column)
            if isinstance(value, str | int | float) and (text := str(value).strip()):
                facts[column][key] = str(int(value)) if isinstance(value, bool) else text
    return {column: by_key for column, by_key in facts.items() if by_key}


def numbers_of(by_key: Mapping[str, str]) -> tuple[dict[str, float | int], tuple[str, ...]]:
    """Returns a column as numbers: its own, or each word's place among all words of the column.

    The words are those of the whole table, so that a number means the same in every split. In a
    column of whole numbers, -1 means none if no other is below 0; NaN always does.
    """
    by_key = {key: text for key, text in by_key.items() if text.lower() not in NONE}
    texts = set(by_key.values())
    for number in (int, float):
        try:
            numbers = {text: number(text.replace("_", "?")) for text in texts}
        except ValueError:
            continue
        if number is int and min(numbers.values(), default=0) == -1:
            numbers = {text: value for text, value in numbers.items() if value != -1}
        numbers = {text: value for text, value in numbers.items() if math.isfinite(value)}
        return {key: numbers[text] for key, text in by_key.items() if text in numbers}, ()
    names = tuple(sorted(texts))
    index_of = {name: index for index, name in enumerate(names)}
    return {key: index_of[text] for key, text in by_key.items()}, names


def _known_key(name: str, known: Collection[str], folders: Sequence[str]) -> str:
    return next((each for each in _names_of(name, folders) if each in known), "")


def _keys_by_file(
    files: Mapping[str, Mapping[str, Location]], root: str, folder: str
) -> dict[str, str]:
    """Returns the key of every file by what a table may call it.

    That is its path below the data set's folder or the split's, or in its archive, or its name
    alone, each with or without extension. What could be several keys is none.
    """
    found: dict[str, str] = {}
    for by_key in files.values():
        for key, location in by_key.items():
            path = location.member or location.file.removeprefix(root).lstrip("/")
            path = normal_key(path)
            inner = path.removeprefix(f"{folder}/") if folder else path
            for name in {path, inner, path.rpartition("/")[2]}:
                for each in (name, split_name(name)[0]):
                    found[each] = key if found.get(each, key) == key else ""
    return found


def _names_of(name: str, folders: Sequence[str]) -> Iterator[str]:
    """Yields what a row's key may stand for, the likeliest first, and last its bare name."""
    name = name.replace("\\", "/").removeprefix("./")
    short = [
        name[len(folder) + 1 :] for folder in folders if folder and name.startswith(f"{folder}/")
    ]
    for each in (name, *short):
        stem, extension = split_name(each)
        yield each.removeprefix("all/")
        if extension in READABLE:
            yield stem.removeprefix("all/")


def _read_csv(text: str, extension: str) -> tuple[tuple[str, ...], list[Cells | str]]:
    """Returns the columns and the rows; in place of a row that is of no use, the reason."""
    head = text.partition("\n")[0]
    delimiter = "\t" if extension in ("tsv", "tab") else ","
    if delimiter not in head:
        delimiter = max(",\t;", key=head.count)
    # A quotation mark that is never closed would take all that follows for one cell.
    stream = io.StringIO(text, newline="")
    try:
        header, *rows = csv.reader(stream, delimiter=delimiter, strict=True)
    except csv.Error:
        if delimiter != "\t":
            raise
        header, *rows = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    except ValueError:
        raise ValueError("it is empty") from None
    columns = tuple(name.strip() for name in header)
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"it has several columns of the name {twice[0]!r}")
    lines: list[Cells | str] = [
        dict(zip(columns, row, strict=True))
        if len(row) == len(columns)
        else "has another length than the header"
        for row in rows
        if row
    ]
    return columns, lines


def _read_json_lines(text: str, extension: str) -> tuple[tuple[str, ...], list[Cells | str]]:
    """Returns the columns and the rows; in place of a row that is of no use, the reason."""
    lines: list[Cells | str] = []
    if extension == "json":
        whole = json.loads(text)
        if not isinstance(whole, list):
            raise ValueError("it must be a list of objects, or a line of JSON for each row")
        lines += [each if isinstance(each, dict) else "is no object" for each in whole]
    else:
        for line in filter(str.strip, text.split("\n")):
            try:
                row = json.loads(line)
                lines.append(row if isinstance(row, dict) else "is no object")
            except ValueError as error:
                lines.append(f"is no JSON ({error})")
    columns = dict.fromkeys(name for row in lines if isinstance(row, dict) for name in row)
    return tuple(columns), lines


def _shown(columns: Sequence[str]) -> str:
    shown = ", ".join(" ".join(name.split()) for name in columns)
    return shown if len(shown) <= 300 else f"{shown[:300]}..."

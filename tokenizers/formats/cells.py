"""Values that are no files: cells and rows of a table, and names of folders."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tokenizers.base import Choices
from tokenizers.formats.file_format import FileFormat
from tokenizers.settings.checked import name_knob

NONE = ("", "nan")
"""Texts, in lower case, that stand for a number or a class that is not known."""

Cells = dict[str, Any]
"""By column: texts, or whatever a line of JSON holds."""


@dataclass(frozen=True)
class TableColumn(FileFormat):
    """A column of the data set's table, in place of files.

    A sample lacks the modality if its cell is empty; so it does if a class is -1.
    """

    column: str = ""
    """Name of the column; the modality's own name if empty."""
    holds: Literal["text", "number", "numbers", "class"] = "text"
    """What a cell is: a text, which in JSON may be a list of several for one picture; a number; a
    list of numbers in JSON; or a class."""
    class_names: tuple[str, ...] = ()
    """Names in the order of their class numbers. If empty, a cell holds the number."""

    def check_knobs(self, knob: str) -> None:
        if self.folder or self.extension or self.pattern:
            raise ValueError(
                f"{name_knob(knob, 'folder')}, extension and pattern are of files; a column of a "
                "table has none: TableColumn(column='caption')."
            )

    def columns_of(self, name: str) -> tuple[str, ...]:
        """Returns the columns that a modality of this name is made of."""
        return (self.column or name,)

    def cell_of(self, row: Cells, columns: tuple[str, ...]) -> Any:
        """Returns what of a row is the modality's value."""
        return row.get(columns[0])

    def read(self, data: bytes, extension: str) -> Any:
        cell = json.loads(data) if extension == "json" else data.decode()
        match self.holds:
            case "text":
                if isinstance(cell, list):
                    return Choices(_text_of(each) for each in cell)
                return _text_of(cell)
            case "number":
                return _number_of(cell)
            case "numbers":
                values = json.loads(cell) if isinstance(cell, str) else cell
                array = np.asarray(values)
                if array.dtype.kind not in "iuf":
                    raise ValueError("is not a list of numbers")
                return array
            case "class":
                return self._class_of(cell)

    def is_absent(self, cell: Any) -> bool:
        """True for a cell that says that the sample has no such value."""
        if cell is None or cell == "" or cell == []:
            return True
        if self.holds == "text":
            return isinstance(cell, str) and not cell.strip()
        if isinstance(cell, float) and math.isnan(cell):
            return True
        text = str(cell).strip()
        is_none = text.lower() in NONE
        return is_none or (self.holds == "class" and text in ("-1", "-1.0"))

    def _class_of(self, cell: Any) -> int:
        text = str(cell).strip()
        if text in self.class_names:
            return self.class_names.index(text)
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if number < 0 or number % 1 or (self.class_names and number >= len(self.class_names)):
            allowed = ", ".join(self.class_names) or "whole numbers from 0; set class_names"
            raise ValueError(f"is {text!r}, which is no class; there are {allowed}")
        return int(number)


@dataclass(frozen=True)
class TableRow(TableColumn):
    """Several columns of the data set's table as one value, of which any cell may be empty."""

    columns: tuple[str, ...] = ()
    """Names of the columns, which are those of the modality's `Row`."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if not self.columns or self.column:
            raise ValueError(
                f"{name_knob(knob, 'columns')} is empty, or column is set; name the columns: "
                "TableRow(columns=('age', 'weight'))."
            )

    def columns_of(self, name: str) -> tuple[str, ...]:
        return self.columns

    def cell_of(self, row: Cells, columns: tuple[str, ...]) -> dict[str, Any]:
        return {
            name: None if str(cell).strip().lower() in NONE else cell
            for name, cell in ((name, row.get(name)) for name in columns)
        }

    def read(self, data: bytes, extension: str) -> dict[str, Any]:
        return json.loads(data)

    def is_absent(self, cell: dict[str, Any]) -> bool:
        return all(each is None for each in cell.values())


@dataclass(frozen=True)
class FolderName(FileFormat):
    """The first folder in a sample's key, in place of files: dog for dog/0001.

    A sample whose file lies in no such folder lacks the modality.
    """

    def check_knobs(self, knob: str) -> None:
        if self.folder or self.extension or self.pattern or self.skip:
            raise ValueError(
                f"{name_knob(knob, 'folder')}, extension, pattern and skip are of files; a "
                "folder's name has none: FolderName()."
            )

    def read(self, data: bytes, extension: str) -> str:
        return data.decode()


def _text_of(cell: Any) -> str:
    if isinstance(cell, dict | list | bool) or cell is None:
        raise ValueError(f"is {cell!r}, not a text")
    text = str(cell).strip()
    if not text:
        raise ValueError("is an empty text")
    return text


def _number_of(cell: Any) -> float:
    if isinstance(cell, dict | list) or cell is None:
        raise ValueError(f"is {cell!r}, not a number")
    try:
        return float(cell)
    except ValueError as error:
        raise ValueError(f"is {cell!r}, not a number") from error

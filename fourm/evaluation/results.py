"""Rows of results: one direction, one metric, between a floor and a ceiling."""

import json
import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenizers.base import RawBatch, Values
from tokenizers.process.command import is_debugging
from tokenizers.storage.unfinished import write_file

Row = dict[str, Any]
"""{"inputs": [...], "target", "metric", "better", "floor", "value", "ceiling"}; where one of the
last three is None or NaN, a "note" says why. Where a simple method was measured, too, "simple" is
its score and "method" its name, see `fourm.evaluation.rivals`."""


class Pair(NamedTuple):
    """One direction: some modalities in, one out.

    Attributes:
        inputs: What is shown, whole.
        target: What is predicted and scored.
        readback: One of the inputs, which the model then predicts from its own answer; how
            well that agrees with what was given says if the answer holds what was asked for.
    """

    inputs: tuple[str, ...]
    target: str
    readback: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Pair":
        """Reads "rgb->depth", "caption+semseg->rgb", or with read-back "caption->rgb->caption".

        Raises:
            ValueError: If it is none of these.
        """
        parts = [part.strip() for part in text.split("->")]
        inputs = tuple(part.strip() for part in parts[0].split("+"))
        if len(parts) not in (2, 3) or not all((*inputs, *parts)):
            raise ValueError(
                f"{text!r} is not a direction; write it like rgb->depth, caption+semseg->rgb or "
                "caption->rgb->caption."
            )
        if parts[1] in inputs or not set(parts[2:]) <= set(inputs):
            raise ValueError(
                f"{text!r} is not a direction: the target must not be an input, and what is read "
                "back must be one."
            )
        return cls(inputs, *parts[1:])


def share_of_way(row: Row) -> float:
    """Returns where a value stands from 0 at the floor to 1 at the ceiling.

    NaN where a number is missing, or the ceiling is no better than the floor: a tokenizer that
    loses more than a constant answer does leaves nothing to measure by.
    """
    floor, value, ceiling = (row[name] for name in ("floor", "value", "ceiling"))
    if None in (floor, value, ceiling):
        return math.nan
    sign = 1 if row["better"] == "higher" else -1
    if not sign * (ceiling - floor) > 1e-12:
        return math.nan
    return (value - floor) / (ceiling - floor)


def beats_floor(row: Row) -> bool:
    """Returns whether a value is better than its floor."""
    if row["value"] is None or row["floor"] is None:
        return False
    return row["value"] > row["floor"] if row["better"] == "higher" else row["value"] < row["floor"]


def beats_rival(row: Row) -> bool:
    """Returns whether a value is better than that of the simple method beside it."""
    if row["value"] is None or not math.isfinite(row.get("simple", math.nan)):
        return False
    difference = row["value"] - row["simple"]
    return difference > 0 if row["better"] == "higher" else difference < 0


def format_share(row: Row) -> str:
    """Returns the share of the way as a percentage, "-" where there is none."""
    share = share_of_way(row)
    return f"{round(100 * share)}%" if math.isfinite(share) else "-"


def format_number(value: float | None) -> str:
    """Returns a number with three decimals, "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def why_failed(what: str, error: Exception) -> str:
    """Returns in one sentence why something could not be measured; all else goes on.

    With FOURM_DEBUG=1 the place in the code is printed, too.
    """
    if is_debugging():
        traceback.print_exception(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    is_ours = isinstance(error, ValueError)
    told = reason if is_ours else f"{type(error).__name__}: {reason}"
    return f"{what} could not be measured: {told[:400].rstrip('.')}."


def notes_of(*tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns what rows say of numbers that are missing, each sentence once."""
    return list(dict.fromkeys(row["note"] for rows in tables for row in rows if "note" in row))


def format_table(rows: Sequence[Row]) -> str:
    """Returns results as aligned text."""
    columns = ["floor", "value", "ceiling"]
    if any("simple" in row for row in rows):
        columns.insert(1, "simple")
    lines = [("direction", "metric", *columns, "share")]
    for row in rows:
        direction = f"{'+'.join(row['inputs'])} -> {row['target']}"
        numbers = [format_number(row.get(name)) for name in columns]
        lines.append((direction, row["metric"], *numbers, format_share(row)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all; numbers that are not finite become null."""
    write_file(path, format_json(content).encode())


def format_json(content: Any) -> str:
    """Returns JSON; numbers that are not finite become null."""
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(content: Any) -> Any:
    match content:
        case Mapping():
            return {str(name): _plain(value) for name, value in content.items()}
        case list() | tuple():
            return [_plain(value) for value in content]
        case np.ndarray():
            return _plain(content.tolist())
        case np.generic():
            return _plain(content.item())
        case float():
            return content if math.isfinite(content) else None
        case None | bool() | int() | str():
            return content
        case _:
            return str(content)


def readable(predicted: RawBatch, values: Values) -> RawBatch:
    """Returns predictions as a model takes them for input: None where one is not allowed.

    What is generated may be no value at all, such as an empty text.
    """
    if isinstance(predicted, np.ndarray):
        return predicted
    shown = []
    for value in predicted:
        try:
            shown.append(values.check(value, "prediction"))
        except ValueError:
            shown.append(None)
    return shown

"""The matrix as text: Markdown, comma-separated values, and tables for the terminal."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from fourm.evaluation.results import Row, format_number, format_share

EVERY = "every other"
"""What a line of a table calls the input of all modalities but the target."""


def as_csv(rows: Sequence[Row]) -> str:
    """Returns cells as comma-separated values, one a line."""
    columns = ("inputs", "target", "metric", "better", "hidden", "draws", "samples", "floor")
    columns += ("value", "low", "high", "ceiling", "share", "seconds", "note")
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        low, high = row.get("interval", (None, None))
        told = {"inputs": "+".join(row["inputs"]), "low": low, "high": high}
        writer.writerow(row | told | {"share": format_share(row)})
    return content.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """Returns a table for each number of draws and share of hidden tokens, and one of all cells.

    The first ones have a line per input and a column per target, with the share of the way from
    floor to ceiling; the last one has all numbers with their intervals.
    """
    parts = []
    for page in pages_of(rows):
        parts += [f"Share of the way from floor to ceiling, {page.title}\n"]
        parts += [_table(["from \\ to", *page.targets])]
        for line in page.lines:
            cells = (page.cells.get((line, target)) for target in page.targets)
            parts.append(_line([line, *("" if c is None else format_share(c) for c in cells)]))
        parts.append("")
    titles = ["direction", "hidden", "draws", "metric", "floor", "value", "95 %", "ceiling", "s"]
    parts.append(_table(titles))
    for row in rows:
        direction = f"{'+'.join(row['inputs'])} → {row['target']}"
        how = [direction, f"{row['hidden']:.0%}", str(row["draws"]), row["metric"]]
        low, high = map(format_number, row.get("interval", (None, None)))
        numbers = [format_number(row[name]) for name in ("floor", "value", "ceiling")]
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else "-"
        parts.append(_line([*how, *numbers[:2], f"{low} to {high}", numbers[2], seconds]))
    return "\n".join(parts) + "\n"


def as_text(rows: Sequence[Row]) -> str:
    """Returns the shares of the way for the terminal, a table per page."""
    parts = []
    for page in pages_of(rows):
        width = max(map(len, page.lines)) + 2
        widths = [max(len(target), 5) + 2 for target in page.targets]
        columns = list(zip(page.targets, widths, strict=True))
        parts.append(page.title)
        parts.append("from \\ to".ljust(width) + "".join(t.rjust(w) for t, w in columns))
        for line in page.lines:
            cells = [(page.cells.get((line, target)), w) for target, w in columns]
            told = ("".rjust(w) if c is None else format_share(c).rjust(w) for c, w in cells)
            parts.append((line.ljust(width) + "".join(told)).rstrip())
        parts.append("")
    return "\n".join(parts).rstrip()


def comparison_as_text(rows: Sequence[Row]) -> str:
    """Returns what two runs differ by, for the terminal; the better one is marked."""
    lines = [("direction", "metric", "first", "second", "difference, 95 %", "p", "better")]
    for row in rows:
        direction = f"{'+'.join(row['inputs'])} -> {row['target']}"
        how = describe(row["hidden"], row["draws"])
        direction += "" if how == describe(0.0, 1) else f" ({how})"
        low, high = (f"{end:+.3f}" for end in row["interval"])
        numbers = [format_number(row[name]) for name in ("first", "second")]
        better = ("-", "first", "second")[row["winner"]]
        lines.append(
            (direction, row["metric"], *numbers, f"{low} to {high}", f"{row['p']:.3f}", better)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


class Page(NamedTuple):
    """The cells that share a table.

    Attributes:
        title: Which share of what is shown is hidden, and how many draws are combined.
        lines: What is shown, in short.
        targets: What is predicted.
        cells: By line and target.
    """

    title: str
    lines: list[str]
    targets: list[str]
    cells: dict[tuple[str, str], Row]


def pages_of(rows: Sequence[Row]) -> list[Page]:
    """Splits cells into tables: one for each share of hidden tokens and number of draws."""
    found = []
    for hidden, draws in dict.fromkeys((row["hidden"], row["draws"]) for row in rows):
        own = [row for row in rows if (row["hidden"], row["draws"]) == (hidden, draws)]
        names = dict.fromkeys(name for row in own for name in (*row["inputs"], row["target"]))
        cells = {(_line_of(row, list(names)), row["target"]): row for row in own}
        lines = list(dict.fromkeys(line for line, _ in cells))
        lines.sort(key=lambda line: line.startswith(EVERY))  # Which keeps the order otherwise.
        targets = list(dict.fromkeys(row["target"] for row in own))
        found.append(Page(describe(hidden, draws), lines, targets, cells))
    return found


def describe(hidden: float, draws: int) -> str:
    """Returns in words which share of what is shown is hidden, and how many draws are combined."""
    told = "all tokens shown" if not hidden else f"{hidden:.0%} of the shown tokens hidden"
    return f"{told}, {'one draw' if draws == 1 else f'{draws} draws combined'}"


def _line_of(row: Row, names: Sequence[str]) -> str:
    """Returns the line of a page that a cell stands in: what is shown, in short."""
    others = [name for name in names if name != row["target"]]
    left_out = [name for name in others if name not in row["inputs"]]
    if len(others) > 1 and not left_out:
        return EVERY
    if len(others) > 2 and len(left_out) == 1:
        return f"{EVERY} but {left_out[0]}"
    return "+".join(row["inputs"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(titles: Sequence[str]) -> str:
    return f"{_line(titles)}\n{_line(['---'] * len(titles))}"

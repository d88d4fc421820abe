"""The matrix as a picture: how much of the way each cell goes, at one look."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fourm.evaluation.results import Row, format_number, share_of_way, write_file
from fourm.presentation.matrix_tables import Page, pages_of

CELL = 1.05, 0.62
"""Width and height of a cell, in inches."""


def draw_matrix(path: Path, rows: Sequence[Row]) -> None:
    """Writes a heat map per share of hidden tokens and number of draws, one below the other.

    The colour is the share of the way from the floor (0) to the ceiling (1); below it stand the
    value of the main metric and half the width of its 95 % interval.

    Args:
        path: A PNG file.
        rows: Cells as `measure_matrix` returns them.
    """
    pages = pages_of(rows)
    columns = max((len(page.targets) for page in pages), default=1)
    lines = [len(page.lines) + 2 for page in pages]
    figure = Figure(
        figsize=(2.6 + CELL[0] * columns, CELL[1] * max(sum(lines), 1)), layout="constrained"
    )
    axes = figure.subplots(max(len(pages), 1), 1, squeeze=False, height_ratios=lines or [1])
    for ax, page in zip(axes[:, 0], pages, strict=False):
        _draw_page(ax, page)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_file(path, content.getvalue())


def _draw_page(ax, page: Page) -> None:
    shares = np.full((len(page.lines), len(page.targets)), np.nan)
    for (line, target), row in page.cells.items():
        shares[page.lines.index(line), page.targets.index(target)] = share_of_way(row)
    # Cividis is told apart with any kind of colour vision, and in grey.
    ax.imshow(np.clip(shares, 0, 1), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.set_facecolor("0.9")
    ax.set_xticks(range(len(page.targets)), page.targets)
    ax.set_yticks(range(len(page.lines)), page.lines)
    ax.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=8)
    ax.set_title(page.title, fontsize=9)
    for (line, target), row in page.cells.items():
        y, x = page.lines.index(line), page.targets.index(target)
        share = shares[y, x]
        is_dark = math.isnan(share) or share < 0.55
        color = "white" if is_dark and not math.isnan(share) else "black"
        told = "-" if math.isnan(share) else f"{share:.0%}"
        ax.text(x, y - 0.08, told, ha="center", va="center", color=color, fontsize=9)
        below = f"{row['metric']} {format_number(row['value'])}"
        low, high = row.get("interval", (None, None))
        if low is not None and high is not None:
            below += f" ± {(high - low) / 2:.3f}"
        ax.text(x, y + 0.3, below, ha="center", va="center", color=color, fontsize=5)

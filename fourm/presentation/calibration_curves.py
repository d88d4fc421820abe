"""Error against spread as a picture: does a run know where it is wrong?"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fourm.evaluation.results import format_number, write_file

ACROSS = 3
"""Panels beside each other."""


def draw_calibration(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a panel per direction: the error in bins of the spread, and where both are equal.

    Args:
        path: A PNG file.
        rows: As `measure_calibration` returns them; those without numbers are left out.
    """
    drawn = [row for row in rows if row.get("bins")]
    down = max(-(-len(drawn) // ACROSS), 1)
    figure = Figure(figsize=(3.4 * ACROSS, 3.1 * down), layout="constrained")
    axes = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for ax in axes[len(drawn) :]:
        ax.axis("off")
    for ax, row in zip(axes, drawn, strict=False):
        spread, error = ([each[name] for each in row["bins"]] for name in ("spread", "error"))
        most = max(*spread, *error, 1e-12)
        ax.plot([0, most], [0, most], color="0.7", linewidth=1, label="equal")
        ax.plot(spread, error, marker="o", markersize=3, label="found")
        told = format_number(row["rank_correlation"])
        title = f"{' + '.join(row['inputs'])} \N{RIGHTWARDS ARROW} {row['target']}"
        ax.set_title(f"{title}\nrank correlation {told}", fontsize=9)
        ax.set_xlabel(f"spread of {row['draws']} draws", fontsize=8)
        ax.set_ylabel("error", fontsize=8)
        ax.tick_params(labelsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_file(path, content.getvalue())

"""Single values as files, as the command line writes them, and pages of many."""

import io
import json
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fourm.inputs.generated import Output
from tokenizers.base import Boxes, Instances, Values

MOST_ROWS = 16
"""Samples on a page."""


def spread_outputs(name: str, stem: str, spread: Any) -> list[Output]:
    """Returns the files of how far several draws lie apart: numbers, and a picture of a map.

    Args:
        name: Of the modality.
        stem: The files' name without its ending.
        spread: Of one sample, [y, x] or a number, as `Generated.spread` has it.
    """
    array = np.asarray(spread, np.float32)
    stem = f"{stem.replace('/', '_')}.spread"
    outputs = [Output(f"{stem}.npy", as_npy(array), name, "drawing")]
    if array.ndim == 2:
        most = float(np.nanmax(array, initial=0.0))
        outputs.append(Output(f"{stem}.png", draw_map(array, most), name, "drawing"))
    return outputs


def as_npy(array: np.ndarray) -> bytes:
    """Returns what a NumPy file of an array holds."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def draw_map(array: np.ndarray, most: float) -> bytes:
    """Returns a map [y, x] of numbers as a PNG, from dark for 0 (and what is unknown) to bright.

    Args:
        array: What is drawn.
        most: The number that is brightest.
    """
    shade = np.nan_to_num(array / most if most > 0 else array).clip(0, 1)
    colors = matplotlib.colormaps["magma"](shade)[..., :3]
    picture = io.BytesIO()
    Image.fromarray((255 * colors).round().astype(np.uint8)).save(picture, "PNG")
    return picture.getvalue()


def outputs_of(
    name: str, stem: str, value: Any, values: Values, size: tuple[int, int] = (256, 256)
) -> tuple[list[Output], str | None]:
    """Returns the files of one raw value: a picture or text and, if that loses anything, numbers.

    Args:
        name: Of the modality.
        stem: The files' name without its ending.
        value: The value.
        values: What its numbers mean.
        size: Height and width in which what has no pixels of its own is drawn.

    Returns:
        The files, of which one holds the value as it is; and the text, for modalities that a person
        reads.
    """
    stem = stem.replace("/", "_")
    is_picture = getattr(values, "is_picture", True)
    has_pixels = is_picture and isinstance(value, np.ndarray) and value.ndim > 1
    drawn = values.draw(value, value.shape[:2] if has_pixels else size)
    if isinstance(drawn, str):
        shown, ending, content = printable(drawn), "txt", f"{drawn}\n".encode()
        is_whole = _says(drawn.strip(), value, values)
    else:
        stream = io.BytesIO()
        Image.fromarray(drawn).save(stream, "PNG")
        shown, ending, content = None, "png", stream.getvalue()
        is_whole = isinstance(value, np.ndarray) and np.array_equal(drawn, value)
    outputs = [Output(f"{stem}.{ending}", content, name, "value" if is_whole else "drawing")]
    if is_whole:
        return outputs, shown
    if isinstance(value, np.ndarray):
        ending, content = "npy", as_npy(value)
    elif isinstance(value, Boxes | Instances):
        # JSON has no NaN, which is what an unknown point is.
        known = {key: np.where(part == part, part, None) for key, part in value._asdict().items()}
        parts = {key: part.tolist() for key, part in known.items()}
        ending, content = "json", json.dumps(parts).encode()
    else:
        plain = value.item() if isinstance(value, np.generic) else value
        ending, content = "json", json.dumps(plain).encode()
    return [*outputs, Output(f"{stem}.{ending}", content, name, "value")], shown


def _says(text: str, value: Any, values: Values) -> bool:
    """True if a text is the whole value, so that nothing else needs to be kept."""
    try:
        return bool(np.array_equal(values.check(text, ""), value))
    except (ValueError, TypeError):
        return False


def printable(text: str) -> str:
    """Returns text that can't confuse a terminal or a font; models may write control codes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def draw_sheet(
    columns: Sequence[tuple[str, Literal["given", "generated"], Sequence[np.ndarray | str]]],
) -> bytes:
    """Returns one page as PNG: a row per sample, a column per modality, what was given first.

    Args:
        columns: Modality, its role, and a picture or text per sample.
    """
    rows = min(len(columns[0][2]), MOST_ROWS)
    figure = Figure(figsize=(2 * len(columns), 2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, role, cells) in enumerate(columns):
        color = "tab:blue" if role == "given" else "tab:green"
        axes[0, column].set_title(f"{name}\n{role}", color=color, fontsize=11)
        for ax, cell in zip(axes[:, column], cells, strict=False):
            ax.set_xticks([])
            ax.set_yticks([])
            if isinstance(cell, str):
                text = textwrap.fill(printable(cell), 28).replace("$", r"\$")
                ax.text(0.04, 0.96, text, va="top", fontsize=8, transform=ax.transAxes)
            else:
                ax.imshow(cell, interpolation="nearest")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()

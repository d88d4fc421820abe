"""Single values as files: what the command line reads and writes."""

import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fourm.any2any import Any2Any
from fourm.evaluation.results import write_file
from tokenizers.base import Boxes, Crop, Instances, Values, largest_window
from tokenizers.content.arrays import read_npy
from tokenizers.content.kinds import read_text
from tokenizers.content.pictures import read_picture
from tokenizers.content.sounds import read_columns, read_sound
from tokenizers.scalars import ScalarTokenizer

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SUFFIXES = (*PICTURES, ".npy", ".json", ".txt", ".wav", ".csv", ".tsv")

MOST_ROWS = 16
"""Samples on a page."""


def read_value(given: str, name: str, model: Any2Any) -> Any:
    """Returns one raw value from the command line: a file if it looks like one, else literally.

    Pictures and maps of another size are cut to the largest window in their middle that has the
    aspect ratio of those that the model reads, and resized, as in training.

    Raises:
        ValueError: If there is no such file, it can't be read, or its value is not allowed.
    """
    tokenizer = model.tokenizers[name]
    values = tokenizer.values
    is_file = Path(given).suffix.lower() in SUFFIXES
    value = _read_file(Path(given)) if is_file else given
    try:
        value = values.check(value, name)
    except ValueError as error:
        raise ValueError(f"{given}: {error}" if is_file else str(error)) from error
    if isinstance(tokenizer, ScalarTokenizer):
        _check_near(value, name, *tokenizer.range)
    size: tuple[int, int] | None = getattr(tokenizer, "picture_size", None)
    if size is None:
        return value
    if value.shape[:2] == size:
        return value
    return values.crop(value, centre_window(value.shape[:2], size), size)


def _check_near(value: float, name: str, lowest: float, highest: float) -> None:
    """Raises ValueError for a number of which training has seen nothing like."""
    margin = (highest - lowest) / 2 or abs(lowest) or 1.0
    if not lowest - margin <= value <= highest + margin:
        raise ValueError(
            f"--{name} is {value:g}; the numbers that this run was trained on lie between "
            f"{lowest:g} and {highest:g}: give one of them, or one near them."
        )


def centre_window(shape: tuple[int, int], size: tuple[int, int]) -> Crop:
    """Returns the largest window around the centre that has the aspect ratio of `size`."""
    window = largest_window(shape, size)
    down, across = (part / whole for part, whole in zip(window, shape, strict=True))
    return Crop((1 - down) / 2, (1 - across) / 2, down, across, False)


def drawn_size(tokenizers: Mapping[str, Any], side: int) -> tuple[int, int]:
    """Returns height and width in which values of a run are drawn, alike for all modalities.

    Args:
        tokenizers: Of the run, of which one that reads pictures tells the aspect ratio.
        side: Height and width of squares; others have their area.
    """
    grids = [t.token_shape for t in tokenizers.values() if len(t.token_shape) == 2]
    sizes = [t.picture_size for t in tokenizers.values() if hasattr(t, "picture_size")]
    height, width = next(iter(sizes + grids), (1, 1))
    longer = math.sqrt(height * width)
    return max(round(side * height / longer), 1), max(round(side * width / longer), 1)


def _read_file(path: Path) -> Any:
    try:
        match path.suffix.lower():
            case ".npy":
                return read_npy(path.read_bytes())
            case ".json":
                content = json.loads(read_text(path.read_bytes()))
                if isinstance(content, dict) and set(content) == set(Boxes._fields):
                    return Boxes(**{key: np.asarray(part) for key, part in content.items()})
                return content
            case ".wav":
                return read_sound(path.read_bytes()).waves
            case ".csv" | ".tsv":
                return read_columns(path.read_bytes())
            case ".txt":
                return read_text(path.read_bytes()).strip()
            case _:
                return read_picture(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}; give the path of one that exists.") from error
    except Exception as error:  # Decoders raise whatever they like on damaged files.
        reason = str(error) or type(error).__name__
        raise ValueError(f"The file {path} can't be read; is it damaged? ({reason})") from error


def write_value(
    folder: Path, stem: str, value: Any, values: Values, size: tuple[int, int] = (256, 256)
) -> str | None:
    """Writes one raw value: as a picture or text and, if that loses anything, as numbers.

    Args:
        folder: Where to.
        stem: The file's name without its ending.
        value: The value.
        values: What its numbers mean.
        size: Height and width in which what has no pixels of its own is drawn.

    Returns:
        The text, for modalities that a person reads.
    """
    stem = stem.replace("/", "_")
    is_picture = getattr(values, "is_picture", True)
    has_pixels = is_picture and isinstance(value, np.ndarray) and value.ndim > 1
    drawn = values.draw(value, value.shape[:2] if has_pixels else size)
    if isinstance(drawn, str):
        write_file(folder / f"{stem}.txt", f"{drawn}\n".encode())
        return printable(drawn)
    content = io.BytesIO()
    Image.fromarray(drawn).save(content, "PNG")
    write_file(folder / f"{stem}.png", content.getvalue())
    if isinstance(value, Boxes | Instances):
        # JSON has no NaN, which is what an unknown point is.
        known = {key: np.where(part == part, part, None) for key, part in value._asdict().items()}
        parts = {key: part.tolist() for key, part in known.items()}
        write_file(folder / f"{stem}.json", json.dumps(parts).encode())
    elif not np.array_equal(drawn, value):
        content = io.BytesIO()
        np.save(content, value, allow_pickle=False)
        write_file(folder / f"{stem}.npy", content.getvalue())
    return None


def printable(text: str) -> str:
    """Returns text that can't confuse a terminal or a font; models may write control codes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def draw_sheet(
    path: Path,
    columns: Sequence[tuple[str, Literal["given", "generated"], Sequence[np.ndarray | str]]],
) -> None:
    """Writes one page: a row per sample, a column per modality, what was given first.

    Args:
        path: A PNG file.
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
    write_file(path, content.getvalue())

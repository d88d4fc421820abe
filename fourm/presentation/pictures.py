"""Pictures of a run: what it predicts, and how it learned."""

import functools
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont

from fourm.evaluation.directions import Example, Predictor
from fourm.evaluation.results import write_file
from fourm.requests.results import drawn_size
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import RawBatch
from tokenizers.spread import spread_order

CELL = 128
"""Side of a square picture on the page, in pixels; others have its area."""

GAP = 6
TITLE = 32
"""Height of the line above a block, in pixels."""
HEADING = 34
"""Height of the two lines above a column, in pixels."""

COLORS = {"shown": (38, 84, 124), "truth": (90, 90, 90), "predicted": (23, 120, 70)}
"""Of headings, by the role of a column."""

LEGEND = (
    "Held-out samples, one per row. Blue: what the model is shown. Grey: the truth. "
    "Green: what it predicts from the blue alone."
)

ENTROPY = "entropy/"
"""Before a modality's name: its marginal entropy, drawn dashed beside its loss."""

Role = Literal["shown", "truth", "predicted"]


class Column(NamedTuple):
    """What stands under one heading.

    Attributes:
        heading: Name of the modality.
        role: Whether this was shown to the model, is the truth, or was predicted.
        cells: One picture (uint8 [*size, 3]) or text per sample.
        size: Height and width of a picture on the page.
    """

    heading: str
    role: Role
    cells: list[Any]
    size: tuple[int, int]

    @property
    def width(self) -> int:
        texts = [cell for cell in self.cells if isinstance(cell, str)]
        is_long = any(len(text) > 16 for text in texts)
        return (CELL * 3 // 2 if is_long else CELL * 3 // 4) if texts else self.size[1]


def draw_samples(
    path: Path,
    model: Predictor,
    heldout: SampleSet,
    examples: Sequence[Example],
    num_samples: int = 4,
) -> None:
    """Writes a page of held-out samples: what is shown, the truth, and the prediction.

    Directions that show the same modalities share a block; a block has one row per sample.

    Args:
        path: A PNG file.
        model: Whose tokenizers know how their values look.
        heldout: The samples.
        examples: Predictions of `Evaluator.evaluate`.
        num_samples: Rows of each block: samples that all its directions have, spread over them.
    """
    blocks: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        blocks.setdefault(example.pair.inputs, []).append(example)
    drawn = []
    for inputs, directions in blocks.items():
        rows = functools.reduce(np.intersect1d, [example.rows for example in directions])
        order = spread_order(heldout.size)
        rows = np.sort(order[np.isin(order, rows)][:num_samples])
        if not len(rows):
            continue
        columns = _columns(model, heldout, rows, directions)
        targets = ", ".join(dict.fromkeys(example.pair.target for example in directions))
        drawn.append((f"{' + '.join(inputs)}  \N{RIGHTWARDS ARROW}  {targets}", columns))
    content = io.BytesIO()
    _compose(drawn).save(content, "PNG", optimize=True)
    write_file(path, content.getvalue())


def draw_curves(path: Path, metrics: Sequence[dict[str, Any]]) -> None:
    """Writes curves of training: losses of the model, marginal entropies, tokenizers.

    Args:
        path: A PNG file.
        metrics: Lines of `metrics.jsonl`. Those with a `loss/M` or a `heldout_loss` are of the
            model: one panel per modality M, its marginal entropy dashed where it was logged. Those
            with a `reconstruction` are of a tokenizer, named by the end of its stage.
    """
    # Takes long to import, and curves come last.
    from matplotlib.figure import Figure

    model = [line for line in metrics if any(n.startswith(("loss/", "heldout_loss")) for n in line)]
    names = [n.removeprefix("loss/") for line in model for n in line if n.startswith("loss/")]
    panels = ["loss"] * any("loss" in line for line in model) + list(dict.fromkeys(names))
    tokenizers: dict[str, list] = {}
    for line in metrics:
        if "reconstruction" in line:
            tokenizers.setdefault(line["stage"].split("/")[-1], []).append(line)
    extra = [("reconstruction", "tokenizers: reconstruction loss")]
    extra += [("perplexity", "tokenizers: codebook perplexity")]
    extra += [("usage", "tokenizers: share of codes in a batch")]
    extra = extra if tokenizers else []

    columns = 4
    rows = max(1, -(-(len(panels) + len(extra)) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    axes = iter(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for panel in panels:
        ax = next(axes)
        key = "loss" if panel == "loss" else f"loss/{panel}"
        _plot(ax, model, key, color="C0", label="loss")
        _plot(ax, model, f"heldout_{key}", color="C1", label="held-out loss")
        entropy = [line[ENTROPY + panel] for line in model if line.get(ENTROPY + panel) is not None]
        if entropy:
            ax.axhline(entropy[-1], color="0.4", linestyle="--", label="marginal entropy")
        title = "model: loss of all modalities" if panel == "loss" else f"model: {panel}"
        _finish(ax, title, "nats per token")
    for key, title in extra:
        ax = next(axes)
        for number, (name, lines) in enumerate(tokenizers.items()):
            _plot(ax, lines, key, color=f"C{number}", label=name)
        if key == "reconstruction" and any(ax.get_lines()):
            ax.set_yscale("log")
        _finish(ax, title, "")
    for ax in axes:
        ax.set_axis_off()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_file(path, content.getvalue())


def _plot(
    ax: "matplotlib.axes.Axes", lines: Sequence[dict[str, Any]], key: str, color: str, label: str
) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        marker = "." if len(points) == 1 else None
        ax.plot(steps, values, color=color, label=label, marker=marker)


def _finish(ax: "matplotlib.axes.Axes", title: str, unit: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("step", fontsize=8)
    ax.set_ylabel(unit, fontsize=8)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.3)
    if any(ax.get_lines()):
        ax.legend(fontsize=7)


def _columns(
    model: Predictor,
    heldout: SampleSet,
    rows: Int[np.ndarray, "rows"],
    directions: Sequence[Example],
) -> list[Column]:
    size = drawn_size(model.tokenizers, CELL)

    def column(name: str, role: Role, raw: RawBatch, heading: str = "") -> Column:
        values = model.tokenizers[name].values
        return Column(heading or name, role, [values.draw(value, size) for value in raw], size)

    columns = [column(n, "shown", heldout.take(n, rows)) for n in directions[0].pair.inputs]
    for pair, predicted_rows, predicted, read in directions:
        places = np.searchsorted(predicted_rows, rows)
        columns.append(column(pair.target, "truth", heldout.take(pair.target, rows)))
        columns.append(column(pair.target, "predicted", [predicted[i] for i in places]))
        if read is not None:
            heading = f"{pair.readback} read from it"
            columns.append(column(pair.readback, "predicted", [read[i] for i in places], heading))
    return columns


def _compose(blocks: Sequence[tuple[str, list[Column]]]) -> Image.Image:
    """Lays blocks of columns on one white page, beside each other where there is room."""
    widths = [sum(c.width + GAP for c in columns) + 3 * GAP for _, columns in blocks]
    heights = [
        TITLE + HEADING + len(c[0].cells) * (c[0].size[0] + GAP) + 2 * GAP for _, c in blocks
    ]
    page_width = max([*widths, int(_font(14).getlength(LEGEND)) + 2 * GAP])
    places = []
    left, top, bottom = 0, TITLE, TITLE
    for width, height in zip(widths, heights, strict=True):
        if left + width > page_width:
            left, top = 0, bottom
        places.append((left + GAP, top))
        left, bottom = left + width, max(bottom, top + height)

    page = Image.new("RGB", (page_width, bottom), "white")
    canvas = ImageDraw.Draw(page)
    canvas.text((GAP, GAP), LEGEND, fill=(60, 60, 60), font=_font(14))
    for (name, columns), (left, top) in zip(blocks, places, strict=True):
        canvas.text((left, top + 2), name, fill="black", font=_font(18))
        for column in columns:
            _draw_column(page, canvas, column, left, top + TITLE)
            left += column.width + GAP
    return page


def _draw_column(
    page: Image.Image, canvas: ImageDraw.ImageDraw, column: Column, left: int, top: int
) -> None:
    color, height = COLORS[column.role], column.size[0]
    canvas.rectangle((left, top, left + column.width - 1, top + HEADING - 4), fill=color)
    canvas.text((left + 5, top + 1), column.heading, fill="white", font=_font(12))
    canvas.text((left + 5, top + 15), column.role, fill=(225, 225, 225), font=_font(10))
    for row, cell in enumerate(column.cells):
        at = top + HEADING + row * (height + GAP)
        frame = (left, at, left + column.width, at + height)
        canvas.rectangle(frame, outline=(200, 200, 200), fill=(250, 250, 250))
        if not isinstance(cell, str):
            page.paste(Image.fromarray(cell), (left, at))
            continue
        text, font = _fit_text(canvas, cell, column.width - 12, height - 10)
        canvas.multiline_text((left + 6, at + 4), text, fill=(20, 20, 20), font=font, spacing=2)


def _fit_text(
    canvas: ImageDraw.ImageDraw, text: str, width: int, height: int
) -> tuple[str, ImageFont.FreeTypeFont]:
    """Returns the text wrapped to a cell, in the largest font in which it fits, or cut."""
    for size in range(13, 7, -1):
        font = _font(size)
        letters = max(4, int(width / font.getlength("abcdefghij klmno") * 16))
        wrapped = textwrap.fill(text, letters)
        box = canvas.multiline_textbbox((0, 0), wrapped, font=font, spacing=2)
        if box[2] <= width and box[3] <= height:
            return wrapped, font
    lines = max(1, height // (size + 4))
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" ...")), font


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import findfont

    # Comes with matplotlib and knows most scripts, which Pillow's own font does not.
    return ImageFont.truetype(findfont("DejaVu Sans"), size)

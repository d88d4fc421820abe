"""What generation returns: raw values and tokens, how far draws lie apart, and how it is shown."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fourm.requests.ensembles import Combine, combine, token_spread
from tokenizers.base import RawBatch, Values
from tokenizers.spread import take_rows
from tokenizers.storage.unfinished import write_file

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Generated(NamedTuple):
    """What `Any2Any.generate` returns. A notebook draws it, and `save` writes it.

    Attributes:
        values: Raw values per target.
        ids: Their tokens, int32 [batch, tokens], `PADDING` after the end of sequences; of several
            draws those of the first one, or of the best one if they were scored.
        spread: Of targets that were drawn several times: how far the draws lie apart, per pixel
            of dense values [batch, y, x], else per sample, see `Combined`.
        token_spread: Of these, the share of pairs of draws that differ in a token, [batch, tokens].
        draws: Of these, every draw's raw values, where they were not combined.
        scores: Of every draw, where the best one was asked for, [batch, draws].
        kinds: What the numbers of every target mean.
        aspect: Height and width of its pictures in proportion to each other.
    """

    values: dict[str, RawBatch]
    ids: dict[str, np.ndarray]
    spread: Mapping[str, np.ndarray] = NOTHING
    token_spread: Mapping[str, np.ndarray] = NOTHING
    draws: Mapping[str, Sequence[RawBatch]] = NOTHING
    scores: Float[np.ndarray, "batch draws"] | None = None
    kinds: Mapping[str, Values] = NOTHING
    aspect: tuple[int, int] = (1, 1)

    def __repr__(self) -> str:
        count = len(next(iter(self.values.values())))
        parts = [_told(name, raw) for name, raw in self.values.items()]
        parts += [f"spread of {name}" for name in self.spread]
        return f"Generated({count} {'sample' if count == 1 else 'samples'}: {', '.join(parts)})"

    def _repr_png_(self) -> bytes:
        # Only what is drawn needs matplotlib, which takes half a second to import.
        from fourm.requests.outputs import draw_sheet

        return draw_sheet(self._columns())

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self._repr_png_()).decode()
        told = html.escape(repr(self), quote=True)
        return f'<img alt="{told}" title="{told}" src="data:image/png;base64,{picture}">'

    def save(self, folder: str | Path) -> Path:
        """Writes every value as a file, as `fourm generate` does, and a page that shows all.

        Values that a picture or a text does not hold whole are also written as numbers.

        Returns:
            The folder.
        """
        from fourm.requests.outputs import draw_sheet, outputs_of, spread_outputs

        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        outputs = []
        for name, raw in self.values.items():
            for number, value in enumerate(raw):
                stem, size = f"{name}_{number:03}", sized(self.aspect, 256)
                outputs += outputs_of(name, stem, value, self.kinds[name], size)[0]
                if name in self.spread:
                    outputs += spread_outputs(name, stem, self.spread[name][number])
        for each in outputs:
            write_file(folder / each.name, each.content)
        write_file(folder / "generated.png", draw_sheet(self._columns()))
        return folder

    def _columns(self) -> list[tuple[str, Any, list[Any]]]:
        size = sized(self.aspect, 128)
        return [
            (name, "generated", [self.kinds[name].draw(value, size) for value in raw])
            for name, raw in self.values.items()
        ]


def _told(name: str, raw: RawBatch) -> str:
    if isinstance(raw, np.ndarray):
        return f"{name} {raw.dtype} [{', '.join(map(str, raw.shape[1:]))}]"
    text = repr(raw[0])
    return f"{name} {text if len(text) <= 40 else f'{text[:39]}…'}"


def drawn_size(tokenizers: Mapping[str, Any], side: int) -> tuple[int, int]:
    """Returns height and width in which values of a run are drawn, alike for all modalities.

    Args:
        tokenizers: Of the run, of which one that reads pictures tells the aspect ratio.
        side: Height and width of squares; others have their area.
    """
    return sized(aspect_of(tokenizers), side)


def aspect_of(tokenizers: Mapping[str, Any]) -> tuple[int, int]:
    """Returns height and width, in proportion to each other, of the pictures that a run reads."""
    grids = [t.token_shape for t in tokenizers.values() if len(t.token_shape) == 2]
    sizes = [t.picture_size for t in tokenizers.values() if hasattr(t, "picture_size")]
    return next(iter(sizes + grids), (1, 1))


def sized(aspect: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns height and width of an aspect ratio, with the area of a square of a side."""
    height, width = aspect
    longer = math.sqrt(height * width)
    return max(round(side * height / longer), 1), max(round(side * width / longer), 1)


def as_one(
    values: Mapping[str, RawBatch],
    ids: Mapping[str, np.ndarray],
    num_draws: int,
    how: Combine,
    kinds: Mapping[str, Values],
    scores: Float[np.ndarray, "batch draws"] | None = None,
) -> Generated:
    """Returns several draws of every sample as one value.

    Args:
        values: Per target, all draws of a sample after each other.
        ids: Likewise, their tokens.
        num_draws: Of each sample, at least 2.
        how: How they become one.
        kinds: What the numbers of every target mean.
        scores: Of every draw, if the best one is taken, the highest, of equals the first.
    """
    draws = {n: [raw[d::num_draws] for d in range(num_draws)] for n, raw in values.items()}
    is_scored = scores is not None
    joined = {
        name: combine(kinds[name], own, "none" if is_scored else how, name)
        for name, own in draws.items()
    }
    batch = len(next(iter(ids.values()))) // num_draws
    best = scores.argmax(axis=1) if is_scored else np.zeros(batch, np.int64)
    chosen = np.arange(batch) * num_draws + best
    picked = {name: take_rows(raw, chosen) for name, raw in values.items()}
    return Generated(
        values=picked if is_scored else {name: each.values for name, each in joined.items()},
        ids={name: array[chosen] for name, array in ids.items()},
        spread={name: each.spread for name, each in joined.items()},
        token_spread={name: token_spread(array, num_draws) for name, array in ids.items()},
        draws=draws if how == "none" or is_scored else NOTHING,
        scores=scores,
    )


def join(parts: Sequence[RawBatch]) -> RawBatch:
    """Returns values of several batches as those of one."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [value for part in parts for value in part]

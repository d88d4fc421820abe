"""Edits made of simpler ones: a picture that is painted beyond its edges, and steps between two."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fourm.inputs.files import FileReader
from fourm.inputs.samples import as_batch, read
from fourm.requests.batching import check_whole
from fourm.requests.editing import one_name
from fourm.requests.regions import as_margins, pad_picture
from fourm.requests.results import Generated, join
from fourm.token_space import TokenSpace
from tokenizers.base import RawBatch

LEAST_WEIGHT = 1e-6
"""In place of 0, with which a condition would drop out, and need a program of its own."""


@runtime_checkable
class Editor(Protocol):
    """What these need of a run: `fourm.any2any.Any2Any`, or anything like it."""

    @property
    def space(self) -> TokenSpace:
        """Of its model."""

    def reader(self, inputs_are: str = "auto") -> FileReader:
        """Returns what reads its files."""

    def check_names(self, names: Any) -> None:
        """Raises ValueError for a modality that it does not have."""

    def generate(self, inputs: Mapping[str, Any], targets: Any, **options: Any) -> Generated:
        """Generates."""

    def complete(
        self, value: Mapping[str, Any], inputs: Mapping[str, Any] | None, **options: Any
    ) -> Generated:
        """Makes a part of a value anew."""


def outpaint(
    run: Editor,
    value: Mapping[str, RawBatch | Any],
    inputs: Mapping[str, RawBatch | Any] | None = None,
    *,
    margin: Any,
    inputs_are: str = "auto",
    **options: Any,
) -> Generated:
    """Paints pictures beyond their edges; what comes back is of the model's size, as always.

    Args:
        run: Trained.
        value: One modality that is a grid, and its raw values, as `complete` takes them.
        inputs: What the margins go by, such as a text; no pictures, which would show less.
        margin: A fraction of width and height, or four: on the left, above, on the right, below.
        inputs_are: What files hold.
        options: As `complete` takes them.

    Raises:
        ValueError: If there is not one such modality, an input is a picture, or a margin is none.
    """
    name = one_name(value, "modality is painted on")
    given = dict(inputs or {})
    run.check_names([name, *given])
    grids = [each for each in (name, *given) if len(run.space[each].token_shape) == 2]
    if grids != [name]:
        told = f"{name} is none" if name not in grids else f"{grids[1]} would show less of it"
        raise ValueError(f"A picture is painted beyond its edges, and {told}; leave it out.")
    reader, margins = run.reader(inputs_are), as_margins(margin)
    raw = as_batch(name, value[name], reader.tokenizers[name])
    if any(each is None for each in raw):
        raise ValueError(f"A sample has no {name} that could be painted on; leave it out.")
    padded = [pad_picture(np.asarray(read(each, name, reader).value), margins) for each in raw]
    pictures, regions = (list(parts) for parts in zip(*padded, strict=True))
    return run.complete({name: pictures}, given, redo=regions, inputs_are=inputs_are, **options)


def interpolate(
    run: Editor,
    first: Mapping[str, RawBatch | Any],
    second: Mapping[str, RawBatch | Any],
    targets: Sequence[str] | str,
    *,
    steps: int = 5,
    weight: float = 1.0,
    inputs: Mapping[str, RawBatch | Any] | None = None,
    **options: Any,
) -> Generated:
    """Generates one sample at each of some steps from one condition to another.

    All have the same random draws, so that only the weights of the two conditions differ: they are
    `weight` times 1 - t and t, with t from 0 to 1.

    Args:
        run: Trained.
        first: Raw values by modality, of one sample.
        second: Likewise.
        targets: As `generate` takes them.
        steps: How many, at least 2.
        weight: Of both conditions together, see `conditions` of `generate`.
        inputs: What all steps go by besides, of one sample.
        options: As `generate` takes them.

    Raises:
        ValueError: If there are too few steps, or what `generate` refuses.
    """
    check_whole("steps", steps, 2)
    parts = []
    for t in np.linspace(0, 1, steps).tolist():
        weights = (max(share, LEAST_WEIGHT) * weight for share in (1 - t, t))
        conditions = list(zip((first, second), weights, strict=True))
        parts.append(run.generate(inputs or {}, targets, conditions=conditions, **options))
    values = {name: join([part.values[name] for part in parts]) for name in parts[0].values}
    ids = {name: np.concatenate([part.ids[name] for part in parts]) for name in parts[0].ids}
    return Generated(values, ids, kinds=parts[0].kinds, aspect=parts[0].aspect)

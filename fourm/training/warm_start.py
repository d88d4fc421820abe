"""Starting from the weights of another model, whose modalities may be others."""

from collections.abc import Sequence

from flax import nnx

from fourm.model.positions import find_rows
from fourm.model.transformer import BEGIN_AT_ZERO, PROJECTION, FourM, projection_name
from fourm.token_space import MASK_ID

Rows = list[tuple[int, int, int]]
"""First row here, first row there, number of rows."""


def take_weights(model: FourM, source: FourM, names: Sequence[str]) -> None:
    """Copies the weights of `source` into `model`.

    Of every table, the rows of the modalities named are taken, and of every projection of
    features those of the modalities named; of all else everything. What belongs to other
    modalities stays as it is, so that a model can learn new ones.

    Args:
        model: Changed in place.
        source: A model of the same shape, though its modalities may differ.
        names: Modalities that mean the same in both: their tokenizers are equal.

    Raises:
        ValueError: If the shapes differ, or a modality has another size in one of them.
    """
    for name in names:
        ours, theirs = model.space[name], source.space[name]
        sizes = ("vocab_size", "token_shape", "feature_width", "special")
        for what in sizes:
            if getattr(ours, what) != getattr(theirs, what):
                raise ValueError(
                    f"The {what} of {name} is {getattr(ours, what)}, in the model to start from "
                    f"{getattr(theirs, what)}; they must be equal."
                )
    tables = _shared_rows(model, source, names)
    new, old = _flatten(model), _flatten(source)
    for path in sorted({*new, *old}, key=str):
        own_name = str(path[0])
        if own_name.startswith(PROJECTION):
            continue
        if own_name in BEGIN_AT_ZERO and (path not in new or path not in old):
            continue
        if path not in new or path not in old:
            shapes = [v[path].get_value().shape if path in v else "none" for v in (new, old)]
            raise ValueError(_difference(path, *shapes))
        value, taken = new[path].get_value(), old[path].get_value()
        if own_name in tables:
            for here, there, count in tables[own_name]:
                value = value.at[here : here + count].set(taken[there : there + count])
            taken = value
        if value.shape != taken.shape:
            raise ValueError(_difference(path, value.shape, taken.shape))
        new[path].set_value(taken.astype(value.dtype))
    for name in names:
        ours, theirs = model.space[name], source.space[name]
        if ours.feature_width:
            projection = getattr(source, projection_name(theirs))
            nnx.update(getattr(model, projection_name(ours)), nnx.state(projection))


def _shared_rows(model: FourM, source: FourM, names: Sequence[str]) -> dict[str, Rows]:
    """Returns the rows to be copied, by table."""
    ids: Rows = [(MASK_ID, MASK_ID, 1)]
    modalities: Rows = []
    positions: Rows = []
    for name in names:
        ours, theirs = model.space[name], source.space[name]
        ids.append((ours.first_id, theirs.first_id, ours.vocab_size))
        modalities.append((ours.index, theirs.index, 1))
        positions.append((ours.first_position, theirs.first_position, ours.num_positions))
    here = find_rows(model.space, model.config.published.separate_positions)
    there = find_rows(source.space, source.config.published.separate_positions)
    separate = [
        (here[name][0], there[name][0], here[name][1])
        for name in names
        if name in here and name in there
    ]
    return {
        "input_table": ids,
        "output_table": ids,
        "previous_table": ids,
        "modality_table": modalities,
        "target_modality_table": modalities,
        "position_table": positions,
        "input_position_table": separate,
        "target_position_table": separate,
    }


def _flatten(model: FourM) -> dict[tuple, nnx.Variable]:
    return dict(nnx.to_flat_state(nnx.state(model)))


def _difference(path: tuple, ours: object, theirs: object) -> str:
    name = ".".join(map(str, path))
    return (
        f"{name} has shape {ours} here and {theirs} in the model to start from; give --model the "
        "values of that run."
    )

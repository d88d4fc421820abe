"""Weights of the published transformers, to our model and back."""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from fourm.interop.tensors import Weights, variables
from fourm.interop.transformer.config import (
    Config,
    build_space,
    complete_config,
    from_ours,
    read_config,
    to_model_config,
    write_metadata,
)
from fourm.interop.transformer.placement import (
    Tensor,
    as_matrix,
    fixed_positions,
    list_tensors,
    to_tensors,
)
from fourm.model.positions import sincos_positions
from fourm.model.transformer import FourM

Arrays = dict[str, np.ndarray]
"""Our arrays by path, such as `encoder/layers/mlp/up/kernel`."""

POSITION_TOLERANCE = 1e-3
"""How far fixed positions in a file may be from ours. Single precision differs by 3e-5."""
ROUNDING = {"F16": 2.0**-12, "BF16": 2.0**-9}
"""How far numbers up to 1 are from what they were before they were rounded to such a type."""


def build_abstract(config: Config, sizes: Mapping[str, int] | None = None) -> FourM:
    """Builds a published model without its numbers, whatever its size, at no cost.

    Args:
        config: As in a file; what it leaves out has its default.
        sizes: Vocabulary of a modality, or width of its embeddings, where not the published one.

    Raises:
        ValueError: If a key or value of the configuration is not known.
    """
    config = complete_config(config)
    space, model_config = build_space(config, sizes or {}), to_model_config(config)
    return nnx.eval_shape(lambda: FourM(space, model_config, nnx.Rngs(0)))


def count_trunk(model: FourM) -> int:
    """Counts the parameters of a model without tables, projections of features and heads."""
    trunk = ("encoder/", "encoder_norm/", "context/", "decoder/", "decoder_norm/")
    return sum(
        variable.get_value().size
        for path, variable in variables(model).items()
        if path.startswith(trunk)
    )


def import_fm(path: Path) -> FourM:
    """Returns our model with the weights of a published one.

    Args:
        path: A .safetensors file whose metadata or a config.json beside it is the configuration,
            an index of several, or a folder with a model.safetensors or its index. Numbers may
            be of 64, 32 or 16 bits.

    Raises:
        ValueError: If there is no such file, its configuration is not known, or tensors are
            missing, left over, of another shape or type, not finite, or not what the
            configuration makes of them.
    """
    weights = Weights(path)
    config = read_config(weights.file, weights.metadata)
    model = build_abstract(config, _find_sizes(weights.shapes))
    tensors = list_tensors(model.space, model.config)
    _require_same(weights.shapes, {name: tensor.shape for name, tensor in tensors.items()})
    ours = variables(model)
    arrays = {
        name: np.zeros(variable.get_value().shape, np.float32) for name, variable in ours.items()
    }
    filled: set[str] = set()
    for name, tensor in tensors.items():
        array = weights.read(name)
        if tensor.positions is not None:
            array = settle_positions(name, array, fixed_positions(tensor), weights.dtypes[name])
        _fill(arrays, name, tensor, array, filled)
    _complete_positions(arrays, model)
    for name, variable in ours.items():
        variable.set_value(jnp.asarray(arrays.pop(name)))
    return model


def _find_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Reads vocabularies and widths of embeddings off the tensors' shapes."""
    found = {}
    for name, shape in shapes.items():
        part, _, rest = name.partition(".")
        if part in ("encoder_embeddings", "decoder_embeddings") and len(shape) == 2:
            for end, axis in ((".token_emb.weight", 0), (".emb_proj.weight", 1)):
                if rest.endswith(end):
                    found.setdefault(rest.removesuffix(end), shape[axis])
    return found


def _require_same(
    given: Mapping[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError, naming them, if tensors are missing, left over or of another shape."""
    problems = {
        "lacks": [name for name in needed if name not in given],
        "has beyond what its configuration calls for": [n for n in given if n not in needed],
        "has in another shape than its configuration says": [
            f"{name} {given[name]} instead of {shape}"
            for name, shape in needed.items()
            if given.get(name, shape) != shape
        ],
    }
    told = [f"{what} {_join(names)}" for what, names in problems.items() if names]
    if told:
        raise ValueError(
            f"The file {'; it '.join(told)}. Use the config.json that belongs to it, or download "
            "it again."
        )


def _join(names: list[str], limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def settle_positions(name: str, array: np.ndarray, ours: np.ndarray, dtype: str) -> np.ndarray:
    """Returns fixed positions [1, ...] that a file holds, or ours where it rounded them.

    Raises:
        ValueError: If they differ from ours by more than their type's rounding.
    """
    rounding = ROUNDING.get(dtype, 0.0)
    distance = np.abs(array[0] - ours).max()
    if not distance <= POSITION_TOLERANCE + rounding:
        raise ValueError(
            f"{name} holds no sines and cosines of positions: it differs from them by up to "
            f"{distance:.2g}; only such positions can be read."
        )
    return ours[None].astype(np.float32) if rounding else array


def _fill(arrays: Arrays, name: str, tensor: Tensor, array: np.ndarray, filled: set[str]) -> None:
    """Writes a tensor into our arrays, of which some are filled already."""
    if not tensor.pieces and array.any():
        raise ValueError(
            f"{name} is not zero, though the configuration's norm_bias is False; use the "
            "config.json that belongs to the file."
        )
    for piece in tensor.pieces:
        part = as_matrix(tensor, array)[piece.rows]
        part = part.T if tensor.is_transposed else part
        target = arrays[piece.path][piece.index]
        part = part.reshape(target.shape)
        place = f"{piece.path} {piece.index}"
        if place in filled and tensor.positions is None and (target != part).any():
            raise ValueError(
                f"{name} is not that of the encoder, though the configuration's "
                "share_modality_embeddings is True; use the config.json that belongs to the file."
            )
        filled.add(place)
        arrays[piece.path][piece.index] = part


def _complete_positions(arrays: Arrays, model: FourM) -> None:
    """Sets the positions that no tensor of the file tells, which no token has either."""
    table, dim = arrays["position_table"], model.config.dim
    for entry in model.space.ranges:
        rows = slice(entry.first_position, entry.first_position + entry.num_positions)
        if not table[rows].any(1).all():
            table[rows] = np.asarray(sincos_positions(entry, dim))


def export_tensors(model: FourM) -> dict[str, np.ndarray]:
    """Returns a model's weights as they lie in a file."""
    arrays = {name: np.asarray(variable.get_value()) for name, variable in variables(model).items()}
    return dict(to_tensors(arrays, list_tensors(model.space, model.config)))


def export_fm(model: FourM, file: Path) -> None:
    """Writes a model as the published ones are.

    Raises:
        ValueError: If they have no such model.
    """
    config = from_ours(model.space, model.config)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(export_tensors(model), file, write_metadata(config))

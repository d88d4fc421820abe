"""Weights of the published models, to ours and back.

Both sides hold the same numbers. There, layers are apart, queries, keys and values are fused, and
every modality has tables of its own; linear layers are [outputs, inputs]. Here, layers are stacked
and modalities share tables.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fourm.interop.fm_config import (
    Config,
    build_space,
    complete_config,
    from_ours,
    read_config,
    to_model_config,
    write_metadata,
)
from fourm.interop.fm_modalities import SEQUENCE_POSITIONS, find_published
from fourm.layers import ModelConfig
from fourm.model import FourM, find_rows, projection_name, sincos_positions
from fourm.token_space import MASK_ID, TokenRange, TokenSpace

Arrays = dict[str, np.ndarray]
"""Our arrays by path, such as `encoder/layers/mlp/up/kernel`."""

POSITION_TOLERANCE = 1e-3
"""How far fixed positions in a file may be from ours. Single precision differs by 3e-5."""


class Piece(NamedTuple):
    """What a tensor of the file holds of one of our arrays.

    Attributes:
        path: Of our array.
        index: Of our array's first axis: a layer, a row, or rows.
        rows: Of the tensor as a matrix [rows, dim].
    """

    path: str
    index: int | slice = slice(None)
    rows: slice = slice(None)


class Tensor(NamedTuple):
    """One tensor of the file.

    Attributes:
        shape: In the file.
        pieces: Of ours; none for what is always zero.
        is_transposed: Whether our arrays have its last two axes the other way round.
        positions: Whose fixed positions it holds, which neither side learns.
    """

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    is_transposed: bool = False
    positions: TokenRange | None = None


def list_tensors(space: TokenSpace, config: ModelConfig) -> dict[str, Tensor]:
    """Returns the tensors that the file of a model has, by name."""
    dim = config.dim
    found = {"mask_token": Tensor((1, 1, dim), (Piece("previous_table", MASK_ID),))}
    if config.num_registers:
        found["register_tokens"] = Tensor((1, config.num_registers, dim), (Piece("registers"),))
    for entry in space.ranges:
        found |= _embeddings(entry, space, config)
    for layer in range(config.encoder_layers):
        theirs, ours = f"encoder.{layer}", "encoder/layers"
        found |= _norm(f"{theirs}.norm1", f"{ours}/norm1", dim, config, layer)
        found |= _attention(f"{theirs}.attn", f"{ours}/attention", config, layer)
        found |= _norm(f"{theirs}.norm2", f"{ours}/norm2", dim, config, layer)
        found |= _mlp(f"{theirs}.mlp", f"{ours}/mlp", config, layer)
    for layer in range(config.decoder_layers):
        theirs, ours = f"decoder.{layer}", "decoder/layers"
        found |= _norm(f"{theirs}.norm1", f"{ours}/norm1", dim, config, layer)
        found |= _attention(f"{theirs}.self_attn", f"{ours}/self_attention", config, layer)
        attention = (f"{theirs}.cross_attn", f"{ours}/cross_attention")
        found |= _attention(*attention, config, layer, is_cross=True)
        for name in ("query_norm", "context_norm", "norm2"):
            found |= _norm(f"{theirs}.{name}", f"{ours}/{name}", dim, config, layer)
        found |= _mlp(f"{theirs}.mlp", f"{ours}/mlp", config, layer)
    found |= _norm("encoder_norm", "encoder_norm", dim, config)
    found |= _norm("decoder_norm", "decoder_norm", dim, config)
    return found | _linear("decoder_proj_context", ("context",), dim, dim, True)


def _embeddings(entry: TokenRange, space: TokenSpace, config: ModelConfig) -> dict[str, Tensor]:
    dim, known = config.dim, find_published(entry.name)
    ids = slice(entry.first_id, entry.first_id + entry.vocab_size)
    found = {}
    for side, is_there in (("encoder", entry.is_input), ("decoder", entry.is_target)):
        if not is_there:
            continue
        name = f"{side}_embeddings.{entry.name}"
        is_own = side == "decoder" and not config.share_modality_embeddings
        modalities = "target_modality_table" if is_own else "modality_table"
        found[f"{name}.mod_emb"] = Tensor((1, 1, dim), (Piece(modalities, entry.index),))
        if entry.name in config.separate_positions:
            first, count = find_rows(space, config.separate_positions)[entry.name]
            table = "input_position_table" if side == "encoder" else "target_position_table"
            piece = Piece(table, slice(first, first + count))
            found[f"{name}.pos_emb"] = Tensor((1, count, dim), (piece,))
        else:
            # Of the rows for longer sequences than there are, we keep none.
            rows = entry.num_tokens if known.is_picture else SEQUENCE_POSITIONS
            count = min(rows, entry.num_positions)
            first = entry.first_position
            piece = Piece("position_table", slice(first, first + count), slice(count))
            found[f"{name}.pos_emb"] = Tensor((1, rows, dim), (piece,), positions=entry)
        if entry.kind == "features":
            part = "proj" if known.kind == "pixels" else "emb_proj"
            shape = (entry.feature_width, dim)
            found |= _linear(
                f"{name}.{part}", (projection_name(entry),), *shape, entry.feature_bias
            )
            continue
        table = "input_table" if side == "encoder" else "previous_table"
        shape = (entry.vocab_size, dim)
        found[f"{name}.token_emb.weight"] = Tensor(shape, (Piece(table, ids),))
        if side == "decoder":
            found[f"{name}.to_logits.weight"] = Tensor(shape, (Piece("output_table", ids),))
    return found


def _linear(
    theirs: str,
    ours: tuple[str, ...],
    inputs: int,
    outputs: int,
    has_bias: bool,
    layer: int | None = None,
) -> dict[str, Tensor]:
    """Returns a linear layer's tensors, which may hold several of our layers side by side."""
    index = slice(None) if layer is None else layer

    def pieces(part: str) -> tuple[Piece, ...]:
        return tuple(
            Piece(f"{path}/{part}", index, slice(i * outputs, (i + 1) * outputs))
            for i, path in enumerate(ours)
        )

    rows = len(ours) * outputs
    found = {f"{theirs}.weight": Tensor((rows, inputs), pieces("kernel"), is_transposed=True)}
    return found | ({f"{theirs}.bias": Tensor((rows,), pieces("bias"))} if has_bias else {})


def _norm(
    theirs: str, ours: str, dim: int, config: ModelConfig, layer: int | None = None
) -> dict[str, Tensor]:
    index = slice(None) if layer is None else layer
    bias = (Piece(f"{ours}/bias", index),) if config.norm_bias else ()
    return {
        f"{theirs}.weight": Tensor((dim,), (Piece(f"{ours}/scale", index),)),
        f"{theirs}.bias": Tensor((dim,), bias),
    }


def _attention(
    theirs: str, ours: str, config: ModelConfig, layer: int, is_cross: bool = False
) -> dict[str, Tensor]:
    dim = config.dim
    found = {}
    fused = {"q": ("query",), "kv": ("key", "value")} if is_cross else {}
    for name, parts in (fused or {"qkv": ("query", "key", "value")}).items():
        paths = tuple(f"{ours}/{part}" for part in parts)
        found |= _linear(f"{theirs}.{name}", paths, dim, dim, config.qkv_bias, layer)
    found |= _linear(f"{theirs}.proj", (f"{ours}/out",), dim, dim, config.out_bias, layer)
    if config.qk_norm:
        head_dim = dim // config.num_heads
        found |= _norm(f"{theirs}.q_norm", f"{ours}/query_norm", head_dim, config, layer)
        found |= _norm(f"{theirs}.k_norm", f"{ours}/key_norm", head_dim, config, layer)
    return found


def _mlp(theirs: str, ours: str, config: ModelConfig, layer: int) -> dict[str, Tensor]:
    dim, hidden, bias = config.dim, config.mlp_hidden, config.mlp_bias
    inner = {"fc1": "gate", "fc3": "up"} if config.is_gated else {"fc1": "up"}
    found = _linear(f"{theirs}.fc2", (f"{ours}/down",), hidden, dim, bias, layer)
    for name, part in inner.items():
        found |= _linear(f"{theirs}.{name}", (f"{ours}/{part}",), dim, hidden, bias, layer)
    return found


def variables_of(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Returns a module's variables by path."""
    flat = nnx.to_flat_state(nnx.state(module))
    return {"/".join(map(str, path)): variable for path, variable in flat}


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
        for path, variable in variables_of(model).items()
        if path.startswith(trunk)
    )


def find_weights(path: Path) -> Path:
    """Returns the file of weights that is meant by a file or a folder.

    Raises:
        ValueError: If there is none, or it is something else.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no .safetensors file, nor a folder with a model.safetensors; other formats "
            "are not read, as pickles can run code."
        )
    return file


def import_fm(path: Path) -> FourM:
    """Returns our model with the weights of a published one.

    Args:
        path: A .safetensors file whose metadata or a config.json beside it is the configuration,
            or a folder with a model.safetensors.

    Raises:
        ValueError: If there is no such file, its configuration is not known, or tensors are
            missing, left over, of another shape, or not what the configuration makes of them.
    """
    file = find_weights(path)
    try:
        with safe_open(file, framework="numpy") as archive:
            metadata = archive.metadata() or {}
            shapes = {
                name: tuple(archive.get_slice(name).get_shape())
                for name in archive.keys()  # noqa: SIM118
            }
    except SafetensorError as error:
        raise ValueError(f"{file} can't be read ({error}); download it again.") from error
    model = build_abstract(read_config(file, metadata), _find_sizes(shapes))
    tensors = list_tensors(model.space, model.config)
    _require_same(shapes, {name: tensor.shape for name, tensor in tensors.items()})
    variables = variables_of(model)
    arrays = {
        name: np.zeros(variable.get_value().shape, np.float32)
        for name, variable in variables.items()
    }
    for name, tensor in tensors.items():
        # Opened anew for each: what has been read of an open file stays in memory.
        with safe_open(file, framework="numpy") as archive:
            _fill(arrays, name, tensor, archive.get_tensor(name).astype(np.float32, copy=False))
    _complete_positions(arrays, model)
    for name, variable in variables.items():
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
    told = [f"{what} {', '.join(names)}" for what, names in problems.items() if names]
    if told:
        raise ValueError(
            f"The file {'; it '.join(told)}. Use the config.json that belongs to it, or download "
            "it again."
        )


def _as_matrix(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, tensor.shape[-1]) if array.ndim == 3 else array


def _fill(arrays: Arrays, name: str, tensor: Tensor, array: np.ndarray) -> None:
    """Writes a tensor into our arrays."""
    if not tensor.pieces and array.any():
        raise ValueError(
            f"{name} is not zero, though the configuration's norm_bias is False; use the "
            "config.json that belongs to the file."
        )
    if tensor.positions is not None:
        distance = np.abs(array[0] - fixed_positions(tensor)).max()
        if not distance <= POSITION_TOLERANCE:
            raise ValueError(
                f"{name} holds no sines and cosines of positions: it differs from them by up to "
                f"{distance:.2g}; only such positions can be read."
            )
    is_shared = name.startswith("decoder_embeddings.") and name.endswith(".mod_emb")
    for piece in tensor.pieces:
        part = _as_matrix(tensor, array)[piece.rows]
        part = part.T if tensor.is_transposed else part
        target = arrays[piece.path][piece.index]
        if is_shared and target.any() and (target != part[0]).any():
            raise ValueError(
                f"{name} is not that of the encoder, though the configuration's "
                "share_modality_embeddings is True; use the config.json that belongs to the file."
            )
        arrays[piece.path][piece.index] = part.reshape(target.shape)


def fixed_positions(tensor: Tensor) -> Float[np.ndarray, "rows dim"]:
    """Returns all rows of a tensor of fixed positions, rounded where the published ones are.

    Far places amplify the rounding of frequencies: to 3e-5, in the order that `sincos_positions`
    computes in.
    """
    rows, dim = tensor.shape[1:]

    def encode(coordinate: np.ndarray, width: int) -> np.ndarray:
        exponents = np.arange(width // 2, dtype=np.float32) / np.float32(width // 2)
        wavelengths = (10000.0 ** exponents.astype(np.float64)).astype(np.float32)
        angles = np.outer(coordinate.astype(np.float32), np.float32(1) / wavelengths)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    place = np.arange(rows)
    if len(tensor.positions.token_shape) == 1:
        return encode(place, dim)
    row, column = np.divmod(place, tensor.positions.token_shape[1])
    return np.concatenate([encode(row, dim // 2), encode(column, dim // 2)], axis=1)


def _complete_positions(arrays: Arrays, model: FourM) -> None:
    """Sets the positions that no tensor of the file tells, which no token has either."""
    table, dim = arrays["position_table"], model.config.dim
    for entry in model.space.ranges:
        rows = slice(entry.first_position, entry.first_position + entry.num_positions)
        if not table[rows].any(1).all():
            table[rows] = np.asarray(sincos_positions(entry, dim))


def to_tensors(arrays: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor]) -> Iterator:
    """Yields names and tensors as they lie in a file.

    Args:
        arrays: Ours by path; weights, or gradients of them. What is missing counts as zero.
        tensors: Which to make.
    """
    for name, tensor in tensors.items():
        array = np.zeros(tensor.shape, np.float32)
        if tensor.positions is not None:
            array[0] = fixed_positions(tensor)
        for piece in tensor.pieces:
            if piece.path not in arrays:
                continue
            part = arrays[piece.path][piece.index]
            matrix = _as_matrix(tensor, array)
            target = matrix[piece.rows]
            target[...] = part.T if tensor.is_transposed else part.reshape(target.shape)
        yield name, array


def export_tensors(model: FourM) -> dict[str, np.ndarray]:
    """Returns a model's weights as they lie in a file."""
    arrays = {
        name: np.asarray(variable.get_value()) for name, variable in variables_of(model).items()
    }
    return dict(to_tensors(arrays, list_tensors(model.space, model.config)))


def export_fm(model: FourM, file: Path) -> None:
    """Writes a model as the published ones are.

    Raises:
        ValueError: If they have no such model.
    """
    config = from_ours(model.space, model.config)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(export_tensors(model), file, write_metadata(config))

"""Where each tensor of a published transformer's file lies in our model.

Both sides hold the same numbers. There, layers are apart, queries, keys and values are fused, and
every modality has tables of its own; linear layers are [outputs, inputs]. Here, layers are stacked
and modalities share tables.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fourm.interop.transformer.modalities import SEQUENCE_POSITIONS, find_published
from fourm.model.config import ModelConfig
from fourm.model.positions import find_rows
from fourm.model.transformer import projection_name
from fourm.token_space import MASK_ID, TokenRange, TokenSpace


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
        is_own = side == "decoder" and not config.published.share_modality_embeddings
        modalities = "target_modality_table" if is_own else "modality_table"
        found[f"{name}.mod_emb"] = Tensor((1, 1, dim), (Piece(modalities, entry.index),))
        if entry.name in config.published.separate_positions:
            first, count = find_rows(space, config.published.separate_positions)[entry.name]
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
    bias = (Piece(f"{ours}/bias", index),) if config.published.norm_bias else ()
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
        found |= _linear(f"{theirs}.{name}", paths, dim, dim, config.published.qkv_bias, layer)
    found |= _linear(f"{theirs}.proj", (f"{ours}/out",), dim, dim, config.published.out_bias, layer)
    if config.qk_norm:
        head_dim = dim // config.num_heads
        found |= _norm(f"{theirs}.q_norm", f"{ours}/query_norm", head_dim, config, layer)
        found |= _norm(f"{theirs}.k_norm", f"{ours}/key_norm", head_dim, config, layer)
    return found


def _mlp(theirs: str, ours: str, config: ModelConfig, layer: int) -> dict[str, Tensor]:
    dim, hidden, bias = config.dim, config.mlp_hidden, config.published.mlp_bias
    inner = {"fc1": "gate", "fc3": "up"} if config.is_gated else {"fc1": "up"}
    found = _linear(f"{theirs}.fc2", (f"{ours}/down",), hidden, dim, bias, layer)
    for name, part in inner.items():
        found |= _linear(f"{theirs}.{name}", (f"{ours}/{part}",), dim, hidden, bias, layer)
    return found


def as_matrix(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Returns the view of an array to which `Piece.rows` refers."""
    return array.reshape(-1, tensor.shape[-1]) if array.ndim == 3 else array


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


def to_tensors(
    arrays: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
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
            matrix = as_matrix(tensor, array)
            target = matrix[piece.rows]
            target[...] = part.T if tensor.is_transposed else part.reshape(target.shape)
        yield name, array

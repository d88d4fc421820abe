"""The transformer: an encoder over the shown tokens, a decoder over the asked ones.

Pre-norm encoder-decoder without dropout (Mizrahi et al. 2023, section 3.2). Tokens are gathered
before they are embedded. Targets attend to targets of their own modality, in sequences only to
earlier ones, and to all that the encoder has read.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from fourm.token_space import Inputs, MaskedBatch, Targets, TokenRange, TokenSpace

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the transformer."""

    dim: int = 128
    """Width of the residual stream."""
    num_heads: int = 4
    """Attention heads; dim must be divisible by it."""
    encoder_layers: int = 3
    """Blocks of the encoder."""
    decoder_layers: int = 3
    """Blocks of the decoder."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over dim; gated MLPs take two thirds of it, at equal cost."""
    activation: Literal["gelu", "swiglu"] = "swiglu"
    """MLP nonlinearity; swiglu is gated."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """Normalisation before each sublayer."""
    use_bias: bool = False
    """Biases in attention, MLP and LayerNorm."""
    qk_norm: bool = True
    """Normalise queries and keys per head (Dehghani et al. 2023), for high learning rates."""
    num_registers: int = 0
    """Learned tokens that the encoder reads beside the sample's (Darcet et al. 2024)."""
    learned_positions: bool = True
    """Train the position table, which starts from sines and cosines."""
    embedding_std: float = 0.5
    """Standard deviation of token and modality embeddings at the start. Small values let
    positions drown contents in short runs; the published models used 0.02."""
    scan_layers: bool = False
    """Scan over layers (compile time does not grow with depth) instead of unrolling them
    (faster steps on a CPU)."""
    remat: bool = False
    """Recompute activations in the backward pass to save memory."""
    compute_dtype: Dtype = "float32"
    """Precision of activations; bfloat16 where the hardware has it. Parameters, norms, softmax
    and loss stay float32."""

    def check(self) -> None:
        """Raises ValueError, in one sentence, if the shape is impossible."""
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(
                f"--model.dim is {self.dim}; it must be divisible by 4 (positions) and by "
                f"--model.num-heads, {self.num_heads}."
            )
        if self.encoder_layers < 1 or self.decoder_layers < 1:
            raise ValueError(
                f"--model.encoder-layers is {self.encoder_layers} and --model.decoder-layers "
                f"{self.decoder_layers}; both must be at least 1."
            )


def sincos_positions(entry: TokenRange, dim: int) -> Float[Array, "positions {dim}"]:
    """Builds fixed positions of one modality, row-major: sines and cosines of each coordinate.

    Grids halve the width between row and column (four blocks: sin row, cos row, sin column,
    cos column, wavelengths up to 10000); sequences use it for one coordinate.
    """

    def encode(coordinate: Float[Array, "positions"], width: int) -> Float[Array, "positions _"]:
        frequencies = 10000.0 ** (-jnp.arange(width // 2) / (width // 2))
        angles = jnp.outer(coordinate, frequencies)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)

    place = jnp.arange(entry.num_positions)
    if len(entry.token_shape) == 2:
        width = entry.token_shape[1]
        rows, columns = (place // width).astype(jnp.float32), (place % width).astype(jnp.float32)
        return jnp.concatenate([encode(rows, dim // 2), encode(columns, dim // 2)], axis=1)
    return encode(place.astype(jnp.float32), dim)


def dense(
    config: ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs, use_bias: bool | None = None
) -> nnx.Linear:
    """Builds a projection with Xavier-uniform weights."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=config.use_bias if use_bias is None else use_bias,
        kernel_init=nnx.initializers.xavier_uniform(),
        dtype=jnp.dtype(config.compute_dtype),
        rngs=rngs,
    )


def norm(config: ModelConfig, dim: int, rngs: nnx.Rngs) -> nnx.RMSNorm | nnx.LayerNorm:
    """Builds the normalisation; statistics are taken in float32."""
    dtype = jnp.dtype(config.compute_dtype)
    if config.norm == "rmsnorm":
        return nnx.RMSNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(dim, epsilon=1e-6, use_bias=config.use_bias, dtype=dtype, rngs=rngs)


def apply_flat(layer: Callable, x: Float[Array, "batch tokens dim"]) -> Float[Array, "..."]:
    """Applies a layer to tokens as rows: XLA's backward pass on the CPU is slow in 3-D."""
    rows = layer(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


class Attention(nnx.Module):
    """Multi-head attention of `queries` to `context`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        dim = config.dim
        self.num_heads = config.num_heads
        self.query = dense(config, dim, dim, rngs)
        self.key = dense(config, dim, dim, rngs)
        # Queries and keys start out alike, so that tokens begin by attending to their own place
        # in other modalities (Trockman and Kolter 2023); with separate draws it takes hundreds
        # of steps to find.
        self.key.kernel[...] = jnp.copy(self.query.kernel[...])
        self.value = dense(config, dim, dim, rngs)
        self.out = dense(config, dim, dim, rngs)
        head_dim = dim // config.num_heads
        self.query_norm = norm(config, head_dim, rngs) if config.qk_norm else None
        self.key_norm = norm(config, head_dim, rngs) if config.qk_norm else None

    def keys_and_values(
        self, context: Float[Array, "batch s dim"]
    ) -> tuple[Float[Array, "batch heads s k"], Float[Array, "batch heads s k"]]:
        """Projects what is attended to; generation keeps the result."""
        keys = self.split_heads(apply_flat(self.key, context))
        if self.key_norm is not None:
            keys = self.key_norm(keys)
        return keys, self.split_heads(apply_flat(self.value, context))

    def attend(
        self,
        queries: Float[Array, "batch t dim"],
        keys: Float[Array, "batch heads s k"],
        values: Float[Array, "batch heads s k"],
        can_attend: Bool[Array, "batch #t s"],
    ) -> Float[Array, "batch t dim"]:
        """Attends to keys and values that are already projected.

        A row that may attend to nothing gets zeros, as from an empty context.
        """
        q = self.split_heads(apply_flat(self.query, queries))
        if self.query_norm is not None:
            q = self.query_norm(q)
        scores = jnp.einsum("bhtk,bhsk->bhts", q, keys).astype(jnp.float32)
        mask = can_attend[:, None]
        scores = jnp.where(mask, scores / math.sqrt(q.shape[-1]), -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        mixed = jnp.einsum("bhts,bhsk->bhtk", weights, values)
        mixed = jnp.where(mask.any(-1, keepdims=True), mixed, 0)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(queries.shape)
        return apply_flat(self.out, mixed)

    def __call__(
        self,
        queries: Float[Array, "batch t dim"],
        context: Float[Array, "batch s dim"],
        can_attend: Bool[Array, "batch #t s"],
    ) -> Float[Array, "batch t dim"]:
        return self.attend(queries, *self.keys_and_values(context), can_attend)

    def split_heads(self, x: Float[Array, "batch t dim"]) -> Float[Array, "batch heads t k"]:
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, self.num_heads, dim // self.num_heads).swapaxes(1, 2)


class Mlp(nnx.Module):
    """The position-wise network of a block."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        hidden = int(config.dim * config.mlp_ratio)
        is_gated = config.activation == "swiglu"
        if is_gated:
            hidden = int(2 * hidden / 3)
        self.gate = dense(config, config.dim, hidden, rngs) if is_gated else None
        self.up = dense(config, config.dim, hidden, rngs)
        self.down = dense(config, hidden, config.dim, rngs)

    def __call__(self, x: Float[Array, "batch t dim"]) -> Float[Array, "batch t dim"]:
        def network(rows: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
            if self.gate is not None:
                return self.down(nnx.silu(self.gate(rows)) * self.up(rows))
            return self.down(nnx.gelu(self.up(rows), approximate=False))

        return apply_flat(network, x)


class EncoderBlock(nnx.Module):
    """Self-attention and MLP."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.norm1 = norm(config, config.dim, rngs)
        self.attention = Attention(config, rngs)
        self.norm2 = norm(config, config.dim, rngs)
        self.mlp = Mlp(config, rngs)

    def __call__(
        self, x: Float[Array, "batch n dim"], can_attend: Bool[Array, "batch #n n"]
    ) -> Float[Array, "batch n dim"]:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, can_attend)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nnx.Module):
    """Self-attention within a modality, attention to the encoder's output, and MLP."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.norm1 = norm(config, config.dim, rngs)
        self.self_attention = Attention(config, rngs)
        self.query_norm = norm(config, config.dim, rngs)
        self.context_norm = norm(config, config.dim, rngs)
        self.cross_attention = Attention(config, rngs)
        self.norm2 = norm(config, config.dim, rngs)
        self.mlp = Mlp(config, rngs)

    def __call__(
        self,
        x: Float[Array, "batch m dim"],
        context: Float[Array, "batch n dim"],
        can_attend: Bool[Array, "batch m m"],
        can_attend_context: Bool[Array, "batch 1 n"],
    ) -> Float[Array, "batch m dim"]:
        """Returns the targets' features; as many targets as are asked at once."""
        normed = self.norm1(x)
        targets = self.self_attention.keys_and_values(normed)
        about_context = self.project_context(context)
        return self.attend(x, normed, targets, about_context, can_attend, can_attend_context)

    def project_context(
        self, context: Float[Array, "batch n dim"]
    ) -> tuple[Float[Array, "batch heads n k"], Float[Array, "batch heads n k"]]:
        """Projects the encoder's output to this block's keys and values."""
        return self.cross_attention.keys_and_values(self.context_norm(context))

    def attend(
        self,
        x: Float[Array, "batch m dim"],
        normed: Float[Array, "batch m dim"],
        targets: tuple[Float[Array, "batch heads s k"], Float[Array, "batch heads s k"]],
        context: tuple[Float[Array, "batch heads n k"], Float[Array, "batch heads n k"]],
        can_attend: Bool[Array, "batch #m s"],
        can_attend_context: Bool[Array, "batch 1 n"],
    ) -> Float[Array, "batch m dim"]:
        """Applies the block to `x`, `norm1(x)`, and keys and values already projected."""
        x = x + self.self_attention.attend(normed, *targets, can_attend)
        x = x + self.cross_attention.attend(self.query_norm(x), *context, can_attend_context)
        return x + self.mlp(self.norm2(x))


class Stack(nnx.Module):
    """Layers of one kind with stacked parameters, scanned or unrolled by one switch.

    Parameters are stacked [layers, ...] either way, so that a checkpoint serves both.
    """

    def __init__(self, block: type[nnx.Module], num_layers: int, config: ModelConfig, rngs):
        @nnx.split_rngs(splits=num_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs: nnx.Rngs) -> nnx.Module:
            return block(config, rngs)

        self.layers = create(rngs)
        self.unroll = 1 if config.scan_layers else num_layers
        self.remat = config.remat

    def __call__(self, x: Float[Array, "batch t dim"], *context: Array) -> Float[Array, "..."]:
        return self.scan(lambda layer, x, _: (layer(x, *context), None), x)[0]

    def scan(
        self,
        apply_layer: Callable[[nnx.Module, Any, Any], tuple[Any, Any]],
        carry: PyTree,
        per_layer: PyTree = None,
    ) -> tuple[PyTree, PyTree]:
        """Carries a value through the layers, each with its share of `per_layer`.

        Returns:
            The last carry, and what the layers return beside it, stacked.
        """
        graph, stacked = nnx.split(self.layers)

        def body(carry, layer_and_share):
            layer, share = layer_and_share
            return apply_layer(nnx.merge(graph, layer), carry, share)

        body = jax.checkpoint(body) if self.remat else body
        return jax.lax.scan(body, carry, (stacked, per_layer), unroll=self.unroll)


def can_attend_targets(
    targets: Targets, is_sequence: Bool[Array, "modalities"]
) -> Bool[Array, "batch m m"]:
    """Says which target may see which: its own modality; in sequences, no later token.

    With two grid targets g and three sequence targets s (rows see columns):

          g g s s s
        g x x . . .
        g x x . . .
        s . . x . .
        s . . x x .
        s . . x x x
    """
    same = targets.modality[:, :, None] == targets.modality[:, None, :]
    later = targets.position[:, None, :] > targets.position[:, :, None]
    allowed = same & ~(later & is_sequence[targets.modality][:, :, None])
    return allowed & targets.is_real[:, None, :]


class FourM(nnx.Module):
    """The any-to-any model over one token space."""

    def __init__(self, space: TokenSpace, config: ModelConfig, rngs: nnx.Rngs):
        config.check()
        self.space, self.config = space, config
        init = nnx.initializers.normal(config.embedding_std)
        key = rngs.params
        dim = config.dim
        self.input_table = nnx.Param(init(key(), (space.vocab_size, dim)))
        self.output_table = nnx.Param(nnx.initializers.normal(0.02)(key(), (space.vocab_size, dim)))
        self.modality_table = nnx.Param(init(key(), (len(space.ranges), dim)))
        positions = jnp.concatenate([sincos_positions(entry, dim) for entry in space.ranges])
        kind = nnx.Param if config.learned_positions else nnx.Variable
        self.position_table = kind(positions)
        registers = (config.num_registers, dim)
        self.registers = nnx.Param(init(key(), registers)) if config.num_registers else None
        self.encoder = Stack(EncoderBlock, config.encoder_layers, config, rngs)
        self.encoder_norm = norm(config, dim, rngs)
        self.context = dense(config, dim, dim, rngs, use_bias=True)
        self.decoder = Stack(DecoderBlock, config.decoder_layers, config, rngs)
        self.decoder_norm = norm(config, dim, rngs)

    @property
    def is_sequence(self) -> Bool[Array, "modalities"]:
        return jnp.array([entry.kind == "sequence" for entry in self.space.ranges])

    def place(
        self, modality: Int[Array, "batch t"], position: Int[Array, "batch t"]
    ) -> Float[Array, "batch t dim"]:
        """Looks up what a token's modality and position add to it."""
        where = self.modality_table[...][modality] + self.position_table[...][position]
        return where.astype(self.config.compute_dtype)

    def embed(self, ids: Int[Array, "batch t"]) -> Float[Array, "batch t dim"]:
        """Looks up contents by shared id."""
        return self.input_table[...][ids].astype(self.config.compute_dtype)

    def encode(self, inputs: Inputs) -> Float[Array, "batch n dim"]:
        """Returns features of the shown tokens; those of padding mean nothing."""
        x = self.embed(inputs.ids) + self.place(inputs.modality, inputs.position)
        is_real = inputs.is_real
        count = self.config.num_registers
        if self.registers is not None:
            registers = self.registers[...].astype(x.dtype)
            x = jnp.concatenate(
                [jnp.broadcast_to(registers, (len(x), *registers.shape)), x], axis=1
            )
            is_real = jnp.pad(is_real, ((0, 0), (count, 0)), constant_values=True)
        x = self.encoder(x, is_real[:, None, :])
        return self.encoder_norm(x)[:, count:]

    def build_context(
        self, features: Float[Array, "batch n dim"], inputs: Inputs
    ) -> Float[Array, "batch n dim"]:
        """Returns what the decoder attends to: features, and again where they came from."""
        return apply_flat(self.context, features) + self.place(inputs.modality, inputs.position)

    def decode(
        self,
        targets: Targets,
        context: Float[Array, "batch n dim"],
        is_real: Bool[Array, "batch n"],
    ) -> Float[Array, "batch m dim"]:
        """Returns features of the asked tokens, from which `logits` follow."""
        x = self.embed(targets.previous) + self.place(targets.modality, targets.position)
        can_attend = can_attend_targets(targets, self.is_sequence)
        x = self.decoder(x, context, can_attend, is_real[:, None, :])
        return self.decoder_norm(x)

    def __call__(self, batch: MaskedBatch) -> Float[Array, "batch m dim"]:
        features = self.encode(batch.inputs)
        context = self.build_context(features, batch.inputs)
        return self.decode(batch.targets, context, batch.inputs.is_real)

    def logits(
        self, features: Float[Array, "batch m dim"], entry: TokenRange
    ) -> Float[Array, "batch m v"]:
        """Returns float32 logits over one modality's own vocabulary."""
        table = self.output_table[...][entry.first_id : entry.first_id + entry.vocab_size]
        head = table.T.astype(features.dtype)
        # Into float32 at once: logits rounded to bfloat16 would tie.
        return apply_flat(
            lambda rows: jnp.matmul(rows, head, preferred_element_type=jnp.float32), features
        )


def initialize_from_codes(
    model: FourM,
    features: Mapping[str, Float[np.ndarray, "vocab features"]],
    key: Key[Array, ""],
    share: float = 0.8,
) -> None:
    """Starts the rows of ids that mean alike near each other, in both tables.

    Args:
        model: Changed in place.
        features: Per modality, what its tokenizer's `code_features` returns.
        key: Of the random projections from features to rows.
        share: How much of a row's variance comes from the features; the rest tells ids apart.
    """
    for table, std in ((model.input_table, model.config.embedding_std), (model.output_table, 0.05)):
        key, table_key = jax.random.split(key)
        for name, rows in features.items():
            entry = model.space[name]
            row_key, noise_key = jax.random.split(jax.random.fold_in(table_key, entry.index))
            is_known = (rows != 0).any(1)
            known = rows[is_known]
            known = (known - known.mean(0)) / np.maximum(known.std(0), 1e-6)
            projection = jax.random.normal(row_key, (known.shape[1], model.config.dim))
            meaning = jnp.asarray(known, jnp.float32) @ projection / math.sqrt(known.shape[1])
            noise = jax.random.normal(noise_key, meaning.shape)
            ids = entry.first_id + np.flatnonzero(is_known)
            mixed = math.sqrt(share) * meaning + math.sqrt(1 - share) * noise
            table[...] = table[...].at[ids].set(std * mixed)

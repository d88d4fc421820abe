"""The parts of the transformer: attention, MLP, and the blocks of encoder and decoder.

Pre-norm, without dropout (Mizrahi et al. 2023, section 3.2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fourm.model.attention import attend_in_parts
from fourm.model.gating import gate
from tokenizers.settings.checked import Checked, name_knob

Dtype = Literal["auto", "float32", "bfloat16"]
Remat = Literal["none", "blocks", "everything"]
Activation = Literal["gelu", "silu", "relu", "geglu", "swiglu", "reglu"]
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "gelu": (partial(nnx.gelu, approximate=False), False),
    "silu": (nnx.silu, False),
    "relu": (nnx.relu, False),
    "geglu": (partial(nnx.gelu, approximate=False), True),
    "swiglu": (nnx.silu, True),
    "reglu": (nnx.relu, True),
}
"""Per activation its function, and whether the MLP is gated by it (Shazeer 2020)."""


BOUNDS = {
    "dim": (4, 2**16),
    "num_heads": (1, 2**12),
    "encoder_layers": (1, 2**10),
    "decoder_layers": (1, 2**10),
    "mlp_ratio": (0.01, 2**10),
    "num_registers": (0, 2**16),
    "embedding_std": (0, 2**10),
}
"""Least and largest value of knobs of the model: beyond are typing errors and damaged files."""


@dataclass(frozen=True)
class ModelConfig(Checked):
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
    activation: Activation = "swiglu"
    """MLP nonlinearity; those that end in "glu" are gated."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """Normalisation before each sublayer."""
    qkv_bias: bool = False
    """Biases of queries, keys and values."""
    out_bias: bool = False
    """Biases of what attention puts out."""
    mlp_bias: bool = False
    """Biases in the MLP."""
    norm_bias: bool = False
    """Biases of LayerNorm; RMSNorm has none."""
    qk_norm: bool = True
    """Normalise queries and keys per head (Dehghani et al. 2023), for high learning rates."""
    num_registers: int = 0
    """Learned tokens that the encoder reads beside the sample's (Darcet et al. 2024)."""
    registers_in_context: bool = False
    """Let the decoder attend to what the encoder makes of the registers, too."""
    learned_positions: bool = True
    """Train the position table, which starts from sines and cosines."""
    separate_positions: tuple[str, ...] = ()
    """Modalities whose positions are learned from random values, apart in encoder and decoder:
    those whose tokens have a number but no place, such as codes of a global feature."""
    share_token_embeddings: bool = True
    """One table for the tokens that the encoder reads and for the preceding tokens (and the mask)
    that the decoder reads; off gives the decoder its own."""
    share_modality_embeddings: bool = True
    """One table for what a token's modality adds to it in encoder and decoder; off gives the
    decoder its own."""
    separate_targets: bool = True
    """Targets attend to targets of their own modality alone; off lets them attend to those of the
    modalities before theirs, too."""
    causal_targets: bool = False
    """No target attends to a later one; off spares the targets of grids, which say nothing to each
    other but where they are."""
    embedding_std: float = 0.5
    """Standard deviation of token and modality embeddings at the start. Small values let
    positions drown contents in short runs; the published models used 0.02."""
    scan_layers: bool = False
    """Scan over layers (compile time does not grow with depth) instead of unrolling them
    (faster steps on a CPU)."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it. blocks keeps what goes into
    each block: one more forward pass. everything keeps that of every few blocks only: two more
    (Chen et al. 2016)."""
    compute_dtype: Dtype = "auto"
    """Precision of activations. auto is bfloat16 on GPUs and TPUs and float32 on a CPU, and is
    settled when a model is made. Parameters, norms, softmax and loss stay float32."""

    @property
    def dtype(self) -> jnp.dtype:
        """Of activations, on this machine if that is left to it."""
        if self.compute_dtype == "auto":
            return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        return jnp.dtype(self.compute_dtype)

    @property
    def is_gated(self) -> bool:
        return ACTIVATIONS[self.activation][1]

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP."""
        hidden = int(self.dim * self.mlp_ratio)
        return int(2 * hidden / 3) if self.is_gated else hidden

    @staticmethod
    def from_earlier(stored: dict[str, Any]) -> dict[str, Any]:
        """Returns fields as this version names them, see `tokenizers.settings.plain`."""
        stored = dict(stored)
        if "use_bias" in stored:  # Once one knob stood for four.
            parts = ("qkv_bias", "out_bias", "mlp_bias", "norm_bias")
            stored |= dict.fromkeys(parts, stored.pop("use_bias"))
        if isinstance(stored.get("remat"), bool):  # Once this was a switch.
            stored["remat"] = "blocks" if stored["remat"] else "none"
        return stored

    def check_knobs(self, knob: str) -> None:
        for name, (least, most) in BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be {least} to "
                    f"{most}."
                )
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(
                f"{name_knob(knob, 'dim')} is {self.dim}; it must be divisible by 4 (positions) "
                f"and by {name_knob(knob, 'num_heads')}, {self.num_heads}."
            )
        if self.registers_in_context and not self.num_registers:
            raise ValueError(
                f"{name_knob(knob, 'registers_in_context')} needs registers; raise "
                f"{name_knob(knob, 'num_registers')} from 0."
            )


def dense(
    config: ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs, use_bias: bool
) -> nnx.Linear:
    """Builds a projection with Xavier-uniform weights."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=nnx.initializers.xavier_uniform(),
        dtype=config.dtype,
        rngs=rngs,
    )


def norm(config: ModelConfig, dim: int, rngs: nnx.Rngs) -> nnx.RMSNorm | nnx.LayerNorm:
    """Builds the normalisation; statistics are taken in float32."""
    dtype = config.dtype
    if config.norm == "rmsnorm":
        return nnx.RMSNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(dim, epsilon=1e-6, use_bias=config.norm_bias, dtype=dtype, rngs=rngs)


def apply_flat(layer: Callable, x: Float[Array, "batch tokens dim"]) -> Float[Array, "..."]:
    """Applies a layer to tokens as rows: XLA's backward pass on the CPU is slow in 3-D."""
    rows = layer(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


class Attention(nnx.Module):
    """Multi-head attention of `queries` to `context`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        dim = config.dim
        self.num_heads = config.num_heads
        self.query = dense(config, dim, dim, rngs, config.qkv_bias)
        self.key = dense(config, dim, dim, rngs, config.qkv_bias)
        # Queries and keys start out alike, so that tokens begin by attending to their own place
        # in other modalities (Trockman and Kolter 2023); with separate draws it takes hundreds
        # of steps to find.
        self.key.kernel[...] = jnp.copy(self.query.kernel[...])
        self.value = dense(config, dim, dim, rngs, config.qkv_bias)
        self.out = dense(config, dim, dim, rngs, config.out_bias)
        head_dim = dim // config.num_heads
        self.query_norm = norm(config, head_dim, rngs) if config.qk_norm else None
        self.key_norm = norm(config, head_dim, rngs) if config.qk_norm else None

    def keys_and_values(
        self, context: Float[Array, "batch s dim"]
    ) -> tuple[Float[Array, "batch s heads k"], Float[Array, "batch s heads k"]]:
        """Projects what is attended to; generation keeps the result."""
        keys = self.split_heads(apply_flat(self.key, context))
        if self.key_norm is not None:
            keys = self.key_norm(keys)
        return keys, self.split_heads(apply_flat(self.value, context))

    def attend(
        self,
        queries: Float[Array, "batch t dim"],
        keys: Float[Array, "batch s heads k"],
        values: Float[Array, "batch s heads k"],
        can_attend: Bool[Array, "batch #t s"],
    ) -> Float[Array, "batch t dim"]:
        """Attends to keys and values that are already projected.

        A row that may attend to nothing gets zeros, as from an empty context.
        """
        q = self.split_heads(apply_flat(self.query, queries))
        if self.query_norm is not None:
            q = self.query_norm(q)
        mixed = attend_in_parts(q, keys, values, can_attend)
        return apply_flat(self.out, mixed)

    def __call__(
        self,
        queries: Float[Array, "batch t dim"],
        context: Float[Array, "batch s dim"],
        can_attend: Bool[Array, "batch #t s"],
    ) -> Float[Array, "batch t dim"]:
        return self.attend(queries, *self.keys_and_values(context), can_attend)

    def split_heads(self, x: Float[Array, "batch t dim"]) -> Float[Array, "batch t heads k"]:
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, self.num_heads, dim // self.num_heads)


class Mlp(nnx.Module):
    """The position-wise network of a block."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        hidden, bias = config.mlp_hidden, config.mlp_bias
        self.activation = config.activation
        self.gate = dense(config, config.dim, hidden, rngs, bias) if config.is_gated else None
        self.up = dense(config, config.dim, hidden, rngs, bias)
        self.down = dense(config, hidden, config.dim, rngs, bias)

    def __call__(self, x: Float[Array, "batch t dim"]) -> Float[Array, "batch t dim"]:
        activate, _ = ACTIVATIONS[self.activation]

        def network(rows: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
            if self.gate is not None:
                return self.down(gate(activate, self.gate(rows), self.up(rows)))
            return self.down(activate(self.up(rows)))

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
    ) -> tuple[Float[Array, "batch n heads k"], Float[Array, "batch n heads k"]]:
        """Projects the encoder's output to this block's keys and values."""
        return self.cross_attention.keys_and_values(self.context_norm(context))

    def attend(
        self,
        x: Float[Array, "batch m dim"],
        normed: Float[Array, "batch m dim"],
        targets: tuple[Float[Array, "batch s heads k"], Float[Array, "batch s heads k"]],
        context: tuple[Float[Array, "batch n heads k"], Float[Array, "batch n heads k"]],
        can_attend: Bool[Array, "batch #m s"],
        can_attend_context: Bool[Array, "batch 1 n"],
    ) -> Float[Array, "batch m dim"]:
        """Applies the block to `x`, `norm1(x)`, and keys and values already projected."""
        x = x + self.self_attention.attend(normed, *targets, can_attend)
        x = x + self.cross_attention.attend(self.query_norm(x), *context, can_attend_context)
        return x + self.mlp(self.norm2(x))

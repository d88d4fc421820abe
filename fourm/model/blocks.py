"""The blocks of encoder and decoder.

Pre-norm, without dropout (Mizrahi et al. 2023, section 3.2).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fourm.model.attention import attend
from fourm.model.config import ModelConfig
from fourm.model.mlp import Mlp
from fourm.model.projections import apply_all, apply_flat, dense, norm


class Attention(nnx.Module):
    """Multi-head attention of `queries` to `context`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        dim = config.dim
        self.num_heads, self.may_fuse = config.num_heads, config.fused_attention
        self.is_joined = config.joined_products
        self.query = dense(config, dim, dim, rngs, config.published.qkv_bias)
        self.key = dense(config, dim, dim, rngs, config.published.qkv_bias)
        # Queries and keys start out alike, so that tokens begin by attending to their own place
        # in other modalities (Trockman and Kolter 2023); with separate draws it takes hundreds
        # of steps to find.
        self.key.kernel[...] = jnp.copy(self.query.kernel[...])
        self.value = dense(config, dim, dim, rngs, config.published.qkv_bias)
        self.out = dense(config, dim, dim, rngs, config.published.out_bias)
        head_dim = dim // config.num_heads
        self.query_norm = norm(config, head_dim, rngs) if config.qk_norm else None
        self.key_norm = norm(config, head_dim, rngs) if config.qk_norm else None

    def keys_and_values(
        self, context: Float[Array, "batch s dim"]
    ) -> tuple[Float[Array, "batch s heads k"], Float[Array, "batch s heads k"]]:
        """Projects what is attended to; generation keeps the result."""
        projected = apply_all([self.key, self.value], context, self.is_joined)
        keys, values = (self.split_heads(each) for each in projected)
        return keys if self.key_norm is None else self.key_norm(keys), values

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
        mixed = attend(q, keys, values, can_attend, self.may_fuse)
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

"""Several ids per latent, each from a quantiser of its own: residual or grouped.

Two codebooks of 256 codes tell 65,536 latents apart with 512 codes to learn. What each id costs is
one more token of the transformer.
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tokenizers.images.quantizers import (
    FiniteScalarQuantizer,
    LinearlyMovedQuantizer,
    Quantized,
    VectorQuantizer,
)

OneCode = VectorQuantizer | LinearlyMovedQuantizer | FiniteScalarQuantizer


class SeveralCodes(nnx.Module):
    """Quantisers, `heads`, that share a latent. All have the same number of codes.

    Codes that are not used are what each quantiser makes of them. The loss, and the metrics, are
    means over heads.
    """

    dim: int
    """Length of a latent."""

    def __init__(self, heads: list[OneCode]):
        self.heads = nnx.List(heads)
        self.num_heads, self.num_codes = len(heads), heads[0].num_codes

    @abstractmethod
    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        """Returns codes [..., dim] and ids [..., num_heads]."""

    @abstractmethod
    def spread(self, latents: Float[Array, "count dim"], key: Array) -> None:
        """Puts the codebooks onto data."""

    @abstractmethod
    def join(self, codes: list[Float[Array, "*batch _"]]) -> Float[Array, "*batch dim"]:
        """Returns what the codes of all heads stand for."""

    def lookup(self, ids: Int[Array, "*batch heads"]) -> Float[Array, "*batch dim"]:
        """Returns the codes of ids."""
        return self.join([head.lookup(ids[..., i]) for i, head in enumerate(self.heads)])

    def mean_code(
        self, probabilities: Float[Array, "*batch heads v"]
    ) -> Float[Array, "*batch dim"]:
        """Returns the mean codes of distributions over ids."""
        means = [probabilities[..., i, :] @ head.codebook() for i, head in enumerate(self.heads)]
        return self.join(means)

    def codebook(self) -> Float[Array, "num_codes numbers"]:
        """Returns per id the codes that it stands for in all heads, side by side."""
        return jnp.concatenate([head.codebook() for head in self.heads], axis=-1)

    def _gather(self, answers: list[Quantized], codes: Float[Array, "*batch dim"]) -> Quantized:
        """Returns one answer of those of all heads."""
        ids = jnp.stack([answer.ids for answer in answers], axis=-1)
        loss = jnp.mean(jnp.stack([answer.loss for answer in answers]))
        metrics = {
            name: jnp.mean(jnp.stack([answer.metrics[name] for answer in answers]))
            for name in answers[0].metrics
        }
        return Quantized(codes, ids, loss, metrics)


class ResidualQuantizer(SeveralCodes):
    """Every head codes what those before it have left; codes add up (Lee et al. 2022, RQ-VAE).

    The first ids hold the most. Heads compare by euclidean distance: a direction has no remainder.
    """

    def __init__(self, heads: list[OneCode]):
        super().__init__(heads)
        self.dim = heads[0].dim

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        rows = latents.astype(jnp.float32)
        rest, answers = rows, []
        for head, head_key in zip(self.heads, jax.random.split(key, self.num_heads), strict=True):
            answers.append(head.quantize(rest, head_key, train))
            rest = rest - jax.lax.stop_gradient(answers[-1].codes)
        return self._gather(answers, rows - jax.lax.stop_gradient(rest))

    def spread(self, latents: Float[Array, "count dim"], key: Array) -> None:
        rest = latents.astype(jnp.float32)
        for head, head_key in zip(self.heads, jax.random.split(key, self.num_heads), strict=True):
            _spread_head(head, rest, head_key)
            rest = rest - head.quantize(rest, head_key, train=False).codes

    def join(self, codes: list[Float[Array, "*batch _"]]) -> Float[Array, "*batch dim"]:
        return sum(codes[1:], start=codes[0])


class GroupedQuantizer(SeveralCodes):
    """Every head codes a part of the latent's numbers; codes lie side by side.

    Parts are equals: no id holds more than another (Yang et al. 2023, HiFi-Codec; product
    quantisation, Jégou et al. 2011).
    """

    def __init__(self, heads: list[OneCode]):
        super().__init__(heads)
        self.dim = sum(head.dim for head in heads)

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        keys = jax.random.split(key, self.num_heads)
        parts = zip(self.heads, self._split(latents), keys, strict=True)
        answers = [head.quantize(rows, head_key, train) for head, rows, head_key in parts]
        return self._gather(answers, self.join([answer.codes for answer in answers]))

    def spread(self, latents: Float[Array, "count dim"], key: Array) -> None:
        keys = jax.random.split(key, self.num_heads)
        for head, rows, head_key in zip(self.heads, self._split(latents), keys, strict=True):
            _spread_head(head, rows, head_key)

    def join(self, codes: list[Float[Array, "*batch _"]]) -> Float[Array, "*batch dim"]:
        return jnp.concatenate(codes, axis=-1)

    def _split(self, latents: Float[Array, "*batch dim"]) -> list[Float[Array, "*batch _"]]:
        return jnp.split(latents, self.num_heads, axis=-1)


def _spread_head(head: OneCode, latents: Float[Array, "count dim"], key: Array) -> None:
    """Puts a learned codebook onto data; a grid stays as it is."""
    if not isinstance(head, FiniteScalarQuantizer):
        head.spread(latents, key)

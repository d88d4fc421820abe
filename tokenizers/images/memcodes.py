"""Several small codebooks side by side, read by attention (Kumar et al. 2023, NWT's "memcodes")."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tokenizers.images.quantizers import Quantized, diversity


class Memcodes(nnx.Module):
    """Cuts a latent into parts and gives each part an id, from a codebook of its own.

    Each part is a query. The code whose key scores highest gives its value, which stands for the
    part. Codes, keys and values are trained by gradients: in training the choice is drawn at
    random in proportion (Gumbel), and its gradient is that of the softmax. Good for one vector
    that is to become several ids, such as a feature of a whole picture.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        num_heads: int,
        *,
        temperature: float = 1.0,
        rngs: nnx.Rngs,
    ):
        """Makes random codebooks.

        Args:
            num_codes: Size of every codebook, and so of the vocabulary.
            dim: Length of a latent.
            num_heads: Parts of a latent, and so ids per latent; divides dim.
            temperature: Of the draw in training; near 0 its gradient becomes noisy.
            rngs: Source of the random start.
        """
        if num_codes < 2 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"Codebooks got num_codes={num_codes}, dim={dim} and num_heads={num_heads}; give "
                "at least 2 codes, and a dim that num_heads divides."
            )
        self.num_codes, self.dim, self.num_heads = num_codes, dim, num_heads
        self.temperature = temperature
        part = dim // num_heads
        scale = part**-0.5
        self.codes = nnx.Param(jax.random.normal(rngs.params(), (num_heads, num_codes, part)))
        self.to_key = nnx.Param(scale * jax.random.normal(rngs.params(), (num_heads, part, part)))
        self.to_value = nnx.Param(scale * jax.random.normal(rngs.params(), (num_heads, part, part)))

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        """Returns codes [..., dim] and ids [..., num_heads]."""
        logits = self.logits(latents)
        if train:
            logits = logits + jax.random.gumbel(key, logits.shape)
        ids = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        choice = jax.nn.one_hot(ids, self.num_codes)
        if train:
            soft = jax.nn.softmax(logits / self.temperature, axis=-1)
            choice = choice + soft - jax.lax.stop_gradient(soft)
        counts = jnp.sum(jax.nn.one_hot(ids, self.num_codes), axis=range(ids.ndim - 1))
        metrics = diversity(counts.reshape(-1))
        metrics["perplexity"] = metrics["perplexity"] / self.num_heads
        return Quantized(self.mean_code(choice), ids, jnp.zeros(()), metrics)

    def logits(self, latents: Float[Array, "*batch dim"]) -> Float[Array, "*batch heads v"]:
        """Returns how loudly every code answers to each part of latents."""
        parts = latents.astype(jnp.float32).reshape(*latents.shape[:-1], self.num_heads, -1)
        keys = jnp.einsum("hvk,hkl->hvl", self.codes[...], self.to_key[...])
        return jnp.einsum("...hk,hvk->...hv", parts * parts.shape[-1] ** -0.5, keys)

    def lookup(self, ids: Int[Array, "*batch heads"]) -> Float[Array, "*batch dim"]:
        """Returns the codes of ids: of every part's id, side by side."""
        found = self._values()[jnp.arange(self.num_heads), ids]
        return found.reshape(*ids.shape[:-1], self.dim)

    def mean_code(
        self, probabilities: Float[Array, "*batch heads v"]
    ) -> Float[Array, "*batch dim"]:
        """Returns the mean codes of distributions over ids."""
        mixed = jnp.einsum("...hv,hvk->...hk", probabilities, self._values())
        return mixed.reshape(*mixed.shape[:-2], self.dim)

    def codebook(self) -> Float[Array, "num_codes dim"]:
        """Returns per id what it stands for in all parts, side by side."""
        return self._values().swapaxes(0, 1).reshape(self.num_codes, self.dim)

    def _values(self) -> Float[Array, "heads num_codes part"]:
        return jnp.einsum("hvk,hkl->hvl", self.codes[...], self.to_value[...])

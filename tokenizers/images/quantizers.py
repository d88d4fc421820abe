"""From latent vectors to ids and back: a learned codebook (VQ, SimVQ) or a fixed grid (FSQ).

All arithmetic is float32 whatever comes in: in bfloat16 a grid reaches only half of its codes.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

Distance = Literal["cosine", "euclidean"]
Replacement = Literal["latents", "split"]
Bounding = Literal["tanh", "sigmoid"]

COUNT_EPSILON = 1e-5
"""Added to counts, so that codes never used can be divided by them."""

SPLIT = 1e-3
"""How far a copy of a code is from it, in every number, so that the two can part."""


class Quantized(NamedTuple):
    """Latents turned into codes.

    Attributes:
        codes: float32 [..., dim]. Their gradient passes straight through to the latents.
        ids: int32 [...], in [0, num_codes).
        loss: What pulls latents towards their codes; 0 where nothing has to.
        metrics: Scalars: `usage`, the share of codes that occur in the batch, and `perplexity`,
            the number of equally frequent codes that would be as diverse.
    """

    codes: Float[Array, "*batch dim"]
    ids: Int[Array, "*batch"]
    loss: Float[Array, ""]
    metrics: dict[str, Array]


@runtime_checkable
class Quantizer(Protocol):
    """Turns vectors into ids and back."""

    num_codes: int
    dim: int

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        """Returns the code of every latent. In training, a learned codebook moves as well."""

    def lookup(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        """Returns the codes of ids."""

    def codebook(self) -> Float[Array, "num_codes dim"]:
        """Returns all codes. `probabilities @ codebook` is the mean code of a distribution."""


class CodebookState(nnx.Variable):
    """What follows the data by averages rather than by gradients."""


class VectorQuantizer(nnx.Module):
    """A learned codebook whose codes follow the mean of the latents they stand for.

    The codebook moves by exponential moving averages instead of gradients (van den Oord et al.
    2017, appendix A.1). Codes that have become rare are replaced by latents drawn from the batch
    in proportion to their squared error, as k-means++ does (Arthur and Vassilvitskii 2007), so
    they land where codes are missing. With `distance="cosine"`, latents and codes have unit
    length (Yu et al. 2022, ViT-VQGAN, section 3.2).
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        distance: Distance = "cosine",
        decay: float = 0.99,
        commitment: float = 0.25,
        rare: float = 0.03,
        rngs: nnx.Rngs,
    ):
        """Makes a codebook of random directions; `spread` puts it onto data.

        Args:
            num_codes: Size of the vocabulary.
            dim: Length of a code; small is better used, 4 to 32 are usual.
            distance: How the nearest code is found.
            decay: Of the moving averages, per step.
            commitment: Weight of the loss that pulls latents towards their codes.
            rare: A code is replaced when its average count falls below this share of what it
                would be if all codes were used equally.
            rngs: Source of the random start.
        """
        _require_codes(num_codes, dim)
        self.num_codes, self.dim, self.distance = num_codes, dim, distance
        self.decay, self.commitment, self.rare = decay, commitment, rare
        self.normalize_latents = distance == "cosine"
        codes = _unit(jax.random.normal(rngs.params(), (num_codes, dim)))
        self.codes = CodebookState(codes)
        self.sums = CodebookState(codes)
        self.counts = CodebookState(jnp.ones(num_codes))

    def codebook(self) -> Float[Array, "num_codes dim"]:
        return self.codes[...]

    def lookup(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        return self.codes[...][ids]

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        rows = latents.astype(jnp.float32).reshape(-1, self.dim)
        if self.normalize_latents:
            rows = _unit(rows)
        ids = jnp.argmax(self.closeness(jax.lax.stop_gradient(rows)), axis=-1).astype(jnp.int32)
        codes = self.lookup(ids)
        error = jnp.sum(jnp.square(rows - codes), axis=-1)
        counts = jnp.zeros(self.num_codes).at[ids].add(1)
        if train:
            self._follow(jax.lax.stop_gradient(rows), ids, counts, error, key)
        return Quantized(
            codes=(rows + jax.lax.stop_gradient(codes - rows)).reshape(latents.shape),
            ids=ids.reshape(latents.shape[:-1]),
            loss=self.commitment * jnp.mean(error) / self.dim,
            metrics=diversity(counts),
        )

    def spread(self, latents: Float[Array, "count dim"], key: Array) -> None:
        """Puts the codebook onto data: on latents drawn at random."""
        rows = latents.astype(jnp.float32)
        chosen = jax.random.choice(
            key, len(rows), (self.num_codes,), replace=len(rows) < self.num_codes
        )
        codes = rows[chosen]
        self.codes[...] = _unit(codes) if self.distance == "cosine" else codes
        self.sums[...] = self.codes[...] * self.counts[...][:, None]

    def closeness(self, rows: Float[Array, "count dim"]) -> Float[Array, "count num_codes"]:
        """Returns what orders codes by how near they are to each row, nearest highest."""
        codes = self.codes[...]
        closeness = rows @ codes.T
        if self.distance == "euclidean":
            closeness = closeness - jnp.sum(jnp.square(codes), axis=-1) / 2
        return closeness

    def _follow(
        self,
        rows: Float[Array, "count dim"],
        ids: Int[Array, "count"],
        counts: Float[Array, "codes"],
        error: Float[Array, "count"],
        key: Array,
    ) -> None:
        """Moves every code to the average of its latents, and rare ones to where codes lack."""
        # In units of an equal share, so that a new codebook fits batches of any size.
        equal = len(rows) / self.num_codes
        sums = jnp.zeros((self.num_codes, self.dim)).at[ids].add(rows) / equal
        counts = self.decay * self.counts[...] + (1 - self.decay) * counts / equal
        sums = self.decay * self.sums[...] + (1 - self.decay) * sums

        # One draw per code from a cumulative sum: a categorical over rows would cost
        # codes x rows random numbers.
        mass = jnp.cumsum(jax.lax.stop_gradient(error) + 1e-12)
        draws = jax.random.uniform(key, (self.num_codes,)) * mass[-1]
        drawn = rows[jnp.searchsorted(mass, draws).clip(0, len(rows) - 1)]

        is_rare = (counts < self.rare)[:, None]
        self.counts[...] = jnp.where(is_rare[:, 0], 1, counts)
        self.sums[...] = jnp.where(is_rare, drawn, sums)
        codes = self.sums[...] / jnp.maximum(self.counts[...], 1e-8)[:, None]
        self.codes[...] = _unit(codes) if self.distance == "cosine" else codes


class CountingQuantizer(VectorQuantizer):
    """A learned codebook that follows plain counts, as most code for VQ-VAEs has it.

    Where `VectorQuantizer` measures use in shares, this one counts. Under the euclidean distance,
    codes are averaged sums over averaged counts (van den Oord et al. 2017, appendix A.1). Under
    cosine, codes that were used move towards the mean direction of their latents, and the others
    towards their own; they are kept and returned at whatever length that gives them.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        distance: Distance = "cosine",
        normalize_latents: bool = False,
        decay: float = 0.99,
        commitment: float = 1.0,
        rare: float = 0.0,
        replacement: Replacement = "latents",
        rngs: nnx.Rngs,
    ):
        """Makes a codebook of random directions; `spread` puts it onto data.

        Args:
            num_codes: Size of the vocabulary.
            dim: Length of a code.
            distance: How the nearest code is found.
            normalize_latents: Whether latents get unit length before anything else. Without it,
                they still count as directions under cosine, but are pulled to codes as they are.
            decay: Of the moving averages, per step.
            commitment: Weight of the loss that pulls latents towards their codes.
            rare: A code is replaced when it is used less often than this per step on average.
            replacement: By latents of the batch, or by the codes used most, slightly moved.
            rngs: Source of the random start.
        """
        super().__init__(
            num_codes,
            dim,
            distance=distance,
            decay=decay,
            commitment=commitment,
            rare=rare,
            rngs=rngs,
        )
        self.normalize_latents, self.replacement = normalize_latents, replacement

    def closeness(self, rows: Float[Array, "count dim"]) -> Float[Array, "count num_codes"]:
        if self.distance == "euclidean":
            return super().closeness(rows)
        return _unit(rows) @ _unit(self.codes[...]).T

    def _follow(
        self,
        rows: Float[Array, "count dim"],
        ids: Int[Array, "count"],
        counts: Float[Array, "codes"],
        error: Float[Array, "count"],
        key: Array,
    ) -> None:
        new_share = 1 - self.decay
        rows = _unit(rows) if self.distance == "cosine" else rows
        sums = jnp.zeros((self.num_codes, self.dim)).at[ids].add(rows)
        averages = self.decay * self.counts[...] + new_share * counts
        if self.distance == "cosine":
            means = jnp.where((counts > 0)[:, None], _unit(sums), _unit(self.codes[...]))
            codes = self.decay * self.codes[...] + new_share * means
            divisors = jnp.ones(self.num_codes)  # The codes are their own sums.
        else:
            sums = self.decay * self.sums[...] + new_share * sums
            total = jnp.sum(averages)
            share = (averages + COUNT_EPSILON) / (total + self.num_codes * COUNT_EPSILON)
            divisors = share * total
            codes = sums / divisors[:, None]
        if self.rare > 0:
            is_rare = averages < self.rare
            codes = jnp.where(
                is_rare[:, None], self._replacements(rows, codes, averages, key), codes
            )
            sums = jnp.where(is_rare[:, None], codes * divisors[:, None], sums)
        self.counts[...], self.codes[...] = averages, codes
        self.sums[...] = codes if self.distance == "cosine" else sums

    def _replacements(
        self,
        rows: Float[Array, "count dim"],
        codes: Float[Array, "num_codes dim"],
        averages: Float[Array, "num_codes"],
        key: Array,
    ) -> Float[Array, "num_codes dim"]:
        """Returns something better for every code that is rare, anything for the others."""
        if self.replacement == "latents":
            return rows[jax.random.randint(key, (self.num_codes,), 0, len(rows))]
        rank = jnp.cumsum(averages < self.rare) - 1
        copied = codes[jnp.argsort(-averages)[rank]]
        moved = copied + SPLIT * jax.random.normal(key, copied.shape)
        return _unit(moved) if self.distance == "cosine" else moved


class LinearlyMovedQuantizer(nnx.Module):
    """Random codes that stay as they are, moved all together by a learned linear layer (SimVQ).

    A code that is learned by itself and not chosen gets no gradient, and is chosen less and less.
    Here every chosen code moves the layer, and with it all the others (Zhu et al. 2024,
    arXiv:2411.02038). No code is replaced: some fall out of use where latents move or narrow faster
    than the layer follows. The layer has a bias, the distance is euclidean, and the gradient of the
    codes passes straight through to the latents.
    """

    def __init__(self, num_codes: int, dim: int, *, commitment: float = 0.25, rngs: nnx.Rngs):
        """Makes random codes and layer; `spread` puts them onto data.

        Args:
            num_codes: Size of the vocabulary.
            dim: Length of a code.
            commitment: Weight of the loss that pulls latents towards their codes, beside that of
                1 which pulls codes towards their latents.
            rngs: Source of the codes and of the layer's start.
        """
        _require_codes(num_codes, dim)
        self.num_codes, self.dim, self.commitment = num_codes, dim, commitment
        # Of unit variance: the smaller they are, the slower Adam's steps of the layer move them.
        self.codes = CodebookState(jax.random.normal(rngs.params(), (num_codes, dim)))
        self.layer = nnx.Linear(dim, dim, rngs=rngs)

    def codebook(self) -> Float[Array, "num_codes dim"]:
        return self.layer(self.codes[...])

    def lookup(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        return self.codebook()[ids]

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        rows = latents.astype(jnp.float32).reshape(-1, self.dim)
        codebook = self.codebook()
        closeness = rows @ codebook.T - jnp.sum(jnp.square(codebook), axis=-1) / 2
        ids = jnp.argmax(closeness, axis=-1).astype(jnp.int32)
        codes = codebook[ids]
        pull_codes = jnp.mean(jnp.square(codes - jax.lax.stop_gradient(rows)))
        pull_rows = jnp.mean(jnp.square(rows - jax.lax.stop_gradient(codes)))
        return Quantized(
            codes=(rows + jax.lax.stop_gradient(codes - rows)).reshape(latents.shape),
            ids=ids.reshape(latents.shape[:-1]),
            loss=pull_codes + self.commitment * pull_rows,
            metrics=diversity(jnp.zeros(self.num_codes).at[ids].add(1)),
        )

    def spread(self, latents: Float[Array, "count dim"], key: Array) -> None:
        """Puts the codebook onto data: it gets the mean and the covariance of latents."""
        rows = latents.astype(jnp.float32)
        mean = jnp.mean(rows, axis=0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        variances, directions = jnp.linalg.eigh(covariance)
        root = (directions * jnp.sqrt(jnp.maximum(variances, 1e-6))) @ directions.T
        # The codes' own covariance is the identity.
        self.layer.kernel[...] = root
        self.layer.bias[...] = mean


class FiniteScalarQuantizer(nnx.Module):
    """Rounds every number of a latent to one of a few levels (Mentzer et al. 2023, section 3).

    Nothing is learned or can collapse: the codes are all points of a grid in [-1, 1]. An id
    counts through the grid with the first number changing fastest.
    """

    def __init__(self, levels: tuple[int, ...], bounding: Bounding = "tanh"):
        """Makes the grid.

        Args:
            levels: At least 2 each, such as (8, 5, 5, 5) for 1000 codes.
            bounding: What brings latents into (-1, 1). The tanh sends normal latents to the outer
                levels twice as often as to the inner ones; 2 sigmoid(1.6 z) - 1 to all alike (iFSQ,
                Lin et al. 2026, arXiv:2601.17124).
        """
        if not levels or min(levels) < 2:
            raise ValueError(f"Levels are {levels}; give at least one number, each at least 2.")
        self.levels, self.bounding = tuple(levels), bounding
        self.num_codes, self.dim = int(np.prod(levels)), len(levels)

    def codebook(self) -> Float[Array, "num_codes dim"]:
        return self.lookup(jnp.arange(self.num_codes))

    def lookup(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        digits = (ids[..., None] // self._strides) % self._levels
        return (2 * digits.astype(jnp.float32) - (self._levels - 1)) / (self._levels - 1)

    def quantize(self, latents: Float[Array, "*batch dim"], key: Array, train: bool) -> Quantized:
        # The bounded range, cut into equal bins. Rounding to integers instead, as in the paper,
        # needs a shifted tanh for even levels, which for 2 levels puts both far from 0.
        place = (self._bound(latents.astype(jnp.float32)) + 1) * self._levels / 2
        digits = jnp.clip(jnp.floor(place), 0, self._levels - 1).astype(jnp.int32)
        ids = jnp.sum(digits * self._strides, axis=-1).astype(jnp.int32)
        smooth = (2 * place - self._levels) / (self._levels - 1)
        codes = smooth + jax.lax.stop_gradient(self.lookup(ids) - smooth)
        counts = jnp.zeros(self.num_codes).at[ids.reshape(-1)].add(1)
        return Quantized(codes, ids, jnp.zeros(()), diversity(counts))

    def _bound(self, latents: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """Returns latents brought into [-1, 1]."""
        if self.bounding == "tanh":
            return jnp.tanh(latents)
        return 2 * jax.nn.sigmoid(1.6 * latents) - 1

    @property
    def _levels(self) -> np.ndarray:
        return np.asarray(self.levels, np.int32)

    @property
    def _strides(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)


def diversity(counts: Float[Array, "codes"]) -> dict[str, Array]:
    """Returns `usage` and `perplexity` of codes that occurred `counts` times."""
    share = counts / jnp.maximum(counts.sum(), 1)
    entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-12)))
    return {"usage": jnp.mean(counts > 0), "perplexity": jnp.exp(entropy)}


def _require_codes(num_codes: int, dim: int) -> None:
    """Raises ValueError if there can't be a codebook of this size."""
    if num_codes < 2 or dim < 1:
        raise ValueError(
            f"A codebook got num_codes={num_codes} and dim={dim}; give at least 2 codes of at "
            "least 1 number."
        )


def _unit(vectors: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return vectors * jax.lax.rsqrt(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True) + 1e-12)

"""Small heads on frozen tokens, trained with optax: attention pooling, and linear maps."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key, Shaped

from fourm.evaluation.probing.linear import Kind
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.values.dense import DenseValues

AT_ONCE = 64
"""Samples that a trained head answers at once."""
Params = Mapping[str, Array]


@dataclass(frozen=True)
class HeadConfig(Checked):
    """How a head on frozen tokens is trained, by AdamW with a cosine schedule."""

    queries: int = 16
    """Learned queries of an attentive probe, each of which pools all tokens in its own way."""
    epochs: int = 20
    """Times that every training sample is seen."""
    batch_size: int = 128
    """Samples of a step."""
    learning_rate: float = 0.01
    """At the start; it falls to 0 by half a cosine."""
    weight_decay: float = 0.1
    """Of AdamW, for all of the head's numbers."""

    def check_knobs(self, knob: str) -> None:
        for name in ("queries", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; at least 1 is allowed."
                )
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"{name_knob(knob, 'learning_rate')} is {self.learning_rate} and "
                f"{name_knob(knob, 'weight_decay')} {self.weight_decay}; above 0 and at least 0 "
                "are allowed."
            )


LEAST_STEPS = 100
"""Steps of a training, if its samples are few."""


def train_attentive(
    tokens: Float[np.ndarray, "rows t dim"],
    is_real: Bool[np.ndarray, "rows t"],
    labels: Shaped[np.ndarray, "rows ..."],
    kind: Kind,
    config: HeadConfig,
    key: Key[Array, ""],
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns a trained attentive probe: from tokens and what of them is real to answers.

    Every learned query pools the tokens by the softmax of its products with them, and a linear
    layer reads all pooled vectors. Attention with one query needs no keys and values of its own:
    their matrices would only multiply the query's and the linear layer's (Psomas et al. 2025,
    "Attention, please!", section 3).

    Args:
        tokens: Frozen features; those of missing tokens don't count.
        is_real: Which tokens are there.
        labels: As in `fit_linear`.
        kind: What they are.
        config: How to train.
        key: Of the queries, and of the order of samples.
    """
    scale = _standardizer(tokens, is_real)
    targets, num_outputs, answers_of = _targets(labels, kind)
    dim = tokens.shape[-1]
    queries_key, order_key = jax.random.split(key)
    params = {
        "queries": jax.random.normal(queries_key, (config.queries, dim)) / np.sqrt(dim),
        "kernel": jnp.zeros((config.queries * dim, num_outputs)),
        "bias": jnp.zeros(num_outputs),
    }

    def loss(params: Params, rows: Any) -> Float[Array, ""]:
        found = attend(params, scale(rows[0], rows[1]), rows[1])
        return _loss(found, rows[2], kind)

    params = _train(params, loss, (tokens, is_real, targets), config, order_key)
    answer = jax.jit(lambda x, real: attend(params, scale(x, real), real))
    return lambda x, real: answers_of(_in_batches(answer, x, real))


def attend(
    params: Params, tokens: Float[Array, "rows t dim"], is_real: Bool[Array, "rows t"]
) -> Float[Array, "rows outputs"]:
    """Returns what an attentive probe's linear layer says of the pooled tokens."""
    scores = jnp.einsum("btd,qd->btq", tokens, params["queries"])
    weights = jax.nn.softmax(jnp.where(is_real[..., None], scores, -1e30), axis=1)
    pooled = jnp.einsum("btq,btd->bqd", weights, tokens)
    return pooled.reshape(len(tokens), -1) @ params["kernel"] + params["bias"][None]


def train_map(
    tokens: Float[np.ndarray, "rows y x dim"],
    is_real: Bool[np.ndarray, "rows y x"],
    truth: Shaped[np.ndarray, "rows y2 x2 ..."],
    values: DenseValues,
    config: HeadConfig,
    key: Key[Array, ""],
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns a trained linear layer on the map of tokens: from it to raw values per pixel.

    What it says at each token is enlarged to pixels by linear interpolation, and trained by the
    loss of the modality's own kind, so that any dense kind can be read.

    Args:
        tokens: Frozen features at their places; zeros stand for missing tokens.
        is_real: Which tokens are there.
        truth: Raw values.
        values: What they mean.
        config: How to train.
        key: Of the order of samples.
    """
    scale = _standardizer(tokens, is_real)
    statistics = {name: jnp.asarray(a) for name, a in values.fit_statistics(truth).items()}
    size = truth.shape[1:3]
    kernel = jnp.zeros((tokens.shape[-1], values.num_outputs))
    params = {"kernel": kernel, "bias": jnp.zeros(values.num_outputs)}

    def enlarged(params: Params, x: Array, real: Array) -> Float[Array, "rows y2 x2 outputs"]:
        small = scale(x, real) @ params["kernel"] + params["bias"][None, None, None]
        return jax.image.resize(small, (len(x), *size, small.shape[-1]), "linear")

    def loss(params: Params, rows: Any) -> Float[Array, ""]:
        return values.loss(enlarged(params, rows[0], rows[1]), rows[2], statistics)

    params = _train(params, loss, (tokens, is_real, truth), config, key)
    answer = jax.jit(lambda x, real: values.denormalize(enlarged(params, x, real), statistics))
    return lambda x, real: _in_batches(answer, x, real)


def _train(
    params: Params,
    loss: Callable[[Params, Any], Float[Array, ""]],
    arrays: tuple[np.ndarray, ...],
    config: HeadConfig,
    key: Key[Array, ""],
) -> Params:
    """Returns trained parameters; every sample is seen once in an epoch, but for a rest."""
    count = len(arrays[0])
    size = min(config.batch_size, count)
    per_epoch = count // size
    steps = max(config.epochs * per_epoch, LEAST_STEPS)
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps)
    optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, rows: Any) -> tuple[Params, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    order = np.arange(count)
    for number in range(steps):
        if number % per_epoch == 0:
            epoch_key = jax.random.fold_in(key, number // per_epoch)
            order = np.asarray(jax.random.permutation(epoch_key, count))
        start = number % per_epoch * size
        rows = order[start : start + size]
        params, state = step(params, state, tuple(array[rows] for array in arrays))
    return params


def _standardizer(
    tokens: Float[np.ndarray, "rows *tokens dim"], is_real: Bool[np.ndarray, "rows *tokens"]
) -> Callable[[Array, Array], Array]:
    """Returns what makes features of mean 0 and spread 1, and missing ones 0."""
    known = tokens[is_real]
    mean, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)

    def scale(tokens: Array, is_real: Array) -> Array:
        shape = (1,) * (tokens.ndim - 1) + (-1,)
        scaled = (tokens - mean.reshape(shape)) / spread.reshape(shape)
        return jnp.where(is_real[..., None], scaled, 0)

    return scale


def _targets(
    labels: Shaped[np.ndarray, "rows ..."], kind: Kind
) -> tuple[np.ndarray, int, Callable[[np.ndarray], np.ndarray]]:
    """Returns what a head learns, how many numbers it says, and what makes answers of these."""
    match kind:
        case "class":
            classes, places = np.unique(labels, return_inverse=True)
            return places.astype(np.int32), len(classes), lambda said: classes[said.argmax(1)]
        case "several":
            return labels.astype(np.float32), labels.shape[1], lambda said: said > 0
        case "number":
            mean, spread = labels.mean(), max(labels.std(), 1e-12)
            scaled = ((labels - mean) / spread).astype(np.float32)[:, None]
            return scaled, 1, lambda said: said[:, 0].astype(np.float64) * spread + mean


def _loss(said: Float[Array, "rows outputs"], targets: Array, kind: Kind) -> Float[Array, ""]:
    match kind:
        case "class":
            return optax.softmax_cross_entropy_with_integer_labels(said, targets).mean()
        case "several":
            return optax.sigmoid_binary_cross_entropy(said, targets).mean()
        case "number":
            return ((said - targets) ** 2).mean()


def _in_batches(answer: Callable[..., Array], *arrays: np.ndarray) -> np.ndarray:
    """Returns what a compiled function says of all rows, some at a time, filled up at the end."""
    count, found = len(arrays[0]), []
    size = min(AT_ONCE, count)
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        found.append(np.asarray(answer(*(array[rows] for array in arrays))))
    return np.concatenate(found)[:count]

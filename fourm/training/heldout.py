"""The loss on held-out tokens while a model trains."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fourm.devices.layout import Layout
from fourm.training.loop import TrainingConfig
from fourm.training.masked_loss import LossConfig
from fourm.training.train_state import LossFn, Metrics, TrainState, make_loss
from tokenizers.base import TokenBatch
from tokenizers.spread import evenly_spread


@runtime_checkable
class Tokens(Protocol):
    """Tokens in any order, such as a `data_pipeline.tokens.mixture.TokenMixture`."""

    def __len__(self) -> int: ...

    def batch(self, indices: Int[np.ndarray, "batch"]) -> TokenBatch:
        """Returns the tokens of some samples."""


class HeldoutLoss:
    """Measures the averaged parameters, which are what is used after training.

    Every sample is masked in the same way each time, by the seed and its index, so that what
    changes between two evaluations is the model alone. Nothing of the training is touched.

    All batches have one shape and so one compiled function. The last is filled up with samples
    that have no tokens: they are neither shown nor asked, and every sample counts once.
    """

    def __init__(
        self,
        model: nnx.Module,
        loss_fn: LossFn,
        config: LossConfig,
        tokens: Tokens,
        training: TrainingConfig,
        seed: int,
        layout: Layout,
    ):
        """Chooses the samples; nothing is read yet.

        Args:
            model: Gives the structure; its values are not used.
            loss_fn: That of the training: masks and predicts a `TokenBatch`, and has the metrics
                of `fourm.training.masked_loss.masked_loss`.
            config: How the modalities' losses are joined.
            tokens: What is held out, at least one sample.
            training: Says how many samples are used, evenly spread, and how many fit into the
                memory at once.
            seed: Of the masks.
            layout: How the devices share the work.
        """
        self._tokens, self._config, self._layout = tokens, config, layout
        self._batch_size = training.batch_size // training.accumulation
        self._key = jax.random.key(seed)
        self._chosen = evenly_spread(len(tokens), training.evaluate_samples)
        compute_loss = make_loss(model, loss_fn, layout)
        self._measure = jax.jit(lambda *arguments: compute_loss(*arguments)[1][0])

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns the loss as it would be of all samples in one batch, in nats, and its metrics.

        These are `loss/M`, `accuracy/M` and `targets/M` of every modality M, over all targets.
        """
        measured = [
            self._measure(state.average, state.variables, batch, self._key)
            for batch in self._batches()
        ]
        measured = jax.device_get(measured)
        joined = join_metrics({n: jnp.array([each[n] for each in measured]) for n in measured[0]})
        names = [name.removeprefix("targets/") for name in joined if name.startswith("targets/")]
        counts, losses = (
            jnp.array([joined[f"{kind}/{name}"] for name in names]) for kind in ("targets", "loss")
        )
        sums = jnp.where(counts > 0, counts * losses, 0.0)
        joined["loss"] = jnp.sum(self._config.weigh(names, counts) * sums)
        return {name: float(value) for name, value in joined.items()}

    def _batches(self) -> Iterator[TokenBatch]:
        """Reads this process's rows of every batch, and puts the batches on the devices."""
        own = np.arange(self._batch_size)[self._layout.rows(self._batch_size)]
        for start in range(0, len(self._chosen), self._batch_size):
            places = start + own
            is_sample = places < len(self._chosen)
            batch = self._tokens.batch(self._chosen[np.where(is_sample, places, 0)])
            num_real = {n: np.where(is_sample, each, 0) for n, each in batch.num_real.items()}
            yield self._layout.distribute(batch._replace(num_real=num_real))


def join_metrics(metrics: dict[str, Float[Array, "batches"]]) -> Metrics:
    """Joins the metrics of several batches to those of all their samples.

    Metrics of a modality count by its targets, so that batches without any, which have none, are
    passed over while a loss that is not finite shows.
    """
    joined = {}
    for name, values in metrics.items():
        kind, _, modality = name.partition("/")
        counts = metrics.get(f"targets/{modality}")
        if kind == "targets":
            joined[name] = values.sum()
        elif counts is not None:
            joined[name] = jnp.where(counts > 0, values * counts, 0.0).sum() / counts.sum()
        else:
            joined[name] = values.mean()
    return joined

"""What the last steps of a training measured: their means, and whether they can go on."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fourm.training.train_state import IS_FINITE, StepMetrics

MOST_SKIPPED = 3
"""Steps in a row without a finite loss and gradient that end a run."""
MOST_SAMPLES = 256
"""Samples that a sentence names."""
MOST_PARAMETERS = 3
"""Parameters that a sentence names."""


class NonFiniteLossError(RuntimeError):
    """Losses or gradients became NaN or infinite; the last good checkpoint is intact."""


class RecentMetrics:
    """The metrics of the last steps, kept on the device until somebody needs them.

    They are part of the checkpoint, so that a line of metrics.jsonl is the mean over the same
    steps, and steps skipped in a row are counted alike, wherever a run was interrupted.
    """

    def __init__(
        self,
        stage: str,
        parameters: Sequence[str],
        size: int,
        next_step: int,
        saved: Mapping[str, Any] | None,
    ):
        """Starts empty, or from what `to_plain` returned.

        Args:
            stage: What is being trained, for errors.
            parameters: Their names, for errors.
            size: Steps that a mean can go over.
            next_step: The step whose metrics come next.
            saved: As from `to_plain` at that step.
        """
        self._stage, self._parameters = stage, parameters
        self._next_step = next_step
        self._metrics: deque[Mapping[str, Any]] = deque(maxlen=max(size, MOST_SKIPPED))
        self._metrics.extend(saved["metrics"] if saved else [])
        self._last_skipped: list[int] = list(saved["last_skipped"]) if saved else []
        self.num_skipped: int = saved["num_skipped"] if saved else 0
        """Steps skipped since the training began, as far as `check` has gone."""
        self._unchecked = 0

    def add(self, metrics: StepMetrics) -> None:
        """Appends the metrics of a step, which may still be under way."""
        self._metrics.append(metrics)
        self._next_step += 1
        self._unchecked += 1

    def check(self, samples_at: Callable[[int], Sequence[Any]], ahead: int = 0) -> None:
        """Counts skipped steps, waiting for all but the newest `ahead` of them.

        Raises:
            NonFiniteLossError: At the third in a row, with its step, its samples, and the
                modalities of which the loss is not finite, or the parameters whose gradient is not.
        """
        while self._unchecked > ahead:
            metrics = self._metrics[-self._unchecked]
            step = self._next_step - self._unchecked
            self._unchecked -= 1
            if not float(metrics["skipped"]):
                continue
            self.num_skipped += 1
            self._last_skipped = [*self._last_skipped, step][-MOST_SKIPPED:]
            if self._last_skipped == list(range(step - MOST_SKIPPED + 1, step + 1)):
                raise NonFiniteLossError(self._explain(step, metrics, samples_at(step)))

    def means(self, count: int) -> dict[str, float]:
        """Returns the mean of every metric over the last `count` steps, or as many as there are.

        Values that are not finite are passed over, such as losses of modalities without targets.
        """
        self._fetch()
        last = list(self._metrics)[-count:]
        names = {name: None for metrics in last for name in metrics if name != "skipped"}
        return {
            name: nan_mean([metrics[name] for metrics in last if name in metrics]) for name in names
        }

    def to_plain(self) -> dict[str, Any]:
        """Returns all of it as what JSON can hold, once every step is checked."""
        self._fetch()
        return {
            "metrics": list(self._metrics),
            "last_skipped": self._last_skipped,
            "num_skipped": self.num_skipped,
        }

    def _fetch(self) -> None:
        for number, metrics in enumerate(self._metrics):
            if any(isinstance(value, jax.Array) for value in metrics.values()):
                fetched = jax.device_get(metrics)
                fetched.pop(IS_FINITE)  # Of use until the step is checked.
                self._metrics[number] = {name: float(value) for name, value in fetched.items()}

    def _explain(self, step: int, metrics: Mapping[str, Any], samples: Sequence[Any]) -> str:
        values = jax.device_get(metrics)
        is_finite = values.pop(IS_FINITE)
        bad = [
            name.removeprefix("loss/")
            for name, value in values.items()
            if name.startswith("loss/")
            and not np.isfinite(value)
            # A modality without targets in a batch has no loss.
            and values.get(name.replace("loss/", "targets/"), 1) > 0
        ]
        what, where = "loss", ", ".join(bad)
        if np.isfinite(values["loss"]):
            pairs = zip(self._parameters, is_finite, strict=True)
            named = [name for name, is_good in pairs if not is_good]
            what, where = "gradient", where or enumerate_some(named, MOST_PARAMETERS)
        of = f" of {where}" if where else ""
        return (
            f"Training of {self._stage} stopped: the {what}{of} is not finite at step {step}, the "
            f"third in a row, with the samples {enumerate_some(samples, MOST_SAMPLES)}; the last "
            "checkpoint is intact: lower --*.optimizer.learning-rate, or look at these samples."
        )


def enumerate_some(names: Sequence[Any], most: int) -> str:
    """Returns the first names for a sentence, and how many more there are.

    Example:
        >>> enumerate_some(["a", "b", "c", "d"], 3)
        'a, b, c and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def nan_mean(values: list) -> float:
    """Mean of the finite entries; NaN if there is none."""
    finite = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")

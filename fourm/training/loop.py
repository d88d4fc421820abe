"""The training loop, for tokenizers and model alike."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import PyTree
from tqdm import tqdm

from fourm.run_log import RunLog
from fourm.training.checkpoints import Checkpoints
from fourm.training.train_state import (
    LossFn,
    Metrics,
    OptimizerConfig,
    build_optimizer,
    build_schedule,
    create_state,
    make_train_step,
    merge_state,
)


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train."""

    steps: int = 1500
    """Optimizer steps. 0 evaluates the weights that are given as they are."""
    batch_size: int = 32
    """Samples per step."""
    accumulation: int = 1
    """Slices into which a batch is cut to fit the memory; batch_size must be divisible by it."""
    average_decay: float = 0.99
    """Decay of the moving average of parameters that is used after training."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl, each the mean over these steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""

    def check(self, knob: str) -> None:
        """Raises ValueError, in one sentence, for impossible values of the fields at `knob`."""
        least = dict.fromkeys(("batch_size", "accumulation", "log_every", "checkpoint_every"), 1)
        for name, smallest in {"steps": 0, **least}.items():
            if getattr(self, name) < smallest:
                raise ValueError(
                    f"{knob}.{name.replace('_', '-')} is {getattr(self, name)}; it must be at "
                    f"least {smallest}."
                )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"{knob}.batch-size is {self.batch_size}; it must be divisible by "
                f"{knob}.accumulation, {self.accumulation}."
            )
        if not 0 < self.optimizer.learning_rate < math.inf:
            raise ValueError(
                f"{knob}.optimizer.learning-rate is {self.optimizer.learning_rate}; it must be "
                "positive and finite."
            )
        if not 0 <= self.average_decay < 1:
            raise ValueError(
                f"{knob}.average-decay is {self.average_decay}; it must be at least 0 and below 1."
            )


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the last good checkpoint is intact."""


def check_finite(stage: str, step: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Raises NonFiniteLossError, naming the step and the parts of the loss that failed.

    A modality without targets in a batch has no loss (NaN) and is passed over.
    """
    if np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"]):
        return
    bad = [
        name.removeprefix("loss/")
        for name, value in metrics.items()
        if name.startswith("loss/")
        and not np.isfinite(value)
        and metrics.get(name.replace("loss/", "targets/"), 1) > 0
    ]
    where = f" in {', '.join(bad)}" if bad else ""
    raise NonFiniteLossError(
        f"Training of {stage} stopped: the loss{where} is not finite at step {step}; the last "
        "checkpoint is intact: lower --*.optimizer.learning-rate, or look at the data of that step."
    )


def train(
    model: nnx.Module,
    loss_fn: LossFn,
    open_batches: Callable[[int], AbstractContextManager[Iterator[PyTree]]],
    config: TrainingConfig,
    *,
    stage: str,
    seed: int,
    folder: Path,
    log: RunLog,
    references: Mapping[str, float] | None = None,
) -> None:
    """Trains `model` in place, continuing from the newest checkpoint in `folder`.

    Batches, masks and noise are functions of (seed, step): an interrupted run that is started
    again goes through the same bits as one that was never interrupted.

    Args:
        model: Trained in place; ends up with the averaged parameters.
        loss_fn: See `LossFn`.
        open_batches: Next step -> the batches from there on. What a step gets must depend on
            nothing but the step.
        stage: Names the run in logs and errors.
        folder: Where checkpoints go.
        references: Constants logged beside the metrics, such as marginal entropies.

    Raises:
        NonFiniteLossError: If a loss is not finite.
    """
    optimizer = build_optimizer(config.optimizer, config.steps)
    schedule = build_schedule(config.optimizer, config.steps)
    _, state = create_state(model, optimizer)
    step_fn = make_train_step(model, loss_fn, optimizer, config.average_decay, config.accumulation)
    seed_key = jax.random.key(seed)
    pending: list[Metrics] = []
    logged_at = time.perf_counter()

    def flush(step: int) -> dict[str, float]:
        nonlocal logged_at
        values = [jax.device_get(metrics) for metrics in pending]
        for number, metrics in enumerate(values, start=step - len(values)):
            check_finite(stage, number, metrics)
        means = {name: nan_mean([metrics[name] for metrics in values]) for name in values[0]}
        now = time.perf_counter()
        rate = len(values) * config.batch_size / (now - logged_at)
        logged_at = now
        pending.clear()
        rates = {"learning_rate": float(schedule(step - 1)), "samples_per_second": rate}
        log.write(stage, step, {**means, **(references or {}), **rates})
        return means

    # Closing waits for the last save, also when a loss is not finite or the user interrupts.
    with closing(Checkpoints(folder)) as checkpoints:
        state = checkpoints.restore(state, seed)
        first = int(state.step)
        log.rewind(stage, first)
        with (
            tqdm(
                total=config.steps, initial=first, desc=stage, unit="step", dynamic_ncols=True
            ) as bar,
            open_batches(first) as batches,
        ):
            for step in range(first, config.steps):
                state, metrics = step_fn(state, next(batches), seed_key)
                pending.append(metrics)
                if len(pending) > 1:
                    # At most one step ahead of the device, so that the rate shown is the true one.
                    jax.block_until_ready(pending[-2]["loss"])
                done = step + 1
                is_last = done == config.steps
                is_saved = is_last or done % config.checkpoint_every == 0
                if is_saved or done % config.log_every == 0:
                    bar.set_postfix(loss=f"{flush(done)['loss']:.3f}", refresh=False)
                if is_saved:
                    checkpoints.save(state, seed)
                bar.update()
    merge_state(model, state)


def nan_mean(values: list) -> float:
    """Mean of the finite entries; NaN if there is none."""
    finite = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")

"""The training loop, for tokenizers and model alike."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import PyTree
from tqdm import tqdm

from fourm.devices.agreement import Agreement
from fourm.devices.layout import Layout
from fourm.devices.processes import is_main
from fourm.run_directory.run_log import RunLog
from fourm.training.checkpoints import Checkpoints
from fourm.training.recent_metrics import RecentMetrics
from fourm.training.train_state import (
    LossFn,
    OptimizerConfig,
    TrainState,
    build_optimizer,
    build_schedule,
    create_state,
    describe_state,
    make_train_step,
    merge_state,
    parameter_names,
)
from tokenizers.process.termination import Terminated, deferred
from tokenizers.settings.checked import Checked, name_knob


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """How long and how to train."""

    steps: int = 1500
    """Optimizer steps. With 0 the given weights are evaluated unchanged. -1: chosen when a run
    begins, from the number of samples and the machine."""
    batch_size: int = 32
    """Samples per step. 0: chosen when a run begins, by the machine."""
    accumulation: int = 1
    """Number of slices that a batch is computed in, to fit the memory; must divide batch_size."""
    average_decay: float = 0.99
    """Decay of the moving average of parameters; the averaged parameters are the trained model."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl; each line has the means over these steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    checkpoint_minutes: float = 10.0
    """Most minutes between two checkpoints; 0 = no limit."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints are kept. The best one is kept too: that of the lowest
    held-out loss, or of the lowest training loss where nothing is held out."""
    evaluate_every: int = 250
    """Steps between two measurements of the held-out loss, which is also measured after the last
    step; 0 = never."""
    evaluate_samples: int = 256
    """Most held-out samples on which that loss is measured."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""

    def check_knobs(self, knob: str) -> None:
        least = dict.fromkeys(("accumulation", "log_every", "checkpoint_every"), 1)
        least |= {"keep_checkpoints": 1, "steps": -1, "batch_size": 0, "checkpoint_minutes": 0}
        least |= {"evaluate_every": 0, "evaluate_samples": 1}
        for name, smallest in least.items():
            if not smallest <= getattr(self, name) < math.inf:
                shown = f"{name_knob(knob, name)} is {getattr(self, name)}"
                raise ValueError(f"{shown}; it must be at least {smallest}.")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"{name_knob(knob, 'batch_size')} is {self.batch_size}; it must be divisible by "
                f"{knob}.accumulation, {self.accumulation}."
            )
        if not 0 <= self.average_decay < 1:
            raise ValueError(
                f"{name_knob(knob, 'average_decay')} is {self.average_decay}; it must be at least "
                "0 and below 1."
            )


@dataclass(frozen=True)
class TrainingStage:
    """One training of a run: of a tokenizer, or of the model."""

    name: str
    """Names the training in logs and errors, such as "model"."""
    seed: int
    """Masks and noise follow from it and the step."""
    folder: Path
    """Where its checkpoints go."""
    config: TrainingConfig
    """How long and how to train."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What the order of batches follows from, such as the number of samples. A checkpoint that was
    made over other data is refused."""
    forked_at: int | None = None
    """The step whose checkpoint comes from another run, and so may have another seed and other
    data."""
    references: Mapping[str, float] = field(default_factory=dict)
    """Constants logged beside the metrics, such as marginal entropies."""


@runtime_checkable
class Batches(Protocol):
    """What a training reads, such as `data_pipeline.batches.Batches`.

    What a step gets depends on nothing but the step.
    """

    def open(self, step: int) -> AbstractContextManager[Iterator[PyTree]]:
        """Returns the batches of this step and those that follow; within the context it is open."""

    def samples(self, step: int) -> Sequence[Any]:
        """Returns the keys or indices of a step's samples, to be named in errors."""


def train(
    model: nnx.Module,
    loss_fn: LossFn,
    batches: Batches,
    stage: TrainingStage,
    log: RunLog,
    layout: Layout,
    heldout: Callable[[TrainState], Mapping[str, float]] | None = None,
) -> None:
    """Trains `model` in place, resuming from the latest checkpoint in the stage's folder.

    Batches, masks and noise are functions of (seed, step): an interrupted run that is started
    again goes through the same bits as one that was never interrupted.

    The best checkpoint is chosen by the held-out loss, if there is one: that which was last
    measured, if that was after the checkpoint before; those without one are not chosen. Else it is
    chosen by the mean training loss of the last `log_every` steps.

    Args:
        model: Trained in place; ends up with the averaged parameters.
        loss_fn: See `LossFn`.
        batches: Lie as the layout says (`Layout.rows`, `Layout.distribute`).
        stage: What is trained, and how.
        log: Gets the metrics.
        layout: How the devices share the work.
        heldout: Measures a state on held-out samples, such as a `HeldoutLoss`: returns its "loss"
            and other metrics. They are logged by these names behind "heldout_".

    Raises:
        NonFiniteLossError: If losses or gradients are not finite three times in a row.
        ValueError: If the checkpoint does not fit the model, the optimizer, the seed or the data.
        Terminated: If SIGTERM came; the state is saved.
    """
    config = stage.config
    optimizer = build_optimizer(config.optimizer, config.steps, layout)
    step_fn = make_train_step(
        model, loss_fn, optimizer, layout, config.average_decay, config.accumulation
    )
    seed_key = jax.random.key(stage.seed)
    origin = {"seed": stage.seed, **stage.origin}
    heldout = heldout if config.evaluate_every else None
    best_by = "heldout_loss" if heldout else "loss"

    # Closing waits for the last save, also when a loss is not finite or the user interrupts.
    opened = Checkpoints(stage.folder, config.keep_checkpoints, best_by, config.steps)
    with closing(opened) as checkpoints:
        if checkpoints.latest_step is None:
            state, progress = create_state(model, optimizer, layout)[1], {}
        else:
            like = describe_state(model, optimizer, layout)
            state, progress = checkpoints.restore(like, origin, stage.forked_at)
        first = int(state.step)
        names = parameter_names(state.params)
        recent = RecentMetrics(stage.name, names, config.log_every, first, progress.get("recent"))
        writer = MetricsWriter(stage, recent, log, first, heldout)
        agreement, timer = Agreement(), CheckpointTimer(config.checkpoint_minutes)
        log.rewind(stage.name, first, progress.get("log"))
        with (
            tqdm(
                total=config.steps,
                initial=first,
                desc=stage.name,
                unit="step",
                dynamic_ncols=True,
                disable=not is_main(),
            ) as bar,
            batches.open(first) as opened_batches,
            deferred() as is_terminated,
        ):
            for done in range(first + 1, config.steps + 1):
                state, metrics = step_fn(state, next(opened_batches), seed_key)
                recent.add(metrics)
                is_due, is_ending = agreement.any_process(timer.is_due(), is_terminated())
                is_last = done == config.steps
                is_written = writer.is_due(done)
                is_saved = is_last or is_due or is_ending or done % config.checkpoint_every == 0
                # At most one step ahead of the device, so that the rate shown is the true one.
                recent.check(batches.samples, ahead=0 if is_written or is_saved else 1)
                if is_written:
                    written = writer.write(done, state)
                    losses = {n: written[n] for n in ("loss", "heldout_loss") if n in written}
                    bar.set_postfix(losses, refresh=False)
                if is_saved:
                    progress = {
                        "recent": recent.to_plain(),
                        "log": log.digest(stage.name),
                    }
                    lately = recent.means(config.log_every)["loss"]
                    loss = writer.take_heldout_loss() if heldout else lately
                    checkpoints.save(state, origin, progress, loss)
                    timer.start()
                    agreement.forget()
                bar.update()
                if is_ending:
                    raise Terminated
    merge_state(model, state)


class CheckpointTimer:
    """Says when so many minutes have passed since it was started."""

    def __init__(self, minutes: float):
        """Starts it; with 0 minutes they never pass."""
        self._seconds = 60 * minutes
        self.start()

    def start(self) -> None:
        self._started = time.monotonic()

    def is_due(self) -> bool:
        return 0 < self._seconds <= time.monotonic() - self._started


class MetricsWriter:
    """Writes the lines of metrics.jsonl of one stage: means since the line before, and held-out
    losses."""

    def __init__(
        self,
        stage: TrainingStage,
        recent: RecentMetrics,
        log: RunLog,
        first: int,
        heldout: Callable[[TrainState], Mapping[str, float]] | None,
    ):
        self._stage, self._config, self._recent = stage.name, stage.config, recent
        self._log, self._references, self._heldout = log, stage.references, heldout
        self._schedule = build_schedule(stage.config.optimizer, stage.config.steps)
        self._written = first, time.monotonic()
        self._heldout_loss = math.nan

    def is_due(self, done: int) -> bool:
        """True if there is something to write after `done` steps."""
        return self._has_means(done) or self._has_heldout(done)

    def write(self, done: int, state: TrainState) -> dict[str, float]:
        """Writes the line after `done` steps and returns its numbers."""
        line = {**self._means(done), **self._references} if self._has_means(done) else {}
        if self._has_heldout(done):
            line |= self._measure(state)
        self._log.write(self._stage, done, line)
        return line

    def take_heldout_loss(self) -> float:
        """Returns the loss last measured, and once only; NaN if there is none since."""
        loss, self._heldout_loss = self._heldout_loss, math.nan
        return loss

    def _has_means(self, done: int) -> bool:
        return done == self._config.steps or done % self._config.log_every == 0

    def _has_heldout(self, done: int) -> bool:
        if self._heldout is None:
            return False
        return done == self._config.steps or done % self._config.evaluate_every == 0

    def _means(self, done: int) -> dict[str, float]:
        means = self._recent.means((done - 1) % self._config.log_every + 1)
        (before, then), now = self._written, time.monotonic()
        self._written = done, now
        skipped = self._recent.num_skipped
        others = {
            "skipped": skipped,
            # Updates that were made count, not steps.
            "learning_rate": float(self._schedule(max(0, done - 1 - skipped))),
            "samples_per_second": (done - before) * self._config.batch_size / (now - then),
        }
        return {**means, **others}

    def _measure(self, state: TrainState) -> dict[str, float]:
        began = time.monotonic()
        measured = {f"heldout_{name}": value for name, value in self._heldout(state).items()}
        self._heldout_loss = measured["heldout_loss"]
        before, then = self._written
        # The rate is that of training.
        self._written = before, then + time.monotonic() - began
        return measured

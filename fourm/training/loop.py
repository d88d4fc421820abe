"""The training loop, for tokenizers and model alike."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree
from tqdm import tqdm

from fourm.devices.agreement import Agreement
from fourm.devices.layout import Layout
from fourm.devices.processes import is_main
from fourm.run_directory.run_log import RunLog
from fourm.training.checkpoints import Checkpoints
from fourm.training.recent_metrics import Recent
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
    checkpoint_minutes: float = 10.0
    """Minutes after which a checkpoint is written in any case; 0 = never."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, beside the one of the lowest held-out loss, or of the
    lowest training loss where there is none."""
    evaluate_every: int = 250
    """Steps between two looks at the loss on held-out tokens, of which the last is after the last
    step; 0 = never."""
    evaluate_samples: int = 256
    """Held-out samples looked at, fewer if there are fewer."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""

    def check_knobs(self, knob: str) -> None:
        least = dict.fromkeys(("batch_size", "accumulation", "log_every", "checkpoint_every"), 1)
        least |= {"keep_checkpoints": 1, "steps": 0, "checkpoint_minutes": 0}
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
    data: Mapping[str, Any] | None = None,
    samples_at: Callable[[int], Sequence[Any]] = lambda step: (),
    forked_at: int | None = None,
    heldout: Callable[[TrainState], Mapping[str, float]] | None = None,
    layout: Layout | None = None,
) -> None:
    """Trains `model` in place, continuing from the newest checkpoint in `folder`.

    Batches, masks and noise are functions of (seed, step): an interrupted run that is started
    again goes through the same bits as one that was never interrupted.

    The best checkpoint is chosen by the held-out loss, if there is one: that which was last
    measured, if that was after the checkpoint before; those without one are not chosen. Else it is
    chosen by the mean training loss of the last `config.log_every` steps.

    Args:
        model: Trained in place; ends up with the averaged parameters.
        loss_fn: See `LossFn`.
        open_batches: Next step -> the batches from there on. What a step gets must depend on
            nothing but the step. An iterator with `get_state` and `set_state`, of what JSON can
            hold and alike in all processes, has its state kept in the checkpoint.
        stage: Names the run in logs and errors.
        folder: Where checkpoints go.
        references: Constants logged beside the metrics, such as marginal entropies.
        data: What the order of batches follows from, such as the number of samples. A checkpoint
            made over other data is refused.
        samples_at: Step -> the indices or keys of its samples, to be named in errors.
        forked_at: The step whose checkpoint comes from another run, and so may have another seed
            and other data.
        heldout: Measures a state on held-out samples, such as a `HeldoutLoss`: returns its "loss"
            and other metrics. They are logged by these names behind "heldout_".
        layout: How the devices share the work; one device by default. Batches lie as it says
            (`Layout.rows`, `Layout.distribute`).

    Raises:
        NonFiniteLossError: If losses or gradients are not finite three times in a row.
        ValueError: If the checkpoint does not fit the model, the optimizer, the seed or the data.
        Terminated: If SIGTERM came; the state is saved.
    """
    layout = Layout.single() if layout is None else layout
    optimizer = build_optimizer(config.optimizer, config.steps, layout)
    step_fn = make_train_step(
        model, loss_fn, optimizer, config.average_decay, config.accumulation, layout
    )
    seed_key = jax.random.key(seed)
    origin = {"seed": seed, **(data or {})}
    heldout = heldout if config.evaluate_every else None
    best_by = "heldout_loss" if heldout else "loss"

    # Closing waits for the last save, also when a loss is not finite or the user interrupts.
    opened = Checkpoints(folder, config.keep_checkpoints, best_by, config.steps)
    with closing(opened) as checkpoints:
        if checkpoints.latest_step is None:
            state, progress = create_state(model, optimizer, layout)[1], {}
        else:
            like = describe_state(model, optimizer, layout)
            state, progress = checkpoints.restore(like, origin, forked_at)
        first = int(state.step)
        names = parameter_names(state.params)
        recent = Recent(stage, names, config.log_every, first, progress.get("recent"))
        lines = Lines(stage, config, recent, log, references or {}, first, heldout)
        agreement, clock = Agreement(), Clock(config.checkpoint_minutes)
        log.rewind(stage, first, progress.get("log"))
        with (
            tqdm(
                total=config.steps,
                initial=first,
                desc=stage,
                unit="step",
                dynamic_ncols=True,
                disable=not is_main(),
            ) as bar,
            open_batches(first) as batches,
            deferred() as is_terminated,
        ):
            if progress.get("batches") not in (None, get_state(batches)):
                batches.set_state(progress["batches"])
            for done in range(first + 1, config.steps + 1):
                state, metrics = step_fn(state, next(batches), seed_key)
                recent.add(metrics)
                is_due, is_ending = agreement.any(clock.is_due(), is_terminated())
                is_last = done == config.steps
                is_written = lines.is_due(done)
                is_saved = is_last or is_due or is_ending or done % config.checkpoint_every == 0
                # At most one step ahead of the device, so that the rate shown is the true one.
                recent.check(samples_at, ahead=0 if is_written or is_saved else 1)
                if is_written:
                    written = lines.write(done, state)
                    losses = {n: written[n] for n in ("loss", "heldout_loss") if n in written}
                    bar.set_postfix(losses, refresh=False)
                if is_saved:
                    progress = {
                        "recent": recent.to_plain(),
                        "batches": get_state(batches),
                        "log": log.digest(stage),
                    }
                    lately = recent.means(config.log_every)["loss"]
                    loss = lines.take_heldout_loss() if heldout else lately
                    checkpoints.save(state, origin, progress, loss)
                    clock.start()
                    agreement.forget()
                bar.update()
                if is_ending:
                    raise Terminated
    merge_state(model, state)


def get_state(batches: Iterator[PyTree]) -> dict[str, Any] | None:
    """Returns the state of an iterator that has one."""
    return batches.get_state() if hasattr(batches, "get_state") else None


class Clock:
    """Says when so many minutes have passed since it was started."""

    def __init__(self, minutes: float):
        """Starts it; with 0 minutes they never pass."""
        self._seconds = 60 * minutes
        self.start()

    def start(self) -> None:
        self._started = time.monotonic()

    def is_due(self) -> bool:
        return 0 < self._seconds <= time.monotonic() - self._started


class Lines:
    """The lines of metrics.jsonl of one stage: means since the line before, held-out losses."""

    def __init__(
        self,
        stage: str,
        config: TrainingConfig,
        recent: Recent,
        log: RunLog,
        references: Mapping[str, float],
        first: int,
        heldout: Callable[[TrainState], Mapping[str, float]] | None,
    ):
        self._stage, self._config, self._recent, self._log = stage, config, recent, log
        self._references, self._heldout = references, heldout
        self._schedule = build_schedule(config.optimizer, config.steps)
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

"""Training of a tokenizer that learns from examples."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from fourm.devices.layout import Layout
from fourm.run_directory.run_log import RunLog
from fourm.training.loop import Batches, TrainingConfig, TrainingStage, train
from fourm.training.train_state import OptimizerConfig

LEAST_BETWEEN_CHECKPOINTS = 1000
"""Steps: most tokenizers are trained in minutes, and only saved at their end."""


@runtime_checkable
class LearnedTokenizerConfig(Protocol):
    """What the settings of a tokenizer say of its training."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float


def training_of(settings: LearnedTokenizerConfig) -> TrainingConfig:
    """Returns how a tokenizer with these settings is trained."""
    return TrainingConfig(
        steps=settings.steps,
        batch_size=settings.batch_size,
        checkpoint_every=max(settings.steps, LEAST_BETWEEN_CHECKPOINTS),
        optimizer=OptimizerConfig(
            learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        ),
    )


def train_tokenizer(
    tokenizer: Any,
    stage: TrainingStage,
    batches: Callable[[Layout], Batches],
    log: RunLog,
) -> None:
    """Trains a tokenizer in place by its own `loss`; every process does so alike.

    Args:
        tokenizer: Fitted; meets `tokenizers.base.Learned`.
        stage: With the configuration of `training_of`.
        batches: Raw values, as the tokenizer takes them, on the devices of a layout.
        log: Gets the metrics.
    """
    layout = Layout.repeated()
    train(
        tokenizer,
        lambda model, batch, key: model.loss(batch, key),
        batches(layout),
        stage,
        log,
        layout,
    )
    layout.fetch(tokenizer)

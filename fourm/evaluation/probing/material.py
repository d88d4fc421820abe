"""What a study of one label is made of: its settings, its samples, and what a probe is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fourm.any2any import Any2Any
from fourm.evaluation.probing.heads import HeadConfig
from fourm.evaluation.probing.linear import folds_of
from fourm.evaluation.probing.tasks import Labels, ReadAs, Task
from tokenizers.settings.checked import Checked, name_knob


@dataclass(frozen=True)
class StudyConfig(Checked):
    """What is read off the frozen encoder, and how."""

    label: str = ""
    """What is read: a fact of the data's samples, or one of its modalities."""
    inputs: tuple[str, ...] = ("rgb",)
    """Modalities shown to the encoder, whole; samples that lack one of them are left out."""
    read_as: ReadAs = "auto"
    """Whether whole numbers are classes (auto, class) or amounts (number)."""
    num_train: int = 2048
    """Training samples at most, evenly spread."""
    num_test: int = 512
    """Held-out samples at most, evenly spread."""
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    """Shares of the training labels that probes are fitted to."""
    folds: int = 5
    """Folds of the cross-validation that chooses the regularisation of linear probes."""
    inverse_regularization: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Candidates for C; while the best is at an end the grid grows there."""
    weight_decays: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Candidates for the weight decay of trained heads, chosen on a fifth of the training
    samples."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """How attentive probes and maps are trained."""
    rivals: bool = True
    """Whether rivals are measured, too."""
    seed: int = 0
    """Of the choice of few labels, and of the heads."""

    def check_knobs(self, knob: str) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(
                f"{name_knob(knob, 'shares')} is {self.shares}; shares above 0 and at most 1 are "
                "allowed."
            )
        for name in ("inverse_regularization", "weight_decays"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; give at least one number, "
                    "all above 0."
                )
        for name, least in (("num_train", 2), ("num_test", 1), ("folds", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; at least {least} is "
                    "allowed."
                )
        if not self.inputs:
            raise ValueError(f"{name_knob(knob, 'inputs')} is empty; name a modality.")


class Material(NamedTuple):
    """All that probes of one label are made of.

    Attributes:
        model: Trained.
        untrained: The same tokenizers and architecture with fresh weights.
        task: What is read.
        known: Labels of training samples.
        asked: Labels of held-out samples, by which answers are scored.
        shown: Raw inputs of both, by modality.
        ids: The same as the encoder reads them.
        config: How it is read.
    """

    model: Any2Any
    untrained: Any2Any
    task: Task
    known: Labels
    asked: Labels
    shown: Sequence[Mapping[str, Any]]
    ids: Sequence[Mapping[str, np.ndarray]]
    config: StudyConfig


class Answered(NamedTuple):
    """What a probe says of held-out samples, and how it was chosen."""

    answers: np.ndarray
    chosen: dict[str, Any]


Probe = Callable[[np.ndarray], Answered]
"""From the training samples that it is fitted to, by their numbers, to answers."""
Probes = Iterator[tuple[tuple[str, str], Callable[[], Probe]]]
"""By its name and what it reads, what builds a probe."""


def choose_decay(
    few: Int[np.ndarray, "few"],
    judge: Callable[[HeadConfig, np.ndarray, np.ndarray], float],
    better: str,
    config: StudyConfig,
) -> HeadConfig:
    """Returns how a head is trained: with the weight decay that is best on a fifth of the samples.

    Args:
        few: Training samples.
        judge: Returns the score on some of them of a head that is trained on others.
        better: How the score improves.
        config: With the candidates.
    """
    heads = [replace(config.head, weight_decay=decay) for decay in config.weight_decays]
    if len(heads) == 1 or len(few) < 10:
        return heads[len(heads) // 2]
    ((fitted, chosen),) = folds_of(len(few), 1)
    sign = 1 if better == "higher" else -1
    reached = [sign * judge(head, few[fitted], few[chosen]) for head in heads]
    return heads[int(np.argmax(reached))]

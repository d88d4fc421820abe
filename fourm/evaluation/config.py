"""What of a run is measured, and on how many samples."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from fourm.evaluation.results import Pair
from tokenizers.settings.checked import Checked, name_knob


@dataclass(frozen=True)
class LikelihoodTasks(Checked):
    """Which of these tasks are measured, and on how many samples."""

    text: str = ""
    """Modality of texts that tell of the others; the first one if empty."""
    shown: str = ""
    """Modality that texts are compared with, and in which odd places are looked for; the first that
    is a grid if empty."""
    num_samples: int = 256
    """Held-out samples; fewer if there are fewer."""
    swapped: float = 0.2
    """Share of texts that are exchanged."""
    zero_shot: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Facts that are told by what is written of them, without training: what is written for each
    value of a fact, for whole numbers in their order from 0, such as
    {"dominant_color": ("red", "blue")}."""
    templates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By fact, texts with {} in the place of what is written for a value, over whose likelihoods
    the mean is taken; without any, what is written is the text."""
    seed: int = 0
    """Of what is exchanged."""

    def check_knobs(self, knob: str) -> None:
        if self.num_samples < 2 or not 0 < self.swapped < 1:
            raise ValueError(
                f"{name_knob(knob, 'num_samples')} is {self.num_samples} and swapped "
                f"{self.swapped}; allowed are at least 2, and a share between 0 and 1."
            )
        for fact, templates in self.templates.items():
            if fact not in self.zero_shot or not all("{}" in each for each in templates):
                raise ValueError(
                    f"{name_knob(knob, 'templates')} has {templates} for {fact!r}; every template "
                    "needs a {}, and every fact its classes in zero_shot."
                )
        if few := [fact for fact, classes in self.zero_shot.items() if len(set(classes)) < 2]:
            raise ValueError(
                f"{name_knob(knob, 'zero_shot')} has fewer than two classes for {few[0]!r}; give "
                "what is written for each of its values."
            )


@dataclass(frozen=True)
class CalibrationConfig(Checked):
    """How it is measured whether the spread of several draws tells how wrong they are."""

    num_draws: int = 10
    """Draws of each sample; at temperature 1 where the run takes the likeliest or the expected
    answer."""
    num_samples: int = 64
    """Held-out samples of each direction; fewer if there are fewer."""
    num_bins: int = 10
    """Points of each curve."""

    def check_knobs(self, knob: str) -> None:
        for name, least in (("num_draws", 2), ("num_samples", 2), ("num_bins", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be at least "
                    f"{least}."
                )


@dataclass(frozen=True)
class RegionConfig(Checked):
    """Pixels on which dense metrics are also reported apart, told by a class map."""

    modality: str = ""
    """Modality of class maps; empty for no region."""
    classes: tuple[str, ...] = ()
    """Names of the classes whose pixels make up the region."""
    name: str = "objects"
    """Ends the names of the metrics there, such as abs_rel_objects."""


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """What is predicted from what, on how many held-out samples."""

    pairs: tuple[str, ...] = ()
    """Directions, like rgb->depth, caption+semseg->rgb, or caption->rgb->caption, which has the
    model also read the caption back from its own picture. If none is named: from the first
    modality to every other."""
    num_samples: int = 512
    """Held-out samples, evenly spread over the split; fewer if there are fewer."""
    num_samples_elsewhere: int = 256
    """The same on test splits other than the first."""
    region: RegionConfig = field(default_factory=RegionConfig)
    """Pixels on which dense metrics are also reported apart."""
    matrix: bool = False
    """Whether to predict every modality from every other, too."""
    matrix_samples: int = 64
    """Held-out samples for each direction of the matrix."""
    seed: int = 0
    """Seed of generation."""
    rivals: bool = True
    """Whether to say beside each direction what a simple method makes of the same samples: a random
    forest on pixels, ridge regression, or the most similar training sample."""

    distributions: bool = False
    """Whether directions to grids also have Fréchet distance, precision, recall and pmi."""
    likelihoods: bool = False
    """Whether the report has what likelihoods find."""
    likelihood_tasks: LikelihoodTasks = field(default_factory=LikelihoodTasks)
    """Of what likelihoods find: on which samples, and which facts without training."""

    EARLIER_DEFAULTS: ClassVar[dict[str, Any]] = {"rivals": False}

    def check_knobs(self, knob: str) -> None:
        for pair in self.pairs:
            Pair.parse(pair)
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"{name_knob(knob, 'seed')} is {self.seed}; it must be 0 to {2**32 - 1}."
            )
        for name in ("num_samples", "num_samples_elsewhere", "matrix_samples"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be at least 1."
                )

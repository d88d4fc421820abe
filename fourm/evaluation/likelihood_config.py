"""Which tasks a run's likelihoods are measured by."""

from dataclasses import dataclass, field

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
    templates: tuple[str, ...] = ("{}",)
    """Texts with {} in the place of what is written for a value; the mean over them counts."""
    num_draws: int = 8
    """Pairs of passes over a grid."""
    seed: int = 0
    """Of what is exchanged, and of these passes."""

    def check_knobs(self, knob: str) -> None:
        if self.num_samples < 2 or not 0 < self.swapped < 1 or self.num_draws < 2:
            raise ValueError(
                f"{name_knob(knob, 'num_samples')} is {self.num_samples}, swapped {self.swapped} "
                f"and num_draws {self.num_draws}; allowed are at least 2, a share between 0 and 1, "
                "and at least 2."
            )
        if not self.templates or not all("{}" in template for template in self.templates):
            raise ValueError(
                f"{name_knob(knob, 'templates')} are {self.templates}; every template needs a {{}}."
            )
        if few := [fact for fact, classes in self.zero_shot.items() if len(set(classes)) < 2]:
            raise ValueError(
                f"{name_knob(knob, 'zero_shot')} has fewer than two classes for {few[0]!r}; give "
                "what is written for each of its values."
            )

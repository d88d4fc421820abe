"""How the tokens of a modality are generated, and what of it a compiled program depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fourm.inference.schedules import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    Schedule,
    temperature_table,
    temperatures_per_step,
)
from fourm.token_space import TokenRange
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import from_plain

MOST_STEPS = 10_000
"""Passes over a grid; more than tokens make no difference."""


@dataclass(frozen=True)
class GenerationConfig(Checked):
    """How the tokens of one modality are generated."""

    scheme: Literal["maskgit", "random", "halton", "autoregressive"] = "maskgit"
    """Which tokens of a grid come first: those the model is surest of (MaskGIT), random ones, ones
    that lie far from each other (Halton), or in reading order. Sequences are always written from
    left to right."""
    num_steps: int = 8
    """Passes over a grid, at most. 1 predicts all tokens at once and is what dense prediction
    needs; more make tokens agree with each other."""
    schedule: Schedule = "cosine"
    """Tokens fixed per pass: few at both ends and most in the middle, or equally many."""
    temperature: float = 1.0
    """Below 1 likely tokens become likelier; 0 takes the likeliest."""
    temperature_schedule: str = "constant"
    """Grids only: constant, or falling from `temperature` as "linear" or "onex:MINIMUM:POWER" say
    (see `temperatures_per_step`): first tokens are a draw, last ones follow from them."""
    top_k: int = 0
    """Draw only from the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw only from the likeliest tokens that together have this probability; 1 for all."""
    guidance: float = 1.0
    """Weight of the conditions: above 1 follows them more closely than the model would, at the
    price of a second pass without them; 1 is off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Grids only: share of the passes after which guidance begins, and ends. Passes outside cost
    half, and early guidance narrows what is drawn (Kynkäänniemi et al. 2024)."""
    entropy_bound: float = 0.0
    """MaskGIT only: each pass fixes as many tokens as keep the sum of their entropies, but for the
    largest, at or under so many nats (Ben-Hamu et al. 2025, section 3), and at least one;
    `num_steps` is then the most passes there may be. 0 follows `schedule`."""
    choice_noise: float = 0.0
    """MaskGIT only: Gumbel noise on log-confidence when choosing which tokens to fix, falling to
    0 at the last pass. Without it, plain regions always come first."""
    via: tuple[str, ...] = ()
    """Modalities to generate on the way, where they are not given, and to go by as well (chained
    generation, Mizrahi et al. 2023, section 3.3): a layout first makes a picture coherent."""
    decode: Literal["sample", "expected"] = "sample"
    """Decode the drawn tokens, or the mean code under their probabilities, which for depth and
    the like is the better estimate; for tokenizers that can, others decode the drawn tokens."""

    def check_knobs(self, knob: str) -> None:
        for name, is_allowed, allowed in (
            ("num_steps", 1 <= self.num_steps <= MOST_STEPS, f"1 to {MOST_STEPS:,}"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or a positive number"),
            ("top_k", self.top_k >= 0, "0 (off) or a positive number"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("guidance", abs(self.guidance) < float("inf"), "a finite number; 1 is off"),
            (
                "guidance_interval",
                0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1,
                "two shares of the passes, 0 to 1, the smaller first",
            ),
            (
                "entropy_bound",
                0 <= self.entropy_bound < float("inf"),
                "0 (off) or a positive number of nats",
            ),
            ("choice_noise", 0 <= self.choice_noise < float("inf"), "0 (off) or positive"),
        ):
            if not is_allowed:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; allowed is {allowed}."
                )
        by_entropy = self.entropy_bound > 0
        if by_entropy and (self.scheme != "maskgit" or self.choice_noise):
            raise ValueError(
                f"{name_knob(knob, 'entropy_bound')} is {self.entropy_bound:g}, scheme "
                f"{self.scheme!r} and choice_noise {self.choice_noise:g}; tokens are chosen by "
                "entropy with the scheme maskgit and choice_noise 0 only."
            )
        if by_entropy and self.temperature_schedule != "constant":
            raise ValueError(
                f"{name_knob(knob, 'entropy_bound')} is {self.entropy_bound:g} and "
                f"temperature_schedule {self.temperature_schedule!r}; without a plan of passes the "
                "temperature can only be constant."
            )
        try:
            temperatures_per_step(self.temperature_schedule, self.temperature, np.ones(1, np.int32))
        except ValueError as error:
            raise ValueError(f"{name_knob(knob, 'temperature_schedule')}: {error}") from error


class Numbers(NamedTuple):
    """Settings that are arguments of a program, so that others need no other program.

    Attributes:
        temperature: Of every draw.
        temperatures: On a grid instead: by the number of unknown tokens and by pass.
        top_k: See `GenerationConfig`, as the others.
        top_p: ...
        guidance: ...
        entropy_bound: ...
        choice_noise: ...
        weights: Of the further conditions, in their order.
    """

    temperature: Float[Array, ""]
    temperatures: Float[Array, "_ steps"] | None
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]
    guidance: Float[Array, ""]
    entropy_bound: Float[Array, ""]
    choice_noise: Float[Array, ""]
    weights: Float[Array, "conditions"]


def split_settings(
    config: GenerationConfig, entry: TokenRange, weights: Sequence[float] = ()
) -> tuple[GenerationConfig, Numbers]:
    """Returns settings as those that shape a program, and its arguments.

    The first are equal for all settings that share a program: a number is there what switches its
    part of the program on or off, and `top_k` a power of two.
    """
    is_greedy = config.temperature < LEAST_TEMPERATURE
    is_falling = not is_greedy and config.temperature_schedule != "constant"
    is_grid = entry.kind == "grid"
    is_surest_first = is_grid and config.scheme == "maskgit"
    weighs = config.guidance != 1 or len(weights) > 0
    has_top_k = 0 < config.top_k < entry.vocab_size
    temperatures = None
    if is_grid and is_falling:
        temperatures = jnp.asarray(
            temperature_table(
                config.temperature_schedule,
                config.temperature,
                config.schedule,
                config.num_steps,
                entry.num_tokens,
            ),
            jnp.float32,
        )
    shape = GenerationConfig(
        scheme=config.scheme if is_grid else "autoregressive",
        num_steps=config.num_steps if is_grid else 1,
        schedule=config.schedule,
        temperature=0.0 if is_greedy else 1.0,
        temperature_schedule="linear" if temperatures is not None else "constant",
        top_k=1 << (config.top_k - 1).bit_length() if has_top_k else 0,
        top_p=0.5 if config.top_p < 1 else 1.0,
        guidance=1.0 if config.guidance == 1 else 2.0,
        guidance_interval=config.guidance_interval if is_grid and weighs else (0.0, 1.0),
        entropy_bound=1.0 if is_grid and config.entropy_bound > 0 else 0.0,
        choice_noise=1.0 if is_surest_first and config.choice_noise > 0 else 0.0,
        decode=config.decode if is_grid else "sample",
    )
    numbers = Numbers(
        jnp.float32(min(max(config.temperature, LEAST_TEMPERATURE), MOST_TEMPERATURE)),
        temperatures,
        jnp.int32(config.top_k if has_top_k else 1),
        jnp.float32(config.top_p),
        jnp.float32(config.guidance),
        jnp.float32(config.entropy_bound),
        jnp.float32(config.choice_noise),
        jnp.asarray(weights, jnp.float32),
    )
    return shape, numbers


def read_settings(name: str, given: Mapping[str, Any]) -> GenerationConfig:
    """Returns how a modality is generated, as a run directory says it.

    Raises:
        ValueError: If there is no such setting.
    """
    try:
        return from_plain(given, GenerationConfig)
    except ValueError as error:
        raise ValueError(f"generation.{name}: {str(error).rstrip('.')}") from error

"""Diffusion: noise schedules and samplers.

A noisy picture is sqrt(signal) * clean + sqrt(1 - signal) * noise, where `signal`, the share of
variance that is left of the picture, falls from nearly 1 to 0 over the time steps. Everything is
a small pure function of a frozen configuration and arrays, in float32. Axes are free but for the
first, the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tokenizers.settings.checked import Checked, name_knob

Prediction = Literal["sample", "epsilon", "v_prediction"]
"""What a network answers with: the clean picture, the noise, or v = sqrt(signal) * noise -
sqrt(1 - signal) * clean, which is well scaled everywhere (Salimans and Ho 2022)."""

Limit = Literal["none", "clip", "threshold"]
Sampler = Literal["ddim", "ddpm"]
TimestepsMode = Literal["trailing", "linspace", "leading"]

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "shifted_cosine:SHIFT")
FIRST_BETA, LAST_BETA = 1e-4, 0.02
MAX_LOG_SNR = 15.0


@dataclass(frozen=True)
class DiffusionConfig(Checked):
    """A noise schedule and what the network predicts."""

    num_timesteps: int = 1000
    """Levels of noise, 0 to num_timesteps - 1."""
    schedule: str = "shifted_cosine:1.0"
    """How fast the signal falls: linear, scaled_linear, squaredcos_cap_v2, sigmoid, or
    shifted_cosine:S, where S above 1 is noisier and below 1 less noisy than a cosine."""
    prediction: Prediction = "v_prediction"
    """What the network answers with."""
    zero_terminal_snr: bool = True
    """Rescale the schedule so that at the last time step no signal is left, as sampling assumes
    (Lin et al. 2023). shifted_cosine ends so anyway."""
    limit: Limit = "none"
    """clip keeps estimates of the clean picture within -1 and 1 while sampling, for values that are
    known to be there. threshold does the same, and gives up on a picture of which any number is
    infinite or NaN."""
    may_divide_by_zero: bool = False
    """Allow epsilon predictions on a schedule that ends without signal, where the first step from
    pure noise divides by zero. For published tokenizers; a run of your own is refused."""

    def check_knobs(self, knob: str) -> None:
        if self.num_timesteps < 2:
            raise ValueError(
                f"{name_knob(knob, 'num_timesteps')} is {self.num_timesteps}; give at least 2."
            )
        shift = _cosine_shift(self.schedule)
        if shift is None and self.schedule not in SCHEDULES[:-1]:
            raise ValueError(
                f"{name_knob(knob, 'schedule')} is {self.schedule!r}; it must be one of "
                f"{', '.join(SCHEDULES)}, with a positive number for SHIFT."
            )
        ends_without_signal = self.zero_terminal_snr or shift is not None
        if self.prediction == "epsilon" and ends_without_signal and not self.may_divide_by_zero:
            raise ValueError(
                f"{name_knob(knob, 'prediction')} is epsilon, which cannot tell a picture from "
                f"pure noise, with which schedule={self.schedule!r} and zero_terminal_snr="
                f"{self.zero_terminal_snr} end; use v_prediction or sample, or another schedule "
                "with zero_terminal_snr=False."
            )


class Step(NamedTuple):
    """One step towards the clean picture.

    Attributes:
        sample: The picture with less noise.
        clean: The estimate of the clean picture, after `limit`.
    """

    sample: Float[Array, "batch *shape"]
    clean: Float[Array, "batch *shape"]


class Plan(NamedTuple):
    """The time steps that a sampler visits, in order.

    Attributes:
        times: int32 [steps].
        signal: float32 [steps], the share of signal at each.
        next_signal: float32 [steps], the share of signal after each; 1 at the end.
    """

    times: Int[np.ndarray, "steps"]
    signal: Float[np.ndarray, "steps"]
    next_signal: Float[np.ndarray, "steps"]


class Trajectory(NamedTuple):
    """All steps of a sampler, stacked.

    Attributes:
        samples: What is there after each step.
        outputs: What the network answered.
        cleans: The estimate of the clean picture.
    """

    samples: Float[Array, "steps batch *shape"]
    outputs: Float[Array, "steps batch *shape"]
    cleans: Float[Array, "steps batch *shape"]


def signal_schedule(config: DiffusionConfig) -> Float[np.ndarray, "timesteps"]:
    """Returns the share of signal at every time step, falling from nearly 1.

    This is what the literature calls the cumulative product of alphas. Rounded to float32 after
    every operation in the order in which it is usually computed: near its ends, 1 - signal has
    few digits, and other roundings would be other numbers.
    """
    count = config.num_timesteps
    shift = _cosine_shift(config.schedule)
    if shift is not None:
        place = np.linspace(0, 1, count)
        with np.errstate(divide="ignore"):  # The logarithm of 0; limited on the next line.
            log_snr = -2 * (np.log(np.tan(np.pi * place / 2)) + np.log(shift))
        log_snr = np.clip(log_snr, -MAX_LOG_SNR, MAX_LOG_SNR).astype(np.float32)
        signal = 1 / (1 + np.exp(-log_snr))
        signal[-1] = 0
        return signal
    betas = _betas(config.schedule, count)
    if config.zero_terminal_snr:
        betas = _without_terminal_signal(betas)
    return _cumulative_product(1 - betas)


def plan_sampling(
    config: DiffusionConfig,
    num_steps: int,
    mode: TimestepsMode = "trailing",
    sampler: Sampler = "ddim",
) -> Plan:
    """Returns which time steps to visit, and how much signal there is before and after each.

    Every step reduces the time by num_timesteps // num_steps, whatever the next entry is: in
    "linspace" mode the two differ by a rounding, and in "trailing" mode there are more than
    `num_steps` entries when that does not divide num_timesteps.

    Args:
        config: The schedule.
        num_steps: How many steps to take, about.
        mode: "trailing" starts at the last time step and so at pure noise, "leading" ends at the
            first, "linspace" does both (Lin et al. 2023, table 2).
        sampler: "ddpm" ignores `mode` and is always "leading".
    """
    count = config.num_timesteps
    if not 1 <= num_steps <= count:
        raise ValueError(
            f"Sampling got num_steps={num_steps}; the schedule has {count} time steps, give 1 to "
            f"{count}."
        )
    stride = count // num_steps
    match "leading" if sampler == "ddpm" else mode:
        case "trailing":
            times = np.arange(count, 0, -stride) - 1
        case "linspace":
            times = np.linspace(count, 1, num_steps).round().astype(int) - 1
        case "leading":
            times = np.arange(num_steps)[::-1] * stride
        case _:
            raise ValueError(
                f"Sampling got mode={mode!r}; it must be one of "
                f"{', '.join(get_args(TimestepsMode))}."
            )
    signal = signal_schedule(config)
    following = times - stride
    next_signal = np.where(following < 0, np.float32(1), signal[np.maximum(following, 0)])
    return Plan(times.astype(np.int32), signal[times], next_signal)


def add_noise(
    clean: Float[Array, "batch *shape"],
    noise: Float[Array, "batch *shape"],
    signal: Float[Array, "batch"],
) -> Float[Array, "batch *shape"]:
    """Returns the noisy picture, of which `signal` is left."""
    signal = _beside(signal, clean)
    return jnp.sqrt(signal) * clean + jnp.sqrt(1 - signal) * noise


def training_target(
    config: DiffusionConfig,
    clean: Float[Array, "batch *shape"],
    noise: Float[Array, "batch *shape"],
    signal: Float[Array, "batch"],
) -> Float[Array, "batch *shape"]:
    """Returns what the network should answer with."""
    signal = _beside(signal, clean)
    match config.prediction:
        case "sample":
            return clean
        case "epsilon":
            return noise
        case "v_prediction":
            return jnp.sqrt(signal) * noise - jnp.sqrt(1 - signal) * clean


def read_prediction(
    config: DiffusionConfig,
    output: Float[Array, "batch *shape"],
    sample: Float[Array, "batch *shape"],
    signal: Float[Array, ""],
) -> tuple[Float[Array, "batch *shape"], Float[Array, "batch *shape"]]:
    """Returns the clean picture and the noise that a network's answer stands for.

    The clean picture is limited as the configuration says; the noise belongs to the unlimited one.
    """
    root, noise_root = jnp.sqrt(signal), jnp.sqrt(1 - signal)
    match config.prediction:
        case "sample":
            clean, noise = output, (sample - root * output) / noise_root
        case "epsilon":
            clean, noise = (sample - noise_root * output) / root, output
        case "v_prediction":
            clean = root * sample - noise_root * output
            noise = root * output + noise_root * sample
    match config.limit:
        case "none":
            return clean, noise
        case "clip":
            return jnp.clip(clean, -1, 1), noise
        case "threshold":
            # What is left of dynamic thresholding (Saharia et al. 2022) when the largest value
            # allowed is 1: its quantile only matters where it is no number.
            is_finite = jnp.isfinite(clean).all(axis=tuple(range(1, clean.ndim)), keepdims=True)
            return jnp.where(is_finite, jnp.clip(clean, -1, 1), jnp.nan), noise


def ddim_step(
    config: DiffusionConfig,
    output: Float[Array, "batch *shape"],
    sample: Float[Array, "batch *shape"],
    signal: Float[Array, ""],
    next_signal: Float[Array, ""],
) -> Step:
    """Takes one step without new noise (Song et al. 2021, equation 12, with sigma 0)."""
    clean, noise = read_prediction(config, output, sample, signal)
    return Step(jnp.sqrt(next_signal) * clean + jnp.sqrt(1 - next_signal) * noise, clean)


def ddpm_step(
    config: DiffusionConfig,
    output: Float[Array, "batch *shape"],
    sample: Float[Array, "batch *shape"],
    signal: Float[Array, ""],
    next_signal: Float[Array, ""],
    noise: Float[Array, "batch *shape"],
) -> Step:
    """Draws from the posterior given the estimate of the clean picture (Ho et al. 2020, eq. 7).

    Args:
        config: What the network predicts.
        output: Its answer.
        sample: The noisy picture.
        signal: The share of signal in it.
        next_signal: The share of signal after the step.
        noise: Of unit variance. The last step, after which all is signal, ignores it.
    """
    clean, _ = read_prediction(config, output, sample, signal)
    kept = signal / next_signal  # The variance that this step's noise left of what was there.
    mean = (
        jnp.sqrt(next_signal) * (1 - kept) / (1 - signal) * clean
        + jnp.sqrt(kept) * (1 - next_signal) / (1 - signal) * sample
    )
    variance = (1 - next_signal) / (1 - signal) * (1 - kept)
    return Step(mean + jnp.sqrt(jnp.maximum(variance, 0)) * noise, clean)


def denoise(
    config: DiffusionConfig,
    predict: Callable[[Array, Array], Array],
    start: Float[Array, "batch *shape"],
    plan: Plan,
    step_noise: Callable[[Int[Array, ""]], Float[Array, "batch *shape"]] | None = None,
) -> tuple[Float[Array, "batch *shape"], Trajectory]:
    """Turns noise into pictures, step by step in one compiled loop.

    Args:
        config: The schedule and what the network predicts.
        predict: The network: noisy pictures and times int32 [batch] to its answer.
        start: Noise of unit variance.
        plan: Which time steps to visit.
        step_noise: Fresh noise by the number of the step, for ddpm; None for ddim.

    Returns:
        pictures: After the last step.
        trajectory: Every step; costs nothing in compiled code that does not use it.
    """
    batch = start.shape[0]

    def advance(sample: Array, step: tuple[Array, Array, Array, Array]):
        number, time, signal, next_signal = step
        output = predict(sample, jnp.full(batch, time)).astype(jnp.float32)
        if step_noise is None:
            result = ddim_step(config, output, sample, signal, next_signal)
        else:
            noise = step_noise(number)
            result = ddpm_step(config, output, sample, signal, next_signal, noise)
        return result.sample, Trajectory(result.sample, output, result.clean)

    numbers = jnp.arange(len(plan.times))
    return jax.lax.scan(advance, start, (numbers, *map(jnp.asarray, plan)))


def _cosine_shift(schedule: str) -> float | None:
    """Returns S of "shifted_cosine:S", None for anything else."""
    name, _, shift = schedule.partition(":")
    try:
        value = float(shift) if name == "shifted_cosine" else 0.0
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _betas(schedule: str, count: int) -> Float[np.ndarray, "timesteps"]:
    """Returns the share of variance that is replaced by noise in every time step."""
    match schedule:
        case "linear":
            betas = np.linspace(FIRST_BETA, LAST_BETA, count)
        case "scaled_linear":
            betas = np.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, count).astype(np.float32) ** 2
        case "squaredcos_cap_v2":
            place = (np.arange(count + 1) / count + 0.008) / 1.008
            signal = np.cos(place * np.pi / 2) ** 2
            betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
        case "sigmoid":
            ramp = 1 / (1 + np.exp(-np.linspace(-6, 6, count)))
            betas = ramp * (LAST_BETA - FIRST_BETA) + FIRST_BETA
        case _:
            raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}.")
    return betas.astype(np.float32)


def _without_terminal_signal(betas: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Shifts and scales the root of the signal so that it ends at 0 and starts where it did."""
    root = np.sqrt(_cumulative_product(1 - betas))
    first, last = root[0], root[-1]
    signal = np.square((root - last) * (first / (first - last)))
    return 1 - np.concatenate([signal[:1], signal[1:] / signal[:-1]])


def _cumulative_product(factors: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Returns running products, accumulated in float64."""
    return np.cumprod(factors.astype(np.float64)).astype(np.float32)


def _beside(signal: Float[Array, "batch"], picture: Array) -> Array:
    """Returns one number per sample in a shape that multiplies pictures."""
    return jnp.reshape(signal, (-1,) + (1,) * (picture.ndim - 1))

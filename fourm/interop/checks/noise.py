"""Noise schedules and single steps of samplers against recorded ones."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fourm.interop.checks.comparison import Comparison, compare, compare_exactly
from tokenizers.images.diffusion import (
    DiffusionConfig,
    Step,
    ddim_step,
    ddpm_step,
    plan_sampling,
    signal_schedule,
)

NUM_STEPS = 5
"""Inference steps for which single steps were recorded."""

SCHEDULE_NAME = re.compile(r"alphas_cumprod/(?P<schedule>.+)/zero_terminal_snr=(?P<zero>\w+)")
STEP_NAME = re.compile(
    r"(?P<sampler>ddim|ddpm)/(?P<prediction>\w+)/threshold=(?P<threshold>\w+)/clip=(?P<clip>\w+)"
    r"/t=(?P<time>\d+)/(?P<part>prev|x0)"
)
TIMES_NAME = re.compile(r"(?P<sampler>ddim|ddpm)(/(?P<mode>[a-z]+))?/(?P<steps>\d+)")


def check_schedules(folder: Path) -> Iterator[Comparison]:
    """Compares schedules, lists of time steps and single steps with the recorded ones.

    Args:
        folder: With inputs.npz, outputs.npz and timesteps.json. Every name says which options
            it was recorded with.
    """
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    steps: dict[str, Step] = {}
    for name in outputs.files:
        if found := SCHEDULE_NAME.fullmatch(name):
            config = DiffusionConfig(
                schedule=found["schedule"],
                zero_terminal_snr=_truth(found["zero"], name),
                num_timesteps=len(outputs[name]),
            )
            yield compare(name, signal_schedule(config), outputs[name])
        elif found := STEP_NAME.fullmatch(name):
            recorded_step, part = name.rsplit("/", 1)
            if recorded_step not in steps:
                steps[recorded_step] = _one_step(found, inputs, name)
            step = steps[recorded_step]
            ours = step.sample if part == "prev" else step.clean
            yield compare(name, np.asarray(ours), outputs[name])
        else:
            raise ValueError(
                f"{folder / 'outputs.npz'} holds {name!r}, which is neither a schedule nor a step."
            )
    times_path = folder / "timesteps.json"
    for name, recorded in json.loads(times_path.read_text(encoding="utf-8")).items():
        found = TIMES_NAME.fullmatch(name)
        if not found:
            raise ValueError(f"{times_path} holds {name!r}, which names no list of time steps.")
        plan = plan_sampling(
            DiffusionConfig(), int(found["steps"]), found["mode"] or "leading", found["sampler"]
        )
        yield compare_times(f"timesteps/{name}", plan.times, recorded)


def compare_times(name: str, times: np.ndarray, recorded: Any) -> Comparison:
    """Compares time steps with a recorded list, or with its length, beginning and end."""
    if isinstance(recorded, dict):
        first, last = recorded["first"], recorded["last"]
        times = np.concatenate([[len(times)], times[: len(first)], times[-len(last) :]])
        recorded = [recorded["n"], *first, *last]
    return compare_exactly(name, times, np.asarray(recorded))


def _one_step(found: re.Match[str], inputs: Any, name: str) -> Step:
    limit = "none"
    if _truth(found["clip"], name):
        limit = "clip"
    if _truth(found["threshold"], name):  # Goes first where both are set.
        limit = "threshold"
    config = DiffusionConfig(
        schedule="linear",
        prediction=found["prediction"],
        limit=limit,
        may_divide_by_zero=True,
    )
    time, stride = int(found["time"]), config.num_timesteps // NUM_STEPS
    signal = signal_schedule(config)
    next_signal = signal[time - stride] if time >= stride else np.float32(1)
    shares = (jnp.asarray(signal[time]), jnp.asarray(next_signal))
    output, sample = jnp.asarray(inputs["model_output"]), jnp.asarray(inputs["sample"])
    if found["sampler"] == "ddim":
        return ddim_step(config, output, sample, *shares)
    noise = jnp.asarray(inputs["ddpm_step_noise"])
    return ddpm_step(config, output, sample, *shares, noise)


def _truth(word: str, name: str) -> bool:
    match word:
        case "True":
            return True
        case "False":
            return False
        case _:
            raise ValueError(f"{name!r} says {word!r} where it must say True or False.")

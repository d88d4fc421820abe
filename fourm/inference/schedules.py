"""How many tokens each step of generation fixes, and at what temperature."""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Schedule = Literal["cosine", "linear"]

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-30, 1e30
"""Temperatures that float32 can divide logits by; one below counts as 0, one above as the most."""


def tokens_per_step(
    schedule: Schedule, num_steps: int, num_tokens: int
) -> Int[np.ndarray, "{num_steps}"]:
    """Splits `num_tokens` among `num_steps`; the counts add up to `num_tokens` exactly.

    "cosine" fixes few tokens at both ends and most in the middle: the share still unknown after
    step i of S is (1 + cos(pi i / S)) / 2, and the last step takes what rounding left. "linear"
    is even, larger counts first. Both are ml-4m's, but that a step fixes at least one token while
    any is unknown: where there are many steps, every share would round to 0, and the last step
    would fix all tokens at once. Steps beyond the number of tokens fix none.

    Example:
        >>> tokens_per_step("cosine", 8, 196).tolist()
        [7, 21, 32, 38, 38, 32, 21, 7]
        >>> tokens_per_step("linear", 8, 196).tolist()
        [25, 25, 25, 25, 24, 24, 24, 24]
    """
    if schedule == "linear":
        edges = np.trunc(np.linspace(0, num_tokens, num_steps + 1)).astype(np.int32)
        return np.sort(np.diff(edges))[::-1].astype(np.int32)
    unknown = (1 + np.cos(np.pi * np.arange(num_steps) / num_steps)) / 2
    counts = np.round(num_tokens * -np.diff(unknown)).astype(np.int32)
    done = np.minimum(np.cumsum(counts), num_tokens)
    done = np.diff(done, prepend=0, append=num_tokens)
    return leave_no_step_idle(done).astype(np.int32)


def leave_no_step_idle(counts: Int[np.ndarray, "steps"]) -> Int[np.ndarray, "steps"]:
    """Lets every step fix a token while any is unknown, at the cost of later ones."""
    total, done = int(counts.sum()), 0
    reached = np.cumsum(counts)
    for step, target in enumerate(reached):
        done = reached[step] = min(max(int(target), done + 1), total)
    return np.diff(reached, prepend=0)


@lru_cache(maxsize=64)
def step_table(
    schedule: Schedule, num_steps: int, num_tokens: int
) -> Int[np.ndarray, "{num_tokens}+1 {num_steps}"]:
    """Returns `tokens_per_step` for every number of unknown tokens up to `num_tokens`.

    Samples of which some tokens are given have fewer to fix; each looks up its own row.
    """
    rows = [tokens_per_step(schedule, num_steps, unknown) for unknown in range(num_tokens + 1)]
    return np.stack(rows)


class Passes(NamedTuple):
    """Passes over a grid that are compiled as one loop, and the sizes they need.

    Attributes:
        start: The first pass.
        end: The one after the last.
        most_known: Most tokens that are known before one of them.
        most_unknown: Most tokens that are not.
        most_fixed: Most tokens that one of them fixes.
        is_guided: Whether conditions are weighted in them.
    """

    start: int
    end: int
    most_known: int
    most_unknown: int
    most_fixed: int
    is_guided: bool = False


def group_passes(
    schedule: Schedule,
    num_steps: int,
    num_tokens: int,
    num_groups: int,
    is_given: bool,
    guided: range = range(0),
) -> list[Passes]:
    """Splits the passes over a grid into `num_groups` of nearly equal length, in their order.

    Early passes know few tokens and late ones ask for few, so that the sizes of a group are less
    than the grid's. If tokens may be given, as `is_given` says, all of them may be known. A group
    in which guidance begins or ends is split there.
    """
    table = step_table(schedule, num_steps, num_tokens)
    num_steps = min(num_steps, num_tokens)
    table = table[:, :num_steps]  # Later passes have nothing to do.
    unknown = np.arange(num_tokens + 1)[:, None] - np.cumsum(table, axis=1) + table
    known = np.full(num_steps, num_tokens) if is_given else num_tokens - unknown[-1]
    groups = np.array_split(np.arange(num_steps), min(num_groups, num_steps))
    groups = [part for group in groups for part in _split_at(group, guided)]
    return [
        Passes(
            int(group[0]),
            int(group[-1]) + 1,
            most_known=int(known[group].max()),
            most_unknown=int(unknown[:, group].max()),
            most_fixed=int(table[:, group].max()),
            is_guided=int(group[0]) in guided,
        )
        for group in groups
    ]


def entropy_passes(num_steps: int, num_tokens: int, guided: range) -> list[Passes]:
    """Returns passes of which each fixes as many tokens as it will: all may be known, or asked."""
    return [
        Passes(
            int(group[0]),
            int(group[-1]) + 1,
            most_known=num_tokens,
            most_unknown=num_tokens,
            most_fixed=num_tokens,
            is_guided=int(group[0]) in guided,
        )
        for group in _split_at(np.arange(min(num_steps, num_tokens)), guided)
    ]


def _split_at(group: Int[np.ndarray, "passes"], guided: range) -> list[np.ndarray]:
    """Splits numbers of passes where guidance begins and where it ends."""
    is_guided = np.isin(group, guided)
    parts = np.split(group, np.flatnonzero(np.diff(is_guided)) + 1)
    return [part for part in parts if len(part)]


def temperatures_per_step(
    schedule: str, start: float, counts: Int[np.ndarray, "steps"]
) -> Float[np.ndarray, "steps"]:
    """Returns the temperature of every step that fixes `counts` tokens.

    "constant" stays at `start`. "linear" is `start` times the share of tokens still unknown.
    "onex:MINIMUM:POWER" falls from near `start` to the minimum, as the step's number to the minus
    power does and as the share of unknown tokens does. All are ml-4m's.

    Raises:
        ValueError: If there is no such schedule.

    Example:
        >>> temperatures_per_step("linear", 3.0, np.array([1, 2, 1])).tolist()
        [3.0, 2.25, 0.75]
    """
    total = max(int(counts.sum()), 1)
    done = np.cumsum(counts) / total
    match schedule.split(":"):
        case ["constant"]:
            found = np.full(len(counts), start)
        case ["linear"]:
            found = start * (1 - done + counts / total)
        case ["onex", minimum, power] if _is_number(minimum) and _is_number(power):
            low, curve = float(minimum), np.linspace(1, 100, total) ** -float(power)
            curve = (curve - curve.min()) / max(np.ptp(curve), 1e-12) if total > 1 else curve
            # The reference reads the curve, which has a point per token, at the step's number.
            at = np.minimum(np.arange(len(counts)), total - 1)
            found = low + (start - low) * (1 - done) * curve[at]
        case _:
            raise ValueError(
                f"There is no temperature schedule {schedule!r}; there are constant, linear and "
                "onex:MINIMUM:POWER, such as onex:0.5:0.5."
            )
    return np.maximum(found, 1e-9)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


@lru_cache(maxsize=64)
def temperature_table(
    schedule: str, start: float, token_schedule: Schedule, num_steps: int, num_tokens: int
) -> Float[np.ndarray, "{num_tokens}+1 {num_steps}"]:
    """Returns `temperatures_per_step` for every number of unknown tokens up to `num_tokens`."""
    counts = step_table(token_schedule, num_steps, num_tokens)
    return np.stack([temperatures_per_step(schedule, start, row) for row in counts])

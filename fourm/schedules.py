"""How many tokens each step of generation fixes."""

from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Int

Schedule = Literal["cosine", "linear"]


def tokens_per_step(
    schedule: Schedule, num_steps: int, num_tokens: int
) -> Int[np.ndarray, "{num_steps}"]:
    """Splits `num_tokens` among `num_steps`; the counts add up to `num_tokens` exactly.

    "cosine" fixes few tokens at both ends and most in the middle: the share still unknown after
    step i of S is (1 + cos(pi i / S)) / 2, and the last step takes what rounding left. "linear"
    is even, larger counts first. Both are ml-4m's.

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
    return np.diff(done, prepend=0, append=num_tokens).astype(np.int32)


@cache
def step_table(
    schedule: Schedule, num_steps: int, num_tokens: int
) -> Int[np.ndarray, "{num_tokens}+1 {num_steps}"]:
    """Returns `tokens_per_step` for every number of unknown tokens up to `num_tokens`.

    Samples of which some tokens are given have fewer to fix; each looks up its own row.
    """
    rows = [tokens_per_step(schedule, num_steps, unknown) for unknown in range(num_tokens + 1)]
    return np.stack(rows)

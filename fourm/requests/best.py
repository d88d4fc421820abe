"""Which of several draws is the best: by likelihood, by reading back, or by a function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from fourm.inference.likelihood import likelihood_of_tokens
from fourm.model.transformer import FourM
from fourm.requests.batching import batches, draw_keys
from tokenizers.base import PADDING, RawBatch

Way = Literal["likelihood", "read-back"]
Score = Way | Callable[[dict[str, RawBatch]], Any]
"""How draws are scored. "likelihood": by the log-likelihood of the targets, each given the inputs
and the targets before it. "read-back": by that of the inputs given the targets, which asks whether
what was generated shows what was asked for. A function takes the raw values of one draw of all
samples, by target, and returns a number per sample, the higher the better."""

PAIRS = 4
"""Pairs of passes by which the likelihood of a grid is estimated, the same for all draws."""


def check_score(score: Any, how: str, inputs: Mapping[str, np.ndarray], model: FourM) -> None:
    """Raises ValueError if draws can't be scored so.

    Args:
        score: As `Score` says, or None.
        how: How draws become one.
        inputs: Tokens that are given.
        model: Trained.
    """
    if (score is None) != (how != "best"):
        raise ValueError(
            f'combine is {how!r} and score is {score!r}; combine="best" goes with a score: '
            '"likelihood", "read-back" or a function.'
        )
    if score is None or callable(score):
        return
    if score not in ("likelihood", "read-back"):
        raise ValueError(
            f'score is {score!r}; "likelihood", "read-back" or a function of raw values is allowed.'
        )
    if score == "read-back" and not _asked_back(inputs, (), model):
        raise ValueError(
            'score is "read-back", but no modality with tokens is given that could be read back.'
        )


def score_draws(
    model: FourM,
    score: Score,
    inputs: Mapping[str, np.ndarray],
    targets: Sequence[str],
    ids: Mapping[str, np.ndarray],
    values: Mapping[str, RawBatch],
    num_draws: int,
    seed: int,
    batch_size: int,
) -> Float[np.ndarray, "batch draws"]:
    """Returns the score of every draw.

    Args:
        model: Trained.
        score: As `Score` says.
        inputs: Tokens that are given, by modality, a row per sample.
        targets: In their order.
        ids: What was drawn, all draws of a sample after each other.
        values: Likewise, as raw values.
        num_draws: Of each sample.
        seed: Of the passes by which grids are estimated.
        batch_size: Draws at once.

    Raises:
        ValueError: If a function does not return a finite number per sample.
    """
    count = len(ids[targets[0]])
    if callable(score):
        found = [_scores_of(score, values, draw, num_draws) for draw in range(num_draws)]
        return np.stack(found, axis=1)
    given = {name: array for name, array in inputs.items() if name not in targets}
    total = np.zeros(count)
    for numbers, real in batches(count, batch_size):
        rows = numbers // num_draws
        keys = draw_keys(jax.random.key(seed), rows)  # One sample's draws are asked alike.
        shown = {name: array[rows] for name, array in given.items()}
        made = {name: ids[name][numbers] for name in targets}
        if score == "likelihood":
            asked = [(name, shown | _before(made, name)) for name in targets]
            found = [(made[name], name, known) for name, known in asked]
        else:
            names = _asked_back(given, targets, model)
            found = [(shown[name], name, made) for name in names]
        for tokens, name, known in found:
            part = likelihood_of_tokens(model, known, name, tokens, keys, PAIRS).total
            # What a sample lacks says nothing of its draws.
            total[numbers[:real]] += np.nan_to_num(part[:real])
    return total.reshape(-1, num_draws)


def _before(made: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    names = list(made)
    return {each: made[each] for each in names[: names.index(name)]}


def _asked_back(
    inputs: Mapping[str, np.ndarray], targets: Sequence[str], model: FourM
) -> list[str]:
    names = [entry.name for entry in model.space.ranges if entry.kind != "features"]
    return [
        name
        for name in names
        if name in inputs and name not in targets and (inputs[name] != PADDING).any()
    ]


def _scores_of(
    score: Callable[[dict[str, RawBatch]], Any],
    values: Mapping[str, RawBatch],
    draw: int,
    num_draws: int,
) -> Float[np.ndarray, "batch"]:
    own = {name: raw[draw::num_draws] for name, raw in values.items()}
    batch = len(next(iter(own.values())))
    found = np.asarray(score(own))
    if found.shape != (batch,) or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise ValueError(
            f"The score returned {str(found)[:80]} for {batch} samples; it must return a finite "
            "number for each."
        )
    return found.astype(np.float64)

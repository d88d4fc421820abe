"""Several draws of one answer: what they agree on, and how far they lie apart.

Which of many answers is right is a question of what is asked. Numbers have a mean and a median,
classes a vote, and of texts, boxes and the like one draw is taken, that which the others are most
like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from fourm.inference.schedules import LEAST_TEMPERATURE
from fourm.inference.settings import GenerationConfig
from tokenizers.base import PADDING, RawBatch, Values, main_metric
from tokenizers.values import Classes, Directions, Distances

Combine = Literal["auto", "mean", "median", "vote", "medoid", "best", "none"]


class Combined(NamedTuple):
    """Several draws of one modality as one.

    Attributes:
        values: One per sample.
        spread: How far the draws lie apart, per pixel of dense values [batch, y, x], per sample
            else [batch]: of numbers the standard deviation over the draws, in their unit (of
            several channels the root of the mean square); of directions the root of the mean square
            of the angle to their mean, in degrees; of classes the share of draws that say something
            else; of what has only a score, its mean distance from the best possible score over all
            other draws. NaN where no draw knows a value.
    """

    values: RawBatch
    spread: Float[np.ndarray, "batch ..."]

    @property
    def per_sample(self) -> Float[np.ndarray, "batch"]:
        """The mean of the spread over what is known of each sample."""
        flat = self.spread.reshape(len(self.spread), -1)
        known = ~np.isnan(flat)
        total = np.where(known, flat, 0.0).sum(1)
        return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)


def ways_of(values: Values, draw: Any) -> tuple[Combine, ...]:
    """Returns the ways in which values of a kind can be combined, the usual one first."""
    if isinstance(values, Classes) or isinstance(draw, int | np.integer | bool):
        return "vote", "medoid"
    if isinstance(values, Directions):
        return "mean", "medoid"
    is_array = isinstance(draw, np.ndarray) and draw.dtype.kind in "fu"
    if is_array or isinstance(draw, float | np.floating):
        return "mean", "median", "medoid"
    return ("medoid",)


def check_way(values: Values, draw: Any, how: Combine, name: str) -> None:
    """Raises ValueError if values of a kind, of which one is given, can't be combined so."""
    ways = ways_of(values, draw)
    if how not in (*ways, "auto", "best", "none"):
        raise ValueError(
            f"{name} can't be combined by {how!r}; {', '.join(('auto', *ways, 'none'))} is allowed."
        )


def combine(values: Values, draws: Sequence[RawBatch], how: Combine, name: str) -> Combined:
    """Combines draws of a modality.

    Args:
        values: What its numbers mean.
        draws: Each of them as values of the same samples.
        how: In which way; "auto" takes the kind's usual one, "none" the first draw.
        name: The modality, for messages.

    Raises:
        ValueError: If its values can't be combined so.
    """
    if how == "none":
        return combine(values, draws, "auto", name)._replace(values=draws[0])
    check_way(values, draws[0][0], how, name)
    how = ways_of(values, draws[0][0])[0] if how == "auto" else how
    if how == "medoid":
        return _medoid(values, draws)
    stacked = np.stack([np.asarray(draw) for draw in draws])
    if how == "vote":
        return _vote(stacked)
    if not isinstance(values, Directions | Distances):
        return _average(stacked, how)
    # Zero is unknown there, and a draw may say so: what most draws say counts.
    numbers = stacked[..., None] if isinstance(values, Distances) else stacked
    is_unknown = (numbers == 0).all(axis=-1)
    is_open = 2 * is_unknown.sum(axis=0) > len(stacked)
    shape = is_unknown.shape + (1,) * (stacked.ndim - is_unknown.ndim)
    known = np.where(is_unknown.reshape(shape), np.nan, stacked).astype(stacked.dtype)
    found = _mean_direction(known) if isinstance(values, Directions) else _average(known, how)
    combined = np.where(is_open.reshape(shape[1:]), 0, found.values).astype(stacked.dtype)
    return Combined(combined, np.where(is_open, np.nan, found.spread))


def _average(stacked: np.ndarray, how: Combine) -> Combined:
    numbers = stacked.astype(np.float64)
    known = ~np.isnan(numbers)
    count = known.sum(axis=0)
    filled = np.where(known, numbers, 0.0)
    mean = np.where(count > 0, filled.sum(0) / np.maximum(count, 1), np.nan)
    deviation = np.where(known, (numbers - mean) ** 2, 0.0).sum(0) / np.maximum(count, 1)
    deviation = np.where(count > 0, deviation, np.nan)
    if deviation.ndim > 3:  # Channels come last.
        deviation = deviation.mean(axis=-1)
    middle = mean
    if how == "median":
        middle = np.full(mean.shape, np.nan)
        at = count > 0
        middle[at] = np.nanmedian(numbers[:, at], axis=0)
    if stacked.dtype.kind == "u":
        middle = np.round(middle)
    return Combined(middle.astype(stacked.dtype), np.sqrt(deviation))


def _mean_direction(stacked: np.ndarray) -> Combined:
    known = ~np.isnan(stacked).any(axis=-1)
    vectors = np.where(known[..., None], stacked, 0.0).astype(np.float64)
    total = vectors.sum(axis=0)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    # Opposite directions have no mean; then the first one stands for all.
    mean = np.where(length > 1e-6, total / np.maximum(length, 1e-6), vectors[0])
    is_known = known.any(axis=0)
    cosine = np.clip((vectors * mean).sum(-1), -1, 1)
    angle = np.where(known, np.degrees(np.arccos(cosine)) ** 2, 0.0)
    square = angle.sum(0) / np.maximum(known.sum(0), 1)
    return Combined(
        np.where(is_known[..., None], mean, np.nan).astype(stacked.dtype),
        np.where(is_known, np.sqrt(square), np.nan),
    )


def _vote(stacked: np.ndarray) -> Combined:
    """The most frequent class; of equals that which was drawn first."""
    votes = np.stack([(stacked == draw).sum(axis=0, dtype=np.int32) for draw in stacked])
    first = votes.argmax(axis=0)
    winner = np.take_along_axis(stacked, first[None], axis=0)[0]
    return Combined(winner, 1 - votes.max(axis=0) / len(stacked))


def _medoid(values: Values, draws: Sequence[RawBatch]) -> Combined:
    metric, better = main_metric(values)
    sign = 1.0 if better == "higher" else -1.0
    chosen, spread = [], []
    for row in range(len(draws[0])):
        own = [draw[row] for draw in draws]
        likeness = np.array(
            [
                [sign * values.score([a], [b])[metric] for b in own] if len(own) > 1 else [0.0]
                for a in own
            ]
        )
        # Its likeness to itself is the best there is.
        best = likeness.diagonal().mean()
        others = np.where(np.eye(len(own), dtype=bool), 0.0, likeness).sum(1) / max(len(own) - 1, 1)
        number = int(np.argmax(others))
        chosen.append(own[number])
        spread.append(best - others.mean() if len(own) > 1 else 0.0)
    is_array = isinstance(draws[0], np.ndarray)
    return Combined(np.stack(chosen) if is_array else chosen, np.array(spread))


def token_spread(
    ids: Int[np.ndarray, "all_draws tokens"], num_draws: int
) -> Float[np.ndarray, "batch tokens"]:
    """Returns the share of pairs of draws that differ in a token; NaN where no draw has one.

    Args:
        ids: Of samples whose draws follow each other.
        num_draws: Of each sample, at least 2.
    """
    draws = ids.reshape(-1, num_draws, ids.shape[1])
    same = np.zeros((len(draws), ids.shape[1]), np.int64)
    for number in range(1, num_draws):  # Each pair once, without an array of all of them.
        same += (draws[:, number:] == draws[:, : num_draws - number]).sum(axis=1)
    apart = 1 - same / (num_draws * (num_draws - 1) // 2)
    return np.where((draws != PADDING).any(axis=1), apart, np.nan)


def is_settled(config: GenerationConfig, kind: str = "grid") -> bool:
    """Tells settings under which every draw of a modality of a kind gives the same answer."""
    takes_likeliest = config.temperature < LEAST_TEMPERATURE or config.top_k == 1
    if kind == "sequence":
        return takes_likeliest
    if config.num_steps == 1:  # All tokens at once, in whichever order.
        return takes_likeliest or config.decode == "expected"
    has_random_order = config.scheme in ("random", "halton") or config.choice_noise > 0
    return takes_likeliest and not has_random_order


def as_drawn(config: GenerationConfig, kind: str = "grid") -> GenerationConfig:
    """Returns settings under which draws differ; those that settle the answer draw it instead."""
    if not is_settled(config, kind):
        return config
    num_steps = max(config.num_steps, GenerationConfig.num_steps)
    return replace(config, temperature=1.0, top_k=0, decode="sample", num_steps=num_steps)


def check_draws(
    num_draws: int,
    how: Any,
    settings: Mapping[str, GenerationConfig],
    targets: Sequence[str],
    kinds: Mapping[str, str],
) -> None:
    """Raises ValueError if several draws can't be combined so, or those of a target would be equal.

    What is settled may follow from what is drawn before it, and differs then.

    Args:
        num_draws: Of each sample.
        how: How they become one.
        settings: Of all that is generated, in its order.
        targets: What of it is asked for.
        kinds: By modality.
    """
    check_combine(how)
    equal = []
    for name, config in settings.items():
        if not is_settled(config, kinds[name]):
            break
        equal.append(name)
    told = [name for name in equal if name in targets]
    if num_draws > 1 and told:
        raise ValueError(
            f"num_draws is {num_draws}, and all draws of {', '.join(told)} would be equal, as "
            "they take the likeliest or the expected answer; set a temperature above 0, more than "
            'one step and decode "sample" (--temperature, --num-steps, --decode).'
        )


def check_combine(how: Any) -> None:
    """Raises ValueError if there is no such way of combining draws."""
    if how not in get_args(Combine):
        raise ValueError(f"combine is {how!r}; {', '.join(get_args(Combine))} is allowed.")

"""Generates the tokens of any modality from those of any others.

Grids are completed in a few passes, each of which fixes some tokens for good: the surest ones
(MaskGIT, Chang et al. 2022, section 3.2) or random ones (4M, Mizrahi et al. 2023). Sequences are
written token by token. Both are one loop in one compiled function over arrays of fixed shape.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from fourm.inference.conditions import (
    NEVER,
    Condition,
    Known,
    count_blanks,
    has_ended,
    is_blank,
)
from fourm.inference.grids import generate_grid
from fourm.inference.sequences import generate_sequence
from fourm.inference.settings import GenerationConfig, split_settings
from fourm.inference.watching import Watch, listening
from fourm.model.transformer import FourM
from fourm.token_space import TokenRange, TokenSpace


class GeneratedTokens(NamedTuple):
    """What `generate_tokens` returns.

    Attributes:
        ids: Per target, complete: sequences have `PADDING` after their end.
        probabilities: Per grid target with decode="expected": what each token was drawn from;
            one-hot where it was given.
    """

    ids: dict[str, Int[Array, "batch _"]]
    probabilities: dict[str, Float[Array, "batch _ _"]]


def generate_tokens(
    model: FourM,
    known: Known,
    targets: Sequence[str],
    keys: Key[Array, "batch"],
    settings: Mapping[str, GenerationConfig],
    conditions: Sequence[Condition] = (),
    watch: Watch | None = None,
) -> GeneratedTokens:
    """Generates `targets` in their order; each becomes a condition of those after it.

    A target may be known in part: a grid keeps the tokens it has and gets the others; a sequence
    without an end is continued, and gets a span in place of each sentinel that it has. What is
    known is never changed.

    Args:
        model: The trained model.
        known: Per modality ids [batch, tokens] in its own vocabulary; `PADDING` where unknown,
            and all over in samples that lack the modality. May be empty.
        targets: What to generate.
        keys: One per sample; what a sample becomes depends on its own key and ids alone.
        settings: Per target.
        conditions: What all targets follow or shun besides, each with its weight. Those with the
            weight 0 change nothing.
        watch: Is called after every pass; what is generated is the same.

    Raises:
        ValueError: If a modality is not the model's, a shape is wrong, or a setting is; or if the
            model's logits are not finite.
    """
    conditions = [each for each in conditions if each.weight]
    further = [
        {name: _as_known(ids, name, model.space, len(keys)) for name, ids in each.known.items()}
        for each in conditions
    ]
    weights = [each.weight for each in conditions]
    known = {name: _as_known(ids, name, model.space, len(keys)) for name, ids in known.items()}
    graph, state = nnx.split(model)
    probabilities, generated, failed = {}, {}, {}
    for name in targets:
        entry = model.space[name]
        if entry.kind == "features":
            raise ValueError(f"{name} has no tokens and is only ever input; it can't be a target.")
        _check_conditions(entry, known, further, settings[name])
        shape, numbers = split_settings(settings[name], entry, weights)
        request = graph, state, known, keys, entry, shape, numbers, further
        with listening(watch, name) as listener:
            if entry.kind == "grid":
                ids, drawn_from, failed[name] = generate_grid(*request, listener)
                if drawn_from is not None:
                    probabilities[name] = drawn_from
            else:
                has_blanks = name in known and _check_blanks(entry, known[name])
                ids, failed[name] = generate_sequence(*request, has_blanks, listener)
        known[name] = generated[name] = ids
    for name, step in failed.items():
        if int(step) != NEVER:
            what = "pass" if model.space[name].kind == "grid" else "token"
            raise ValueError(
                f"The logits of {name} are not finite in {what} {int(step) + 1}: weights or inputs "
                f"are not, or its guidance, {settings[name].guidance}, is too large."
            )
    return GeneratedTokens(generated, probabilities)


def _check_blanks(entry: TokenRange, ids: Array) -> bool:
    """Returns whether any sequence has sentinels in place of spans.

    Raises:
        ValueError: If they are not the first ones in their order, or there are too many.
    """
    special, rows = entry.special, np.asarray(ids)
    counts = np.asarray(count_blanks(ids, entry))
    if not counts.any():
        return False
    number = np.cumsum(np.asarray(is_blank(ids, entry)), axis=1) + special.first_sentinel - 1
    if (np.asarray(is_blank(ids, entry)) & (rows != number)).any():
        raise ValueError(
            f"The sentinels of {entry.name} are not {special.first_sentinel} and those that "
            "follow, in their order; each span that is to be written has the next one."
        )
    # An open one is continued, too, which is one span more.
    spans = np.where(counts > 0, counts + ~np.asarray(has_ended(ids, entry)), 0)
    if spans.max() >= special.num_sentinels:
        raise ValueError(
            f"A sequence of {entry.name} has {spans.max()} spans to be written; with its "
            f"{special.num_sentinels} sentinels at most {special.num_sentinels - 1} are allowed."
        )
    return True


def _check_conditions(
    entry: TokenRange, known: Known, further: Sequence[Known], config: GenerationConfig
) -> None:
    """Raises ValueError if conditions with weights do not go with what is to be generated."""
    if any(entry.name in each for each in further):
        raise ValueError(
            f"A condition shows {entry.name}, which is to be generated; conditions are other "
            "modalities than the targets. What is known of a target itself is an input."
        )
    others = known.keys() - {entry.name, entry.features_name}
    if further and not others and config.guidance_interval != (0.0, 1.0):
        raise ValueError(
            f"guidance_interval is {config.guidance_interval}, but there is no input besides the "
            "conditions that other passes could follow; give one as an input, or leave it (0, 1)."
        )


def _as_known(
    given: Int[Array | np.ndarray, "..."] | Float[Array | np.ndarray, "..."],
    name: str,
    space: TokenSpace,
    batch: int,
) -> Array:
    """Returns known ids or vectors as the array that they should be."""
    entry = next((e for e in space.ranges if e.feature_width and e.features_name == name), None)
    is_features = entry is not None
    entry = space[name] if entry is None else entry
    array = jnp.asarray(given, jnp.float32 if is_features else jnp.int32)
    shape = (batch, entry.num_tokens, *([entry.feature_width] if is_features else []))
    if array.shape != shape:
        raise ValueError(
            f"The tokens of {name} have shape {array.shape}; {shape} is needed: one row per "
            "key, one column per token."
        )
    return array

"""Chooses which tokens of a sample are shown and which are to be predicted.

Per sample: draw a mixture component, draw how many tokens each present modality gives
(Dirichlet), choose them (at random in grids, by span corruption in sequences), and pack both
sides into arrays of fixed length. The method is 4M's (Mizrahi et al. 2023, section 3.1;
span corruption: Raffel et al. 2020, section 3.1.4); unlike there, a budget is always feasible and
is spent in full, and absent modalities are simply never drawn.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.budgets import draw_log_shares, split_budget
from fourm.span_corruption import SpanCorruption, choose_window, corrupt_spans, pack
from fourm.token_space import MASK_ID, Inputs, MaskedBatch, Targets, TokenRange, TokenSpace
from tokenizers.base import TokenBatch

Keep = Literal["random", "all", "binary"]
KEEPS: tuple[Keep, ...] = get_args(Keep)


@dataclass(frozen=True)
class MaskingComponent:
    """One way of splitting a sample into what is shown and what is asked."""

    inputs: dict[str, float] = field(default_factory=dict)
    """Dirichlet concentration per input modality. Small: one modality takes all; large: equal
    shares. Modalities left out are never shown."""
    targets: dict[str, float] = field(default_factory=dict)
    """The same for the tokens to be predicted."""
    num_inputs: tuple[int, int] = (64, 64)
    """Fewest and most tokens shown, both included; fewer where the sample has no more, or where
    nothing would be left to predict."""
    num_targets: tuple[int, int] = (96, 96)
    """Fewest and most tokens to be predicted."""
    keep: Keep = "random"
    """Share of a shown sequence that is kept: uniform in [0, 1], all that fits, or 0 or all."""
    weight: float = 1.0
    """How often this component is drawn, relative to the others."""


@dataclass(frozen=True)
class MaskingConfig:
    """A mixture of ways to split a sample."""

    components: tuple[MaskingComponent, ...] = (MaskingComponent(),)
    """The mixture."""

    @property
    def max_inputs(self) -> int:
        return max(component.num_inputs[1] for component in self.components)

    @property
    def max_targets(self) -> int:
        return max(component.num_targets[1] for component in self.components)

    def check(self, space: TokenSpace) -> None:
        """Raises ValueError, in one sentence, if the mixture can't be drawn in `space`."""
        if not self.components:
            raise ValueError(
                "The masking mixture is empty; --masking.components needs at least one."
            )
        for number, component in enumerate(self.components):
            knob = f"--masking.components.{number}"
            for side in ("inputs", "targets"):
                alphas = getattr(component, side)
                if not alphas:
                    raise ValueError(f"{knob}.{side} names no modality; name at least one.")
                for name, alpha in alphas.items():
                    special = space[name].special
                    if special is not None and special.num_sentinels < 2:
                        raise ValueError(
                            f"{name} has {special.num_sentinels} sentinel; span corruption needs "
                            f"at least 2: raise --modalities.{name}.tokenizer.num-sentinels."
                        )
                    if not 0 < alpha < math.inf:
                        raise ValueError(
                            f"{knob}.{side}.{name} is {alpha}; a Dirichlet concentration must be "
                            "positive and finite (leave the modality out to exclude it)."
                        )
                low, high = getattr(component, f"num_{side}")
                if not 1 <= low <= high:
                    raise ValueError(f"{knob}.num-{side} is {low} {high}; needs 1 <= low <= high.")
            if not 0 <= component.weight < math.inf:
                raise ValueError(
                    f"{knob}.weight is {component.weight}; it must be finite and not negative."
                )
            if component.keep not in KEEPS:
                raise ValueError(
                    f"{knob}.keep is {component.keep!r}; choose from {', '.join(KEEPS)}."
                )
        if not any(component.weight > 0 for component in self.components):
            raise ValueError("Every masking component has weight 0; give one a positive weight.")


class Stream(NamedTuple):
    """The tokens of one modality on one side, before packing.

    Attributes:
        ids: Shared ids, [length].
        previous: What the decoder reads in their place (targets only; unused in inputs).
        position: Shared positions.
        is_chosen: True for tokens that take part.
    """

    ids: Int[Array, "length"]
    previous: Int[Array, "length"]
    position: Int[Array, "length"]
    is_chosen: Bool[Array, "length"]


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) for one sample, one for every decision but the shares.

    Drawn at once: a key for each of them takes several times as long to compile.
    """

    component: Float[Array, ""]
    num_inputs: Float[Array, ""]
    num_targets: Float[Array, ""]
    part: Float[Array, ""]
    keep: Float[Array, ""]
    windows: Float[Array, "modalities"]
    tokens: Float[Array, "positions"]


def draw_all(key: Key[Array, ""], space: TokenSpace) -> Draws:
    """Draws the numbers that decide on one sample."""
    modalities = len(space.ranges)
    numbers = jax.random.uniform(key, (5 + modalities + space.num_positions,))
    return Draws(*numbers[:5], numbers[5 : 5 + modalities], numbers[5 + modalities :])


def mask_sample(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits one sample's tokens into inputs and targets; see `mask_batch`."""
    draws_key, shares_key = jax.random.split(key)
    draws = draw_all(draws_key, space)
    lengths = jnp.stack([num_real[name] for name in space.names]).astype(jnp.int32)
    is_sequence = jnp.array([entry.kind == "sequence" for entry in space.ranges])
    component = choose_component(draws.component, lengths > 0, space, config)
    num_inputs = choose_between(draws.num_inputs, component.num_inputs)
    num_inputs = leave_something(draws.part, num_inputs, component, lengths)
    num_targets = choose_between(draws.num_targets, component.num_targets)
    keep = choose_keep(draws.keep, component.keep)
    alphas = jnp.stack([component.inputs, component.inputs, component.targets])
    input_shares, freed_shares, target_shares = draw_log_shares(shares_key, alphas)

    budgets = split_budget(input_shares, lengths, num_inputs)
    corrupted = {}
    for entry in space.ranges:
        if entry.special is not None:
            first = entry.first_position
            corrupted[entry.name] = corrupt_spans(
                draws.tokens[first : first + entry.num_tokens],
                ids[entry.name],
                num_real[entry.name],
                budgets[entry.index],
                keep,
                entry.special.first_sentinel,
                entry.special.num_sentinels,
            )
    # What span corruption saves of its budget is given to the grids that are shown anyway.
    used = jnp.stack(
        [
            corrupted[entry.name].num_inputs if entry.name in corrupted else budgets[entry.index]
            for entry in space.ranges
        ]
    ).astype(jnp.int32)
    freed_shares = jnp.where(is_sequence | (budgets == 0), -jnp.inf, freed_shares)
    used = used + split_budget(freed_shares, lengths - used, num_inputs - used.sum())

    available = jnp.stack(
        [
            jnp.where(num_real[entry.name] > 0, corrupted[entry.name].num_targets - 1, 0)
            if entry.name in corrupted
            else lengths[entry.index] - used[entry.index]
            for entry in space.ranges
        ]
    ).astype(jnp.int32)
    asked = split_budget(target_shares, available, num_targets)

    inputs, targets = [], []
    for entry in space.ranges:
        shown_budget, asked_budget = used[entry.index], asked[entry.index]
        if entry.name in corrupted:
            shown, wanted = split_sequence(
                draws.windows[entry.index],
                corrupted[entry.name],
                entry,
                shown_budget,
                asked_budget,
            )
        else:
            first = entry.first_position
            shown, wanted = split_grid(
                draws.tokens[first : first + entry.num_tokens],
                ids[entry.name],
                entry,
                shown_budget,
                asked_budget,
            )
        inputs.append(shown)
        targets.append(wanted)
    return MaskedBatch(
        pack_inputs(inputs, space, config.max_inputs),
        pack_targets(targets, space, config.max_targets),
    )


class DrawnComponent(NamedTuple):
    """A mixture component as arrays, restricted to what the sample has."""

    inputs: Float[Array, "modalities"]
    targets: Float[Array, "modalities"]
    num_inputs: Int[Array, "2"]
    num_targets: Int[Array, "2"]
    keep: Int[Array, ""]


def choose_component(
    draw: Float[Array, ""],
    is_present: Bool[Array, "modalities"],
    space: TokenSpace,
    config: MaskingConfig,
) -> DrawnComponent:
    """Picks a component, by weight, among those that have something to show and something to ask.

    If a sample lacks what every component needs, it is shown and asked what it has.
    """

    def table(side: str) -> Float[Array, "components modalities"]:
        return jnp.array(
            [[getattr(c, side).get(name, 0.0) for name in space.names] for c in config.components]
        )

    inputs, targets = table("inputs"), table("targets")
    weights = jnp.array([component.weight for component in config.components])
    is_shown, is_asked = (inputs > 0) & is_present[None], (targets > 0) & is_present[None]
    is_feasible = is_shown.any(1) & is_asked.any(1)
    weights = jnp.where(is_feasible, weights, 0.0)
    is_possible = weights.sum() > 0
    limits = jnp.cumsum(weights)
    chosen = jnp.sum(draw * limits[-1] >= limits)
    # Rounding may reach the end; the last component with a weight is right then, and any is
    # where none is possible.
    chosen = jnp.minimum(chosen, jnp.argmax(limits))
    fallback = jnp.ones(len(space.ranges))
    return DrawnComponent(
        inputs=jnp.where(is_possible, inputs[chosen], fallback),
        targets=jnp.where(is_possible, targets[chosen], fallback),
        num_inputs=jnp.array([c.num_inputs for c in config.components])[chosen],
        num_targets=jnp.array([c.num_targets for c in config.components])[chosen],
        keep=jnp.array([KEEPS.index(c.keep) for c in config.components])[chosen],
    )


def choose_between(draw: Float[Array, ""], limits: Int[Array, "2"]) -> Int[Array, ""]:
    """Picks an integer between two limits, both included, each equally likely."""
    low, high = limits
    return low + jnp.floor(draw * (high - low + 1)).astype(jnp.int32)


def leave_something(
    draw: Float[Array, ""],
    num_inputs: Int[Array, ""],
    component: DrawnComponent,
    lengths: Int[Array, "modalities"],
) -> Int[Array, ""]:
    """Returns `num_inputs`, or less where showing so many would leave nothing to predict.

    That is the case for samples with few modalities. Of those a share is shown that is uniform
    between nothing and all but one token.
    """
    pool = jnp.where(component.inputs > 0, lengths, 0).sum()
    others = jnp.where((component.targets > 0) & (component.inputs <= 0), lengths, 0).sum()
    part = jnp.floor(draw * pool).astype(jnp.int32)
    return jnp.where((others == 0) & (pool <= num_inputs), part, num_inputs)


def choose_keep(draw: Float[Array, ""], keep: Int[Array, ""]) -> Float[Array, ""]:
    """Picks the share of a sequence that is kept, by the component's rule."""
    return jnp.stack([draw, jnp.ones(()), (draw < 0.5).astype(jnp.float32)])[keep]


def split_grid(
    draws: Float[Array, "tokens"],
    ids: Int[Array, "tokens"],
    entry: TokenRange,
    num_shown: Int[Array, ""],
    num_asked: Int[Array, ""],
) -> tuple[Stream, Stream]:
    """Shows and asks disjoint random tokens of a grid."""
    place = jnp.arange(entry.num_tokens)
    rank = jnp.argsort(draws)
    shared = Stream(
        ids=ids + entry.first_id,
        previous=jnp.full_like(ids, MASK_ID),
        position=place + entry.first_position,
        is_chosen=rank < num_shown,
    )
    asked = (rank >= num_shown) & (rank < num_shown + num_asked)
    return shared, shared._replace(is_chosen=asked)


def split_sequence(
    draw: Float[Array, ""],
    spans: SpanCorruption,
    entry: TokenRange,
    num_shown: Int[Array, ""],
    num_asked: Int[Array, ""],
) -> tuple[Stream, Stream]:
    """Shows the span-corrupted sequence and asks for a window of its target stream.

    Positions count the tokens of each stream. A window starts at position 0 wherever it was
    cut from, as in the reference.
    """
    place = jnp.arange(entry.num_tokens)
    shown = Stream(
        ids=spans.inputs + entry.first_id,
        previous=jnp.full_like(spans.inputs, MASK_ID),
        position=place + entry.first_position,
        is_chosen=place < num_shown,
    )
    start = choose_window(draw, spans, num_asked)
    place = jnp.arange(entry.num_positions - 1)
    stream = jnp.roll(spans.targets, -start) + entry.first_id
    asked = Stream(
        ids=stream[1:],
        previous=stream[:-1],
        position=place + entry.first_position,
        is_chosen=place < num_asked,
    )
    return shown, asked


def pack_streams(streams: list[Stream], space: TokenSpace, length: int) -> dict[str, Array]:
    """Packs the chosen tokens of all modalities into `length` slots; zeros follow."""
    modality = [
        jnp.full(stream.ids.shape, entry.index, jnp.int32)
        for entry, stream in zip(space.ranges, streams, strict=True)
    ]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *streams)
    chosen = joined.is_chosen
    source = pack(jnp.arange(len(chosen)), chosen, length)
    is_real = jnp.arange(length) < chosen.sum()
    fields = joined._asdict() | {"modality": jnp.concatenate(modality)}
    packed = {name: jnp.where(is_real, value[source], 0) for name, value in fields.items()}
    return packed | {"is_real": is_real}


def pack_inputs(streams: list[Stream], space: TokenSpace, length: int) -> Inputs:
    """Packs what is shown of all modalities."""
    packed = pack_streams(streams, space, length)
    return Inputs(**{name: packed[name] for name in Inputs._fields if name in packed})


def pack_targets(streams: list[Stream], space: TokenSpace, length: int) -> Targets:
    """Packs what is asked of all modalities."""
    packed = pack_streams(streams, space, length)
    return Targets(**{name: packed[name] for name in Targets._fields})


def mask_batch(
    key: Key[Array, ""],
    batch: TokenBatch,
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits every sample's tokens into inputs and targets.

    Args:
        key: Folded from the run's seed and the step. The sample's index is folded in here, so
            that the masks depend neither on the batch's composition nor on the devices.
        batch: Tokens of whole samples; absent modalities have `num_real` 0.
        space: Where the modalities live.
        config: The mixture.

    Returns:
        Packed arrays of `config.max_inputs` and `config.max_targets` tokens per sample.
    """
    sample_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
    return jax.vmap(lambda k, ids, real: mask_sample(k, ids, real, space, config))(
        sample_keys, batch.ids, batch.num_real
    )

"""Chooses which tokens of a sample are shown and which are to be predicted.

Per sample: draw a mixture component, draw how many tokens each present modality gives
(Dirichlet), choose them (at random in grids, by span corruption in sequences), and pack both
sides into arrays of fixed length. The method is 4M's (Mizrahi et al. 2023, section 3.1;
span corruption: Raffel et al. 2020, section 3.1.4); unlike there, a budget is always feasible and
is spent in full, and absent modalities are simply never drawn.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fourm.token_space import MASK_ID, Inputs, MaskedBatch, Targets, TokenRange, TokenSpace
from tokenizers.base import TokenBatch

Keep = Literal["random", "all", "binary"]


@dataclass(frozen=True)
class MaskingComponent:
    """One way of splitting a sample into what is shown and what is asked."""

    inputs: dict[str, float] = field(default_factory=dict)
    """Dirichlet concentration per input modality. Small: one modality takes all; large: equal
    shares. Modalities left out are never shown."""
    targets: dict[str, float] = field(default_factory=dict)
    """The same for the tokens to be predicted."""
    num_inputs: tuple[int, int] = (64, 64)
    """Fewest and most tokens shown, both included; fewer where the sample has no more."""
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
                    space[name]
                    if not alpha > 0:
                        raise ValueError(
                            f"{knob}.{side}.{name} is {alpha}; a Dirichlet concentration must be "
                            "positive (leave the modality out to exclude it)."
                        )
                low, high = getattr(component, f"num_{side}")
                if not 1 <= low <= high:
                    raise ValueError(f"{knob}.num-{side} is {low} {high}; needs 1 <= low <= high.")
            if not component.weight >= 0:
                raise ValueError(f"{knob}.weight is {component.weight}; it must not be negative.")
        if not any(component.weight > 0 for component in self.components):
            raise ValueError("Every masking component has weight 0; give one a positive weight.")


def sample_budgets(
    key: Key[Array, ""],
    alphas: Float[Array, "modalities"],
    capacity: Int[Array, "modalities"],
    total: Int[Array, ""],
) -> Int[Array, "modalities"]:
    """Draws how many of `total` tokens each modality gives.

    Shares are Dirichlet; where a share exceeds what the modality has, the excess goes to the
    others in proportion to their shares, so that the budgets add up to `total` or to all there
    is, whichever is less.

    Args:
        alphas: Concentration per modality; 0 = never drawn.
        capacity: Tokens that each modality has at most.
        total: Tokens to hand out.

    Returns:
        Tokens per modality, each at most its capacity.
    """
    is_open = (alphas > 0) & (capacity > 0)
    # Gammas in log space: at concentration 0.01 nearly all of them underflow otherwise.
    log_gammas = jax.random.loggamma(key, jnp.where(is_open, alphas, 1.0))
    shares = jax.nn.softmax(jnp.where(is_open, log_gammas, -jnp.inf), where=is_open)
    shares = jnp.where(is_open, jnp.maximum(shares, 1e-6), 0.0)
    return fill_in_proportion(shares, capacity, total)


def fill_in_proportion(
    shares: Float[Array, "modalities"],
    capacity: Int[Array, "modalities"],
    total: Int[Array, ""],
) -> Int[Array, "modalities"]:
    """Splits `total` in proportion to `shares`, none above its capacity, without remainder.

    Solves sum(min(capacity, level * shares)) = total for the level exactly, by walking the
    sorted levels at which modalities fill up, then rounds by largest remainder.
    """
    capacity = jnp.where(shares > 0, capacity, 0)
    total = jnp.minimum(total, capacity.sum())
    full_at = jnp.where(shares > 0, capacity / jnp.maximum(shares, 1e-12), jnp.inf)
    # Entry i: the level that spends `total` if just the modalities that fill up before i are full.
    is_full_before = full_at[None, :] < full_at[:, None]
    left = total - jnp.where(is_full_before, capacity, 0).sum(1)
    open_shares = jnp.where(is_full_before, 0.0, shares).sum(1)
    # Spending at a level is the least, over all sets of modalities taken as full, of what that
    # set would spend; so every set's level is a lower bound and the right one is the largest.
    levels = jnp.where(shares > 0, left / jnp.maximum(open_shares, 1e-12), 0.0)
    level = jnp.max(levels)
    exact = jnp.minimum(capacity.astype(jnp.float32), level * shares)
    budgets = jnp.minimum(jnp.floor(exact + 1e-3).astype(jnp.int32), capacity)
    rest = jnp.where(budgets < capacity, exact - budgets, -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-rest))
    return jnp.where((rank < total - budgets.sum()) & (budgets < capacity), budgets + 1, budgets)


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


class SpanCorruption(NamedTuple):
    """A sequence split into what is shown and what is asked, in the modality's own ids.

    With a b c d e, sentinels X Y Z, and b, c, e dropped:
    inputs a X d Y, targets X b c Y e Z.
    """

    inputs: Int[Array, "tokens"]
    num_inputs: Int[Array, ""]
    targets: Int[Array, "tokens_and_sentinels"]
    is_sentinel: Bool[Array, "tokens_and_sentinels"]
    num_targets: Int[Array, ""]


def corrupt_spans(
    key: Key[Array, ""],
    ids: Int[Array, "tokens"],
    num_real: Int[Array, ""],
    budget: Int[Array, ""],
    keep: Float[Array, ""],
    first_sentinel: int,
    num_sentinels: int,
) -> SpanCorruption:
    """Replaces random spans by sentinels so that what is left fits the budget.

    Every token draws a number in [0, 1) and the lowest are kept. All possible counts are
    tried at once and the largest that is wanted and fits is taken, where the reference
    retries with ever smaller shares.

    Args:
        ids: The sequence's ids; those after `num_real` are ignored.
        num_real: Length of the sequence.
        budget: Most tokens to show, sentinels included; 0 shows nothing and asks for all.
        keep: Share of tokens to keep, in [0, 1], where the budget allows.
        first_sentinel: Id of the first sentinel.
        num_sentinels: How many there are, which bounds the number of spans.
    """
    tokens = ids.shape[0]
    place = jnp.arange(tokens)
    is_real = place < num_real
    draw = jnp.where(is_real, jax.random.uniform(key, (tokens,)), jnp.inf)
    rank = jnp.argsort(jnp.argsort(draw))
    counts = jnp.arange(tokens + 1)
    kept_by_count = (rank[None, :] < counts[:, None]) & is_real
    starts_by_count = starts_span(~kept_by_count & is_real)
    spans = starts_by_count.sum(1)
    wanted = jnp.sum(draw <= keep)
    fits = (counts + spans <= budget) & (spans < num_sentinels) & (counts <= wanted)
    count = jnp.max(jnp.where(fits, counts, 0))
    is_kept = kept_by_count[count]
    is_dropped = ~is_kept & is_real
    is_start = starts_by_count[count]
    span = jnp.cumsum(is_start)

    is_shown = (is_kept | is_start) & (budget > 0)
    shown = jnp.where(is_start, first_sentinel + span - 1, ids)
    inputs = pack(shown, is_shown, tokens)

    asked_before = jnp.cumsum(is_dropped) - is_dropped
    length = tokens + 2
    targets = jnp.zeros(length, ids.dtype)
    is_sentinel = jnp.zeros(length, bool)
    at_token = jnp.where(is_dropped, asked_before + span, length)
    at_start = jnp.where(is_start, asked_before + span - 1, length)
    at_end = is_dropped.sum() + span[-1]
    targets = targets.at[at_token].set(ids, mode="drop")
    targets = targets.at[at_start].set(first_sentinel + span - 1, mode="drop")
    targets = targets.at[at_end].set(first_sentinel + span[-1])
    is_sentinel = is_sentinel.at[at_start].set(True, mode="drop").at[at_end].set(True)
    return SpanCorruption(inputs, is_shown.sum(), targets, is_sentinel, at_end + 1)


def starts_span(is_dropped: Bool[Array, "*batch tokens"]) -> Bool[Array, "*batch tokens"]:
    """Returns True where a dropped token follows a kept one, or begins the sequence."""
    before = jnp.pad(is_dropped[..., :-1], [(0, 0)] * (is_dropped.ndim - 1) + [(1, 0)])
    return is_dropped & ~before


def pack(
    values: Int[Array, "tokens"], is_chosen: Bool[Array, "tokens"], length: int
) -> Int[Array, "{length}"]:
    """Moves the chosen values to the front, in their order; zeros follow."""
    place = jnp.where(is_chosen, jnp.cumsum(is_chosen) - 1, length)
    return jnp.zeros(length, values.dtype).at[place].set(values, mode="drop")


def choose_window(
    key: Key[Array, ""], spans: SpanCorruption, budget: Int[Array, ""]
) -> Int[Array, ""]:
    """Draws where `budget` predictions begin in a target stream: at a sentinel, given free."""
    place = jnp.arange(spans.targets.shape[0])
    is_start = spans.is_sentinel & (place + budget < spans.num_targets)
    draw = jnp.where(is_start, jax.random.uniform(key, place.shape), -1.0)
    # Nothing to predict, or more budget than targets: the stream's beginning.
    return jnp.where(is_start.any(), jnp.argmax(draw), 0)


def mask_sample(
    key: Key[Array, ""],
    ids: dict[str, Int[Array, "_"]],
    num_real: dict[str, Int[Array, ""]],
    space: TokenSpace,
    config: MaskingConfig,
) -> MaskedBatch:
    """Splits one sample's tokens into inputs and targets; see `mask_batch`."""
    keys = dict(
        zip(
            ("component", "sizes", "inputs", "freed", "targets", "tokens"),
            jax.random.split(key, 6),
            strict=True,
        )
    )
    lengths = jnp.stack([num_real[name] for name in space.names]).astype(jnp.int32)
    is_sequence = jnp.array([entry.kind == "sequence" for entry in space.ranges])
    component = draw_component(keys["component"], lengths > 0, space, config)

    size_keys = jax.random.split(keys["sizes"], 3)
    num_inputs = jax.random.randint(
        size_keys[0], (), component.num_inputs[0], component.num_inputs[1] + 1
    )
    num_targets = jax.random.randint(
        size_keys[1], (), component.num_targets[0], component.num_targets[1] + 1
    )
    keep = draw_keep(size_keys[2], component.keep)

    budgets = sample_budgets(keys["inputs"], component.inputs, lengths, num_inputs)
    corrupted = {}
    for entry in space.ranges:
        if entry.special is not None:
            corrupted[entry.name] = corrupt_spans(
                jax.random.fold_in(keys["tokens"], entry.index),
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
    grid_alphas = jnp.where(is_sequence | (budgets == 0), 0.0, component.inputs)
    freed = sample_budgets(keys["freed"], grid_alphas, lengths - used, num_inputs - used.sum())
    used = used + freed

    available = jnp.stack(
        [
            jnp.where(num_real[entry.name] > 0, corrupted[entry.name].num_targets - 1, 0)
            if entry.name in corrupted
            else lengths[entry.index] - used[entry.index]
            for entry in space.ranges
        ]
    ).astype(jnp.int32)
    asked = sample_budgets(keys["targets"], component.targets, available, num_targets)

    inputs, targets = [], []
    for entry in space.ranges:
        token_key = jax.random.fold_in(keys["tokens"], entry.index)
        shown_budget, asked_budget = used[entry.index], asked[entry.index]
        if entry.name in corrupted:
            window_key = jax.random.fold_in(token_key, 1)
            shown, wanted = split_sequence(
                window_key, corrupted[entry.name], entry, shown_budget, asked_budget
            )
        else:
            shown, wanted = split_grid(
                token_key, ids[entry.name], entry, shown_budget, asked_budget
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


KEEPS: tuple[Keep, ...] = ("random", "all", "binary")


def draw_component(
    key: Key[Array, ""],
    is_present: Bool[Array, "modalities"],
    space: TokenSpace,
    config: MaskingConfig,
) -> DrawnComponent:
    """Draws a component among those that have something to show and something to ask.

    If a sample lacks what every component needs, it is shown and asked what it has.
    """

    def table(side: str) -> Float[Array, "components modalities"]:
        return jnp.array(
            [[getattr(c, side).get(name, 0.0) for name in space.names] for c in config.components]
        )

    inputs, targets = table("inputs"), table("targets")
    weights = jnp.array([component.weight for component in config.components])
    is_feasible = ((inputs > 0) & is_present).any(1) & ((targets > 0) & is_present).any(1)
    drawable = is_feasible & (weights > 0)
    logits = jnp.where(drawable, jnp.log(jnp.maximum(weights, 1e-30)), -1e30)
    chosen = jax.random.categorical(key, logits)
    fallback = jnp.ones(len(space.ranges))
    return DrawnComponent(
        inputs=jnp.where(drawable.any(), inputs[chosen], fallback),
        targets=jnp.where(drawable.any(), targets[chosen], fallback),
        num_inputs=jnp.array([c.num_inputs for c in config.components])[chosen],
        num_targets=jnp.array([c.num_targets for c in config.components])[chosen],
        keep=jnp.array([KEEPS.index(c.keep) for c in config.components])[chosen],
    )


def draw_keep(key: Key[Array, ""], keep: Int[Array, ""]) -> Float[Array, ""]:
    """Draws the share of a sequence that is kept, by the component's rule."""
    share = jax.random.uniform(key)
    return jnp.stack([share, jnp.ones(()), (share < 0.5).astype(jnp.float32)])[keep]


def split_grid(
    key: Key[Array, ""],
    ids: Int[Array, "tokens"],
    entry: TokenRange,
    num_shown: Int[Array, ""],
    num_asked: Int[Array, ""],
) -> tuple[Stream, Stream]:
    """Shows and asks disjoint random tokens of a grid."""
    place = jnp.arange(entry.num_tokens)
    rank = jnp.argsort(jax.random.uniform(key, (entry.num_tokens,)))
    shared = Stream(
        ids=ids + entry.first_id,
        previous=jnp.full_like(ids, MASK_ID),
        position=place + entry.first_position,
        is_chosen=rank < num_shown,
    )
    asked = (rank >= num_shown) & (rank < num_shown + num_asked)
    return shared, shared._replace(is_chosen=asked)


def split_sequence(
    key: Key[Array, ""],
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
    start = choose_window(key, spans, num_asked)
    place = jnp.arange(entry.num_positions - 1)
    stream = jnp.roll(spans.targets, -start) + entry.first_id
    asked = Stream(
        ids=stream[1:],
        previous=stream[:-1],
        position=place + entry.first_position,
        is_chosen=place < num_asked,
    )
    return shown, asked


def concatenate(streams: list[Stream], space: TokenSpace) -> tuple[Stream, Int[Array, "_"]]:
    """Joins the streams of all modalities and names the modality of each token."""
    modality = [
        jnp.full(stream.ids.shape, entry.index, jnp.int32)
        for entry, stream in zip(space.ranges, streams, strict=True)
    ]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *streams)
    return joined, jnp.concatenate(modality)


def pack_inputs(streams: list[Stream], space: TokenSpace, length: int) -> Inputs:
    """Packs the chosen tokens of all modalities into `length` slots."""
    joined, modality = concatenate(streams, space)
    chosen = joined.is_chosen
    return Inputs(
        ids=pack(joined.ids, chosen, length),
        modality=pack(modality, chosen, length),
        position=pack(joined.position, chosen, length),
        is_real=jnp.arange(length) < chosen.sum(),
    )


def pack_targets(streams: list[Stream], space: TokenSpace, length: int) -> Targets:
    """Packs the chosen tokens of all modalities into `length` slots."""
    joined, modality = concatenate(streams, space)
    chosen = joined.is_chosen
    return Targets(
        ids=pack(joined.ids, chosen, length),
        previous=pack(joined.previous, chosen, length),
        modality=pack(modality, chosen, length),
        position=pack(joined.position, chosen, length),
        is_real=jnp.arange(length) < chosen.sum(),
    )


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

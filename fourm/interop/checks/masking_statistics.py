"""Simulates ml-4m's masking by our code, and tells whether two samples are of one distribution."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy import stats

from fourm.masking.mixture import (
    ComponentArrays,
    MaskingComponent,
    MaskingConfig,
    Ml4mRules,
    choose_by_weight,
    tabulate,
)
from fourm.masking.ml4m import Counts, split_by_component
from fourm.token_space import TokenRange, TokenSpace
from tokenizers.base import SequenceTokens

SPECIAL = SequenceTokens(end=3, first_sentinel=5, num_sentinels=199)
"""Of the published text tokenizer. Its first sentinel, 4, is never used."""

CHUNKS = {"metadata": 2, "sam_instance": 20}
"""Tokens that are kept or dropped as one: a name and its value; an instance. The recorded samples
have instances of ten points."""

BATCH = 2000
"""Samples masked at once."""

RARE = 400
"""Events below which a share is compared exactly."""

MERGED = 10
"""Counts, of both samples together, below which neighbouring bins are taken together."""


class Simulation(NamedTuple):
    """Counts of many samples.

    Attributes:
        chosen: Mixture component of each sample, in the shares that were recorded.
        drawn: How often each component is drawn by its weight.
        counts: Per sample and modality.
    """

    chosen: Int[np.ndarray, "samples"]
    drawn: Int[np.ndarray, "components"]
    counts: Counts


def build_space(setting: Mapping[str, Any]) -> TokenSpace:
    """Builds the modalities of a recorded setting, as far as masking sees them.

    Pixels are masked like any other grid; with no target budget they are asked, too, although the
    published models can't predict them.
    """
    ranges, first_position = [], 0
    for index, name in enumerate(setting["modalities"]):
        is_text = name in setting["seq_modalities"]
        is_features = name in setting["raw_tokens"] and not is_text
        entry = TokenRange(
            name=name,
            vocab_size=0 if is_features else 30_000,
            token_shape=(setting["max_tokens"][name],),
            special=SPECIAL if is_text else None,
            index=index,
            first_id=1 + 30_000 * index,
            first_position=first_position,
            feature_width=int(is_features),
        )
        ranges.append(entry)
        first_position += entry.num_positions
    return TokenSpace(tuple(ranges))


def build_mixture(setting: Mapping[str, Any]) -> MaskingConfig:
    """Builds the mixture of a recorded setting."""
    alphas = setting["alphas"]
    count = len(setting["component_freq"])
    weights = setting["sampling_weights"] or [1.0] * count
    low_high = setting["target_tokens_range"]
    # What is packed is not looked at here.
    everything = sum(setting["max_tokens"].values())
    components = []
    for number in range(count):
        sides = {
            side: {name: own[side][number] for name, own in alphas.items() if own[side][number]}
            for side in ("input", "target")
        }
        component = MaskingComponent(
            inputs=sides["input"],
            targets=sides["target"],
            num_inputs=tuple(setting["input_tokens_range"]),
            num_targets=tuple(low_high or (1, everything)),
            weight=weights[number],
            keep_of={name: own["keep"][number] for name, own in alphas.items() if "keep" in own},
        )
        components.append(component)
    chunks = {name: size for name, size in CHUNKS.items() if name in alphas}
    all_hidden = tuple(range(count)) if low_high is None else ()
    return MaskingConfig(tuple(components), rules="ml4m", ml4m=Ml4mRules(chunks, all_hidden))


def build_sample(
    setting: Mapping[str, Any],
) -> tuple[dict[str, Int[np.ndarray, "_"]], dict[str, int]]:
    """Returns the ids of one sample of the recorded lengths, and how many of them are real."""
    ids, num_real = {}, {}
    for name, longest in setting["max_tokens"].items():
        length = setting["raw_tokens"].get(name, longest)
        own = np.arange(longest, dtype=np.int32) + 10_000
        own[length - 1 : length] = SPECIAL.end
        ids[name], num_real[name] = own, min(length, longest)
        if length > longest:  # chunks that don't fit are left out whole
            num_real[name] -= longest % CHUNKS.get(name, 1)
    return ids, num_real


@cache
def compile_counts(
    space: TokenSpace, chunk_sizes: tuple[tuple[str, int], ...]
) -> Callable[..., Counts]:
    """Compiles the masking of many samples alike, once for all mixtures of the same modalities."""

    def count(
        key: Key[Array, ""],
        component: ComponentArrays,
        ids: dict[str, Int[Array, "_"]],
        num_real: dict[str, Int[Array, ""]],
    ) -> Counts:
        return split_by_component(key, component, ids, num_real, {}, space, dict(chunk_sizes))[1]

    return jax.jit(jax.vmap(count, in_axes=(0, 0, None, None)))


def simulate(setting: Mapping[str, Any], samples: int, seed: int = 0) -> Simulation:
    """Masks `samples` samples of a recorded setting."""
    space, config = build_space(setting), build_mixture(setting)
    ids, num_real = build_sample(setting)
    ids = {name: ids[name] for name in space.names if space[name].kind != "features"}
    recorded = np.array(setting["component_freq"])
    limits = np.round(np.cumsum(recorded) / recorded.sum() * samples)
    chosen = np.searchsorted(limits, np.arange(samples), side="right").astype(np.int32)

    table = jax.tree.map(np.asarray, tabulate(space, config))
    count = compile_counts(space, tuple(config.ml4m.chunk_sizes.items()))
    split_key, component_key = jax.random.split(jax.random.key(seed))
    size = min(BATCH, samples)
    # The last batch is completed by samples that are not counted.
    batches = -(-samples // size)
    padded = np.resize(chosen, batches * size)
    # By sample, so that mixtures of any number of components are one program.
    components = jax.tree.map(lambda rows: rows[padded], table)
    keys = jax.random.split(split_key, batches * size)
    parts = []
    for at in range(0, batches * size, size):
        part = slice(at, at + size)
        own = jax.tree.map(lambda rows, part=part: rows[part], components)
        parts.append(jax.device_get(count(keys[part], own, ids, num_real)))
    counts = jax.tree.map(lambda *rows: np.concatenate(rows)[:samples].astype(np.int64), *parts)
    weights = jnp.array([component.weight for component in config.components])
    draws = jax.random.uniform(component_key, (samples,))
    drawn = jax.vmap(lambda draw: choose_by_weight(draw, weights))(draws)
    return Simulation(chosen, np.bincount(drawn, minlength=len(recorded)), counts)


def histogram(
    values: Int[np.ndarray, "samples *modalities"], length: int
) -> Int[np.ndarray, "*modalities {length}"]:
    """Counts how often each value occurs, what is too large as the largest."""
    values = np.minimum(values, length - 1)
    rows = values.reshape(len(values), -1).T
    counts = np.stack([np.bincount(row, minlength=length) for row in rows])
    return counts.reshape(*values.shape[1:], length)


def errors_of_means(
    difference: Float[np.ndarray, "*_"], variance: Float[np.ndarray, "*_"], rounding: float
) -> float:
    """Returns the largest difference in standard errors.

    Args:
        difference: Between two means.
        variance: Of that difference.
        rounding: By how much a recorded mean may be off.
    """
    excess = np.maximum(np.abs(difference) - rounding, 0.0)
    error = np.sqrt(variance)
    return float(np.max(np.where(excess > 0, excess / np.where(error > 0, error, 1e-12), 0.0)))


def errors_of_shares(
    recorded: Float[np.ndarray, "*_"],
    ours: Float[np.ndarray, "*_"],
    recorded_size: int,
    size: int,
) -> float:
    """Returns the largest difference of two shares of samples, in standard errors.

    Of rare events the probability is computed exactly, and said as that of a normal variable.
    """
    a, b = recorded * recorded_size, ours * size
    pooled = (a + b) / (recorded_size + size)
    variance = pooled * (1 - pooled) * (1 / recorded_size + 1 / size)
    normal = np.abs(recorded - ours) / np.sqrt(np.maximum(variance, 1e-12))
    # What is rare is the event or its absence.
    is_common = pooled > 0.5
    a, b = np.where(is_common, recorded_size - a, a), np.where(is_common, size - b, b)
    a, b = np.round(a), np.round(b)
    together, part = a + b, size / (recorded_size + size)
    tail = np.where(
        b > together * part,
        stats.binom.sf(b - 1, together, part),
        stats.binom.cdf(b, together, part),
    )
    exact = np.maximum(stats.norm.isf(np.minimum(tail, 0.5)), 0.0)
    return float(np.max(np.where(together < RARE, exact, normal)))


def errors_of_quantiles(
    levels: Float[np.ndarray, "levels"],
    recorded: Float[np.ndarray, "rows levels"],
    ours: Int[np.ndarray, "rows values"],
    recorded_size: int,
) -> float:
    """Returns by how many standard errors quantiles of one sample miss their level in another.

    Args:
        levels: Of the quantiles, in [0, 1].
        recorded: The quantiles.
        ours: How often each value occurs in the other sample.
        recorded_size: Samples that the quantiles are of.
    """
    size = int(ours[0].sum())
    below = np.pad(np.cumsum(ours, axis=1), ((0, 0), (1, 0))) / size
    last = ours.shape[1]
    up_to = np.take_along_axis(below, np.clip(np.floor(recorded) + 1, 0, last).astype(int), 1)
    under = np.take_along_axis(below, np.clip(np.ceil(recorded), 0, last).astype(int), 1)
    share = np.clip(levels[None], under, up_to)
    return errors_of_shares(np.broadcast_to(levels, share.shape), share, recorded_size, size)


def errors_of_histograms(
    recorded: Int[np.ndarray, "rows values"], ours: Int[np.ndarray, "rows values"]
) -> float:
    """Returns how unlikely it is that both samples are of one distribution, in standard errors.

    A chi-squared test per row. Its least probability, times the number of rows, is that with which
    a normal variable is so many standard errors off.
    """
    probabilities = [_probability(*pair) for pair in zip(recorded, ours, strict=True)]
    least = min(1.0, min(probabilities) * len(probabilities))
    return float(stats.norm.isf(least / 2))


def _probability(a: Int[np.ndarray, "values"], b: Int[np.ndarray, "values"]) -> float:
    """Returns the probability of counts that differ at least as much (chi-squared)."""
    group, full = [0], 0
    for count in (a + b)[:-1].tolist():
        full += count
        group.append(group[-1] + (full >= MERGED))
        full = 0 if full >= MERGED else full
    # The last bin takes what does not fill another.
    is_last = np.array(group) == group[-1]
    if (a + b)[is_last].sum() < MERGED:
        group = np.where(is_last, max(group[-1] - 1, 0), group)
    a, b = np.bincount(group, a), np.bincount(group, b)
    if len(a) < 2:
        return 1.0
    ratio = np.sqrt(b.sum() / a.sum())
    distance = ((a * ratio - b / ratio) ** 2 / (a + b)).sum()
    return float(stats.chi2.sf(distance, len(a) - 1))

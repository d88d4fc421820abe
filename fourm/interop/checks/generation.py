"""Recorded generation replayed step by step: the same logits, probabilities and choices.

What was random, or a tie, is taken from the recording; everything else is computed by the functions
that generation is made of.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fourm.inference.cache import decode_next, start_cache
from fourm.inference.conditions import apply_guidance, gather_inputs
from fourm.inference.grids import ask_grid
from fourm.inference.sampling import choose_best, keep_likeliest
from fourm.inference.schedules import leave_no_step_idle, temperatures_per_step, tokens_per_step
from fourm.interop.checks.comparison import TIE, Comparison, compare, compare_exactly
from fourm.interop.transformer.weights import import_fm
from fourm.model.transformer import FourM
from fourm.token_space import Inputs, TokenRange
from tokenizers.base import PADDING

GRID, SEQUENCE = "tok_depth@224", "caption"
"""What was generated in the traces."""


def check_generation(folder: Path) -> Iterator[Comparison]:
    """Yields one comparison per schedule, and per array of every step of every trace.

    Args:
        folder: Traces. The model that made them lies in a folder beside it.

    Raises:
        ValueError: If there is no such model, or more than one and the README names none.
    """
    schedules = json.loads((folder / "schedules.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    orders = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    yield from check_schedules(schedules)
    model = import_fm(find_model(folder))
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        given = dict(arrays)
    with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
        recorded = dict(arrays)
    for name, trace in settings.items():
        own = {
            key.removeprefix(f"{name}/"): value
            for key, value in recorded.items()
            if key.startswith(f"{name}/")
        }
        if trace["scheme"] == "autoregressive":
            found = replay_sequence(model, given, own, trace)
        else:
            found = replay_grid(model, given, own, trace, orders.get(name))
        for comparison in found:
            yield comparison._replace(name=f"{name}/{comparison.name}")


def find_model(folder: Path) -> Path:
    """Returns the folder of the model that made the traces, beside theirs."""
    beside = [
        path
        for path in sorted(folder.resolve().parent.iterdir())
        if (path / "model.safetensors").is_file()
        and "domains_in" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    ]
    readme = folder / "README.md"
    named = re.findall(r"\.\./(\w+)", readme.read_text("utf-8")) if readme.is_file() else []
    chosen = [path for path in beside if path.name in named] or beside
    if len(chosen) != 1:
        raise ValueError(
            f"{folder} holds generation traces, but beside it are {len(chosen)} models that may "
            "have made them; put the one that did there."
        )
    return chosen[0]


def check_schedules(schedules: dict[str, Any]) -> Iterator[Comparison]:
    """Yields one comparison per recorded schedule of tokens or temperatures.

    Rounding can make ml-4m's last cosine step negative after one too many; here counts stop at
    the total. Rounding can also leave its first cosine steps without a token; here each step
    fixes one at least. So what is compared are the tokens known after each step, with these two
    rules applied to what was recorded.
    """
    for kind in ("cosine", "linear"):
        for key, recorded in schedules[kind].items():
            num_steps, num_tokens = map(int, key.split(","))
            counts = tokens_per_step(kind, num_steps, num_tokens)
            # With more steps than tokens, ml-4m drops the steps that would fix none.
            done = np.cumsum(counts)[: len(recorded)]
            expected = np.cumsum(recorded)
            if min(recorded) < 0:
                expected = np.minimum(expected, num_tokens)
            if kind == "cosine":
                expected = np.cumsum(leave_no_step_idle(np.diff(expected, prepend=0)))
            yield compare_exactly(f"schedules/{kind}/{key}", done, expected)
    for key, recorded in schedules["temps"].items():
        schedule, num_steps, num_tokens, start, tokens = key.split(",")
        counts = tokens_per_step(tokens.split("=")[1], int(num_steps), int(num_tokens))
        ours = temperatures_per_step(schedule, float(start.split("=")[1]), counts)
        yield compare(f"schedules/temperature/{key}", ours, np.array(recorded))


def replay_grid(
    model: FourM,
    given: dict[str, np.ndarray],
    recorded: dict[str, np.ndarray],
    trace: dict[str, Any],
    order: list[list[int]] | None,
) -> Iterator[Comparison]:
    """Yields the comparisons of one MaskGIT or random-order trace."""
    entry = model.space[GRID]
    batch = len(given[trace["conditioning"][0]])
    is_random, temps = trace["scheme"] == "roar", trace["temps"]
    schedule = "linear" if is_random else trace["token_schedule_name"]
    counts = tokens_per_step(schedule, trace["steps"], entry.num_tokens)
    counts = counts[counts > 0]
    yield compare_exactly("tokens_per_step", counts, np.array(trace["tokens_per_step"]))
    ours = temperatures_per_step(trace["temperature_schedule"], trace["temperature_start"], counts)
    yield compare("temps", ours, np.array(temps))
    conditions = {name: known_ids(given[name], name) for name in trace["conditioning"]}
    ids = np.full((batch, entry.num_tokens), PADDING, np.int32)
    for step, count in enumerate(trace["tokens_per_step"]):
        own = {
            key.removeprefix(f"step{step}/"): value
            for key, value in recorded.items()
            if key.startswith(f"step{step}/")
        }
        is_open = ids == PADDING
        yield compare_exactly(f"step{step}/target_mask_before", ~is_open, own["target_mask_before"])
        chosen = own["chosen"]
        # Which tokens go in random order is the recording's to say; all else follows.
        is_asked = chosen if is_random else is_open
        logits = grid_logits(model, conditions, ids, is_asked, entry, trace["cfg_scale"])
        rows = np.array([order[step]] * batch) if is_random else positions_of(is_asked)
        logits = np.take_along_axis(logits, rows[..., None], axis=1)
        yield compare(f"step{step}/logits", logits, own["logits"])
        probabilities = sampling_distribution(logits, temps[step], trace["top_k"], trace["top_p"])
        yield compare_samples(f"step{step}/samples", logits, probabilities, own["samples"])
        taken = np.take_along_axis(probabilities, own["samples"][..., None], axis=-1)[..., 0]
        yield compare(f"step{step}/probs", taken, own["probs"])
        if is_random:
            asked = np.zeros_like(chosen)
            np.put_along_axis(asked, rows, True, axis=1)
            yield compare_exactly(f"step{step}/chosen", asked, chosen)
        else:
            confidence = np.full(ids.shape, -np.inf)
            np.put_along_axis(confidence, rows, taken, axis=1)
            yield compare_choice(f"step{step}/chosen", confidence, is_open, count, chosen)
        drawn = np.full_like(ids, PADDING)
        np.put_along_axis(drawn, rows, own["samples"].astype(np.int32), axis=1)
        ids = np.where(chosen, drawn, ids)
        after = np.where(ids == PADDING, 0, ids)
        yield compare_exactly(f"step{step}/tensor_after", after, own["tensor_after"])
    yield compare_exactly("final", ids, recorded["final"])


def replay_sequence(
    model: FourM,
    given: dict[str, np.ndarray],
    recorded: dict[str, np.ndarray],
    trace: dict[str, Any],
) -> Iterator[Comparison]:
    """Yields the comparisons of one autoregressive trace."""
    entry = model.space[SEQUENCE]
    raw_ids = recorded["raw_ids"]
    names = trace.get("conditioning") or ["tok_rgb@224"]
    conditions = {name: known_ids(given[name][: len(raw_ids)], name) for name in names}
    logits = sequence_logits(model, conditions, raw_ids[:, :-1], entry, trace["cfg_scale"])
    yield compare("logits", logits, recorded["logits"])
    if trace["temperature"] != 0:
        raise ValueError("Recorded text must be greedy; this trace was drawn at random.")
    start = raw_ids[:, :1]
    ours = np.concatenate([start, logits.argmax(-1)], axis=1)
    is_tie = np.concatenate([np.zeros_like(start, bool), has_tie(logits)], axis=1)
    yield compare_exactly("raw_ids", ours, raw_ids, is_tie)
    merged, is_hidden = merge(raw_ids, entry)
    yield compare_exactly("merged", merged, recorded["merged"])
    yield compare_exactly("merged_input_mask", is_hidden, recorded["merged_input_mask"])


def known_ids(tensor: Int[np.ndarray, "batch tokens"], name: str) -> Int[np.ndarray, "batch t"]:
    """Returns a condition as known ids: text up to the first row's end, whole grids."""
    if name != SEQUENCE:
        return tensor.astype(np.int32)
    # ml-4m shows all samples as many tokens as the first one has.
    ends = np.flatnonzero(tensor[0] == 3)
    return tensor[:, : ends[0] + 1].astype(np.int32)


def read_conditions(
    model: FourM, conditions: dict[str, np.ndarray], is_emptied: bool
) -> list[Inputs]:
    """Returns what the encoder reads of conditions; of emptied texts a lone sentinel stays."""
    parts = []
    for name, ids in conditions.items():
        entry = model.space[name]
        if not is_emptied:
            place = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
            parts.append(at_places(entry, jnp.asarray(ids), place))
        elif entry.special is not None:
            parts.append(lone_sentinel(entry, len(ids)))
    return parts


def lone_sentinel(entry: TokenRange, batch: int) -> Inputs:
    """Returns a text of which everything is hidden, as ml-4m shows it while generating."""
    ids = jnp.full((batch, 1), entry.special.first_sentinel, jnp.int32)
    return at_places(entry, ids, jnp.zeros_like(ids))


def at_places(
    entry: TokenRange, ids: Int[Array, "batch t"], place: Int[Array, "batch t"]
) -> Inputs:
    """Returns tokens of one modality as the encoder reads them; `PADDING` is hidden."""
    is_real = ids != PADDING
    return Inputs(
        ids=jnp.where(is_real, ids + entry.first_id, 0),
        modality=jnp.full(ids.shape, entry.index, jnp.int32),
        position=place + entry.first_position,
        is_real=is_real,
    )


def join(parts: list[Inputs]) -> Inputs:
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *parts)


def grid_logits(
    model: FourM,
    conditions: dict[str, np.ndarray],
    ids: Int[np.ndarray, "batch tokens"],
    is_asked: Bool[np.ndarray, "batch tokens"],
    entry: TokenRange,
    scale: int | float,
) -> Float[np.ndarray, "batch tokens vocab"]:
    """Returns the guided logits of the asked tokens; of the others they mean nothing."""
    target = gather_inputs(model.space, {entry.name: ids})
    place = jnp.broadcast_to(jnp.arange(entry.num_tokens), is_asked.shape)
    asked = ask_grid(entry, place, jnp.asarray(is_asked))
    halves = []
    for is_emptied in (False, True)[: 1 if scale == 1 else 2]:
        inputs = join([*read_conditions(model, conditions, is_emptied), target])
        halves.append(_one_pass(*nnx.split(model), inputs, asked, entry))
    return np.asarray(halves[0] if scale == 1 else apply_guidance(jnp.concatenate(halves), scale))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _one_pass(graph, state, inputs, asked, entry):
    model = nnx.merge(graph, state)
    context = model.build_context(model.encode(inputs), inputs)
    return model.logits(model.decode(asked, context, inputs), entry)


def sequence_logits(
    model: FourM,
    conditions: dict[str, np.ndarray],
    previous: Int[np.ndarray, "batch steps"],
    entry: TokenRange,
    scale: int | float,
) -> Float[np.ndarray, "batch steps vocab"]:
    """Returns the guided logits after each of the tokens written so far."""
    batch = len(previous)
    halves = []
    for is_emptied in (False, True)[: 1 if scale == 1 else 2]:
        parts = read_conditions(model, conditions, is_emptied)
        inputs = join([*parts, lone_sentinel(entry, batch)])
        ids = jnp.asarray(previous, jnp.int32)
        halves.append(_write(*nnx.split(model), inputs, ids, entry))
    return np.asarray(halves[0] if scale == 1 else apply_guidance(jnp.concatenate(halves), scale))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _write(graph, state, inputs, previous, entry):
    model = nnx.merge(graph, state)
    context = model.build_context(model.encode(inputs), inputs)
    steps = previous.shape[1]

    def step(cache, place):
        before = previous[:, place] + entry.first_id
        features, cache = decode_next(model, before, place, entry, cache)
        return cache, model.logits(features, entry)[:, 0]

    cache = start_cache(model, context, inputs.is_real, steps)
    return jax.lax.scan(step, cache, jnp.arange(steps))[1].swapaxes(0, 1)


def positions_of(is_asked: Bool[np.ndarray, "batch tokens"]) -> Int[np.ndarray, "batch asked"]:
    """Returns the places of the asked tokens, equally many in every sample."""
    return np.stack([np.flatnonzero(row) for row in is_asked])


def sampling_distribution(
    logits: Float[np.ndarray, "batch t vocab"],
    temperature: int | float,
    top_k: int | float,
    top_p: int | float,
) -> Float[np.ndarray, "batch t vocab"]:
    """Returns what tokens are drawn from; ml-4m writes 0 for top-k and top-p that are off."""
    if temperature <= 1e-10:
        return np.eye(logits.shape[-1])[logits.argmax(-1)]
    if 0 < top_k < 1:
        top_k = int(top_k * logits.shape[-1])
    kept = keep_likeliest(jnp.asarray(logits), int(top_k), top_p or 1.0)
    return np.asarray(jax.nn.softmax(kept / temperature, axis=-1))


def has_tie(logits: Float[np.ndarray, "batch t vocab"]) -> Bool[np.ndarray, "batch t"]:
    """Says where the two largest logits are too near to be told apart."""
    second, first = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
    return first - second < TIE


def compare_samples(
    name: str,
    logits: Float[np.ndarray, "batch t vocab"],
    probabilities: Float[np.ndarray, "batch t vocab"],
    samples: Int[np.ndarray, "batch t"],
) -> Comparison:
    """Greedy tokens must be ours; drawn ones must be possible."""
    chance = np.take_along_axis(probabilities, samples[..., None], axis=-1)[..., 0]
    return compare_exactly(name, chance > 0, np.ones_like(chance, bool), has_tie(logits))


def compare_choice(
    name: str,
    confidence: Float[np.ndarray, "batch tokens"],
    is_open: Bool[np.ndarray, "batch tokens"],
    count: int,
    chosen: Bool[np.ndarray, "batch tokens"],
) -> Comparison:
    """The surest tokens must be chosen; among those that are as sure as the last, any."""
    counts = jnp.full(len(chosen), count)
    ours = np.asarray(choose_best(jnp.asarray(confidence), jnp.asarray(is_open), counts))
    limit = np.where(ours, confidence, np.inf).min(axis=1, keepdims=True)
    is_tie = is_open & (np.abs(confidence - limit) < TIE)
    if not np.array_equal(chosen.sum(axis=1), ours.sum(axis=1)):
        is_tie = None
    return compare_exactly(name, ours, chosen, is_tie)


def merge(
    raw_ids: Int[np.ndarray, "batch written"], entry: TokenRange
) -> tuple[Int[np.ndarray, "batch t"], Bool[np.ndarray, "batch t"]]:
    """Returns the text that was written, padded with 0, and where the padding is.

    It follows the sentinel that it starts with, and ends where another span's sentinel follows.
    """
    first = entry.special.first_sentinel - 1  # ml-4m never hides a span behind its sentinel 0.
    texts = []
    for row in raw_ids[:, 1:]:
        is_sentinel = (row >= first) & (row < first + 1 + entry.special.num_sentinels)
        texts.append(row[: np.flatnonzero(is_sentinel)[0]] if is_sentinel.any() else row)
    longest = max(map(len, texts))
    merged = np.stack([np.pad(text, (0, longest - len(text))) for text in texts])
    return merged, np.arange(longest) >= np.array([len(text) for text in texts])[:, None]

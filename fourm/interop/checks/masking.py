"""Our masking by ml-4m's rules against recorded examples, draw by draw, and statistics."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fourm.interop.checks.comparison import Comparison, compare_exactly
from fourm.interop.checks.masking_statistics import (
    SPECIAL,
    Simulation,
    errors_of_histograms,
    errors_of_means,
    errors_of_quantiles,
    errors_of_shares,
    histogram,
    simulate,
)
from fourm.masking.packing import split_grid
from fourm.masking.spans import SpanCorruption, corrupt_by_chance, cut_window
from fourm.token_space import TokenRange

STANDARD_ERRORS = 4.0
"""Largest difference of a statistic, in standard errors of the difference of two samples."""

SAMPLES = 20_000
"""As many as were recorded."""

NOTHING = -1
"""Fills up rows of different lengths."""


def check_masking(folder: Path, samples: int = SAMPLES) -> Iterator[Comparison]:
    """Compares with every example and every statistic recorded in a folder.

    Args:
        folder: With spans.json, stats.json and hist.npz.
        samples: How many are masked per setting.

    Raises:
        ValueError: If a file is missing or not as expected.
    """
    try:
        examples = json.loads((folder / "spans.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
        histograms = dict(np.load(folder / "hist.npz", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} needs readable spans.json, stats.json and hist.npz ({error})."
        ) from error
    try:
        yield from check_examples(examples)
        for name, setting in settings.items():
            own = {key: value for key, value in histograms.items() if key.startswith(f"{name}/")}
            yield from check_setting(name, setting, own, samples)
    except KeyError as error:
        raise ValueError(f"The recordings in {folder} lack {error}; record them anew.") from error


# Examples, draw by draw


def check_examples(examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Comparison]:
    """Compares what our functions make of recorded draws with what ml-4m made of them."""
    for kind in ("simple", "chunk"):
        rows = examples[kind]
        chunks = [
            row["chunks"] if kind == "chunk" else [[token] for token in row["seq"]] for row in rows
        ]
        longest = max(sum(map(len, row)) for row in chunks)
        replayed = replay(
            chunks,
            [[row["uniform"]] for row in rows],
            keep=[row["keep_prob"] for row in rows],
            input_budget=[longest + 1] * len(rows),
            sentinel=[0] * len(rows),
            target_budget=[2 * longest] * len(rows),
        )
        for side, ours in zip(("input", "target"), replayed, strict=True):
            yield compare_rows(f"spans/{kind}/{side}", ours, [row[side] for row in rows])
    yield from check_sequences(examples["sequence_mask"])
    yield from check_grids(examples["image_mask"])


def check_sequences(rows: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Compares the arrays in which ml-4m puts input and target of a sequence, side by side."""
    chunks = [cut_to_length(row["ids"], row["max_tokens"]) for row in rows]
    draws = [{kind: tuple(rest) for kind, *rest in row["draws"]} for row in rows]
    tries = [[draw[1] for draw in row["draws"] if draw[0] == "rand"] for row in rows]
    unlimited = 2 * max(row["max_tokens"] for row in rows) + 2
    inputs, targets = replay(
        chunks,
        tries,
        # All is kept if nothing was drawn.
        keep=[own.get("uniform", own.get("choice", (1.0,)))[0] for own in draws],
        input_budget=[row["input_budget"] for row in rows],
        sentinel=[own.get("randint", (0,))[0] for own in draws],
        target_budget=[
            unlimited if row["target_budget"] is None else row["target_budget"] for row in rows
        ],
    )
    lengths = [2 * (row["max_tokens"] + 1) for row in rows]
    recorded_lengths = [row["tensor_length"] for row in rows]
    yield compare_exactly(
        "spans/sequence_mask/tensor_length", np.array(lengths), np.array(recorded_lengths)
    )
    tensors, starts = [], [row["input_budget"] for row in rows]
    for length, start, shown, asked in zip(lengths, starts, inputs, targets, strict=True):
        tensor = np.zeros(length, np.int32)
        tensor[: len(shown)] = shown
        tensor[start : start + len(asked)] = asked
        tensors.append(tensor)
    recorded = []
    for row in rows:
        tensor = np.zeros(row["tensor_length"], np.int32)
        tensor[[int(place) for place in row["tensor_nonpad"]]] = list(row["tensor_nonpad"].values())
        recorded.append(tensor)
    yield compare_rows("spans/sequence_mask/tensor_nonpad", tensors, recorded)
    asked = [range(start, start + len(row)) for start, row in zip(starts, targets, strict=True)]
    for name, ours in {
        "input_positions": [range(len(row)) for row in inputs],
        "target_positions": asked,
        "attention_ones": asked,
    }.items():
        yield compare_rows(f"spans/sequence_mask/{name}", ours, [row[name] for row in rows])


def cut_to_length(ids: Sequence[int] | Sequence[Sequence[int]], longest: int) -> list[list[int]]:
    """Returns a text's chunks, tokens where it has none, with the end, as far as they fit."""
    chunks = [[token] if isinstance(token, int) else list(token) for token in [*ids, SPECIAL.end]]
    fits = np.cumsum([len(chunk) for chunk in chunks]) <= longest
    return [chunk for chunk, is_kept in zip(chunks, fits, strict=True) if is_kept]


def replay(
    chunks: Sequence[Sequence[Sequence[int]]],
    tries: Sequence[Sequence[Sequence[float]]],
    keep: Sequence[float],
    input_budget: Sequence[int],
    sentinel: Sequence[int],
    target_budget: Sequence[int],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Corrupts texts by recorded draws; returns what is shown and what is asked of each.

    Args:
        chunks: Per text its chunks of ids.
        tries: Per text, for every try, a number per chunk.
        keep: Per text, how likely each chunk is to be kept at first.
        input_budget: Per text.
        sentinel: Per text, the number of the sentinel drawn to begin at.
        target_budget: Per text.
    """
    ids = [[token for chunk in text for token in chunk] for text in chunks]
    number = [[place for place, chunk in enumerate(text) for _ in chunk] for text in chunks]
    length = max(map(len, ids))

    @jax.jit
    @jax.vmap
    def corrupt(
        draws: Float[Array, "tries tokens"],
        chunk: Int[Array, "tokens"],
        ids: Int[Array, "tokens"],
        num_real: Int[Array, ""],
        input_budget: Int[Array, ""],
        keep: Float[Array, ""],
        sentinel: Int[Array, ""],
        target_budget: Int[Array, ""],
    ) -> tuple[SpanCorruption, Int[Array, ""], Int[Array, ""]]:
        spans = corrupt_by_chance(
            lambda attempt: draws[attempt],
            ids,
            num_real,
            input_budget,
            keep,
            SPECIAL.first_sentinel,
            SPECIAL.num_sentinels,
            chunk,
        )
        return spans, *cut_window(sentinel, spans, target_budget)

    draws = np.zeros((len(tries), max(map(len, tries)), length), np.float32)
    for row, own in enumerate(tries):
        draws[row, : len(own), : len(own[0])] = own
    spans, start, left = jax.device_get(
        corrupt(
            draws,
            pad(number, length, 0),
            pad(ids, length, 0),
            np.array([len(row) for row in ids]),
            np.array(input_budget),
            np.array(keep, np.float32),
            np.array(sentinel),
            np.array(target_budget),
        )
    )
    rows = range(len(ids))
    shown = [spans.inputs[row, : spans.num_inputs[row]] for row in rows]
    asked = [spans.targets[row, start[row] : start[row] + left[row]] for row in rows]
    return shown, asked


def check_grids(rows: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Compares which tokens of grids are shown and asked, given the noise that orders them."""
    longest = max(row["n"] for row in rows)
    entry = TokenRange("grid", 1, (longest,), None, 0, 1, 0)
    # ml-4m shows the tokens at which the order of the noise is low, ours those that are early in
    # it: the inverse. What fills up a row is last.
    draws = np.broadcast_to(np.arange(longest) / longest, (len(rows), longest)).copy()
    for number, row in enumerate(rows):
        draws[number, : row["n"]] = np.argsort(row["noise"]) / longest
    shown = np.array([row["input_budget"] for row in rows])
    # Without a budget, all that is not shown is asked.
    rest = np.array([row["n"] for row in rows]) - shown
    asked = [rest if row["target_budget"] is None else row["target_budget"] for row in rows]
    asked = np.array([np.broadcast_to(each, rest.shape)[i] for i, each in enumerate(asked)])

    @jax.jit
    @jax.vmap
    def split(
        draws: Float[Array, "tokens"], shown: Int[Array, ""], asked: Int[Array, ""]
    ) -> list[Bool[Array, "tokens"]]:
        streams = split_grid(draws, jnp.zeros(longest, jnp.int32), entry, shown, asked)
        place = jnp.arange(longest)
        return [
            jnp.zeros(longest, bool)
            .at[stream.position]
            .set((place >= stream.first) & (place < stream.first + stream.count))
            for stream in streams
        ]

    for name, chosen in zip(("input_mask", "target_mask"), split(draws, shown, asked), strict=True):
        ours = [~np.asarray(own)[: row["n"]] for own, row in zip(chosen, rows, strict=True)]
        yield compare_rows(f"spans/image_mask/{name}", ours, [row[name] for row in rows])
    attention = []
    for own, row in zip(np.asarray(chosen), rows, strict=True):
        attention.append(np.zeros(row["n"], np.int32))
        attention[-1][np.argmax(own)] = own.sum()
    recorded = [row["decoder_attention_mask"] for row in rows]
    yield compare_rows("spans/image_mask/decoder_attention_mask", attention, recorded)


def pad(rows: Sequence[Any], length: int, filler: int) -> Int[np.ndarray, "rows length"]:
    """Returns rows of different lengths as one array."""
    padded = np.full((len(rows), length), filler, np.int32)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = np.asarray(row, np.int32)
    return padded


def compare_rows(name: str, ours: Sequence[Any], recorded: Sequence[Any]) -> Comparison:
    """Compares rows of different lengths, exactly."""
    length = max(map(len, [*ours, *recorded]))
    return compare_exactly(name, pad(ours, length, NOTHING), pad(recorded, length, NOTHING))


# Statistics


def check_setting(
    name: str,
    setting: Mapping[str, Any],
    histograms: Mapping[str, Int[np.ndarray, "..."]],
    samples: int,
) -> Iterator[Comparison]:
    """Compares every statistic of a setting with that of as many samples of our own."""
    found = simulate(setting, samples)
    recorded = np.array(setting["component_freq"], float)
    size = setting["n"]
    error = errors_of_shares(recorded / size, found.drawn / samples, size, samples)
    yield Comparison(f"{name}/component_freq", error, STANDARD_ERRORS)
    for what, values in quantities(setting, found).items():
        is_total = what.endswith("_total")
        rows = [setting[what]] if is_total else list(setting[what].values())
        key = f"{name}/{what}"
        # Of totals and sentinels all components in one, else one each.
        own = {k: v for k, v in histograms.items() if k == key or k.startswith(f"{key}/")}
        yield from check_quantity(key, setting, rows, values, own, found.chosen)


def quantities(
    setting: Mapping[str, Any], found: Simulation
) -> dict[str, Int[np.ndarray, "samples rows"]]:
    """Returns all that was recorded of each sample: a row per modality, one of totals."""
    names = list(setting["modalities"])
    texts = [names.index(name) for name in setting["seq_modalities"]]
    counts = found.counts
    every = {
        "input_budget": counts.input_budget,
        "target_budget": counts.target_budget,
        "input": counts.inputs,
        "target": counts.targets,
    }
    totals = {f"{what}_total": values.sum(1, keepdims=True) for what, values in every.items()}
    return (
        every
        | totals
        | {
            "input_sentinels": counts.input_sentinels[:, texts],
            "target_sentinels": counts.target_sentinels[:, texts],
            "ends_with_final_sentinel": counts.is_closed[:, texts],
        }
    )


def check_quantity(
    name: str,
    setting: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    values: Int[np.ndarray, "samples rows"],
    histograms: Mapping[str, Int[np.ndarray, "..."]],
    chosen: Int[np.ndarray, "samples"],
) -> Iterator[Comparison]:
    """Compares mean, spread, share of zeros, quantiles and histograms of one quantity.

    The error of each is the largest over modalities.

    Args:
        name: Of setting and quantity.
        setting: As recorded.
        rows: Recorded statistics per modality.
        values: Ours.
        histograms: As recorded, by the name of setting and quantity, and of the component.
        chosen: Component of each of our samples.
    """
    size, samples = setting["n"], len(values)
    own_mean, both = values.mean(0), 1 / size + 1 / samples
    statistics = {
        key: np.array([row[key] for row in rows], float)
        for key in ("mean", "std", "p_zero", "quantiles")
    }
    variance = statistics["std"] ** 2 / size + values.var(0) / samples
    errors = {"mean": errors_of_means(statistics["mean"] - own_mean, variance, 5e-5)}

    # The spread of a spread follows from the fourth moment; of both samples, since one alone may
    # lack a rare value.
    length = max(int(values.max()) + 1, *(counts.shape[-1] for counts in histograms.values()))
    counts = sum(
        np.pad(own.reshape(-1, own.shape[-1]), ((0, 0), (0, length - own.shape[-1])))
        for own in histograms.values()
    )
    pooled = counts / size / 2 + histogram(values, length) / samples / 2
    deviation = np.arange(length) - (pooled * np.arange(length)).sum(1, keepdims=True)
    second, fourth = ((pooled * deviation**power).sum(1) for power in (2, 4))
    errors["std"] = errors_of_means(
        statistics["std"] ** 2 - values.var(0),
        (fourth - second**2) * both,
        float(1e-4 * statistics["std"].max()),
    )

    own_share = (values == 0).mean(0)
    errors["p_zero"] = errors_of_shares(statistics["p_zero"], own_share, size, samples)
    errors["quantiles"] = errors_of_quantiles(
        np.array(setting["quantile_levels"]),
        statistics["quantiles"],
        histogram(values, length),
        size,
    )
    for statistic, error in errors.items():
        yield Comparison(f"{name}/{statistic}", error, STANDARD_ERRORS)
    for key, recorded in histograms.items():
        _, _, component = key.rpartition("/component")
        is_own = chosen == int(component) if component != key else np.full(samples, True)
        ours = histogram(values[is_own], recorded.shape[-1])
        recorded = recorded.reshape(-1, recorded.shape[-1])
        yield Comparison(f"{key}/histogram", errors_of_histograms(recorded, ours), STANDARD_ERRORS)

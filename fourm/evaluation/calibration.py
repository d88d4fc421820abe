"""How far draws of a run lie apart, and how wrong their combination is, by direction."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from fourm.evaluation.config import CalibrationConfig
from fourm.evaluation.directions import Evaluator
from fourm.evaluation.intervals import bootstrap, interval_of
from fourm.evaluation.matrix import settings_of_draws
from fourm.evaluation.metrics.spreads import curve, errors_of, rank_correlation, some_places
from fourm.evaluation.results import Pair, format_number, why_failed

CalibrationRow = dict[str, Any]
"""{"inputs", "target", "draws", "samples", "seconds", "rank_correlation", "interval", "of_samples",
"within_samples", "ratio", "bins"}; "note" in place of numbers says why there are none."""


def measure_calibration(
    evaluator: Evaluator, pairs: Sequence[Pair], config: CalibrationConfig
) -> list[CalibrationRow]:
    """Returns for each direction whether the spread of its draws predicts their error.

    "rank_correlation" is Spearman's, over all places of all samples (pixels, or samples of what has
    none), with its 95 % interval over samples: 0 says nothing, 1 is the most. "of_samples" compares
    means of samples, "within_samples" the places of one sample, on average. "ratio" is the root of
    the mean square of the error by that of the spread: above 1, draws lie too close together.
    "bins" have spread and error of places in the order of their spread.
    """
    rows = []
    for pair in tqdm(pairs, desc="calibration", unit="direction", dynamic_ncols=True):
        row: CalibrationRow = {"inputs": list(pair.inputs), "target": pair.target}
        row["draws"] = config.num_draws
        try:
            row |= _measure(evaluator, pair, config)
        except Exception as error:  # Whatever it is: others can still be measured.
            told = f"The spread of {'+'.join(pair.inputs)} -> {pair.target}"
            row["note"] = why_failed(told, error)
        rows.append(row)
    return rows


def _measure(evaluator: Evaluator, pair: Pair, config: CalibrationConfig) -> CalibrationRow:
    target, seed = pair.target, evaluator.config.seed
    names = (*pair.inputs, target)
    rows = evaluator.rows_with(names, config.num_samples)
    if not len(rows):
        raise ValueError(f"no held-out sample has {' and '.join(names)}")
    start = time.perf_counter()
    made = evaluator.model.generate(
        {name: evaluator.heldout.take(name, rows) for name in pair.inputs},
        [target],
        seed=seed,
        num_draws=config.num_draws,
        settings=settings_of_draws(evaluator, target),
    )
    seconds = round(time.perf_counter() - start, 3)
    errors = errors_of(
        evaluator.values_of(target), made.values[target], evaluator.truth(target, rows)
    )
    spreads = made.spread[target].reshape(len(rows), -1).astype(np.float64)
    if spreads.shape != errors.shape:
        raise ValueError(
            f"its spread has {spreads.shape[1]} places and its error {errors.shape[1]}"
        )
    spread, error = some_places(spreads), some_places(errors)

    def score(chosen: Int[np.ndarray, "rows"]) -> float:
        return rank_correlation(spread[chosen].ravel(), error[chosen].ravel())

    found = curve(spread.ravel(), error.ravel(), config.num_bins)
    if found is None:
        raise ValueError("nowhere are both spread and error known")
    is_known = ~(np.isnan(spread) | np.isnan(error))
    totals = [float(np.square(each[is_known]).sum()) for each in (spread, error)]
    means = [
        np.array([each[r][k].mean() if k.any() else np.nan for r, k in enumerate(is_known)])
        for each in (spread, error)
    ]
    within = np.array([rank_correlation(*both) for both in zip(spread, error, strict=True)])
    interval = interval_of(bootstrap(score, len(rows), seed))
    return {
        "samples": len(rows),
        "seconds": seconds,
        "rank_correlation": score(np.arange(len(rows))),
        "interval": None if interval is None else list(interval),
        "of_samples": rank_correlation(*means),
        "within_samples": float(np.nanmean(within)) if np.isfinite(within).any() else float("nan"),
        "ratio": (totals[1] / totals[0]) ** 0.5 if totals[0] else float("nan"),
        "bins": []
        if found is None
        else [
            {"spread": float(s), "error": float(e)}
            for s, e in zip(found.spread, found.error, strict=True)
        ],
    }


def format_calibration(rows: Sequence[CalibrationRow]) -> str:
    """Returns what was found as aligned text."""
    lines = [
        ("direction", "draws", "rank correlation", "95 %", "of samples", "within", "error/spread")
    ]
    for row in rows:
        if "note" in row:
            continue
        low, high = map(format_number, row["interval"] or (None, None))
        names = ("of_samples", "within_samples", "ratio")
        numbers = [format_number(row[name]) for name in names]
        direction = f"{'+'.join(row['inputs'])} -> {row['target']}"
        told = format_number(row["rank_correlation"])
        lines.append((direction, str(row["draws"]), told, f"{low} to {high}", *numbers))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

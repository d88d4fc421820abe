"""What a run's likelihoods find on held-out samples: swapped texts, pairs, odd places, classes.

Each task has an answer that is known because the test made it: texts are exchanged between samples,
a piece of another sample is put into a picture. So any run with held-out samples can be measured.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from tqdm import tqdm

from fourm.any2any import Any2Any
from fourm.evaluation.config import LikelihoodTasks, RegionConfig
from fourm.evaluation.intervals import bootstrap, interval_of
from fourm.evaluation.results import format_number, why_failed
from fourm.requests.regions import per_pixel, region_of_classes
from fourm.requests.scoring import (
    TEMPLATES,
    area_under_roc,
    classify,
    cosine,
    rank_pairs,
    score_pairs,
    surprise,
)
from fourm.run_directory.sample_set import SampleSet
from tokenizers.spread import evenly_spread
from tokenizers.text.sentencepiece import Text

TaskRow = dict[str, Any]
"""{"task", "of", "metric", "floor", "value", "interval", "samples", "seconds"}; "note" in place of
numbers says why a task could not be measured."""


def measure_likelihoods(
    run: Any2Any,
    heldout: SampleSet,
    config: LikelihoodTasks,
    region: RegionConfig,
) -> list[TaskRow]:
    """Returns a row for each task and metric; what can't be measured has a note.

    Args:
        run: Trained.
        heldout: Samples of a split that it was not trained on.
        config: What to measure.
        region: Classes of a class map that are objects: then whole ones are put into other samples.
    """
    text, shown = modalities_of(run, config)
    tasks: dict[str, Callable[[], list[TaskRow]]] = {}
    if text and shown:
        tasks["swapped texts"] = lambda: find_swapped(run, heldout, text, shown, config)
        tasks["retrieval"] = lambda: find_pairs(run, heldout, text, shown, config)
    if shown and len(run.tokenizers) > 1:
        tasks["odd places"] = lambda: find_odd_places(run, heldout, shown, config, region)
    if text:
        for fact in config.zero_shot:
            tasks[f"zero-shot {fact}"] = lambda fact=fact: [
                name_classes(run, heldout, text, shown, fact, config)
            ]
    rows: list[TaskRow] = []
    for name, measure in tqdm(tasks.items(), desc="likelihoods", unit="task", dynamic_ncols=True):
        start = time.perf_counter()
        try:
            found = measure()
            seconds = round(time.perf_counter() - start, 1)
            rows += [{"task": name, **row, "seconds": row.get("seconds", seconds)} for row in found]
        except Exception as error:  # Whatever it is: others can still be measured.
            note = why_failed(f"The task {name}", error)
            rows.append({"task": name, "value": None, "note": note})
    return rows


def modalities_of(run: Any2Any, config: LikelihoodTasks) -> tuple[str, str]:
    """Returns the modality of texts and that which they are compared with, empty if there is none.

    Raises:
        ValueError: If one is named that there is not.
    """
    for name in filter(None, (config.text, config.shown)):
        if name not in run.tokenizers:
            raise ValueError(
                f"There is no modality {name!r} in this run; it has {', '.join(run.tokenizers)}."
            )
    texts = [name for name, each in run.tokenizers.items() if isinstance(each.values, Text)]
    grids = [e.name for e in run.space.ranges if e.kind == "grid" and len(e.token_shape) == 2]
    return config.text or next(iter(texts), ""), config.shown or next(iter(grids), "")


def find_swapped(
    run: Any2Any, heldout: SampleSet, text: str, shown: str, config: LikelihoodTasks
) -> list[TaskRow]:
    """Measures how well texts of other samples are told from true ones (caption filtering).

    The score is the text's log-likelihood given the other modality, less that given nothing.
    """
    rows = _rows(heldout, (text, shown), config.num_samples)
    texts = list(heldout.take(text, rows))
    is_swapped, texts = swap_texts(texts, config.swapped, config.seed)
    given = {shown: heldout.take(shown, rows)}
    scores = run.log_likelihood({text: texts}, given, relative=True).total
    value = area_under_roc(-scores, is_swapped)
    interval = _interval(
        lambda chosen: area_under_roc(-scores[chosen], is_swapped[chosen]), len(rows), config.seed
    )
    return [_row(f"{shown}, {text}", "auc", 0.5, value, interval, len(rows))]


def swap_texts(
    texts: Sequence[str], share: float, seed: int
) -> tuple[Bool[np.ndarray, "texts"], list[str]]:
    """Returns texts of which a share is exchanged for others, and which ones those are.

    Raises:
        ValueError: If all texts are equal.
    """
    random = np.random.default_rng(seed)
    count = min(max(round(share * len(texts)), 1), max(len(texts) - 1, 1))
    chosen = random.permutation(len(texts))[:count]
    changed, is_swapped = list(texts), np.zeros(len(texts), bool)
    for number in chosen:
        others = [each for each in texts if each != texts[number]]
        if not others:
            raise ValueError("all texts are equal, so that none can be exchanged")
        changed[number] = others[random.integers(len(others))]
        is_swapped[number] = True
    return is_swapped, changed


def find_pairs(
    run: Any2Any, heldout: SampleSet, text: str, shown: str, config: LikelihoodTasks
) -> list[TaskRow]:
    """Measures how often a text finds its sample among all, and a sample its text.

    By pointwise mutual information, and by the likeness of the encoder's features.
    """
    rows = _rows(heldout, (text, shown), config.num_samples)
    texts, given = heldout.take(text, rows), {shown: heldout.take(shown, rows)}
    ways = {
        "mutual information": lambda: score_pairs(run, given, {text: texts}),
        "cosine": lambda: cosine(run, given, {text: texts}),
    }
    found = []
    for way, compute in ways.items():
        start = time.perf_counter()
        scores = compute()
        seconds = round(time.perf_counter() - start, 1)
        for direction, both in ((f"{shown} to {text}", scores), (f"{text} to {shown}", scores.T)):
            ranks = rank_pairs(both)
            for at in (1, 5, 10):
                hits = ranks.ranks < at
                interval = _interval(
                    lambda chosen, hits=hits: float(hits[chosen].mean()), len(rows), config.seed
                )
                floor = min(at / ranks.among, 1.0)
                row = _row(
                    f"{direction}, by {way}",
                    f"recall@{at} of {ranks.among}",
                    floor,
                    ranks.recall(at),
                    interval,
                    len(rows),
                )
                found.append(row | {"seconds": seconds})
    return found


def find_odd_places(
    run: Any2Any,
    heldout: SampleSet,
    shown: str,
    config: LikelihoodTasks,
    region: RegionConfig,
) -> list[TaskRow]:
    """Measures how well a piece of another sample is found by its surprise, given all else.

    Where classes are said to be objects, every sample gets all objects of another one, at their
    places; otherwise a window of a quarter of height and width shows what another one has there.
    The score of a pixel is the surprise of its token, given the other modalities alone. A pixel is
    odd if it was changed.
    """
    others = [name for name in run.tokenizers if name != shown and name in heldout.columns]
    others = [name for name in others if len(heldout.rows((shown, name)))]
    has_objects = region.modality in others and len(region.classes) > 0
    needed = (shown, region.modality) if has_objects else (shown,)
    rows = _rows(heldout, needed, config.num_samples)
    pictures, shape = np.asarray(heldout.take(shown, rows)), run.space[shown].token_shape
    if has_objects:
        names = run.tokenizers[region.modality].values.names
        maps = np.asarray(heldout.take(region.modality, rows))
        is_object = region_of_classes(maps, region.classes, names)
        changed, is_odd = paste_objects(pictures, is_object, config.seed)
    else:
        changed, is_odd = paste_windows(pictures, shape, config.seed)
    inputs = {}
    for name in others:
        known = set(heldout.rows((name,)).tolist())
        inputs[name] = [
            heldout.take(name, np.array([row]))[0] if int(row) in known else None for row in rows
        ]
    found = surprise(run, {shown: changed}, inputs)
    # Pixels of a token share its score, so that it is enough to count them.
    odd, ordinary = (_per_cell(where, found.shape[1:]) for where in (is_odd, ~is_odd))

    def area(chosen: Int[np.ndarray, "rows"]) -> float:
        counts = np.stack([odd[chosen], ordinary[chosen]])
        scores = np.broadcast_to(found[chosen], counts.shape)
        is_positive = np.broadcast_to([[[[True]]], [[[False]]]], counts.shape)
        return area_under_roc(scores.ravel(), is_positive.ravel(), counts.ravel())

    interval = _interval(area, len(rows), config.seed)
    told = f"{shown}, given {', '.join(others)}"
    return [_row(told, "auc", 0.5, area(np.arange(len(rows))), interval, len(rows))]


def paste_objects(
    pictures: np.ndarray, is_object: Bool[np.ndarray, "batch height width"], seed: int
) -> tuple[np.ndarray, Bool[np.ndarray, "batch y x"]]:
    """Returns pictures with the objects of another one each, and which pixels that changed.

    Args:
        pictures: Of one size.
        is_object: Where they have objects, in any resolution.
        seed: Of the others.

    Raises:
        ValueError: If there is only one picture.
    """
    count, height, width = pictures.shape[:3]
    if count < 2:
        raise ValueError("there is one sample, and so no other to take an object from")
    random = np.random.default_rng(seed)
    others = (np.arange(count) + 1 + random.integers(count - 1, size=count)) % count
    where = per_pixel(is_object[others], (height, width))
    taken = where.reshape(*where.shape, *[1] * (pictures.ndim - 3))
    changed = np.where(taken, pictures[others], pictures)
    is_same = [_equal(a, b) for a, b in zip(pictures, changed, strict=True)]
    return changed, ~np.stack(is_same)


def paste_windows(
    pictures: np.ndarray, cells: tuple[int, int], seed: int
) -> tuple[np.ndarray, Bool[np.ndarray, "batch y x"]]:
    """Returns pictures with a window of another one each, and which pixels that changed.

    Args:
        pictures: Of one size.
        cells: Height and width of the grid of tokens, at whose lines the window is cut.
        seed: Of places and of others.

    Raises:
        ValueError: If there is only one picture.
    """
    random = np.random.default_rng(seed)
    count, *size = pictures.shape[:3]
    if count < 2:
        raise ValueError("there is one sample, and so no other to take a piece from")
    changed, is_changed = pictures.copy(), np.zeros(pictures.shape[:3], bool)
    for number in range(count):
        other = (number + 1 + random.integers(count - 1)) % count
        window = tuple(_draw_side(random, *sides) for sides in zip(size, cells, strict=True))
        is_changed[number][window] = ~_equal(pictures[number][window], pictures[other][window])
        changed[number][window] = pictures[other][window]
    return changed, is_changed


def _draw_side(random: np.random.Generator, pixels: int, cells: int) -> slice:
    """Returns a random quarter of a side, whole tokens and at least one."""
    length = max(cells // 4, 1)
    first = int(random.integers(cells - length + 1))
    return slice(first * pixels // cells, (first + length) * pixels // cells)


def _equal(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, "y x"]:
    same = (a == b) | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else a == b
    return same.reshape(*same.shape[:2], -1).all(axis=-1)


def _per_cell(
    pixels: Bool[np.ndarray, "batch height width"], cells: tuple[int, int]
) -> Int[np.ndarray, "batch y x"]:
    """Returns how many pixels of each cell of a grid are marked, see `per_pixel`."""
    numbers = per_pixel(np.arange(math.prod(cells)).reshape(1, *cells), pixels.shape[1:])[0]
    counts = [np.bincount(numbers[each], minlength=math.prod(cells)) for each in pixels]
    return np.stack(counts).reshape(-1, *cells)


def name_classes(
    run: Any2Any,
    heldout: SampleSet,
    text: str,
    shown: str,
    fact: str,
    config: LikelihoodTasks,
) -> TaskRow:
    """Measures how often a fact is told by the likeliest of what could be written of it.

    The floor is the share of the commonest class.

    Raises:
        ValueError: If there is no such fact, or it has a value without a class.
    """
    classes = config.zero_shot[fact]
    if fact not in heldout.metadata:
        known = ", ".join(heldout.metadata) or "none"
        raise ValueError(f"there is no fact {fact!r}; there are {known}")
    rows = _rows(heldout, (shown,), heldout.size)
    rows = np.intersect1d(rows, heldout.metadata[fact].index)
    rows = rows[evenly_spread(len(rows), config.num_samples)]
    labels = heldout.labels(fact, rows)
    known = classes if labels.dtype.kind in "US" else range(len(classes))
    index = {value: number for number, value in enumerate(known)}
    missing = sorted(set(labels.tolist()) - index.keys())
    if missing:
        raise ValueError(f"the fact {fact} has the values {missing[:5]} without a class")
    numbers = np.array([index[label] for label in labels.tolist()])
    given = {shown: heldout.take(shown, rows)}
    found = classify(run, given, classes, text, config.templates.get(fact, TEMPLATES)).argmax(
        axis=1
    )
    is_right = found == numbers
    floor = float(np.bincount(numbers).max() / len(numbers))
    interval = _interval(lambda chosen: float(is_right[chosen].mean()), len(rows), config.seed)
    told = f"{shown}, {fact}"
    row = _row(told, "accuracy", floor, float(is_right.mean()), interval, len(rows))
    return row | {"shown": shown, "fact": fact}


def add_ceilings(
    rows: Sequence[TaskRow], probes: Sequence[Mapping[str, Any]], shown: str
) -> list[TaskRow]:
    """Returns the rows, those of facts with what a probe of the same fact reaches as "ceiling".

    Args:
        rows: As `measure_likelihoods` returns them.
        probes: As `fourm.evaluation.probes.probe` returns them.
        shown: The modality that the probes read.
    """
    reached = {row["task"]: row["value"] for row in probes if row.get("value") is not None}
    return [
        {**row, "ceiling": reached[row["fact"]]}
        if row.get("shown") == shown and row.get("fact") in reached
        else row
        for row in rows
    ]


def _rows(heldout: SampleSet, names: Sequence[str], most: int) -> Int[np.ndarray, "rows"]:
    rows = heldout.rows(names)
    rows = rows[evenly_spread(len(rows), most)]
    if len(rows) < 2:
        raise ValueError(f"fewer than two held-out samples have {' and '.join(names)}")
    return rows


def _interval(
    score: Callable[[Int[np.ndarray, "rows"]], float], count: int, seed: int
) -> list[float] | None:
    interval = interval_of(bootstrap(score, count, seed))
    return None if interval is None else list(interval)


def _row(
    of: str, metric: str, floor: float, value: float, interval: list[float] | None, samples: int
) -> TaskRow:
    row = {"of": of, "metric": metric, "better": "higher", "floor": floor, "value": value}
    return row | {"interval": interval, "samples": samples}


def format_tasks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what was found as aligned text."""
    lines = [("task", "of", "metric", "floor", "value", "95 %", "ceiling", "s")]
    for row in rows:
        if "note" in row:
            continue
        low, high = row["interval"] or (float("nan"),) * 2
        numbers = f"{row['floor']:.3f}", f"{row['value']:.3f}", f"{low:.3f} to {high:.3f}"
        last = format_number(row.get("ceiling")), f"{row['seconds']:.1f}"
        lines.append((row["task"], row["of"], row["metric"], *numbers, *last))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

"""What the values of one modality look like, and what of it may be a mistake."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tokenizers.base import Boxes, Choices, Instances, Mended, Values

MOST_NUMBERS = 10**6
"""Numbers of a modality that are looked at."""
BINS = 24
"""Of a histogram."""
FAR = 20.0
"""Interquartile ranges from the median beyond which a number is an outlier."""
MARK = 0.001
"""Share of one and the same far number from which it may be a mark for what is unknown."""
RARE = 0.001
"""Share of a class below which it is called rare."""


class Histogram(NamedTuple):
    """How often numbers of each size occur.

    Attributes:
        edges: Of the bins.
        counts: Numbers in each.
    """

    edges: Float[np.ndarray, "edges"]
    counts: Int[np.ndarray, "bins"]


@dataclass(frozen=True)
class Findings:
    """What was found of one modality of one split."""

    facts: dict[str, str]
    """Such as shape and range, each in a few words."""
    warnings: tuple[str, ...] = ()
    """Sentences on what may be a mistake."""
    histogram: Histogram | None = None
    """Of numbers."""
    shares: dict[str, float] = field(default_factory=dict)
    """Of classes or words, the commonest first."""


def describe(
    name: str, values: Values, raw: Sequence[Any], checked: Sequence[Any], settings: Any
) -> Findings:
    """Returns what the values of a modality look like.

    Args:
        name: Of the modality.
        values: What its raw numbers mean.
        raw: Of some samples, as the source gives them.
        checked: The same in their canonical form; several values of a sample are `Choices`.
        settings: Of its tokenizer.
    """
    several = [len(value) for value in checked if isinstance(value, Choices)]
    flat = [each for v in checked for each in (v if isinstance(v, Choices) else (v,))]
    if not flat:
        return Findings({}, ("None of the samples that were read has a usable value.",))
    found = _describe_kind(name, values, raw, flat, settings)
    facts = dict(found.facts)
    if several:
        facts["values a sample"] = _span(several)
    warnings = list(found.warnings)
    if len(flat) > 1 and all(_is_same(flat[0], each) for each in flat[1:]):
        warnings.append(f"All {len(flat)} values are the same: there is nothing to be learned.")
    return Findings(facts, tuple(warnings), found.histogram, found.shares)


def _describe_kind(
    name: str, values: Values, raw: Sequence[Any], flat: list[Any], settings: Any
) -> Findings:
    first = flat[0]
    if isinstance(first, str):
        return _describe_texts(flat, settings)
    if isinstance(first, Boxes):
        return _describe_things("boxes", "max_boxes", values, flat)
    if isinstance(first, Instances):
        return _describe_things("instances", "max_instances", values, flat)
    facts = {"type": _types(raw)} if _types(raw) else {}
    try:
        arrays = [np.asarray(each) for each in flat]
        is_numeric = all(each.dtype.kind in "biuf" for each in arrays)
    except ValueError:
        is_numeric = False
    if not is_numeric:
        return Findings(facts | {"kind": type(first).__name__})
    unit = getattr(values, "integer_unit", None)
    coarse = [each for each in raw if getattr(each, "dtype", None) == np.uint8]
    warnings: tuple[str, ...] = ()
    if unit is not None and coarse:
        warnings = (
            f"Integers of 8 bits count as steps of {unit:g} metres, and nothing is farther than "
            f"{255 * unit:g} m: set integer_unit, or data.modalities.{name}.scale.",
        )
    if getattr(values, "by_channel", True) is False and (lacking := _lacking_channels(arrays)):
        warnings += (
            f"{lacking} of {len(arrays)} samples lack whole channels, which makes all of their "
            "pixels count as not known: set Reals.by_channel to True.",
        )
    if arrays[0].ndim:
        shapes = Counter("x".join(map(str, each.shape)) for each in arrays)
        facts["shape"] = _commonest(shapes)
    class_names = getattr(values, "names", ())
    numbers = _some(arrays)
    if class_names and numbers.dtype.kind in "biu":
        found = _describe_classes(numbers, tuple(class_names))
    else:
        found = _describe_numbers(name, numbers)
    warnings += found.warnings
    return Findings(facts | found.facts, warnings, found.histogram, found.shares)


def _lacking_channels(arrays: Sequence[np.ndarray]) -> int:
    """Returns how many pictures have a channel that is unknown all over, and one that is not."""
    unknown = [np.isnan(each).all(axis=(0, 1)) for each in arrays if each.ndim == 3]
    return sum(bool(each.any() and not each.all()) for each in unknown)


def _describe_numbers(name: str, numbers: np.ndarray) -> Findings:
    known = numbers[np.isfinite(numbers)].astype(np.float64)
    facts, warnings = {}, []
    unknown = 1 - len(known) / max(len(numbers), 1)
    if unknown:
        facts["unknown"] = f"{unknown:.1%}"
    if unknown > 0.5:
        warnings.append(f"{unknown:.0%} of the numbers are unknown.")
    if not len(known):
        return Findings(facts, tuple(warnings))
    low, quarter, middle, three_quarters, high = np.percentile(known, (0, 25, 50, 75, 100))
    facts["range"] = f"{low:.4g} to {high:.4g}, median {middle:.4g}"
    width = three_quarters - quarter
    marks = [(end, share) for end in (low, high) if (share := float(np.mean(known == end))) >= MARK]
    rest = known
    for end, share in marks:
        others = known[known != end]
        if not len(others):
            continue
        gap = np.abs(others - end).min()
        spread = np.subtract(*np.percentile(others, (75, 25)))
        if gap > FAR / 2 * max(spread, np.finfo(np.float64).tiny) and len(np.unique(others)) > 2:
            warnings.append(
                f"{share:.1%} of the numbers are {end:g}, far from all others: if that means "
                f'"not measured", set data.modalities.{name}.missing.'
            )
            rest = rest[rest != end]
    if width > 0:
        outliers = float(np.mean(np.abs(rest - middle) > FAR * width))
        if outliers:
            facts["outliers"] = f"{outliers:.2%} beyond {FAR:g} interquartile ranges"
    counts, edges = np.histogram(rest, BINS, tuple(np.percentile(rest, (0.1, 99.9))))
    return Findings(facts, tuple(warnings), Histogram(edges, counts))


def _describe_classes(numbers: np.ndarray, names: tuple[str, ...]) -> Findings:
    known = numbers[(numbers >= 0) & (numbers < len(names))].astype(np.int64)
    counts = np.bincount(known, minlength=len(names))
    shares = counts / max(counts.sum(), 1)
    facts = {"classes": f"{(counts > 0).sum()} of {len(names)} occur"}
    if len(known) < len(numbers):
        facts["unknown"] = f"{1 - len(known) / len(numbers):.1%}"
    warnings = []
    if never := [name for name, count in zip(names, counts, strict=True) if not count]:
        warnings.append(f"No value is {_listed(never)}.")
    rare = [names[i] for i in np.flatnonzero((shares > 0) & (shares < RARE))]
    if rare:
        warnings.append(f"Below {RARE:.1%} each: {_listed(rare)}.")
    order = np.argsort(-shares, kind="stable")
    return Findings(
        facts, tuple(warnings), shares={names[i]: float(shares[i]) for i in order if shares[i] > 0}
    )


def _describe_texts(texts: list[str], settings: Any) -> Findings:
    words = [text.split() for text in texts]
    counts = Counter(word.lower().strip(".,;:!?") for each in words for word in each)
    lengths = [len(each) for each in words]
    facts = {
        "words": f"{_span(lengths)}, median {np.median(lengths):.0f}",
        "vocabulary": f"{len(counts):,} different words",
        "different texts": f"{len(set(texts)):,} of {len(texts):,}",
    }
    warnings = []
    longest = getattr(settings, "max_tokens", None)
    # A text has at least as many tokens as words, and one for its end.
    if longest is not None and (cut := sum(length + 1 > longest for length in lengths)):
        warnings.append(
            f"{cut} of {len(texts)} texts are longer than the tokenizer's max_tokens, {longest}, "
            "and will be cut."
        )
    total = sum(counts.values())
    shares = {word: count / max(total, 1) for word, count in counts.most_common(12)}
    return Findings(facts, tuple(warnings), shares=shares)


def _describe_things(
    what: str, knob: str, values: Any, given: Sequence[Boxes | Instances]
) -> Findings:
    """Returns how many things of which class there are, of which at most `knob` are kept."""
    numbers = [len(each.classes) for each in given]
    names = tuple(getattr(values, "class_names", ()))
    classes = np.concatenate([each.classes for each in given]).astype(np.int64)
    found = _describe_classes(classes, names) if len(classes) else Findings({})
    warnings = list(found.warnings)
    most = getattr(values, knob, None)
    if most is not None and (over := sum(number > most for number in numbers)):
        warnings.append(
            f"{over} of {len(given)} samples have more than {most} {what} and lose the last ones; "
            f"raise {knob}."
        )
    facts = {f"{what} a sample": f"{_span(numbers)}, median {np.median(numbers):.0f}"} | found.facts
    return Findings(facts, tuple(warnings), shares=found.shares)


def _some(arrays: list[np.ndarray]) -> np.ndarray:
    """Returns numbers of all arrays, evenly spread over them, so that they fit into memory."""
    step = max(1, sum(each.size for each in arrays) // MOST_NUMBERS)
    return np.concatenate([each.ravel()[::step] for each in arrays])


def _types(raw: Sequence[Any]) -> str:
    plain = [each.value if isinstance(each, Mended) else each for each in raw]
    found = Counter(str(each.dtype) for each in plain if isinstance(each, np.ndarray | np.generic))
    return _commonest(found) if found else ""


def _commonest(counts: Counter) -> str:
    (first, number), *others = counts.most_common()
    if not others:
        return str(first)
    return f"{first} ({number} of {counts.total()}), and {len(others)} other"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    told = ", ".join(names[:most])
    return told if len(names) <= most else f"{told} and {len(names) - most} more"


def _is_same(first: Any, other: Any) -> bool:
    if isinstance(first, Boxes | Instances):
        pairs = zip(first, other, strict=True)
        return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
    if isinstance(first, np.ndarray):
        return first.shape == np.shape(other) and np.array_equal(first, other, equal_nan=True)
    return bool(first == other)

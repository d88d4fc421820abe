"""What the doctor found, as text for a terminal and as one HTML file with pictures."""

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from data_pipeline.doctor.examination import Health, SplitHealth
from data_pipeline.doctor.statistics import Findings, Histogram
from data_pipeline.sources.source import Note
from tokenizers.base import Values

TOLD = 3
"""Examples of a kind of note."""
CELL = 128
"""Side of a picture on the page, in pixels."""

STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .7rem }
td, th { text-align: left; vertical-align: top }
.warning { color: #a04000 } .bar { background: #26547c; display: inline-block; height: .7em }
img { display: block; image-rendering: pixelated }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } }
"""


def warnings_of(health: Health) -> Iterator[str]:
    """Yields what may be a mistake, a sentence each."""
    for split in health.splits:
        for name, found in split.findings.items():
            for warning in found.warnings:
                yield f"{split.split}, {name}: {warning}"
    yield from _describe_twins(health)


def format_text(health: Health, plan: Sequence[str]) -> str:
    """Returns one page of text."""
    parts = []
    for split in health.splits:
        lines = [f"{split.split}: {split.samples:,} samples, {split.census.samples:,} read"]
        for name, found in split.findings.items():
            share = split.census.present.get(name, 0) / max(split.census.samples, 1)
            facts = "; ".join(f"{fact} {told}" for fact, told in found.facts.items())
            lines.append(f"  {name:12} {share:4.0%}  {facts}")
            if found.shares:
                lines.append(f"  {'':12}       {_top(found.shares)}")
        if len(split.combinations) > 1:
            lines.append(f"  together: {_combinations(split)}")
        parts.append("\n".join(lines))
    noted = list(_describe_notes(health.notes))
    for heading, lines in (
        ("Files and values", noted),
        ("Look at this", list(warnings_of(health))),
        ("Plan", list(plan)),
    ):
        if lines:
            parts.append("\n".join([heading, *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts)


def format_page(
    health: Health,
    values: Mapping[str, Values],
    plan: Sequence[str],
    round_trips: Iterable[tuple[str, str, list[tuple[object, object]]]] = (),
) -> str:
    """Returns one HTML file that needs no other.

    Args:
        health: What was found.
        values: By modality, which know how theirs are drawn.
        plan: Lines on the training to come.
        round_trips: Per modality with a tokenizer: its name, how good it is, and the worst samples
            as pairs of truth and round trip.
    """
    body = ["<h1>Data</h1>"]
    if warned := list(warnings_of(health)):
        items = "".join(f"<li class=warning>{html.escape(each)}</li>" for each in warned)
        body.append(f"<h2>Look at this</h2><ul>{items}</ul>")
    if noted := list(_describe_notes(health.notes)):
        items = "".join(f"<li>{html.escape(each)}</li>" for each in noted)
        body.append(f"<h2>Files and values</h2><ul>{items}</ul>")
    for split in health.splits:
        body += _split_section(split, values)
    body.append("<h2>Plan</h2>" + "".join(f"<p>{html.escape(line)}</p>" for line in plan))
    for name, told, pairs in round_trips:
        cells = "".join(
            f"<td>{_draw(values[name], truth)}</td><td>{_draw(values[name], again)}</td>"
            for truth, again in pairs
        )
        title = f"{name}: {told}. The worst samples, each beside its round trip."
        body.append(
            f"<h2>Tokenizer of {html.escape(name)}</h2><p>{html.escape(title)}</p>"
            f"<table><tr>{cells}</tr></table>"
        )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Data</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _split_section(split: SplitHealth, values: Mapping[str, Values]) -> list[str]:
    heading = f"{split.split}: {split.samples:,} samples, {split.census.samples:,} read"
    rows = []
    for name, found in split.findings.items():
        share = split.census.present.get(name, 0) / max(split.census.samples, 1)
        facts = "<br>".join(html.escape(f"{fact}: {told}") for fact, told in found.facts.items())
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{share:.0%}</td><td>{facts}</td>"
            f"<td>{_chart(found)}</td></tr>"
        )
    parts = [
        f"<h2>{html.escape(heading)}</h2><table><tr><th>modality<th>in<th>values<th>spread</tr>"
        f"{''.join(rows)}</table>"
    ]
    if len(split.combinations) > 1:
        parts.append(f"<p>Together: {html.escape(_combinations(split))}</p>")
    if split.shown:
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in values)
        lines = [
            f"<tr><td>{html.escape(key)}</td>"
            + "".join(
                f"<td>{_draw(values[name], sample[name]) if name in sample else ''}</td>"
                for name in values
            )
            + "</tr>"
            for key, sample in split.shown
        ]
        parts.append(
            "<h3>After crops and flips: everything in a row must show the same</h3>"
            f"<table><tr><th>sample{heads}</tr>{''.join(lines)}</table>"
        )
    return parts


def _draw(values: Values, value: Any) -> str:
    is_picture = getattr(values, "is_picture", True) and getattr(value, "ndim", 0) >= 2
    height, width = value.shape[:2] if is_picture else (1, 1)
    scale = CELL / max(height, width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    drawn = values.draw(value, size)
    if isinstance(drawn, str):
        return html.escape(drawn)
    content = io.BytesIO()
    Image.fromarray(drawn).save(content, "PNG")
    return (
        f"<img alt='' src='data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}'>"
    )


def _chart(found: Findings) -> str:
    if found.shares:
        return "".join(
            f"<div><span class=bar style='width:{100 * share:.1f}px'></span> "
            f"{html.escape(name)} {share:.1%}</div>"
            for name, share in list(found.shares.items())[:12]
        )
    return _histogram(found.histogram) if found.histogram is not None else ""


def _histogram(histogram: Histogram) -> str:
    height, width = 60, 8
    most = max(int(histogram.counts.max()), 1)
    bars = "".join(
        f"<rect x='{width * i}' y='{height - height * count / most:.1f}' width='{width - 1}' "
        f"height='{height * count / most:.1f}' fill='#26547c'/>"
        for i, count in enumerate(histogram.counts.tolist())
    )
    span = width * len(histogram.counts)
    low, high = histogram.edges[0], histogram.edges[-1]
    return f"<svg width={span} height={height}>{bars}</svg><div>{low:.4g} to {high:.4g}</div>"


def _describe_notes(notes: Mapping[str, Sequence[Note]]) -> Iterator[str]:
    for split, own in notes.items():
        counts = Counter((note.kind, note.modality) for note in own)
        for (kind, name), count in counts.most_common():
            told = [_tell(each) for each in own if (each.kind, each.modality) == (kind, name)]
            more = f"; and {count - TOLD:,} more" if count > TOLD else ""
            about = f"{split}, {name}" if name else split
            yield f"{about}: {count:,} {kind}: {'; '.join(told[:TOLD])}{more}"


def _tell(note: Note) -> str:
    """Returns a note with its file, or else its key, named once."""
    place, reason = note.file or note.key, note.reason.rstrip(".")
    return reason if place and place in reason else f"{place}: {reason}"


def _describe_twins(health: Health) -> Iterator[str]:
    counts = Counter(
        (twin.modality, twin.first[0], twin.second[0], twin.is_exact) for twin in health.twins
    )
    for (name, first, second, is_exact), count in counts.most_common():
        one = next(
            twin
            for twin in health.twins
            if (twin.modality, twin.first[0], twin.second[0], twin.is_exact)
            == (name, first, second, is_exact)
        )
        alike = "the same" if is_exact else "nearly the same"
        where = f"within {first}" if first == second else f"of {second} and of {first}"
        leak = "" if first == second else ": what is measured there was trained on"
        yield (
            f"{name}: {count:,} pairs {where} have {alike} value, such as {one.first[1]} and "
            f"{one.second[1]}{leak}."
        )


def _combinations(split: SplitHealth) -> str:
    told = [
        f"{' + '.join(names) or 'nothing'} {count / max(split.census.samples, 1):.0%}"
        for names, count in list(split.combinations.items())[:6]
    ]
    more = len(split.combinations) - 6
    return ", ".join(told) + (f", and {more} more" if more > 0 else "")


def _top(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:8])

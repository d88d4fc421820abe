"""Generation from folders of files: by key, some at a time, and again only what is missing."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from fourm.any2any import Any2Any
from fourm.inference.settings import GenerationConfig
from fourm.inputs.folders import (
    LeftOut,
    Sources,
    digests_of,
    place_of,
    read_sample,
    write_left_out,
)
from fourm.inputs.generated import GeneratedFolder, Output
from fourm.inputs.samples import Seen, in_original_size
from fourm.requests.outputs import outputs_of, spread_outputs
from fourm.requests.results import drawn_size
from tokenizers.base import Tokenizer
from tokenizers.process.command import make_visible
from tokenizers.scalars import ScalarTokenizer
from tokenizers.storage.run_paths import LEFT_OUT

AT_ONCE = 64
"""Samples of a folder that are generated and written together."""


@dataclass(frozen=True)
class Asked:
    """What is generated from every sample of a folder."""

    targets: Sequence[str]
    """In their order."""
    settings: Mapping[str, GenerationConfig]
    """By target."""
    num_samples: int = 1
    """From each input."""
    seed: int = 0
    """Of everything random."""
    inputs_are: str = "auto"
    """What files hold, see `FileReader`."""
    original_size: bool = False
    """Whether generated pictures get the size of the first picture that is given."""
    besides: Mapping[str, Any] = field(default_factory=dict)
    """What else `Any2Any.generate` is asked."""


def generate_folder(
    model: Any2Any, asked: Asked, samples: Mapping[str, Sources], results: GeneratedFolder
) -> None:
    """Generates from many files, some at a time, and writes OUT/MODALITY/KEY.

    What the same command wrote before from the same files is not made again, and what a sample
    becomes does not depend on which others there are. Damaged files are listed.

    Raises:
        ValueError: If no sample can be used.
    """
    reader = model.reader(asked.inputs_are, tell, tells_formats=True)
    repeats = asked.num_samples
    if repeats < 1:
        raise ValueError(f"--num-samples is {repeats}; it must be at least 1.")
    notes: list[LeftOut] = []
    kept: set[str] = set()
    keys, made = list(samples), 0
    at_once = max(AT_ONCE // repeats, 1)
    with tqdm(total=len(keys), desc="generated", unit="sample", dynamic_ncols=True) as bar:
        for start in range(0, len(keys), at_once):
            chunk = keys[start : start + at_once]
            digests = {key: digests_of(samples[key]) for key in chunk}
            found = {}
            for key in chunk:
                if results.has(key, digests[key], asked.targets, repeats):
                    kept.add(key)
                    continue
                sample, left_out = read_sample(key, samples[key], reader)
                notes += [*left_out, *take_outlandish(key, samples[key], sample, model)]
                if sample.values:
                    found[key] = sample
            if found:
                results.write(outputs_of_samples(model, asked, found, digests))
                made += len(found)
            bar.update(len(chunk))
    results.close()
    write_left_out(results.folder, notes, kept)
    listed = f"; {results.folder / LEFT_OUT} lists {len(notes)} that were left out" if notes else ""
    if not made and not kept:
        raise ValueError(f"Not one of {len(keys)} samples can be used{listed}: {notes[0].reason}")
    before = f", beside {len(kept)} that were there" if kept else ""
    told = told_of(made * repeats, asked.targets)
    print(make_visible(f"Wrote {told} to {results.folder}{before}{listed}."))


def take_outlandish(key: str, sources: Sources, sample: Seen, model: Any2Any) -> list[LeftOut]:
    """Removes the numbers of which training has seen nothing like; returns why.

    Raises:
        ValueError: If it is one that was typed, for all samples.
    """
    notes = []
    for name, value in list(sample.values.items()):
        try:
            check_near(name, [value], model.tokenizers[name])
        except ValueError as error:
            if isinstance(sources[name], str):
                raise
            notes.append(LeftOut("unusable", name, key, str(sources[name]), str(error)))
            del sample.values[name]
    return notes


def outputs_of_samples(
    model: Any2Any,
    asked: Asked,
    samples: Mapping[str, Seen],
    digests: Mapping[str, Mapping[str, str]],
) -> list[Output]:
    """Generates from some samples, by key, and returns the files to be written."""
    rows = [(key, number) for key in samples for number in range(asked.num_samples)]
    names = dict.fromkeys(name for sample in samples.values() for name in sample.values)
    generated = model.generate(
        {name: [samples[key].values.get(name) for key, _ in rows] for name in names},
        asked.targets,
        seed=asked.seed,
        settings=asked.settings,
        places=[place_of(key, number) for key, number in rows],
        **asked.besides,
    )
    outputs = []
    for name, raw in generated.values.items():
        tokenizer, size = model.tokenizers[name], drawn_size(model.tokenizers, 256)
        spread = generated.spread.get(name)
        for row, ((key, number), value) in enumerate(zip(rows, raw, strict=True)):
            if asked.original_size:
                value = in_original_size(value, samples[key].window, tokenizer)
            files, _ = outputs_of(name, "value", value, tokenizer.values, size)
            files += [] if spread is None else spread_outputs(name, "value", spread[row])
            stem = f"{name.replace('/', '_')}/{key}"
            stem += f"_{number:03}" if asked.num_samples > 1 else ""
            about = {"key": key, "inputs": dict(digests[key])}
            outputs += [
                each._replace(name=f"{stem}{each.name.removeprefix('value')}", sample=about)
                for each in files
            ]
    return outputs


def check_near(name: str, values: Iterable[Any], tokenizer: Tokenizer) -> None:
    """Raises ValueError for a number of which training has seen nothing like."""
    if not isinstance(tokenizer, ScalarTokenizer):
        return
    lowest, highest = tokenizer.range
    margin = (highest - lowest) / 2 or abs(lowest) or 1.0
    for value in values:
        if value is not None and not lowest - margin <= value <= highest + margin:
            raise ValueError(
                f"--{name} is {value:g}; the numbers that this run was trained on lie between "
                f"{lowest:g} and {highest:g}: give one of them, or one near them."
            )


def tell(sentence: str) -> None:
    """Shows a sentence beside what the command writes."""
    print(make_visible(sentence), file=sys.stderr)


def told_of(count: int, targets: Sequence[str]) -> str:
    """Returns how many samples there are of what, in words."""
    made = " and ".join(filter(None, [", ".join(targets[:-1]), targets[-1]]))
    return f"{'1 sample' if count == 1 else f'{count} samples'} of {made}"

"""Scores how well values belong together, by a run's own likelihoods, on the command line.

python -m fourm.score RUN --rgb photos/ --caption captions/ --target caption   swapped texts, words
python -m fourm.score RUN --depth depths/ --rgb photos/ --target rgb           maps of odd places
python -m fourm.score RUN --rgb photos/ --target caption --classes cat dog     classes, untrained
python -m fourm.score RUN --rgb photos/ --caption captions/ --target caption --match 5
"""

if __name__ == "__main__":  # Before the imports below, which take seconds.
    from tokenizers.process.command import begin

    begin()

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from fourm.any2any import Any2Any
from fourm.inputs.files import InputsAre
from fourm.inputs.folders import (
    LeftOut,
    Sources,
    digests_of,
    find_samples,
    read_sample,
    write_left_out,
)
from fourm.inputs.lines import LineFile
from fourm.inputs.options import as_given, given_to, with_inputs
from fourm.load_run import load
from fourm.model.saved_model import load_shape
from fourm.requests.outputs import as_npy, draw_map
from fourm.requests.scoring import TEMPLATES, classify, score_pairs, surprise, word_scores
from tokenizers.base import RawBatch
from tokenizers.process.command import make_visible, run_command
from tokenizers.storage.folders import fingerprint_together
from tokenizers.storage.pieces import digest_of
from tokenizers.storage.run_paths import LEFT_OUT, MODEL, TOKENIZERS
from tokenizers.storage.unfinished import write_file
from tokenizers.text.sentencepiece import Text

AT_ONCE = 64
"""Samples that are scored and written together."""
ODD = 10.0
"""Nats of surprise that are brightest in a map: a token that was given one chance in 22,000."""

Line = dict[str, Any]
Work = Callable[[dict[str, dict[str, Any]]], dict[str, Line]]
"""Returns what is found of samples, whose raw values by modality are given by key."""


@dataclass(frozen=True)
class Command:
    """Says how well values of one modality belong to others, sample by sample."""

    run: tyro.conf.Positional[Path]
    """Run directory, such as runs/scenes. It comes first: its modalities become options, one for
    each that can be given."""
    target: str
    """Modality that is scored, given the others. Of a text every word has a score, too; of a grid
    there is a map of how odd each place is."""
    classes: tuple[str, ...] = ()
    """Instead, which of these names fits each sample best, told by texts of the target modality;
    all are equally likely beforehand."""
    templates: tuple[str, ...] = TEMPLATES
    """Texts for a class, with {} in the place of its name, such as "a photo of a {}"."""
    match: int = 0
    """Instead, compare every sample with all values of the target, and list as many of the best."""
    drop: float = 0.0
    """Also write dropped.txt: the keys of the share of samples whose values fit least."""
    inputs_are: InputsAre = "auto"
    """What given files hold, as in fourm generate."""
    use: str = "last"
    """Which parameters: of the end of the training (last), of the checkpoint of the lowest held-out
    loss (best), or of that of a step."""
    seed: int = 0
    """Of the passes over grids."""
    out: Path | None = None
    """Folder for the results; RUN/scores by default."""


def score(arguments: Sequence[str]) -> Path:
    """Scores what is given and writes OUT/scores.jsonl; returns the folder.

    Raises:
        ValueError: In one sentence, if something that is given is not allowed.
    """
    names: tuple[str, ...] = ()
    if arguments and not arguments[0].startswith("-"):
        run = Path(arguments[0])
        names = (
            load_shape(run / MODEL)[1].names if (run / MODEL).is_dir() else load(run).space.names
        )
    taken = {entry.name for entry in dataclasses.fields(Command)}
    prog = "python -m fourm.score"
    command = tyro.cli(with_inputs(Command, names, taken), prog=prog, args=arguments)
    if not names:
        raise ValueError(f"The run directory comes first: {prog} {command.run}.")
    given = given_to(command, names)
    model = load(command.run, command.use)
    check(command, model, given)
    samples = find_samples(given, model.formats) or _listed(given, model)
    folder = command.out or command.run / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    score_samples(model, command, samples, folder)
    return folder


def check(command: Command, model: Any2Any, given: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError, in one sentence, if a command can't be followed."""
    target = command.target
    model.check_names([target])
    if not [name for name in given if name != target]:
        raise ValueError(
            f"Nothing is given that {target} could belong to; give another modality as well, such "
            f"as --{next(name for name in model.tokenizers if name != target)}."
        )
    if command.classes and command.match:
        raise ValueError("--classes and --match are both given; one thing is done at a time.")
    if not 0 <= command.drop < 1 or command.match < 0:
        raise ValueError(
            f"--drop is {command.drop} and --match {command.match}; a share below 1, and a number "
            "of at least 0 are allowed."
        )
    if command.drop and (command.classes or command.match):
        raise ValueError("--drop goes by scores of samples, without --classes and --match.")
    if command.classes:
        if not isinstance(model.tokenizers[target].values, Text):
            raise ValueError(
                f"--target is {target}, which is no text; classes are told by what is written of "
                "them."
            )
        if target in given:
            raise ValueError(f"--{target} is given, and --classes are to be told by it; leave one.")
    elif target not in given:
        raise ValueError(f"--{target} is not given; give what is to be scored.")


def _listed(given: Mapping[str, Sequence[str]], model: Any2Any) -> dict[str, Sources]:
    """Returns samples of values that are given one by one; a single one belongs to all."""
    count = max(map(len, given.values()))
    for name, words in given.items():
        if len(words) not in (1, count):
            raise ValueError(
                f"--{name} has {len(words)} values, but another input has {count}; give equally "
                "many, or one for all."
            )
    return {
        f"{number:03}": {
            name: as_given(words[number % len(words)], model.formats.get(name))
            for name, words in given.items()
        }
        for number in range(count)
    }


def score_samples(
    model: Any2Any, command: Command, samples: Mapping[str, Sources], folder: Path
) -> None:
    """Writes a line per sample, some at a time; those that are there already are not made again.

    Raises:
        ValueError: If no sample can be used.
    """
    reader = model.reader(
        command.inputs_are, lambda told: print(make_visible(told), file=sys.stderr)
    )
    digests = {key: digests_of(sources) for key, sources in samples.items()}
    notes: list[LeftOut] = []
    all_read: dict[str, dict[str, Any]] = {}
    if command.match:
        for key in samples:
            all_read[key] = _read(key, samples[key], reader, command, notes)
    lines = LineFile(folder / "scores.jsonl", describe(model, command, digests))
    work = work_of(model, command, all_read, folder)
    todo = [key for key in samples if lines.get(key, {}).get("inputs") != digests[key]]
    done = set(samples) - set(todo)
    with tqdm(total=len(samples), initial=len(done), desc="scored", unit="sample") as bar:
        for start in range(0, len(todo), AT_ONCE):
            chunk = todo[start : start + AT_ONCE]
            for key in chunk:
                if key not in all_read:
                    all_read[key] = _read(key, samples[key], reader, command, notes)
            found = {key: all_read.pop(key) for key in chunk}
            usable = {key: values for key, values in found.items() if values}
            if usable:
                made = work(usable)
                lines.add({key: {"inputs": digests[key], **made[key]} for key in usable})
            bar.update(len(chunk))
    write_left_out(folder, notes, done)
    known = {key: lines[key] for key in samples if key in lines}
    if not known:
        raise ValueError(f"Not one of {len(samples)} samples can be used: {notes[0].reason}")
    listed = f"; {folder / LEFT_OUT} lists {len(notes)} that were left out" if notes else ""
    print(make_visible(summary(command, known)))
    print(make_visible(f"Written to {lines.path}{listed}."))
    if command.drop:
        order = sorted(known, key=lambda key: known[key]["score"])
        dropped = sorted(order[: round(command.drop * len(order))])
        write_file(folder / "dropped.txt", "".join(f"{key}\n" for key in dropped).encode())
        print(make_visible(f"{folder / 'dropped.txt'} has the {len(dropped)} that fit least."))


def _read(
    key: str, sources: Sources, reader: Any, command: Command, notes: list[LeftOut]
) -> dict[str, Any]:
    """Returns what a sample has, nothing if that can't be scored; says what is left out."""
    seen, told = read_sample(key, sources, reader)
    notes += told
    needs_target = not command.classes
    if (needs_target and command.target not in seen.values) or not set(seen.values) - {
        command.target
    }:
        if not told:
            reason = f"it has no {command.target}, or nothing else"
            notes.append(LeftOut("unusable", "", key, "", reason))
        return {}
    return seen.values


def describe(
    model: Any2Any, command: Command, digests: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Returns what all lines of a file have in common; lines of anything else are made anew."""
    of: dict[str, Any] = {
        "run": {
            MODEL: digest_of(command.run / MODEL),
            TOKENIZERS: fingerprint_together(command.run / TOKENIZERS, model.space.names),
        },
        "use": command.use,
        "target": command.target,
        "inputs_are": command.inputs_are,
        "seed": command.seed,
    }
    if command.classes:
        of |= {"classes": list(command.classes), "templates": list(command.templates)}
    if command.match:  # What is found depends on all of them.
        of |= {
            "match": command.match,
            "samples": {key: dict(each) for key, each in digests.items()},
        }
    return of


def work_of(
    model: Any2Any, command: Command, all_read: Mapping[str, Mapping[str, Any]], folder: Path
) -> Work:
    """Returns what a command does with some samples."""
    target = command.target
    if command.classes:
        return lambda some: name_classes(model, command, some)
    if command.match:
        answers = {key: values[target] for key, values in all_read.items() if values}
        return lambda some: match(model, command, some, answers)
    return lambda some: score_each(model, command, some, folder)


def _columns(some: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, RawBatch]:
    """Returns values by modality, None where a sample lacks one."""
    there = [name for name in names if any(name in values for values in some.values())]
    return {name: [values.get(name) for values in some.values()] for name in there}


def _others(model: Any2Any, command: Command) -> list[str]:
    return [name for name in model.tokenizers if name != command.target]


def name_classes(
    model: Any2Any, command: Command, some: Mapping[str, Mapping[str, Any]]
) -> dict[str, Line]:
    """Returns the probability of each class, and the likeliest."""
    inputs = _columns(some, _others(model, command))
    found = classify(model, inputs, command.classes, command.target, command.templates)
    return {
        key: {
            "class": command.classes[int(row.argmax())],
            "probabilities": {name: float(p) for name, p in zip(command.classes, row, strict=True)},
        }
        for key, row in zip(some, found, strict=True)
    }


def match(
    model: Any2Any,
    command: Command,
    some: Mapping[str, Mapping[str, Any]],
    answers: Mapping[str, Any],
) -> dict[str, Line]:
    """Returns at which place, from 1, each sample finds its own answer, and the best answers."""
    inputs = _columns(some, _others(model, command))
    keys = list(answers)
    scores = score_pairs(model, inputs, {command.target: list(answers.values())}, seed=command.seed)
    found = {}
    for key, row in zip(some, scores, strict=True):
        own = row[keys.index(key)]
        # Of equals half are before it, as in `rank_pairs`.
        before = int((row > own).sum()) + int((row == own).sum()) // 2
        best = [
            {"key": keys[number], "score": float(row[number])}
            for number in np.argsort(-row, kind="stable")[: command.match]
        ]
        found[key] = {"place": 1 + before, "among": len(keys), "score": float(own), "best": best}
    return found


def score_each(
    model: Any2Any, command: Command, some: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Line]:
    """Returns the pointwise mutual information of each target and what else its sample has."""
    target, inputs = command.target, _columns(some, _others(model, command))
    values = _columns(some, [target])
    scored = model.log_likelihood(values, inputs, relative=True, num_draws=2, seed=command.seed)
    tokenizer = model.tokenizers[target]
    found: dict[str, Line] = {}
    for key, total, error in zip(some, scored.total, scored.error, strict=True):
        found[key] = {"score": float(total)} | ({"error": float(error)} if error else {})
    if isinstance(tokenizer.values, Text):
        for key, tokens in zip(some, scored.tokens, strict=True):
            words = word_scores(some[key][target], np.nan_to_num(tokens), tokenizer)
            found[key]["words"] = [[word, float(nats)] for word, nats in words]
    if model.space[target].kind == "grid" and len(tokenizer.token_shape) == 2:
        for key, cells in zip(some, surprise(model, values, inputs), strict=True):
            stem = folder / "maps" / key
            stem.parent.mkdir(parents=True, exist_ok=True)
            size = np.shape(some[key][target])[:2]
            rows, columns = (np.arange(n) * m // n for n, m in zip(size, cells.shape, strict=True))
            write_file(stem.with_name(f"{stem.name}.npy"), as_npy(cells.astype(np.float32)))
            picture = draw_map(cells[rows][:, columns], ODD)
            write_file(stem.with_name(f"{stem.name}.png"), picture)
            found[key] |= {"map": f"maps/{key}.npy", "surprise": float(np.nanmean(cells))}
    return found


def summary(command: Command, lines: Mapping[str, Line]) -> str:
    """Returns what was found of all samples, in a few words."""
    if command.classes:
        counts = Counter(line["class"] for line in lines.values())
        return ", ".join(f"{name}: {counts[name]}" for name in command.classes)
    if command.match:
        places = np.array([line["place"] for line in lines.values()])
        among = next(iter(lines.values()))["among"]
        found = (f"recall@{at} {(places <= at).mean():.3f}" for at in (1, 5, 10))
        chance = " / ".join(f"{min(at / among, 1):.3f}" for at in (1, 5, 10))
        return f"{', '.join(found)} of {len(places)} samples among {among} (chance {chance})"
    least = sorted(lines, key=lambda key: lines[key]["score"])[:5]
    told = ", ".join(f"{key} ({lines[key]['score']:.1f})" for key in least)
    return f"{len(lines)} samples of {command.target}; those that fit least, in nats: {told}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; see `run_command` for what it returns."""

    def work(arguments: list[str]) -> None:
        score(arguments)

    return run_command(work, arguments, again="the same command resumes it")


if __name__ == "__main__":
    sys.exit(main())

"""Modalities that have the same samples under other names: a_leftImg8bit and a_gtFine_labelIds."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

from configs.from_folder.places import Files
from configs.from_folder.words import SHARED, Affix, affixes_of

MOST_CHANNELS = 16
"""Modalities whose files' names end in a number, as nnU-Net numbers them."""
MOSTLY = 0.8


class Part(NamedTuple):
    """The files that are of one modality.

    Attributes:
        name: Of the modality.
        folder: Where they lie below the data set's folder, with `{split}` for the split's name.
        files: Key, and where it is.
        affix: What their names have before and after the key.
        extensions: What tells them from others there; empty where there are no others.
        skip: Patterns of files that are another one's.
        pattern: As `FileFormat.pattern`, if neither folder nor affix say it.
    """

    name: str
    folder: str
    files: Files
    affix: Affix = Affix()
    extensions: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    pattern: str = ""


def align(parts: Sequence[Part]) -> list[Part]:
    """Returns parts of which those that share no key with others are named as these are."""
    groups = _groups(parts)
    while best := _best_match(groups):
        first, second, own, other = best
        groups[first] = own + other
        del groups[second]
    joined = [part for group in groups for part in group]
    order = [(part.name, part.folder) for part in parts]
    joined.sort(key=lambda part: order.index((part.name, part.folder)))
    return [each for part in joined for each in _numbered(part, joined)]


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Returns parts in groups that share keys, directly or through others."""
    groups: list[tuple[list[Part], set[str]]] = []
    for part in parts:
        own, keys = [part], keys_of(part)
        apart = []
        for group, others in groups:
            if keys & others:
                own, keys = group + own, keys | others
            else:
                apart.append((group, others))
        groups = [*apart, (own, keys)]
    return [group for group, _ in groups]


def _best_match(
    groups: Sequence[list[Part]],
) -> tuple[int, int, list[Part], list[Part]] | None:
    """Returns the two groups that share most keys if their names are cut, and these groups so."""
    best, most = None, 0
    for first, second in combinations(range(len(groups)), 2):
        for own, other in product(strips(groups[first]), strips(groups[second])):
            keys, others = _all_keys(own), _all_keys(other)
            shared = len(keys & others)
            if shared > most and shared >= SHARED * min(len(keys), len(others)):
                best, most = (first, second, own, other), shared
    return best


def _all_keys(group: Sequence[Part]) -> set[str]:
    return set().union(*map(keys_of, group))


def parts_apart(parts: Sequence[Part]) -> list[Part]:
    """Returns the parts that share no sample with any other, if others do share some."""
    keys = [keys_of(part) for part in parts]
    apart = [
        part
        for part, own in zip(parts, keys, strict=True)
        if not any(own & other for other in keys if other is not own)
    ]
    return apart


def keys_of(part: Part) -> set[str]:
    """Returns the keys of a part's samples."""
    return {key for key, _ in part.files}


def strips(group: Sequence[Part]) -> list[list[Part]]:
    """Returns parts with what all of their keys begin or end with taken away, or not."""
    keys = sorted(_all_keys(group))
    if not keys or any(part.pattern for part in group):
        return [list(group)]
    found = [affix for affix in _affixes_with_numbers(keys[0]) if _has_all(keys, affix)]
    befores = ["", *(affix.before for affix in found if affix.before)]
    afters = ["", *(affix.after for affix in found if affix.after)]
    folders = {key.partition("/")[0] for key in keys}
    if len(folders) == 1 and all("/" in key for key in keys):
        befores.append(f"{folders.pop()}/")
    return [
        [_stripped(part, before, after) for part in group]
        for before, after in product(befores, afters)
    ]


def _affixes_with_numbers(key: str) -> list[Affix]:
    return [affix for affix in affixes_of(key) if not affix.after.startswith("/")]


def _has_all(keys: Sequence[str], affix: Affix) -> bool:
    if affix.after:
        return all(key.endswith(affix.after) and len(key) > len(affix.after) for key in keys)
    return all(key.rpartition("/")[2].startswith(affix.before) and "/" not in key for key in keys)


def _stripped(part: Part, before: str, after: str) -> Part:
    if not before and not after:
        return part
    files = [(key[len(before) : len(key) - len(after)], each) for key, each in part.files]
    if not all(key for key, _ in files):
        return part
    affix = Affix(part.affix.before + before, after + part.affix.after)
    return part._replace(files=files, affix=affix)


def _numbered(part: Part, parts: Sequence[Part]) -> list[Part]:
    """Returns a part as several if its names are those of another with numbers behind them."""
    if part not in parts_apart(parts) or len(parts) < 2 or part.pattern:
        return [part]
    by_number: dict[str, Files] = defaultdict(list)
    for key, each in part.files:
        match = re.fullmatch(r"(.+?)([_-]\d+)", key)
        if match is None:
            return [part]
        by_number[match[2]].append((match[1], each))
    others = set().union(*(keys_of(each) for each in parts if each is not part))
    own = {key for files in by_number.values() for key, _ in files}
    if len(by_number) > MOST_CHANNELS or len(own & others) < MOSTLY * len(own):
        return [part]
    return [
        part._replace(
            name=f"{part.name}{number.replace('-', '_')}",
            files=files,
            affix=part.affix._replace(after=number + part.affix.after),
        )
        for number, files in sorted(by_number.items())
    ]

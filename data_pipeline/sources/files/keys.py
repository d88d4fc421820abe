"""Whether the keys of modalities and tables fit together, and the likeliest reason if not."""

import os
from collections.abc import Collection, Mapping
from itertools import islice

LOOKED_AT = 2000
"""Keys that are compared in search of a reason."""


def check_keys_meet(keys: Mapping[str, Collection[str]]) -> None:
    """Checks that every modality has a sample in common with another one.

    Args:
        keys: By modality.

    Raises:
        ValueError: If one has none; the sentence gives the likeliest reason.
    """
    for name, own in keys.items():
        others = {other: each for other, each in keys.items() if other != name}
        if not others or any(not set(own).isdisjoint(each) for each in others.values()):
            continue
        reasons = {other: why_apart(own, each) for other, each in others.items()}
        other = next((each for each in others if reasons[each]), next(iter(others)))
        reason = f": {reasons[other]}" if reasons[other] else ""
        raise ValueError(
            f"The modality {name} shares no sample with any other: its keys look like "
            f"{next(iter(own))!r}, those of {other} like {next(iter(others[other]))!r}{reason}. "
            f"Rename the files, or set data.modalities.{name}.pattern or .extension."
        )


def why_apart(own: Collection[str], others: Collection[str]) -> str:
    """Returns why keys that should be the same are not; empty if there is no telling.

    Example:
        >>> why_apart(["1_depth", "2_depth"], ["1", "2"])
        "the first end in '_depth'"
    """
    own = list(islice(own, LOOKED_AT))
    others = list(islice(others, LOOKED_AT))
    there = set(others)
    changes = {
        "they differ in upper and lower case": str.casefold,
        "they differ in leading zeros": _without_zeros,
        "they differ in the extension": lambda key: os.path.splitext(key)[0],
        "they differ in the folders before the name": os.path.basename,
    }
    for reason, change in changes.items():
        if {change(key) for key in own} & {change(key) for key in others}:
            return reason
    for which, some, rest in (("first", own, there), ("others", others, set(own))):
        if reason := _what_is_added(some[0], rest):
            at_end, added = reason
            return f"the {which} {'end in' if at_end else 'begin with'} {added!r}"
    tails = _ending(own), _ending(others)
    if all(tails) and {key[: -len(tails[0])] for key in own} & {
        key[: -len(tails[1])] for key in others
    }:
        return f"the first end in {tails[0]!r}, the others in {tails[1]!r}"
    return ""


def _what_is_added(key: str, others: Collection[str]) -> tuple[bool, str] | None:
    """Returns what a key has more than one of the others: whether at its end, and what."""
    inside = [other for other in others if len(other) < len(key)]
    if longest := max((o for o in inside if key.startswith(o)), key=len, default=""):
        return True, key[len(longest) :]
    if longest := max((o for o in inside if key.endswith(o)), key=len, default=""):
        return False, key[: -len(longest)]
    return None


def _ending(keys: list[str]) -> str:
    """Returns what all keys end in, from a separator on."""
    common = keys[0]
    while common and not all(key.endswith(common) for key in keys):
        common = common[1:]
    starts = [index for index, letter in enumerate(common) if letter in "_-. "]
    return common[starts[0] :] if starts and len(keys) > 1 else ""


def _without_zeros(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.lstrip('0') or '0'}"

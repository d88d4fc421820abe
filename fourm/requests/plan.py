"""What is generated, and how, on one line: "boxes -> rgb[scheme=halton, guidance=3]".

Targets follow each other by arrows, each of which becomes a condition of those after it; settings
that are not those of the run stand in brackets, as they are named in `GenerationConfig`.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from fourm.inference.settings import GenerationConfig
from fourm.requests.known_tokens import is_whole
from fourm.token_space import TokenSpace
from tokenizers.settings.plain import from_plain, to_plain

STEP = re.compile(r"\s*([^\[\]\s]+)\s*(?:\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\])?\s*$")
"""A target, and its settings in brackets, in which lists have brackets, too."""


def read_plan(
    text: str, defaults: Mapping[str, GenerationConfig]
) -> tuple[list[str], dict[str, GenerationConfig]]:
    """Returns the targets of a plan in their order, and the settings of those that have some.

    Args:
        text: The plan.
        defaults: By target, what holds where the plan says nothing.

    Raises:
        ValueError: If it is no plan, a target comes twice, or a setting is not known or allowed.

    Example:
        >>> targets, settings = read_plan("boxes -> rgb[num-steps=16, guidance=3]", {})
        >>> targets, settings["rgb"].num_steps
        (['boxes', 'rgb'], 16)
    """
    targets, settings = [], {}
    for part in _split_outside(text, "->"):
        match = STEP.match(part)
        if match is None:
            raise ValueError(
                f"{text!r} is no plan; write it like boxes -> rgb[scheme=halton, guidance=3]."
            )
        name, given = match[1], match[2]
        if name in targets:
            raise ValueError(f"{name} is named twice as a target; name it once.")
        targets.append(name)
        if given is not None:
            default = defaults.get(name, GenerationConfig())
            settings[name] = _with(default, given, name)
    return targets, settings


def as_targets(
    given: Any,
    settings: GenerationConfig | Mapping[str, Any] | None,
    defaults: Mapping[str, GenerationConfig],
    names: Sequence[str],
) -> tuple[list[str], GenerationConfig | Mapping[str, Any] | None]:
    """Returns targets, and the settings with those of a plan.

    Args:
        given: Targets, one of them, or a plan, which may be a list of its steps.
        settings: For all targets, by target, or none.
        defaults: What holds for a target without any.
        names: Of all modalities.

    Raises:
        ValueError: If there is no target, one comes twice, a plan is none, or settings are none.
    """
    if settings is not None and not isinstance(settings, GenerationConfig | Mapping):
        raise ValueError(
            f"settings is a {type(settings).__name__}; give a GenerationConfig, or one by target."
        )
    targets = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wrong = [target for target in targets if not isinstance(target, str)]
    if wrong or not targets:
        told = f"{wrong[0]!r} is no target" if wrong else "No target was given"
        raise ValueError(f"{told}; choose from {', '.join(names)}.")
    if all(target in names for target in targets):
        twice = [name for name in targets if targets.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice as a target; name it once.")
        return targets, settings
    is_one = isinstance(settings, GenerationConfig)
    by_target = dict.fromkeys(names, settings) if is_one else {**defaults, **(settings or {})}
    targets, own = read_plan(" -> ".join(targets), by_target)
    if not own:
        return targets, settings
    return targets, by_target | own


def chain_of(
    targets: Sequence[str],
    given: Mapping[str, np.ndarray],
    shown: Set[str],
    settings_of: Callable[[str], GenerationConfig],
    space: TokenSpace,
) -> dict[str, GenerationConfig]:
    """Returns all that is generated, in its order, and how: each after what it goes by way of.

    What only some samples have is generated, too: what has all of its tokens keeps them.

    Args:
        targets: In their order.
        given: Tokens that are known, by modality.
        shown: Modalities that a condition shows, which can't be generated besides.
        settings_of: Returns how a modality is generated.
        space: Of the model.

    Raises:
        ValueError: If the model lacks a modality that another goes by way of.
    """
    chain: dict[str, GenerationConfig] = {}
    for name in targets:
        own = settings_of(name)
        for step in own.via:
            if step not in space.names:
                told = f"{', '.join(space.names)}; {name} goes by way of others (via)"
                raise ValueError(f"There is no modality {step!r} in this run; it has {told}.")
            is_there = step in given and is_whole(given[step], space[step])
            if not is_there and step not in {*shown, *targets, *chain}:
                chain[step] = settings_of(step)
        chain[name] = own
    return chain


def _split_outside(text: str, separator: str) -> list[str]:
    """Splits a text at a separator, but not within brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth == 0 and text.startswith(separator, place):
            parts.append(text[start:place])
            start = place + len(separator)
    return [*parts, text[start:]]


def _with(default: GenerationConfig, given: str, name: str) -> GenerationConfig:
    """Returns settings with those of a plan's brackets."""
    if not isinstance(default, GenerationConfig):
        raise ValueError(
            f"settings[{name!r}] is a {type(default).__name__}; it must be a GenerationConfig."
        )
    changed: dict[str, Any] = to_plain(default)
    told: set[str] = set()
    for part in _split_outside(given, ","):
        if not part.strip():
            continue
        field, found, value = (piece.strip() for piece in part.partition("="))
        field = field.replace("-", "_")
        if not found:
            raise ValueError(f"{part.strip()!r} of {name} is no setting; write NAME=VALUE.")
        known = [each.name for each in dataclasses.fields(GenerationConfig)]
        if field not in known:
            raise ValueError(
                f"There is no setting {field!r} for {name}; there are {', '.join(known)}."
            )
        if field in told:
            raise ValueError(f"{field} of {name} is set twice; set it once.")
        told.add(field)
        changed[field] = _as_kind(_read(value), changed[field])
    try:
        return from_plain(changed, GenerationConfig)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _read(value: str) -> Any:
    """Returns a value as JSON says it; otherwise it is a text."""
    try:
        return json.loads(value)
    except ValueError:
        if value.startswith("[") and value.endswith("]"):
            return [part.strip() for part in value[1:-1].split(",") if part.strip()]
        return value


def _as_kind(value: Any, like: Any) -> Any:
    """Returns whole numbers as real ones where real ones stand."""
    if isinstance(like, list) and isinstance(value, list) and like:
        return [_as_kind(each, like[0]) for each in value]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if isinstance(like, float) and is_whole else value


def write_plan(
    targets: Sequence[str],
    settings: Mapping[str, GenerationConfig],
    defaults: Mapping[str, GenerationConfig],
) -> str:
    """Returns the line that `read_plan` reads as these targets and settings.

    Args:
        targets: In their order.
        settings: By target.
        defaults: By target, what need not be said.

    Example:
        >>> write_plan(["boxes", "rgb"], {"rgb": GenerationConfig(num_steps=16)}, {})
        'boxes -> rgb[num_steps=16]'
    """
    steps = []
    for name in targets:
        default = to_plain(defaults.get(name, GenerationConfig()))
        own = to_plain(settings.get(name, defaults.get(name, GenerationConfig())))
        told = [f"{key}={_write(value)}" for key, value in own.items() if value != default[key]]
        steps.append(f"{name}[{', '.join(told)}]" if told else name)
    return " -> ".join(steps)


def _write(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)

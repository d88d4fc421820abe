"""Configurations as what JSON can hold, and back."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints


def to_plain(value: Any) -> Any:
    """Returns a configuration as what JSON can hold; dataclasses name their class."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {key: to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinities.
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"A configuration can't hold {value!r} of type {type(value).__name__}.")


def from_plain(plain: Any, kind: type) -> Any:
    """Returns the configuration that `to_plain` wrote down.

    Args:
        plain: What `to_plain` returned, by way of JSON or not.
        kind: Its class, or one that it is a part of.

    Raises:
        ValueError: If it names a class or a knob that this version does not have, such as a data
            source that a user's own file defines.
    """
    if isinstance(plain, list):
        return tuple(from_plain(entry, kind) for entry in plain)
    if not isinstance(plain, dict):
        return plain
    values = {name: from_plain(value, kind) for name, value in plain.items() if name != "class"}
    if "class" not in plain:
        return values
    known = {cls.__name__: cls for cls in _dataclasses_in(kind, set())}
    if plain["class"] not in known:
        raise ValueError(f"There is no configuration class {plain['class']!r} in this version.")
    cls = known[plain["class"]]
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - {entry.name for entry in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"{cls.__name__} has no knob {unknown[0]!r} in this version.")
    return cls(
        **{
            # JSON has no infinities: they were written as text.
            name: float(value) if hints[name] is float else value
            for name, value in values.items()
        }
    )


def differing_knobs(old: Any, new: Any, path: str = "") -> list[str]:
    """Returns the dotted names of the values in which two plain configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [
            knob
            for name in names
            for knob in differing_knobs(
                old.get(name), new.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if json.dumps(old) == json.dumps(new) else [path]


def _dataclasses_in(hint: Any, found: set[type]) -> set[type]:
    """Collects the dataclasses that a type is made of, whatever they are wrapped in."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in found:
        found.add(hint)
        for cls in hint.__subclasses__():
            _dataclasses_in(cls, found)
        for inner in get_type_hints(hint).values():
            _dataclasses_in(inner, found)
    for inner in get_args(hint):
        _dataclasses_in(inner, found)
    return found

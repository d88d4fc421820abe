"""Configurations as what JSON can hold, and back; also those that earlier versions wrote.

What is stored outlives the version that wrote it. A field that came later has its default there,
and a class whose fields were renamed says so in a static method:

    def from_earlier(stored: dict[str, Any]) -> dict[str, Any]

It returns fields as they were stored, by the names and with the values that they have now. A
class with a field that came later, and whose default changes what is computed, says what holds
where nothing is stored:

    EARLIER_DEFAULTS: ClassVar[dict[str, Any]]

A class that a file of the user's own defines is stored with the name of that file, under "from",
and found again as `tokenizers.settings.own_code` says.
"""

import ast
import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from tokenizers.settings.checked import allowed_value, checked_fields
from tokenizers.settings.own_code import file_of, find_class

Classes = Mapping[str, type]
"""Dataclasses by the name under which they are stored."""
NAMES = ("class", "from")
"""Under which a class and its file are stored. They are words of Python, which no field can be."""


def to_plain(value: Any) -> Any:
    """Returns a configuration as what JSON can hold; dataclasses name their class."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**_named(type(value)), **fields}
    if isinstance(value, dict):
        return {_to_key(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinities.
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"A configuration can't hold {value!r} of type {type(value).__name__}.")


def to_part(value: Any) -> dict[str, Any]:
    """Returns a part of a description, whose reader knows its class unless it is the user's own."""
    return to_plain(value) if file_of(type(value)) else dataclasses.asdict(value)


def _to_key(key: Any) -> str:
    """Returns a key as text, which is all that JSON has: numbers, and tuples of them, too."""
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _from_key(key: Any, hint: Any) -> Any:
    if not isinstance(key, str) or (hint not in (int, float) and get_origin(hint) is not tuple):
        return key
    if get_origin(hint) is not tuple:
        return hint(key)
    return tuple(
        _from_key(part, inner) for part, inner in zip(key.split(" "), get_args(hint), strict=True)
    )


def from_plain(plain: Any, kind: Any) -> Any:
    """Returns the configuration that `to_plain`, or `dataclasses.asdict`, wrote down.

    Args:
        plain: What was written, by way of JSON or not.
        kind: Its type.

    Raises:
        ValueError: If it names a class or a field that this version does not have, such as a data
            source that a user's own file defines; or if a class does not allow a value, or it is
            of another type.
    """
    return allowed_value(kind, part_from_plain(plain, kind), getattr(kind, "__name__", str(kind)))


def part_from_plain(plain: Any, whole: Any) -> Any:
    """Returns a part of a configuration, as `to_plain` wrote it, given the type of the whole.

    Raises:
        ValueError: As `from_plain`, but for the type of what comes out.
    """
    return _read(plain, whole, classes_of(whole))


def up_to_date(plain: Any, classes: Classes) -> Any:
    """Returns what `to_plain` wrote in an earlier version as this version would have written it.

    Fields that came later are added with their defaults, and renamed ones have their new names.
    Nothing is checked: what this version does not know stays as it is.
    """
    if isinstance(plain, list | tuple):
        return [up_to_date(entry, classes) for entry in plain]
    if not isinstance(plain, dict):
        return plain
    cls = classes.get(plain["class"]) if isinstance(plain.get("class"), str) else None
    if cls is None:
        return {name: up_to_date(value, classes) for name, value in plain.items()}
    stored = _from_earlier(cls, {name: v for name, v in plain.items() if name not in NAMES})
    filled = {name: to_plain(value) for name, value in _defaults(cls).items()} | stored
    order = [entry.name for entry in dataclasses.fields(cls) if entry.name in filled]
    return {
        **_named(cls),
        **{name: up_to_date(filled[name], classes) for name in dict.fromkeys([*order, *filled])},
    }


def with_earlier_defaults(config: Any, stored: Any) -> Any:
    """Returns a configuration in which fields that came later are as an earlier version had them.

    Those are fields that have the default of today, whose class has an earlier default of them,
    and of which that or nothing is stored. All others stay.

    Args:
        config: Of this version.
        stored: What `to_plain` wrote of a configuration of its kind, in this version or before.
    """
    if not isinstance(stored, dict):
        return config
    if isinstance(config, dict):
        return {name: with_earlier_defaults(v, stored.get(name)) for name, v in config.items()}
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    fields, defaults = {}, _defaults(type(config))
    earlier = getattr(type(config), "EARLIER_DEFAULTS", {})
    for entry in dataclasses.fields(config):
        value = fields[entry.name] = getattr(config, entry.name)
        before = stored.get(entry.name)
        if entry.name not in earlier:
            fields[entry.name] = with_earlier_defaults(value, before)
        elif value == defaults[entry.name] and before in (None, earlier[entry.name]):
            fields[entry.name] = earlier[entry.name]
    return dataclasses.replace(config, **fields)


def classes_of(*configurations: Any) -> dict[str, type]:
    """Returns the dataclasses, by name, that types or objects are made of, however wrapped."""
    found: set[type] = set()
    for each in configurations:
        _collect_types(each, found)
        _collect_types_of(each, found)
    return {cls.__name__: cls for cls in found}


def from_repr(text: Any) -> Any:
    """Returns what `to_plain` writes of a configuration that was stored as Python shows it.

    Anything but such a text is returned as it is. Nothing in it is run.
    """
    try:
        call = ast.parse(text, mode="eval").body if isinstance(text, str) else None
        return _plain_of_syntax(call) if isinstance(call, ast.Call) else text
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


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


def _read(plain: Any, hint: Any, classes: Classes) -> Any:
    """Returns plain values as a type has them; without any type, lists are tuples."""
    options = _options(hint)
    if isinstance(plain, Mapping):
        mapping = next((o for o in options if _is_mapping(o)), None)
        written = [o for o in options if dataclasses.is_dataclass(o)]
        if isinstance(plain.get("class"), str) and mapping is None:
            cls = _class_of(plain, classes)
            return _make(cls, {k: v for k, v in plain.items() if k not in NAMES}, classes)
        if len(written) == 1:
            return _make(written[0], plain, classes)
        of = get_args(mapping) if mapping is not None and get_args(mapping) else (Any, Any)
        return {
            _from_key(name, of[0]): _read(value, of[1], classes) for name, value in plain.items()
        }
    if isinstance(plain, list | tuple):
        for option in options:
            if isinstance(option, type) and hasattr(option, "_fields"):
                return option(*plain)  # A named tuple.
        inner = next((get_args(o) for o in options if get_origin(o) is tuple), ())
        if len(inner) == len(plain) and Ellipsis not in inner:
            return tuple(_read(each, of, classes) for each, of in zip(plain, inner, strict=True))
        # A part of a larger configuration may be a list whose entries name their classes.
        return tuple(_read(each, inner[0] if inner else hint, classes) for each in plain)
    if isinstance(plain, str) and float in options and str not in options:
        return float(plain)  # JSON has no infinities: they were written as text.
    if isinstance(plain, str) and Path in options and str not in options:
        return Path(plain)
    return plain


def _class_of(plain: Mapping[str, Any], classes: Classes) -> type:
    """Returns the class that a stored configuration names."""
    name, file = plain["class"], plain.get("from")
    if name in classes and file is None:
        return classes[name]
    if not isinstance(file, str):
        raise ValueError(f"There is no configuration class {name!r} in this version.")
    cls = find_class(name, file)
    if not dataclasses.is_dataclass(cls):
        raise ValueError(f"{name} of {file} is no dataclass, and so no part of a configuration.")
    return cls


def _named(cls: type) -> dict[str, str]:
    file = file_of(cls)
    return {"class": cls.__name__, "from": file} if file else {"class": cls.__name__}


def _plain_of_syntax(node: ast.expr) -> Any:
    """Returns plain values of a call of a class, and of the literals that it is given."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id.endswith("Path") and len(node.args) == 1:
            return _plain_of_syntax(node.args[0])
        fields = {each.arg: _plain_of_syntax(each.value) for each in node.keywords if each.arg}
        if node.args or len(fields) < len(node.keywords):
            raise ValueError("A configuration is shown with the names of its fields.")
        return {"class": node.func.id, **fields}
    if isinstance(node, ast.Tuple | ast.List):
        return [_plain_of_syntax(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_plain_of_syntax, node.values), strict=True))
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return node.id
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Name):
        return f"-{_plain_of_syntax(node.operand)}"
    return to_plain(ast.literal_eval(node))


def _make(cls: type, stored: Mapping[str, Any], classes: Classes) -> Any:
    fields = _from_earlier(cls, dict(stored))
    hints = get_type_hints(cls, include_extras=True)
    unknown = sorted(set(fields) - {entry.name for entry in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"{cls.__name__} has no knob {unknown[0]!r} in this version.")
    read = {name: _read(value, hints[name], classes) for name, value in fields.items()}
    return cls(**checked_fields(cls, read))


def _from_earlier(cls: type, stored: dict[str, Any]) -> dict[str, Any]:
    upgrade = getattr(cls, "from_earlier", None)
    fields = stored if upgrade is None else upgrade(stored)
    return {**getattr(cls, "EARLIER_DEFAULTS", {}), **fields}


def _defaults(cls: type) -> dict[str, Any]:
    """Returns the defaults of the fields that have one."""
    defaults = {}
    for entry in dataclasses.fields(cls):
        if entry.default is not dataclasses.MISSING:
            defaults[entry.name] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            defaults[entry.name] = entry.default_factory()
    return defaults


def _options(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a type stands for, if it is a union, or one with an annotation."""
    if get_origin(hint) is Annotated:
        return _options(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(option for inner in get_args(hint) for option in _options(inner))
    return (hint,)


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _collect_types(hint: Any, found: set[type]) -> None:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in found:
        found.add(hint)
        for inner in (*hint.__subclasses__(), *get_type_hints(hint).values()):
            _collect_types(inner, found)
    for inner in get_args(hint):
        _collect_types(inner, found)


def _collect_types_of(value: Any, found: set[type]) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _collect_types(type(value), found)
        value = [getattr(value, entry.name) for entry in dataclasses.fields(value)]
    if isinstance(value, list | tuple | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            _collect_types_of(each, found)

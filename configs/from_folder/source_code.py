"""A configuration as the Python file that a person would write."""

import dataclasses
from typing import Any

import configs
from configs.schema import RunConfig
from tokenizers.modality import Modality

WIDTH = 100
"""Longest line, in characters."""
INDENT = "    "


def to_source(config: RunConfig, title: str) -> str:
    """Returns a Python file whose `config` is this one; what has its default is left out.

    Args:
        config: Made of what `configs` exports.
        title: The file's first line.

    Raises:
        ValueError: If a part is of a class that `configs` does not export.
    """
    names: set[str] = set()
    body = _write(config, names, 0, len("config = "))
    imports = "".join(f"{INDENT}{name},\n" for name in sorted(names))
    return f'"""{title}"""\n\nfrom configs import (\n{imports})\n\nconfig = {body}\n'


def _write(value: Any, names: set[str], depth: int, before: int) -> str:
    """Returns an expression; `before` characters stand on its first line already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _write_object(value, names, depth, before)
    if isinstance(value, dict):
        return _join(
            "{",
            [(f"{_literal(key)}: ", each) for key, each in value.items()],
            "}",
            names,
            depth,
            before,
        )
    if isinstance(value, tuple):
        whole = "(" + ", ".join(_write(each, names, depth, 0) for each in value)
        whole += ",)" if len(value) == 1 else ")"
        if len(whole) + before + len(INDENT) * depth <= WIDTH and "\n" not in whole:
            return whole
        return _join("(", [("", each) for each in value], ")", names, depth, before)
    return _literal(value)


def _literal(value: Any) -> str:
    """Returns a number, or a text in double quotes, as ruff writes it."""
    written = repr(value)
    is_plain = isinstance(value, str) and written.startswith("'") and '"' not in written
    return f'"{written[1:-1]}"' if is_plain else written


def _write_object(value: Any, names: set[str], depth: int, before: int) -> str:
    kind = type(value).__name__
    if getattr(configs, kind, None) is not type(value):
        raise ValueError(f"{kind} is none of the classes that configurations import from configs.")
    names.add(kind)
    # One argument that says most stands without its name.
    given = [(f"{each.name}=", getattr(value, each.name)) for each in _given(value)]
    if isinstance(value, Modality) and given:
        given[0] = ("", given[0][1])
    return _join(f"{kind}(", given, ")", names, depth, before)


def _given(value: Any) -> list[dataclasses.Field]:
    """Returns the fields that differ from what they are if nothing is given."""
    usual: dict[str, Any] = {}
    for each in dataclasses.fields(value):
        if each.default is not dataclasses.MISSING:
            usual[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            usual[each.name] = each.default_factory()
    if isinstance(value, Modality):  # Its tokenizer is the usual one of its values.
        usual["tokenizer"] = Modality(value.values).tokenizer
    return [
        each
        for each in dataclasses.fields(value)
        if each.name not in usual or getattr(value, each.name) != usual[each.name]
    ]


def _join(
    start: str, parts: list[tuple[str, Any]], end: str, names: set[str], depth: int, before: int
) -> str:
    written = [label + _write(each, names, depth, 0) for label, each in parts]
    line = start + ", ".join(written) + end
    if len(line) + before + len(INDENT) * depth <= WIDTH and "\n" not in line:
        return line
    inner = INDENT * (depth + 1)
    lines = [
        f"{inner}{label}{_write(each, names, depth + 1, len(label) + 1)},\n"
        for label, each in parts
    ]
    return f"{start}\n{''.join(lines)}{INDENT * depth}{end}"

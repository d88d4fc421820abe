"""Configuration classes that check themselves: what is made is what its fields allow."""

import contextlib
import contextvars
import dataclasses
import difflib
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from tokenizers.settings.own_code import is_own


class Checked:
    """Base of configuration dataclasses, whose values are checked where an object is made.

    A word that is none of a `Literal`'s, a string where several are wanted, a truth value where a
    number is: each is refused by the name of its field. Lists become tuples. What the types can't
    say, such as ranges, a class checks in `check_knobs`.
    """

    def __post_init__(self) -> None:
        """Raises ValueError, in one sentence, for a value that its field does not allow."""
        for name, hint in _hints(type(self)).items():
            given = getattr(self, name)
            value = allowed_value(hint, given, f"{type(self).__name__}.{name}")
            if value is not given:
                object.__setattr__(self, name, value)  # The usual way into a frozen dataclass.
        if not _LATER.get():
            self.check_knobs(type(self).__name__)

    def check_knobs(self, knob: str) -> None:
        """Raises ValueError, in one sentence, for values that the types can't exclude.

        Parts that are configurations themselves have been checked before.

        Args:
            knob: Where this configuration is set, for `name_knob`: "TrainingConfig" where an object
                is made, "--training" on a command line.
        """


_LATER = contextvars.ContextVar("_LATER", default=False)


@contextlib.contextmanager
def checked_later() -> Iterator[None]:
    """Leaves out `check_knobs` where objects are made; `check_all` must follow.

    A command line makes objects before it is known by which knobs they were set.
    """
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def check_all(value: Any, knob: str = "-") -> None:
    """Checks a configuration and all its parts, each by the knob that sets it, parts first.

    Args:
        value: The configuration; what is none passes.
        knob: Where it is set, see `name_knob`.

    Raises:
        ValueError: In one sentence.
    """
    if dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            check_all(getattr(value, entry.name), name_knob(knob, entry.name))
        if isinstance(value, Checked):
            value.check_knobs(knob)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            check_all(each, f"{knob}.{name}")
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            check_all(each, f"{knob}.{number}")


def name_knob(knob: str, field: str) -> str:
    """Returns how a field is set where `knob` is, as it is typed.

    Example:
        >>> name_knob("-", "run_dir"), name_knob("--training", "batch_size")
        ('--run-dir', '--training.batch-size')
        >>> name_knob("TrainingConfig", "batch_size")
        'TrainingConfig.batch_size'
    """
    if not knob.startswith("-"):
        return f"{knob}.{field}"
    return f"{knob}{'-' if knob == '-' else '.'}{field.replace('_', '-')}"


def allowed_value(hint: Any, value: Any, name: str) -> Any:
    """Returns a value as a type has it: as it is, but lists where tuples are wanted as tuples.

    Args:
        hint: Any type that a configuration uses; those that can't be checked allow everything.
        value: What was given.
        name: Of the field, for messages.

    Raises:
        ValueError: In one sentence, if the type does not allow the value.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return allowed_value(inner[0], value, name)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, name)
    if origin is Literal:
        if not any(type(value) is type(word) and value == word for word in inner):
            raise ValueError(unknown_word(name, value, inner))
        return value
    if origin is tuple or hint is tuple:
        return _tuple(inner, value, name)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(name, value, "a dictionary")
        entries = {
            allowed_value(inner[0], key, f"a key of {name}"): allowed_value(
                inner[1], entry, f"{name}[{key!r}]"
            )
            for key, entry in value.items()
        }
        unchanged = all(entries[key] is entry for key, entry in value.items())
        return value if unchanged else entries
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise _wrong(name, value, "a list")
        entries = [allowed_value(inner[0], e, f"{name}[{i}]") for i, e in enumerate(value)]
        unchanged = all(new is old for new, old in zip(entries, value, strict=True))
        return value if unchanged else tuple(entries)
    return _single(hint, value, name)


def checked_fields(cls: type, values: Any) -> dict[str, Any]:
    """Returns what was read for a dataclass, checked before an object is made of it.

    Args:
        cls: The dataclass.
        values: By field; fields that are missing have their defaults.

    Raises:
        ValueError: In one sentence, if a value is not allowed, or no field has its name.
    """
    if not isinstance(values, Mapping):
        raise _wrong(cls.__name__, values, "a dictionary")
    hints = _hints(cls)
    if unknown := [name for name in values if name not in hints]:
        raise ValueError(unknown_word(f"a field of {cls.__name__}", unknown[0], [*hints]))
    return {
        name: allowed_value(hints[name], value, f"{cls.__name__}.{name}")
        for name, value in values.items()
    }


def unknown_word(name: str, given: Any, allowed: Sequence[Any]) -> str:
    """Returns the sentence for a word that is none of those allowed, with the nearest of them."""
    words = [str(word) for word in allowed]
    near = difflib.get_close_matches(str(given), words, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Allowed" if near else "allowed"
    return f"{name} is {given!r}; {hint} is {' or '.join(', '.join(words).rsplit(', ', 1))}."


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(cls)}  # type: ignore


def _one_of(hints: Sequence[Any], value: Any, name: str) -> Any:
    if value is None and type(None) in hints:
        return None
    errors = []
    for hint in hints:
        if hint is type(None):
            continue
        try:
            return allowed_value(hint, value, name)
        except ValueError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    # A user's own kind, such as a source of data that a configuration file defines, stands where
    # one of several classes may, if it has what the contract asks for that is named last.
    if is_own(type(value)) and dataclasses.is_dataclass(hints[0]):
        if getattr(hints[-1], "_is_protocol", False):
            raise errors[-1]
        return value
    names = [getattr(hint, "__name__", str(hint)) for hint in hints]
    raise _wrong(name, value, f"one of {', '.join(names)}")


def _tuple(hints: Sequence[Any], value: Any, name: str) -> tuple:
    if not isinstance(value, tuple | list):
        raise _wrong(name, value, "a tuple, such as (...,)")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = [hints[0]] * len(value)
    elif hints and len(hints) != len(value):
        raise _wrong(name, value, f"a tuple of {len(hints)}")
    if not hints:
        return tuple(value)
    entries = tuple(
        allowed_value(hint, entry, f"{name}[{index}]")
        for index, (hint, entry) in enumerate(zip(hints, value, strict=True))
    )
    unchanged = all(new is old for new, old in zip(entries, value, strict=True))
    return value if unchanged and isinstance(value, tuple) else entries


KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool | np.bool_, "True or False"),
    int: (int | np.integer, "a whole number"),
    float: (int | float | np.integer | np.floating, "a number"),
    str: (str, "a text"),
}


def _single(hint: Any, value: Any, name: str) -> Any:
    """Checks numbers, texts, paths and objects of a class."""
    if hint in KINDS:
        kinds, wanted = KINDS[hint]
        is_truth = isinstance(value, bool | np.bool_)
        if not isinstance(value, kinds) or (is_truth and hint is not bool):
            raise _wrong(name, value, wanted)
        # Numbers of numpy would not be written down with a run.
        return value.item() if isinstance(value, np.generic) else value
    elif isinstance(hint, type) and issubclass(hint, PurePath):
        if not isinstance(value, str | PurePath):
            raise _wrong(name, value, "a path")
    elif isinstance(hint, type) and hint not in (object, Any):
        if getattr(hint, "_is_protocol", False):
            _meets(hint, value, name)
        elif not isinstance(value, hint):
            raise _wrong(name, value, f"of the class {hint.__name__}")
    elif get_origin(hint) is Callable and not callable(value):
        raise _wrong(name, value, "a function")
    return value


def _meets(contract: type, value: Any, name: str) -> None:
    """Raises ValueError if an object lacks a part of a contract, and names what it lacks."""
    parts = (*vars(contract), *vars(contract).get("__annotations__", ()))
    lacks = [part for part in parts if not part.startswith("_") and not hasattr(value, part)]
    if lacks:
        kind = type(value).__name__
        raise ValueError(
            f"{name} is of the class {kind}, which lacks {', '.join(lacks)}; it must meet "
            f"{contract.__name__} of {contract.__module__}."
        )


def _wrong(name: str, value: Any, wanted: str) -> ValueError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return ValueError(f"{name} is {shown}; it must be {wanted}.")

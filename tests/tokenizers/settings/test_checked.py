import dataclasses
import functools
import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from tokenizers.settings.checked import Checked
from tokenizers.settings.own_code import OURS


@dataclass(frozen=True)
class Part(Checked):
    kind: Literal["cosine", "linear"] = "cosine"


@dataclass(frozen=True)
class OtherPart(Checked):
    width: int = 1


@dataclass(frozen=True)
class Whole(Checked):
    names: tuple[str, ...] = ()
    scale: tuple[float, float] = (0.5, 1.0)
    rate: float = 0.1
    count: int | None = None
    on: bool = False
    kinds: dict[str, Literal["a", "b"]] = field(default_factory=dict)
    part: Part = Part()
    either: Part | OtherPart = Part()
    nested: Annotated[tuple[tuple[str, int], ...], "meta"] = ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": "red"}, "Whole.names is 'red'; it must be a tuple"),
        ({"names": ("red", 1)}, r"Whole.names\[1\] is 1; it must be a text"),
        ({"scale": (0.5,)}, "a tuple of 2"),
        ({"rate": "0.1"}, "Whole.rate is '0.1'; it must be a number"),
        ({"rate": True}, "must be a number"),
        ({"count": 1.5}, "Whole.count is 1.5; it must be a whole number"),
        ({"on": "yes"}, "True or False"),
        ({"on": 1}, "True or False"),
        ({"kinds": {"x": "c"}}, r"Whole.kinds\['x'\] is 'c'; allowed is a or b"),
        ({"kinds": {1: "a"}}, "a key of Whole.kinds is 1; it must be a text"),
        ({"kinds": "a"}, "a dictionary"),
        ({"part": {"kind": "cosine"}}, "of the class Part"),
        ({"part": OtherPart()}, "of the class Part"),
        ({"either": "cosine"}, "one of Part, OtherPart"),
        ({"nested": (("a", "b"),)}, "whole number"),
        ({"names": None}, "Whole.names is None"),
    ],
)
def test_what_a_field_does_not_allow_is_refused_by_its_name(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Whole(**given)
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(Whole(), **given)


def test_a_misspelt_word_is_answered_by_the_nearest():
    with pytest.raises(ValueError, match=r"Part.kind is 'cosin'; did you mean 'cosine'"):
        Part(kind="cosin")  # type: ignore


def test_lists_become_tuples_and_numbers_plain_ones():
    whole = Whole(names=["a"], rate=np.float32(0.5), count=np.int64(3), nested=[["a", 1]])  # type: ignore
    assert (whole.names, whole.nested) == (("a",), (("a", 1),))
    assert (type(whole.rate), type(whole.count)) == (float, int)
    assert Whole(rate=1).rate == 1  # a whole number is a number


def test_a_kind_of_a_users_own_stands_where_one_of_several_may():
    OwnKind = dataclasses.make_dataclass("OwnKind", ["path"], namespace={"__module__": "mine"})
    assert Whole(either=OwnKind("x")).either.path == "x"


@functools.cache
def configuration_classes() -> tuple[type, ...]:
    """All classes that check themselves, found by importing every module."""
    for package in map(importlib.import_module, OURS):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, rest = [], [Checked]
    while rest:
        cls = rest.pop()
        rest += cls.__subclasses__()
        is_library = cls.__module__.partition(".")[0] in OURS
        if dataclasses.is_dataclass(cls) and is_library:
            found.append(cls)
    return tuple(sorted(set(found), key=lambda cls: cls.__name__))


def wrong_values(hint: Any) -> list[Any]:
    """Values that a type does not allow, as users give them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return wrong_values(inner[0])
    if origin is Literal:
        return [f"{inner[0]}x", 7]
    if origin is tuple:
        return ["rgb", 7]
    if origin is dict:
        return ["rgb", ("rgb",), {7.5: 1}]
    return {
        int: ["3", 1.5, True],
        float: ["3", True],
        bool: ["no", 1],
        str: [5, ("a",)],
    }.get(hint, [])


def valid_value(hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return valid_value(inner[0])
    if origin is Literal:
        return inner[0]
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple(valid_value(part) for part in inner)
    return {int: 1, float: 1.0, bool: True, str: "a"}.get(
        hint, origin() if origin in (tuple, dict) else None
    )


def test_every_field_of_every_configuration_class_refuses_what_its_type_does_not_allow():
    tried = set()
    for cls in configuration_classes():
        if inspect.isabstract(cls):
            continue
        hints = get_type_hints(cls, include_extras=True)
        for entry in dataclasses.fields(cls):
            for value in wrong_values(hints[entry.name]):
                # Past the constructor, which may refuse what stands in for the other fields.
                made = object.__new__(cls)
                for other in dataclasses.fields(cls):
                    good = valid_value(hints[other.name])
                    if other.default is not dataclasses.MISSING:
                        good = other.default
                    elif other.default_factory is not dataclasses.MISSING:
                        good = other.default_factory()
                    object.__setattr__(made, other.name, good)
                    if good is None and type(None) not in get_args(hints[other.name]):
                        break
                else:
                    object.__setattr__(made, entry.name, value)
                    with pytest.raises(ValueError, match=rf"{cls.__name__}\.{entry.name}\b"):
                        made.__post_init__()
                    tried.add((cls, entry.name))
    assert len(tried) > 130


def test_all_that_a_run_is_configured_by_checks_itself():
    from configs.schema import RunConfig
    from tokenizers.settings.plain import classes_of

    found = classes_of(RunConfig)
    assert not [name for name, cls in found.items() if not issubclass(cls, Checked)]

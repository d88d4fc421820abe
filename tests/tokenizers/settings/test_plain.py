"""Configurations as what JSON can hold, and back; presets are tried in tests/configs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from configs.schema import CropConfig, RunConfig
from fourm.training.masked_loss import LossConfig
from tokenizers.settings import own_code
from tokenizers.settings.checked import Checked
from tokenizers.settings.plain import (
    classes_of,
    differing_knobs,
    from_plain,
    from_repr,
    part_from_plain,
    to_plain,
    up_to_date,
    with_earlier_defaults,
)


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Counts the classes below as the library's: those of others are stored with their files."""
    monkeypatch.setattr(own_code, "OURS", (*own_code.OURS, __name__.partition(".")[0]))


@dataclass(frozen=True)
class Limits:
    low: float
    folder: Path


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"class": "Mine"}, "no configuration class 'Mine'"),
        ({"class": "CropConfig", "sise": 3}, "CropConfig has no knob 'sise'"),
    ],
)
def test_a_plain_configuration_of_another_version_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        from_plain(plain, RunConfig)


def test_infinities_come_back_from_a_plain_form():
    crops = CropConfig(scale=(0.5, 1.0))
    loss = LossConfig(weights={"rgb": 2.0})
    limits = Limits(float("-inf"), Path("a"))
    for config in (crops, loss, limits):
        assert from_plain(to_plain(config), type(config)) == config


def test_differing_knobs_sees_added_and_removed_names():
    old, new = {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2, "d": 3}}
    assert differing_knobs(old, new) == ["b.d"]
    assert differing_knobs(new, old) == ["b.d"]


def test_plain_numbers_that_json_lacks_become_text():
    plain = to_plain(Limits(float("-inf"), Path("a") / "b"))
    assert plain == {"class": "Limits", "low": "-inf", "folder": "a/b"}


def test_what_a_configuration_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"can't hold .* of type set"):
        to_plain({"names": {"a"}})


@dataclass(frozen=True)
class Wheel:
    size: float
    spokes: tuple[int, ...] = (8,)


@dataclass(frozen=True)
class Bicycle:
    wheels: dict[str, Wheel] = field(default_factory=dict)
    bell: Wheel | None = None
    limit: float | None = None
    gears: int = 3

    @staticmethod
    def from_earlier(stored):
        return {"gears" if name == "speeds" else name: value for name, value in stored.items()}


def test_what_an_earlier_version_wrote_is_filled_and_renamed():
    earlier = {
        "class": "Bicycle",
        "speeds": 7,
        "wheels": {"front": {"class": "Wheel", "size": 26}, "class": {"class": "Wheel"}},
        "paint": "red",
    }
    found = up_to_date(earlier, classes_of(Bicycle))
    assert found == {
        "class": "Bicycle",
        "wheels": {
            "front": {"class": "Wheel", "size": 26, "spokes": [8]},
            "class": {"class": "Wheel", "spokes": [8]},  # Its size is not known.
        },
        "bell": None,
        "limit": None,
        "gears": 7,
        "paint": "red",  # Nor is this.
    }
    now = Bicycle({"front": Wheel(26), "class": Wheel(20)}, gears=7)
    assert differing_knobs(found, to_plain(now)) == ["wheels.class.size", "paint"]
    assert up_to_date(to_plain(now), classes_of(now)) == to_plain(now)


@pytest.mark.parametrize("write", [to_plain, asdict])
def test_both_ways_of_writing_are_read(write):
    made = Bicycle({"class": Wheel(26, (1, 2))}, Wheel(3.5), float("inf"), 7)
    assert from_plain(write(made), Bicycle) == made
    assert from_plain({"speeds": 2}, Bicycle) == Bicycle(gears=2)
    assert part_from_plain([{"class": "Wheel", "size": 1.0}], Bicycle) == (Wheel(1.0),)
    for other in ([], 3, {"class": "Wheel", "size": 1.0}):
        with pytest.raises(ValueError, match=r"Bicycle is .*; it must be of the class Bicycle"):
            from_plain(other, Bicycle)
    with pytest.raises(ValueError, match=r"Bicycle\.gears is 'many'; it must be a whole number"):
        from_plain({"gears": "many"}, Bicycle)


def test_what_python_shows_of_a_configuration_is_read_without_running_it():
    made = Bicycle({"front": Wheel(float("-inf"), ())}, None, 2.5)
    assert from_repr(repr(made)) == to_plain(made)
    texts = ["photographs", "1", "a b", "f(1)", "f(x=g)", "f(x=-g)", "f(**{'a': 1})", "f(x=1).y"]
    for text in (*texts, "", "(" * 999, 3, None, {"a": 1}):
        assert from_repr(text) == text
    assert from_repr("__import__(name='os')") == {"class": "__import__", "name": "os"}


def test_classes_are_found_in_types_and_in_objects():
    assert classes_of(Bicycle) == classes_of([{"any": Bicycle()}])
    assert set(classes_of(Bicycle)) == {"Bicycle", "Wheel"}
    assert {"RunConfig", "CropConfig", "GenerationConfig"} <= set(classes_of(RunConfig))


@dataclass(frozen=True)
class Grown(Checked):
    """A configuration to which a knob was added that changes something."""

    size: int = 3
    is_fast: bool = True
    EARLIER_DEFAULTS: ClassVar[dict[str, Any]] = {"is_fast": False}


@dataclass(frozen=True)
class Whole(Checked):
    part: Grown = field(default_factory=Grown)
    parts: dict[str, Grown] = field(default_factory=dict)


def test_a_knob_that_changes_something_is_off_in_what_was_stored_before_it():
    assert from_plain({"class": "Grown", "size": 4}, Grown) == Grown(4, False)
    assert from_plain({"class": "Grown", "is_fast": True}, Grown) == Grown()
    assert up_to_date({"class": "Grown", "size": 4}, {"Grown": Grown}) == to_plain(Grown(4, False))


@pytest.mark.parametrize(
    ("stored", "config", "expected"),
    [
        ({}, Grown(), Grown(is_fast=False)),
        ({"is_fast": False}, Grown(), Grown(is_fast=False)),
        ({"is_fast": True}, Grown(), Grown()),
        ({"is_fast": True}, Grown(is_fast=False), Grown(is_fast=False)),
        ({"size": 1}, Grown(size=2), Grown(2, False)),
    ],
)
def test_what_was_begun_without_a_knob_goes_on_without_it(stored, config, expected):
    assert with_earlier_defaults(config, stored) == expected
    whole = Whole(config, {"mine": config})
    assert with_earlier_defaults(whole, {"part": stored, "parts": {"mine": stored}}) == Whole(
        expected, {"mine": expected}
    )
    assert with_earlier_defaults(whole, {}) == whole
    assert with_earlier_defaults(whole, {"part": [], "parts": 3}) == whole

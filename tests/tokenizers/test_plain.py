"""Configurations as what JSON can hold, and back; presets are tried in tests/configs."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.schema import CropConfig, RunConfig
from fourm.loss import LossConfig
from fourm.training.train_state import OptimizerConfig
from tokenizers.plain import differing_knobs, from_plain, to_plain


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
    optimizer = OptimizerConfig(learning_rate=float("inf"))
    for config in (crops, loss, optimizer):
        assert from_plain(to_plain(config), RunConfig) == config


def test_differing_knobs_sees_added_and_removed_names():
    old, new = {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2, "d": 3}}
    assert differing_knobs(old, new) == ["b.d"]
    assert differing_knobs(new, old) == ["b.d"]


def test_plain_numbers_that_json_lacks_become_text():
    @dataclass(frozen=True)
    class Limits:
        low: float
        folder: Path

    plain = to_plain(Limits(float("-inf"), Path("a") / "b"))
    assert plain == {"class": "Limits", "low": "-inf", "folder": "a/b"}


def test_what_a_configuration_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"can't hold .* of type set"):
        to_plain({"names": {"a"}})

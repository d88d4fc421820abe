import pytest

from fourm.inference.settings import GenerationConfig
from fourm.requests.plan import as_targets, read_plan, write_plan

DEFAULTS = {"rgb": GenerationConfig(num_steps=4, guidance=2.0)}


@pytest.mark.parametrize("given", [None, 3, [], ["rgb", 3]])
def test_what_is_no_target_is_one_sentence(given):
    with pytest.raises(ValueError, match=r"(is no target|No target was given); choose from rgb"):
        as_targets(given, None, {}, ["rgb"])


def test_steps_of_a_plan_may_be_listed():
    targets, settings = as_targets(["boxes", "rgb[num_steps=3]"], None, {}, ["boxes", "rgb"])
    assert targets == ["boxes", "rgb"] and settings["rgb"].num_steps == 3


def test_a_plan_is_targets_in_their_order_with_settings_in_brackets():
    targets, settings = read_plan(
        "boxes -> tok_rgb@224[scheme=halton, num-steps=16, via=[caption, depth]] ->rgb[top_p=0.9]",
        DEFAULTS,
    )
    assert targets == ["boxes", "tok_rgb@224", "rgb"]
    assert settings["tok_rgb@224"] == GenerationConfig(
        scheme="halton", num_steps=16, via=("caption", "depth")
    )
    assert settings["rgb"] == GenerationConfig(num_steps=4, guidance=2.0, top_p=0.9)
    assert read_plan("rgb", DEFAULTS) == (["rgb"], {})
    assert read_plan("rgb[]", DEFAULTS) == (["rgb"], DEFAULTS)


def test_a_plan_that_is_written_is_read_as_it_was():
    settings = {
        "a": GenerationConfig(
            guidance_interval=(0.25, 0.5), temperature_schedule="onex:0.5:0.5", via=("b", "c")
        ),
        "rgb": GenerationConfig(num_steps=9, guidance=2.0),
    }
    text = write_plan(["a", "rgb", "b"], settings, DEFAULTS)
    assert text.endswith("-> rgb[num_steps=9] -> b")
    targets, found = read_plan(text, DEFAULTS)
    assert targets == ["a", "rgb", "b"] and found == settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no plan"),
        ("a -> ", "is no plan"),
        ("a[", "is no plan"),
        ("a]b", "is no plan"),
        ("a b", "is no plan"),
        ("a -> a", "a is named twice"),
        ("a[fast]", "'fast' of a is no setting; write NAME=VALUE"),
        ("a[steps=3]", "no setting 'steps' for a; there are scheme, num_steps"),
        ("a[num_steps=0]", "a: "),
        ("a[num_steps=many]", "a: "),
        ("a[scheme=best]", "a: "),
    ],
)
def test_what_is_no_plan_is_one_sentence(text, told):
    with pytest.raises(ValueError) as error:
        read_plan(text, DEFAULTS)
    assert told in str(error.value)

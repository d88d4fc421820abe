"""Mixtures: what they refuse, and how they are stored."""

import dataclasses

import pytest

from fourm.masking.mixture import MaskingComponent, MaskingConfig, Ml4mRules
from fourm.token_space import TokenSpace
from tests.fourm.masking.test_mask import MIXTURE, mask, of, symmetric
from tests.fourm.tiny import SPACE, Shape, make_tokens
from tokenizers.base import SequenceTokens, TokenBatch
from tokenizers.settings.checked import check_all, checked_later
from tokenizers.settings.plain import classes_of, from_plain, to_plain, up_to_date

pytestmark = pytest.mark.xdist_group("fourm/masking/test_mask")


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(inputs={}), "components.0.inputs names no modality; name at least one"),
        (dict(inputs={"map": 0.0}), "inputs.map is 0.0; a Dirichlet concentration must be pos"),
        (dict(inputs={"map": float("nan")}), "inputs.map is nan; a Dirichlet concentration"),
        (dict(targets={"map": float("inf")}), "targets.map is inf; a Dirichlet concentration"),
        (dict(num_inputs=(0, 4)), "components.0.num-inputs is 0 4; needs 1 <= low <= high"),
        (dict(num_targets=(9, 4)), "components.0.num-targets is 9 4; needs 1 <= low <= high"),
        (dict(weight=-1.0), "components.0.weight is -1.0; it must be finite and not negative"),
        (dict(weight=0.0), "Every masking component has weight 0; give one a positive weight"),
    ],
)
def test_a_mixture_that_can_not_be_drawn_gets_one_sentence(changes, message):
    with checked_later():
        config = of(dataclasses.replace(symmetric(1.0), **changes))
    with pytest.raises(
        ValueError, match=f"--masking.*{message}" if "weight 0" not in message else message
    ):
        check_all(config, "--masking")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(chunk_sizes={"text": 2}), "--masking.ml4m needs --masking.rules ml4m"),
        (dict(predict_all_hidden=(0,)), "--masking.ml4m needs --masking.rules ml4m"),
        (dict(rules="ml4m", chunk_sizes={"text": 0}), "chunk-sizes.text is 0; it must be at le"),
        (dict(rules="ml4m", predict_all_hidden=(1,)), "names component 1; there are 1, counted"),
    ],
)
def test_rules_that_do_not_fit_get_one_sentence(changes, message):
    with checked_later():
        rules = changes.pop("rules", "ours")
        config = dataclasses.replace(of(symmetric(1.0)), rules=rules, ml4m=Ml4mRules(**changes))
    with pytest.raises(ValueError, match=message):
        check_all(config, "--masking")


@pytest.mark.parametrize(
    ("component", "chunk_sizes", "message"),
    [
        (dict(targets={"maps": 1.0}), {}, "no modality 'maps' .* Did you mean 'map'"),
        (dict(keep_of={"map": "all"}), {}, "0.keep-of names map, which is not a sequence"),
        (dict(keep_of={"txt": "all"}), {}, "no modality 'txt' .* Did you mean 'text'"),
        ({}, {"map": 2}, "--masking.ml4m.chunk-sizes names map, which is not a sequence"),
        ({}, {"txt": 2}, "no modality 'txt'"),
    ],
)
def test_a_mixture_of_other_tokens_than_there_are_gets_one_sentence(
    component, chunk_sizes, message
):
    own = dataclasses.replace(symmetric(1.0), **component)
    config = MaskingConfig((own,), rules="ml4m", ml4m=Ml4mRules(chunk_sizes))
    with pytest.raises(ValueError, match=message):
        config.check_fits(SPACE)


def test_unknown_rules_get_one_sentence():
    component = symmetric(1.0)
    for changes, message in (
        (
            dict(keep_of={"text": "some"}),
            r"keep_of\['text'\] is 'some'; allowed is random, all or bin",
        ),
        (dict(keep="none"), r"MaskingComponent.keep is 'none'; allowed is random, all or binary"),
    ):
        wrong = dataclasses.replace(component)
        for name, value in changes.items():  # Only the tests check types before that.
            object.__setattr__(wrong, name, value)
        with pytest.raises(ValueError, match=message):
            wrong.__post_init__()
    config = of(component)
    object.__setattr__(config, "rules", "theirs")
    with pytest.raises(ValueError, match=r"MaskingConfig.rules is 'theirs'; .*ours or ml4m"):
        config.__post_init__()


def test_an_empty_mixture_is_refused():
    space = TokenSpace.build({"number": Shape(9, (1,))})
    with pytest.raises(ValueError, match=r"MaskingConfig.components needs at least one"):
        MaskingConfig().check_fits(space)


def test_a_sequence_needs_a_sentinel_for_a_span_and_one_for_the_end():
    space = TokenSpace.build({"text": Shape(9, (4,), SequenceTokens(0, 1, 1))})
    alphas = {"text": 1.0}
    with pytest.raises(ValueError, match=r"text has 1 sentinel; span corruption needs at least 2"):
        of(MaskingComponent(inputs=alphas, targets=alphas)).check_fits(space)


def test_the_budget_of_the_batch_is_that_of_the_largest_component():
    assert (MIXTURE.max_inputs, MIXTURE.max_targets) == (24, 24)
    masked = mask(MIXTURE, make_tokens(32))
    assert isinstance(make_tokens(1), TokenBatch)
    assert masked.inputs.ids.shape == masked.targets.ids.shape == (32, 24)


def test_rules_that_an_earlier_version_stored_beside_the_others_come_back():
    components = (symmetric(1.0), symmetric(2.0))
    rules = Ml4mRules({"text": 3}, predict_all_hidden=(1,))
    config = MaskingConfig(components, rules="ml4m", ml4m=rules)
    stored = to_plain(config)
    del stored["ml4m"]
    stored["chunk_sizes"] = {"text": 3}
    for number, component in enumerate(stored["components"]):
        component["ask_rest"] = number == 1
    assert from_plain(stored, MaskingConfig) == config
    assert up_to_date(stored, classes_of(MaskingConfig)) == to_plain(config)

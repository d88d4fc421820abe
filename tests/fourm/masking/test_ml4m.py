"""What only the rules of ml-4m do."""

import numpy as np
import pytest

from fourm.masking.mixture import MaskingComponent, MaskingConfig, Ml4mRules
from tests.fourm.masking.test_mask import (
    GRIDS,
    NAMES,
    SEQUENCES,
    draw_samples,
    mask,
    of,
    sentinel_number,
    symmetric,
    without,
)
from tests.fourm.tiny import SPACE, make_tokens

pytestmark = [pytest.mark.xdist_group("fourm/masking/test_mask"), pytest.mark.slow]


# By the rules of ml-4m


def test_asking_for_the_rest_leaves_nothing_out():
    alphas = {name: 0.5 for name in NAMES}
    component = MaskingComponent(alphas, alphas, (16, 16), (45, 45))
    rules = Ml4mRules(predict_all_hidden=(0,))
    config = MaskingConfig((component,), rules="ml4m", ml4m=rules)
    for sample, inputs, targets in draw_samples(config, 0.8):
        for entry in GRIDS:
            places = [*inputs[entry.name]["position"], *targets[entry.name]["position"]]
            assert sorted(places) == list(range(len(sample[entry.name])))
        for entry in SEQUENCES:
            shown, asked = inputs[entry.name]["ids"], targets[entry.name]["ids"]
            kept = shown[sentinel_number(entry, shown) < 0]
            wanted = asked[sentinel_number(entry, asked) < 0]
            assert sorted([*kept, *wanted]) == sorted(sample[entry.name])


def test_chunks_are_kept_or_dropped_whole_and_the_end_by_itself():
    component = MaskingComponent({"text": 1.0}, {"map": 1.0}, (10, 10), (6, 6))
    config = MaskingConfig((component,), rules="ml4m", ml4m=Ml4mRules({"text": 3}))
    config.check_fits(SPACE)
    ends, kept_chunks = set(), set()
    for sample, inputs, _ in draw_samples(config, 1.0):
        text = sample["text"]
        is_kept = np.isin(text, inputs["text"]["ids"])
        chunks = [is_kept[at : min(at + 3, len(text) - 1)] for at in range(0, len(text) - 1, 3)]
        assert all(chunk.all() or not chunk.any() for chunk in chunks)
        if len(text) > 3:
            kept_chunks.add(sum(chunk.all() for chunk in chunks))
            ends.add((bool(chunks[-1].any()), bool(is_kept[-1])))
    assert kept_chunks >= {0, 1, 2}
    assert len(ends) == 4


def test_budgets_of_absent_modalities_are_lost():
    tokens = without(make_tokens(200), "map", "text", "boxes", "number")
    component = symmetric(1000.0, num_inputs=(10, 10), num_targets=(10, 10))
    ours, theirs = of(component), MaskingConfig((component,), rules="ml4m")
    assert mask(ours, tokens).inputs.is_real.sum(1).mean() > 5
    assert mask(theirs, tokens).inputs.is_real.sum(1).mean() < 3


def test_a_target_budget_counts_the_token_that_is_given():
    component = MaskingComponent({"picture": 1.0}, {"text": 1.0}, (4, 4), (5, 5))
    tokens = make_tokens(100)
    has_enough = np.asarray(tokens.num_real["text"]) >= 4
    for rules, expected in (("ours", 5), ("ml4m", 4)):
        asked = mask(MaskingConfig((component,), rules=rules), tokens).targets.is_real.sum(1)
        assert (asked[has_enough] == expected).all()

"""Grids of which other tokens are shown than are asked."""

import dataclasses

import jax
import numpy as np
import pytest

from fourm.masking.mask import mask_batch
from fourm.masking.mixture import RULES, MaskingComponent, MaskingConfig
from tests.fourm.tiny import SPACE, make_tokens
from tokenizers.base import PADDING

EVENLY = dict.fromkeys(SPACE.names, 1000.0)
CONFIG = MaskingConfig(
    (MaskingComponent(EVENLY, EVENLY, num_inputs=(16, 16), num_targets=(20, 20)),)
)


@pytest.mark.parametrize("rules", RULES)
def test_what_is_shown_is_changed_and_what_is_asked_is_not(rules):
    config = dataclasses.replace(CONFIG, rules=rules)
    mask = jax.jit(lambda key, batch: mask_batch(key, batch, SPACE, config))
    plain, entry = make_tokens(8), SPACE["picture"]
    is_changed = np.arange(8) % 2 > 0
    own = np.asarray(plain.ids["picture"])
    other = np.where(is_changed[:, None], (own + 1) % entry.vocab_size, PADDING)
    changed = plain._replace(
        ids=plain.ids | {"picture:shown": other.astype(np.int32)},
        num_real=plain.num_real | {"picture:shown": 12 * is_changed.astype(np.int32)},
    )
    key = jax.random.key(0)
    before, after = jax.device_get((mask(key, plain), mask(key, changed)))
    for name in before.targets._fields:
        np.testing.assert_array_equal(getattr(after.targets, name), getattr(before.targets, name))
    inputs = before.inputs
    is_own = inputs.is_real & (inputs.modality == entry.index) & is_changed[:, None]
    assert is_own.any() and not is_own.all()
    expected = np.where(
        is_own, (inputs.ids - entry.first_id + 1) % entry.vocab_size + entry.first_id, inputs.ids
    )
    np.testing.assert_array_equal(after.inputs.ids, expected)
    for name in ("modality", "position", "is_real"):
        np.testing.assert_array_equal(getattr(after.inputs, name), getattr(inputs, name))

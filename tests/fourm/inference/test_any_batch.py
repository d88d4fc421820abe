"""What a sample becomes depends on its inputs and key alone, bit by bit, however it is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.inference.conditions import Condition
from fourm.inference.generate_tokens import generate_tokens
from fourm.inference.settings import GenerationConfig
from tests.fourm.inference.test_generate_tokens import (  # noqa: F401  A fixture.
    grid,
    model,
    text,
)
from tokenizers.base import PADDING

pytestmark = [pytest.mark.xdist_group("fourm/inference/test_generate_tokens"), pytest.mark.slow]

COUNT = 8
MAP = grid("map", count=COUNT)
NUMBER = grid("number", seed=4, count=COUNT)
PART = grid("picture", share=0.4, count=COUNT)
PART[3] = PADDING  # Nothing of it is known, and all of the next.
PART[4] = grid("picture", count=COUNT)[4]
BEGUN = text([4, 1, 6, 0], [1, 0], [1, 5, 2, 0], [7, 1, 8], [9, 5, 0], [], [4], [5, 1, 0])

CASES = {
    "maskgit": ("picture", {}),
    "noise and a falling temperature": (
        "picture",
        {"choice_noise": 2.0, "temperature_schedule": "linear"},
    ),
    "halton, guided": ("picture", {"scheme": "halton", "guidance": 2.0}),
    "random, guided at the end": (
        "picture",
        {"scheme": "random", "guidance": 3.0, "guidance_interval": (0.5, 1.0)},
    ),
    "reading order": ("picture", {"scheme": "autoregressive"}),
    "by entropy, guided": ("picture", {"entropy_bound": 2.0, "guidance": 2.0}),
    "text, guided": ("text", {"guidance": 2.0}),
}
WITH_A_WEIGHT = ("reading order", "halton, guided", "by entropy, guided", "text, guided")
"""Asked under a condition with a weight."""
PLAIN = (
    "maskgit",
    "noise and a falling temperature",
    "random, guided at the end",
    "by entropy, guided",
    "text, guided",
)


def generate(model, target, rows, weighs, settings):
    rows = np.asarray(rows)
    known = {"map": MAP[rows], target: PART[rows] if target == "picture" else BEGUN[rows]}
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(jnp.asarray(rows))
    config = {target: GenerationConfig(**{"num_steps": 4} | settings)}
    conditions = [Condition({"number": NUMBER[rows]}, -1.5)] if weighs else []
    return np.asarray(generate_tokens(model, known, [target], keys, config, conditions).ids[target])


@pytest.mark.parametrize(
    ("case", "weighs"),
    [*((case, False) for case in PLAIN), *((case, True) for case in WITH_A_WEIGHT)],
)
def test_batches_of_1_3_and_8_in_any_order_give_the_same_bits(model, case, weighs):
    target, settings = CASES[case]
    together = generate(model, target, range(COUNT), weighs, settings)
    for rows in ([6, 3, 0], [4, 7, 5], [2], [4], [0]):
        found = generate(model, target, rows, weighs, settings)
        assert (found == together[rows]).all(), rows
    backwards = generate(model, target, range(COUNT)[::-1], weighs, settings)
    assert (backwards[::-1] == together).all()

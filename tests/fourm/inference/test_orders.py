"""Orders and stops of grids: every token once, evenly spread or as entropy allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.inference.grids import choose_by_entropy
from fourm.inference.orders import draw_order, halton_order
from fourm.inference.sampling import Draw
from fourm.inference.schedules import entropy_passes, group_passes
from fourm.inference.settings import GenerationConfig
from tests.fourm.inference.test_generate_tokens import (  # noqa: F401  A fixture.
    TEXT,
    grid,
    model,
    run,
)
from tokenizers.base import PADDING

pytestmark = [pytest.mark.xdist_group("fourm/inference/test_generate_tokens"), pytest.mark.slow]


@pytest.mark.parametrize(
    "shape", [(14, 14), (3, 4), (8, 13), (7,), (1, 5), (6, 1), (1,), (4, 4, 2)]
)
def test_halton_meets_every_cell_once(shape):
    order = halton_order(shape)
    assert sorted(order.tolist()) == list(range(int(np.prod(shape))))


def test_halton_is_the_sequence_of_bases_2_and_3():
    # Halton (1960): 1/2, 1/4, 3/4, 1/8 down; 1/3, 2/3, 1/9, 4/9 across.
    cells = [(4, 3), (2, 6), (6, 1), (1, 4)]
    assert halton_order((8, 9))[:4].tolist() == [9 * y + x for y, x in cells]


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_any_part_of_the_halton_order_is_more_even_than_a_random_one(shape):
    def emptiest(order, start):
        taken = np.zeros(shape, bool)
        taken.ravel()[np.roll(order, -start)[: len(order) // 4]] = True
        places = np.argwhere(taken) + 0.5
        every = np.argwhere(np.ones(shape)) + 0.5
        return np.sqrt(((every[:, None] - places[None]) ** 2).sum(-1).min(1)).max()

    halton = halton_order(shape)
    size = len(halton)
    random = np.random.default_rng(0)
    spread = [emptiest(halton, start) for start in (0, size // 3, size // 2)]
    by_chance = [emptiest(random.permutation(size), 0) for _ in range(20)]
    assert max(spread) < np.mean(by_chance)


def test_samples_begin_the_halton_order_at_places_of_their_own():
    keys = jax.random.split(jax.random.key(0), 8)
    config = GenerationConfig(scheme="halton")
    order = np.asarray(draw_order(keys, config, (4, 6)))
    firsts = order.argmax(axis=1)
    assert len(set(firsts.tolist())) > 3
    halton = halton_order((4, 6)).tolist()
    for row, first in zip(order, firsts, strict=True):
        start = halton.index(first)
        assert np.argsort(-row).tolist() == halton[start:] + halton[:start]


@pytest.mark.parametrize("settings", [{"scheme": "halton"}, {"entropy_bound": 1.5}])
def test_grids_come_out_complete_and_keep_what_was_given(model, settings):
    given = grid("picture", share=0.4)
    given[0] = PADDING
    given[1] = grid("picture")[1]
    ids = np.asarray(
        run(model, {"picture": given, "text": TEXT}, ["picture"], num_steps=5, **settings).ids[
            "picture"
        ]
    )
    assert ((ids >= 0) & (ids < 13)).all()
    assert (ids[given != PADDING] == given[given != PADDING]).all()


def test_as_many_tokens_are_chosen_as_the_bound_allows():
    p = np.full((1, 4, 2), 0.5)
    p[0, 0] = [1.0, 0.0]
    p[0, 2] = [0.9, 0.1]
    ids = jnp.zeros((1, 4), jnp.int32)
    drawn = Draw(ids, jnp.zeros((1, 4)), jnp.asarray(p, jnp.float32), ids == 0)
    is_open = jnp.array([[True, True, True, True]])
    low = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))

    def chosen(bound, is_open=is_open):
        return np.flatnonzero(choose_by_entropy(drawn, is_open, jnp.float32(bound))[0]).tolist()

    # The largest of those chosen does not count, the certain one costs nothing.
    assert chosen(0.0) == [0, 2] and chosen(low / 2) == [0, 2]
    assert chosen(low + 1e-3) == [0, 1, 2]
    assert chosen(low + np.log(2) + 1e-3) == [0, 1, 2, 3] == chosen(np.inf)
    assert chosen(0.0, jnp.array([[False, True, False, True]])) == [1]
    assert chosen(9.0, jnp.zeros((1, 4), bool)) == []


def test_a_small_bound_fixes_one_token_at_a_time_and_a_large_one_all_at_once(model):
    known = {"map": grid("map")}
    settings = dict(temperature=0.0, num_steps=12)
    one_by_one = run(model, known, ["picture"], entropy_bound=1e-9, **settings).ids["picture"]
    many_steps = run(model, known, ["picture"], schedule="linear", **settings).ids["picture"]
    at_once = run(model, known, ["picture"], entropy_bound=1e9, **settings).ids["picture"]
    one_step = run(model, known, ["picture"], **settings | {"num_steps": 1}).ids["picture"]
    assert (at_once == one_step).all()
    # By entropy or by confidence: near to each other, and far from all at once.
    assert (one_by_one == many_steps).mean() > (at_once == many_steps).mean()
    capped = run(model, known, ["picture"], entropy_bound=1e-9, temperature=0.0, num_steps=2)
    assert (np.asarray(capped.ids["picture"]) != PADDING).all()


def test_groups_of_passes_are_split_where_guidance_begins_and_ends():
    groups = group_passes("cosine", 8, 196, 1, is_given=False, guided=range(2, 5))
    assert [(g.start, g.end, g.is_guided) for g in groups] == [
        *((0, 2, False), (2, 5, True), (5, 8, False))
    ]
    groups = group_passes("cosine", 8, 196, 3, is_given=False, guided=range(8))
    assert [(g.start, g.end) for g in groups] == [(0, 3), (3, 6), (6, 8)]
    assert all(group.is_guided for group in groups)
    groups = entropy_passes(16, 9, range(0, 4))
    assert [(g.start, g.end, g.is_guided) for g in groups] == [(0, 4, True), (4, 9, False)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"entropy_bound": 1.0, "scheme": "halton"}, "entropy_bound is 1, scheme 'halton'"),
        ({"entropy_bound": 1.0, "choice_noise": 2.0}, "choice_noise 2"),
        ({"entropy_bound": 1.0, "temperature_schedule": "linear"}, "temperature can only be"),
        ({"entropy_bound": -1.0}, "0 (off) or a positive number of nats"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval is (0.5, 0.2)"),
        ({"guidance_interval": (0.0, 1.5)}, "two shares of the passes"),
    ],
)
def test_settings_that_do_nothing_together_are_refused(settings, told):
    with pytest.raises(ValueError) as error:
        GenerationConfig(**settings)
    assert told in str(error.value)

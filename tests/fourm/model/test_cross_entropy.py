"""The grouped head is the plain one, at less cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.model.cross_entropy import choose_height, grouped_cross_entropy, plan_tiles

SEGMENTS = ((1, 5), (6, 1), (7, 12), (19, 5))  # Two of a size share a loop.
VOCAB, DIM = 24, 6


def make_rows(rows=40, groups=(0, 1, 2, 3, 4), seed=0):
    rng = np.random.default_rng(seed)
    group = rng.choice(groups, rows)
    first, size = np.array([*SEGMENTS, (0, 1)])[group].T
    return dict(
        features=jnp.asarray(rng.normal(size=(rows, DIM)), jnp.float32),
        table=jnp.asarray(rng.normal(size=(VOCAB, DIM)), jnp.float32),
        labels=jnp.asarray(first + rng.integers(0, size), jnp.int32),
        group=jnp.asarray(group, jnp.int32),
        weights=jnp.asarray(np.where(group == 4, 0, rng.random(rows)), jnp.float32),
    )


def naive(features, table, labels, group, weights):
    """Each row over the whole table, with the ids of other groups ruled out."""
    ids = jnp.arange(VOCAB)[None, :]
    limits = jnp.array([*SEGMENTS, (0, 1)])[group]
    own = (ids >= limits[:, :1]) & (ids < limits.sum(1, keepdims=True))
    logits = jnp.where(own, features @ table.T, -jnp.inf)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    nll = jnp.where(group == len(SEGMENTS), 0.0, -log_p)
    correct = (logits.argmax(1) == labels) & (group < len(SEGMENTS))
    return jnp.sum(weights * nll), (nll, correct)


@functools.cache
def compiled_head(tile, tiles):
    """The grouped head, or without a tile the plain one."""

    def loss(features, table, rows):
        rows = rows | dict(features=features, table=table)
        head = functools.partial(grouped_cross_entropy, segments=SEGMENTS, tile=tile, tiles=tiles)
        value, scores = (naive if tile is None else head)(**rows)
        return 3.0 * value, scores

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def value_and_gradients(tile, rows, tiles="fitted"):
    head = compiled_head(tile, tiles if tile else None)
    return jax.device_get(head(rows["features"], rows["table"], rows))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tile", "tiles"), [(1, "fitted"), (3, "fitted"), (64, "fitted"), (3, "even"), (64, "even")]
)
@pytest.mark.parametrize("groups", [(0, 1, 2, 3, 4), (2, 4), (3,)], ids=str)
def test_the_grouped_head_equals_the_plain_one_in_value_and_gradients(tile, tiles, groups):
    rows = make_rows(groups=groups, seed=tile)
    found = value_and_gradients(tile, rows, tiles)
    expected = value_and_gradients(None, rows)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [1, 5, 8, 20])
def test_tiles_cover_every_number_of_rows_once_and_little_more(tile):
    for count in range(3 * tile):
        covered = 0
        for height, done, trips in plan_tiles(jnp.array(count), tile):
            if trips:
                assert done == covered and height <= tile
                covered += height * int(trips)
        assert count <= covered < count + -(-tile // 8)


def count_loops(tiles):
    rows = make_rows()

    def loss(features, table):
        return grouped_cross_entropy(
            **rows | dict(features=features, table=table),
            segments=SEGMENTS,
            tile=16,
            tiles=tiles,
        )[0]

    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(rows["features"], rows["table"])
    return lowered.as_text().count("stablehlo.while")


def test_even_tiles_are_one_loop_for_each_size_of_vocabulary():
    # Three sizes, each with a loop over its groups and one, or nine, over their tiles.
    assert count_loops("even") == 3 * (1 + 1)
    assert count_loops("fitted") == 3 * (1 + 9)


def test_even_tiles_are_no_higher_than_the_mean_group():
    segments = ((0, 10), (10, 10), (20, 0))
    heights = [choose_height(rows, segments, 64) for rows in (1, 7, 32, 127, 128, 10_000)]
    assert heights == [1, 2, 16, 32, 64, 64]


@pytest.mark.slow
def test_large_logits_stay_finite():
    rows = make_rows()
    rows["features"] = rows["features"] * 1e4
    (loss, _), gradients = value_and_gradients(3, rows)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.slow
def test_padding_alone_costs_nothing():
    rows = make_rows(groups=(4,))
    (loss, scores), gradients = value_and_gradients(3, rows)
    assert loss == 0
    assert not scores.nll.any()
    assert not scores.is_correct.any()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.slow
def test_half_precision_features_give_nearly_the_same_loss_and_gradients():
    rows = make_rows()
    half = rows | dict(features=rows["features"].astype(jnp.bfloat16))
    (loss, _), (features_grad, table_grad) = value_and_gradients(3, rows)
    (near, _), (features_near, table_near) = value_and_gradients(3, half)
    np.testing.assert_allclose(near, loss, rtol=0.02)
    assert features_near.dtype == jnp.bfloat16
    assert table_near.dtype == np.float32
    np.testing.assert_allclose(features_near.astype(np.float32), features_grad, atol=0.15)
    np.testing.assert_allclose(table_near, table_grad, atol=0.15)

"""The loss: the grouped head is the plain one, at less cost, and absent modalities do not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.masking.ours import MaskingComponent, MaskingConfig, mask_batch
from fourm.model.cross_entropy import LossConfig, grouped_cross_entropy, masked_loss, plan_tiles
from tests.fourm.tiny import SPACE, build_model, make_tokens

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
def compiled_head(tile):
    """The grouped head, or without a tile the plain one."""

    def loss(features, table, rows):
        rows = rows | dict(features=features, table=table)
        head = functools.partial(grouped_cross_entropy, segments=SEGMENTS, tile=tile)
        value, scores = (naive if tile is None else head)(**rows)
        return 3.0 * value, scores

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def value_and_gradients(tile, rows):
    return jax.device_get(compiled_head(tile)(rows["features"], rows["table"], rows))


@pytest.mark.parametrize("tile", [1, 3, 64])
@pytest.mark.parametrize("groups", [(0, 1, 2, 3, 4), (2, 4), (3,)], ids=str)
def test_the_grouped_head_equals_the_plain_one_in_value_and_gradients(tile, groups):
    rows = make_rows(groups=groups, seed=tile)
    found = value_and_gradients(tile, rows)
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


def test_large_logits_stay_finite():
    rows = make_rows()
    rows["features"] = rows["features"] * 1e4
    (loss, _), gradients = value_and_gradients(3, rows)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_padding_alone_costs_nothing():
    rows = make_rows(groups=(4,))
    (loss, scores), gradients = value_and_gradients(3, rows)
    assert loss == 0
    assert not scores.nll.any()
    assert not scores.is_correct.any()
    assert all((gradient == 0).all() for gradient in gradients)


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


# The loss of a batch


MODEL = build_model()
GRAPH, STATE = nnx.split(MODEL)
ALPHAS = {name: 1.0 for name in SPACE.names}
MASKING = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (6, 14), (8, 18)),))
MASK = jax.jit(lambda key, tokens: mask_batch(key, tokens, SPACE, MASKING))
BATCH = MASK(jax.random.key(0), make_tokens(8))


@functools.cache
def compiled_loss(average):
    def compute(state, batch):
        return masked_loss(nnx.merge(GRAPH, state), batch, LossConfig(average=average, tile=2))

    return jax.jit(jax.value_and_grad(compute, has_aux=True))


def compute_loss(batch, average="modalities", state=STATE):
    (loss, metrics), gradients = jax.device_get(compiled_loss(average)(state, batch))
    metrics = {name: float(value) for name, value in metrics.items()}
    return float(loss), metrics, jax.tree.leaves(gradients)


def without_targets(batch, *names):
    targets = batch.targets
    gone = np.isin(np.asarray(targets.modality), [SPACE[name].index for name in names])
    return batch._replace(targets=targets._replace(is_real=targets.is_real & ~gone))


@jax.jit
def log_probabilities(batch):
    model = nnx.merge(GRAPH, STATE)
    features = model(batch)
    return {e.name: jax.nn.log_softmax(model.logits(features, e)) for e in SPACE.ranges}


def nll_by_modality(batch):
    """Every target's nats, from the model's logits over its own vocabulary."""
    every, found = jax.device_get(log_probabilities(batch)), {}
    for entry in SPACE.ranges:
        own = np.asarray(batch.targets.is_real & (batch.targets.modality == entry.index))
        labels = np.clip(np.asarray(batch.targets.ids) - entry.first_id, 0, entry.vocab_size - 1)
        found[entry.name] = -np.take_along_axis(every[entry.name], labels[..., None], 2)[..., 0][
            own
        ]
    return found


def test_metrics_are_the_means_over_each_modalitys_own_targets():
    _, metrics, _ = compute_loss(BATCH)
    for name, nll in nll_by_modality(BATCH).items():
        assert metrics[f"targets/{name}"] == len(nll)
        np.testing.assert_allclose(metrics[f"loss/{name}"], nll.mean(), rtol=1e-5)
        assert 0 <= metrics[f"accuracy/{name}"] <= 1


def test_the_mean_over_modalities_is_over_those_that_have_targets():
    batch = without_targets(BATCH, "picture", "text")
    loss, metrics, _ = compute_loss(batch)
    expected = np.mean([nll.mean() for nll in nll_by_modality(batch).values() if len(nll)])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isnan(metrics["loss/picture"])
    assert np.isnan(metrics["accuracy/text"])
    assert metrics["targets/text"] == 0


def test_the_mean_over_tokens_is_the_plain_mean():
    loss, _, _ = compute_loss(BATCH, "tokens")
    expected = np.concatenate(list(nll_by_modality(BATCH).values())).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("average", ["modalities", "tokens"])
def test_weights_weigh_the_means_and_zero_leaves_a_modality_out(average):
    weights = {"picture": 3.0, "text": 0.0}
    config = LossConfig(average=average, weights=weights, tile=2)
    compute = jax.jit(lambda state: masked_loss(nnx.merge(GRAPH, state), BATCH, config)[0])
    loss = compute(STATE)
    total = count = 0.0
    for name, nll in nll_by_modality(BATCH).items():
        weight = weights.get(name, 1.0) * (len(nll) if average == "tokens" else 1)
        total, count = total + weight * nll.mean(), count + weight
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)


@pytest.mark.parametrize("average", ["modalities", "tokens"])
def test_no_target_at_all_is_a_loss_of_zero_with_zero_gradients(average):
    loss, _, gradients = compute_loss(without_targets(BATCH, *SPACE.names), average)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_loss_that_is_not_finite_shows_in_its_own_modality_alone():
    state = jax.tree.map(lambda leaf: leaf, STATE)
    entry = SPACE["map"]
    table = MODEL.output_table[...]
    state.output_table[...] = table.at[entry.first_id].set(jnp.inf)
    loss, metrics, _ = compute_loss(BATCH, state=state)
    assert not np.isfinite(loss)
    bad = [name for name in SPACE.names if not np.isfinite(metrics[f"loss/{name}"])]
    assert bad == ["map"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(weights={"text": -1.0}), "LossConfig.weights.text is -1.0; it must be finite and"),
        (dict(tile=-1), "LossConfig.tile is -1; it must be positive, or 0"),
        (dict(weights={"text": float("inf")}), "LossConfig.weights.text is inf; it must be fin"),
    ],
)
def test_impossible_settings_get_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)

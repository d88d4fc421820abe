"""The loss of a batch: means per modality, weights, and absent modalities that do not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.training.masked_loss import LossConfig, masked_loss
from tests.fourm.tiny import SPACE, build_model, make_tokens

pytestmark = pytest.mark.slow

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

"""The loss on held-out tokens is that of all of them at once, however they are cut up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.devices.layout import Layout
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.token_space import TokenSpace
from fourm.training.heldout import HeldoutLoss
from fourm.training.loop import TrainingConfig
from fourm.training.masked_loss import LossConfig, MaskedLoss
from fourm.training.train_state import OptimizerConfig, build_optimizer, create_state, merge_state
from tests.fourm.tiny import Shape, build_model, make_tokens
from tokenizers.base import SequenceTokens

SPACE = TokenSpace.build(
    {
        "map": Shape(6, (2, 2)),
        "text": Shape(12, (4,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=3)),
    }
)
ALPHAS = {name: 1.0 for name in SPACE.names}
SEED = 3


class Held:
    """Held-out tokens as a store gives them; some samples lack some modalities."""

    def __init__(self, count):
        self.tokens = jax.tree.map(np.asarray, make_tokens(count, space=SPACE, present=0.7))

    def __len__(self):
        return len(self.tokens.index)

    def batch(self, indices):
        return jax.tree.map(lambda array: array[indices], self.tokens)


@pytest.fixture(scope="module")
def trained():
    """A model and a state of it whose average is far from its parameters."""
    model, layout = build_model(space=SPACE), Layout.single()
    _, state = create_state(model, build_optimizer(OptimizerConfig(), 10, layout), layout)
    return model, state._replace(average=jax.tree.map(lambda x: 1.5 * x + 0.01, state.params))


@pytest.mark.slow
def test_the_held_out_loss_is_that_of_the_averaged_model_over_all_samples_at_once(trained):
    model, state = trained
    masking = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (1, 4), (4, 4)),))
    config = LossConfig(weights={"text": 2.0}, tile=8)

    loss_fn = MaskedLoss(SPACE, masking, config, Layout.single())
    tokens = Held(7)
    training = TrainingConfig(batch_size=8, accumulation=2, evaluate_samples=100)  # 4 and 3
    measure = HeldoutLoss(model, loss_fn, config, tokens, training, SEED, Layout.single())
    found = measure(state)
    used = build_model(space=SPACE)
    merge_state(used, state)
    loss, metrics = nnx.jit(loss_fn)(used, tokens.batch(np.arange(7)), jax.random.key(SEED))
    expected = {"loss": loss, **metrics}
    assert found.keys() == expected.keys()
    assert found["targets/text"] > 0
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5, nan_ok=True), name
    np.testing.assert_equal(measure(state), found)  # the same masks again


def test_so_many_samples_are_looked_at_evenly_spaced(trained):
    model, state = trained
    seen = []

    class Watched(Held):
        def batch(self, indices):
            seen.append(indices.tolist())
            return super().batch(indices)

    def count_tokens(model, batch, key):
        counts = {name: each.sum() for name, each in batch.num_real.items()}
        zero = jnp.zeros(())
        losses = {f"loss/{name}": zero for name in counts}
        return zero, losses | {f"targets/{name}": n * 1.0 for name, n in counts.items()}

    tokens = Watched(11)
    training = TrainingConfig(batch_size=4, evaluate_samples=5)
    arguments = LossConfig(), tokens, training, SEED, Layout.single()
    found = HeldoutLoss(model, count_tokens, *arguments)(state)
    assert seen == [[0, 2, 4, 6], [8, 0, 0, 0]]
    for name, lengths in tokens.tokens.num_real.items():
        assert found[f"targets/{name}"] == lengths[[0, 2, 4, 6, 8]].sum()

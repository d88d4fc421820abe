"""Steps without a finite loss are skipped, counted, and three in a row end a run."""

import json
from contextlib import closing
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.training.checkpoints import Checkpoints
from fourm.training.recent_metrics import NonFiniteLossError
from tests.fourm.training.test_loop import (
    CONFIG,
    Interrupted,
    measured,
    noisy,
    numbers,
    parameters,
    run,
    uninterrupted,  # noqa: F401  Fixtures.
)

pytestmark = pytest.mark.xdist_group("fourm/training/test_loop")


def failing_at(*steps, part="loss"):
    """A loss, or a gradient, that is not finite in the batches of these steps."""

    def loss_fn(model, batch, key):
        loss, metrics = noisy(model, batch, key)
        is_bad = jnp.any(jnp.stack([jnp.all(batch == numbers(step)) for step in steps]))
        if part == "gradient":
            # Of infinite slope and no value.
            slope = jnp.sqrt(jnp.where(is_bad, 0.0 * model.kernel[0], 1.0))
            return loss + slope - jax.lax.stop_gradient(slope), metrics
        loss = loss + jnp.where(is_bad, jnp.nan, 0.0)
        # Text has no targets, and so a loss of NaN, in every step.
        text = {"loss/text": jnp.array(jnp.nan), "targets/text": jnp.zeros(())}
        return loss, metrics | {"loss/map": loss} | text

    return loss_fn


def test_skipped_steps_are_counted_and_the_learning_rate_belongs_to_updates(tmp_path):
    config = replace(CONFIG, log_every=1, steps=8)
    run(tmp_path, config, loss_fn=failing_at(4, 5, 7))
    lines = measured(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 0, 0, 0, 1, 2, 2, 3]
    assert [line["loss"] is None for line in lines] == [step in (5, 6, 8) for step in range(1, 9)]
    rates = [line["learning_rate"] for line in lines]
    assert rates[3] == rates[4] == rates[5] and rates[6] != rates[5] and rates[7] == rates[6]


@pytest.mark.slow
def test_a_run_that_skipped_steps_is_killed_and_ends_with_the_same_bits(tmp_path):
    loss_fn = failing_at(3, 4, 6, 8)
    whole = run(tmp_path / "whole", loss_fn=loss_fn)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", loss_fn=loss_fn, stop=7)
    resumed = run(tmp_path / "killed", loss_fn=loss_fn)
    for a, b in zip(parameters(whole), parameters(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert json.dumps(measured(tmp_path / "whole")) == json.dumps(measured(tmp_path / "killed"))
    assert measured(tmp_path / "whole")[-1]["skipped"] == 4


@pytest.mark.parametrize(
    ("part", "named"), [("loss", "the loss of map"), ("gradient", "the gradient of kernel")]
)
def test_three_in_a_row_stop_the_run_with_their_samples_and_leave_the_checkpoint(
    tmp_path, uninterrupted, part, named
):
    message = (
        rf"^Training of model stopped: {named} is not finite at step 8, the third in a row, with "
        r"the samples 80, 81; the last checkpoint is intact"
    )
    loss_fn = failing_at(2, 6, 7, 8, part=part)
    with pytest.raises(NonFiniteLossError, match=message):
        run(tmp_path, loss_fn=loss_fn)
    with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        assert checkpoints.latest_step == 5
    assert max(line["step"] for line in measured(tmp_path)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("bad", [(3, 4, 5), (4, 5, 6)])
def test_steps_in_a_row_are_counted_across_an_interruption(tmp_path, bad):
    # The checkpoint is after step 4, and only what the third one is differs.
    with pytest.raises(Interrupted):
        run(tmp_path, loss_fn=failing_at(*bad), stop=bad[-1])
    with pytest.raises(NonFiniteLossError, match=f"at step {bad[-1]}, the third in a row"):
        run(tmp_path, loss_fn=failing_at(*bad))


@pytest.mark.slow
def test_with_the_cause_gone_a_stopped_run_goes_on(tmp_path, uninterrupted):
    with pytest.raises(NonFiniteLossError):
        run(tmp_path, loss_fn=failing_at(6, 7, 8))
    for a, b in zip(parameters(run(tmp_path)), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(a, b)

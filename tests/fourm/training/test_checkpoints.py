"""Checkpoints hold the state at the time of the save, to the bit, or say why they can't."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.training.checkpoints import Checkpoints
from fourm.training.train_state import TrainState


def make_state(step=0, size=1000, value=0.0, **changes) -> TrainState:
    rng = np.random.default_rng(0)
    numbers = lambda: jnp.asarray(rng.normal(size=size) + value, jnp.float32)  # noqa: E731
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={"layer": {"kernel": numbers()}},
        average={"layer": {"kernel": numbers()}},
        opt_state=({"mu": numbers(), "count": jnp.asarray(step, jnp.int32)},),
        variables={"codebook": numbers()},
    )
    return state._replace(**changes)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_nothing_saved_leaves_the_state_as_it_is(checkpoints):
    state = make_state()
    assert checkpoints.latest_step is None
    assert checkpoints.restore(state, seed=0) is state


def test_what_is_restored_is_the_state_at_the_save_though_its_buffers_were_given_away(checkpoints):
    # As in training: the next step writes into the buffers while the save is under way.
    @jax.jit
    def change(state):
        return jax.tree.map(lambda x: x * 3 + 1, state)

    step = jax.jit(change, donate_argnums=0)
    state = step(make_state(size=400_000))
    state = state._replace(step=jnp.asarray(5, jnp.int32))
    kept = jax.tree.map(lambda x: np.array(x, copy=True), state)
    checkpoints.save(state, seed=3)
    for _ in range(4):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert_same(checkpoints.restore(make_state(size=400_000), seed=3), kept)


def test_the_newest_two_are_kept_and_the_newest_is_restored(checkpoints, tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(make_state(step, value=step), seed=0)
    checkpoints.wait()
    assert checkpoints.latest_step == 3
    assert_same(checkpoints.restore(make_state(), seed=0), make_state(3, value=3))
    kept = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert sorted(kept) == ["2", "3"]


def test_saving_the_same_step_again_does_nothing(checkpoints):
    checkpoints.save(make_state(2, value=1), seed=0)
    checkpoints.wait()
    checkpoints.save(make_state(2, value=9), seed=0)
    checkpoints.wait()
    assert_same(checkpoints.restore(make_state(), seed=0), make_state(2, value=1))


def test_a_state_without_variables_round_trips(checkpoints):
    state = make_state(4, variables={})
    checkpoints.save(state, seed=0)
    checkpoints.wait()
    assert_same(checkpoints.restore(make_state(variables={}), seed=0), state)


def test_a_save_that_was_killed_is_ignored(tmp_path):
    first = Checkpoints(tmp_path)
    first.save(make_state(1), seed=0)
    first.close()
    # What a killed save leaves behind: the same files under a temporary name.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    (tmp_path / "2.orbax-checkpoint-tmp" / "params").mkdir(exist_ok=True)
    again = Checkpoints(tmp_path)
    assert again.latest_step == 1
    assert_same(again.restore(make_state(), seed=0), make_state(1))
    again.save(make_state(2), seed=0)
    again.close()
    assert again.latest_step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(params={"layer": {"kernel": jnp.zeros(999)}}),
            r"params.layer.kernel is float32\[1000\] there and float32\[999\] here; restore the "
            r"old settings, or choose a new --run-dir\.$",
        ),
        (
            dict(params={"layer": {"kernel": jnp.zeros(1000, jnp.bfloat16)}}),
            r"params.layer.kernel is float32\[1000\] there and bfloat16\[1000\] here",
        ),
        (dict(params={"layer": {}}), r"params.layer.kernel is float32\[1000\] there and missing"),
        (dict(opt_state=({},)), r"opt_state.0.count is int32\[\] there and missing here"),
        (dict(variables={}), r"variables.codebook is float32\[1000\] there and missing here"),
        (
            dict(variables={"codebook": jnp.zeros(1000), "counts": jnp.zeros(3)}),
            r"variables.counts is missing there and float32\[3\] here",
        ),
    ],
)
def test_a_state_of_another_shape_is_refused_in_one_sentence(checkpoints, changes, message):
    checkpoints.save(make_state(1), seed=0)
    checkpoints.wait()
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.restore(make_state(**changes), seed=0)
    assert "\n" not in str(error.value)


def test_another_seed_is_refused_in_one_sentence(checkpoints):
    checkpoints.save(make_state(1), seed=3)
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"with --seed 3, this run has --seed 4; use the same"):
        checkpoints.restore(make_state(), seed=4)


def test_a_damaged_checkpoint_gets_one_sentence(checkpoints, tmp_path):
    checkpoints.save(make_state(1), seed=0)
    checkpoints.wait()
    for file in (tmp_path / "checkpoints" / "1" / "params").glob("ocdbt.process_0/d/*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint of step 1 can't be read; delete .*/1 to"):
        checkpoints.restore(make_state(), seed=0)

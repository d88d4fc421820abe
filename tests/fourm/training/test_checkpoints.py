"""Checkpoints hold the state at the time of the save, to the bit, or say why they can't."""

import math
import os
import shutil
import threading
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.run_directory.checksums import CHECKSUMS, MARKER, find_damage
from fourm.run_directory.saved_checkpoints import (
    choose_checkpoint,
    list_steps,
    load_average,
    newest_intact,
)
from fourm.training.checkpoints import Checkpoints, describe_origins
from fourm.training.train_state import TrainState

ORIGIN = {"seed": 0, "num_samples": 48}


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


def test_nothing_saved_leaves_the_state_as_it_is(checkpoints, tmp_path):
    state = make_state()
    assert checkpoints.latest_step is None
    with pytest.raises(ValueError, match="There is no checkpoint in"):
        choose_checkpoint(tmp_path / "checkpoints", "best")
    restored, progress = checkpoints.restore(state, ORIGIN)
    assert restored is state and progress == {}


def test_what_is_restored_is_the_state_at_the_save_though_its_buffers_were_given_away(checkpoints):
    # As in training: the next step writes into the buffers while the save is under way.
    @jax.jit
    def change(state):
        return jax.tree.map(lambda x: x * 3 + 1, state)

    step = jax.jit(change, donate_argnums=0)
    state = step(make_state(size=400_000))
    state = state._replace(step=jnp.asarray(5, jnp.int32))
    kept = jax.tree.map(lambda x: np.array(x, copy=True), state)
    checkpoints.save(state, ORIGIN)
    for _ in range(4):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert_same(checkpoints.restore(make_state(size=400_000), ORIGIN)[0], kept)


def test_the_newest_two_are_kept_and_the_newest_is_restored(checkpoints, tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(make_state(step, value=step), ORIGIN)
    checkpoints.wait()
    assert checkpoints.latest_step == 3
    assert_same(checkpoints.restore(make_state(), ORIGIN)[0], make_state(3, value=3))
    kept = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert sorted(kept) == ["2", "3"]


@pytest.mark.slow
def test_the_best_is_kept_beside_the_newest(tmp_path):
    opened = Checkpoints(tmp_path, keep=1)
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: math.nan, 5: math.inf, 6: 1.5}
    for step, loss in losses.items():
        opened.save(make_state(step), ORIGIN, loss=loss)
        opened.wait()
        assert choose_checkpoint(tmp_path, "best") == (1 if step == 1 else 2)
    opened.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "6"]
    again = Checkpoints(tmp_path, keep=1)
    assert (choose_checkpoint(tmp_path, "best"), again.latest_step) == (2, 6)
    again.save(make_state(7), ORIGIN, loss=0.5)
    again.wait()
    assert choose_checkpoint(tmp_path, "best") == 7
    again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


def test_after_the_newer_ones_are_deleted_the_best_is_restored(tmp_path):
    with closing(Checkpoints(tmp_path, keep=1)) as opened:
        for step, loss in ((1, 1.0), (2, 5.0), (3, 4.0)):
            opened.save(make_state(step, value=step), ORIGIN, loss=loss)
    shutil.rmtree(tmp_path / "3")
    with closing(Checkpoints(tmp_path, keep=1)) as opened:
        assert opened.latest_step == choose_checkpoint(tmp_path, "best") == 1
        assert_same(opened.restore(make_state(), ORIGIN)[0], make_state(1, value=1))


def test_saving_the_same_step_again_does_nothing(checkpoints):
    checkpoints.save(make_state(2, value=1), ORIGIN)
    checkpoints.wait()
    checkpoints.save(make_state(2, value=9), ORIGIN)
    checkpoints.wait()
    assert_same(checkpoints.restore(make_state(), ORIGIN)[0], make_state(2, value=1))


def test_a_state_without_variables_round_trips(checkpoints):
    state = make_state(4, variables={})
    checkpoints.save(state, ORIGIN)
    checkpoints.wait()
    assert_same(checkpoints.restore(make_state(variables={}), ORIGIN)[0], state)


def test_a_save_that_was_killed_is_ignored(tmp_path):
    first = Checkpoints(tmp_path)
    first.save(make_state(1), ORIGIN)
    first.close()
    # What a killed save leaves behind: the same files under a temporary name.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    (tmp_path / "2.orbax-checkpoint-tmp" / "params").mkdir(exist_ok=True)
    again = Checkpoints(tmp_path)
    assert again.latest_step == 1
    assert_same(again.restore(make_state(), ORIGIN)[0], make_state(1))
    again.save(make_state(2), ORIGIN)
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
    checkpoints.save(make_state(1), ORIGIN)
    checkpoints.wait()
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.restore(make_state(**changes), ORIGIN)
    assert "\n" not in str(error.value)


def test_another_origin_is_refused_in_one_sentence_with_what_differs(checkpoints):
    checkpoints.save(make_state(1), ORIGIN)
    message = (
        r"made with another num_samples \(48 there, 40 here\), seed \(0 there, 4 here\); use the "
        r"same, or continue in a new --run-dir with --fork\.$"
    )
    for forked_at in (None, 3):
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(make_state(), {"seed": 4, "num_samples": 40}, forked_at)


def test_a_forked_checkpoint_may_have_another_origin_and_then_has_no_place_in_its_data(checkpoints):
    checkpoints.save(make_state(3, value=3), ORIGIN, {"batches": {"next": 3}, "recent": [1.5]})
    state, progress = checkpoints.restore(make_state(), {"seed": 4}, forked_at=3)
    assert_same(state, make_state(3, value=3))
    assert progress == {"recent": [1.5]}
    _, progress = checkpoints.restore(make_state(), ORIGIN, forked_at=3)
    assert progress == {"recent": [1.5], "batches": {"next": 3}}


def test_progress_comes_back_as_it_was_to_the_bit(checkpoints):
    values = np.random.default_rng(0).normal(size=5).astype(np.float32)
    progress = {"recent": [float(value) for value in values], "nothing": None, "name": "map"}
    checkpoints.save(make_state(2), ORIGIN, progress)
    assert checkpoints.restore(make_state(), ORIGIN)[1] == progress


def test_arrays_go_where_the_state_that_is_asked_for_says(checkpoints):
    checkpoints.save(make_state(2, value=2), ORIGIN)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), make_state()
    )
    state, _ = checkpoints.restore(like, ORIGIN)
    assert_same(state, make_state(2, value=2))
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(state))


def test_a_damaged_checkpoint_gets_one_sentence(checkpoints, tmp_path):
    checkpoints.save(make_state(1), ORIGIN)
    checkpoints.wait()
    for file in (tmp_path / "checkpoints" / "1" / "params").glob("ocdbt.process_0/d/*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"The checkpoint .*/1 can't be read; put it right"):
        checkpoints.restore(make_state(), ORIGIN)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Checkpoints of steps 1 to 3, which is the best; of 2 the loss was never measured."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    losses = {1: 1.0, 2: math.nan, 3: 0.5}
    with closing(Checkpoints(folder, keep=3, best_by="heldout_loss")) as opened:
        for step, loss in losses.items():
            opened.save(make_state(step, value=step), ORIGIN, {"log": step}, loss=loss)
    return folder


@pytest.fixture
def copy(three, tmp_path):
    return shutil.copytree(three, tmp_path / "model")


def flip_bit(file, place=0.5):
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    file.write_bytes(content)


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def damage(kind, checkpoint):
    """Damages a checkpoint and returns what is said of it."""
    if kind == "marker":
        (checkpoint / MARKER).unlink()
        return f"{MARKER} is missing, with which a save ends"
    if kind == "checksums":
        (checkpoint / CHECKSUMS).write_text("{}")
        return f"{CHECKSUMS} is damaged"
    file = next(checkpoint.glob(kind)) if "*" in kind else largest(checkpoint / kind)
    if file.name == "metrics":
        file.write_text("[]")
    else:
        flip_bit(file)
    return f"{file.relative_to(checkpoint).as_posix()} has changed"


DAMAGES = ("params", "average", "opt_state", "params/_M*", "params/manifest.*", "average/_s*")
DAMAGES += ("_CHECKPOINT*", "metrics/m*", "marker", "checksums")


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_restored(copy, kind):
    told = damage(kind, copy / "3")
    with pytest.warns(UserWarning, match=rf"/3 is not used \({told}\); it is now 3.unused-1"):
        opened = Checkpoints(copy, keep=3)
    with closing(opened):
        state, progress = opened.restore(make_state(), ORIGIN)
        assert_same(state, make_state(2, value=2))
        assert progress == {"log": 2}
        opened.save(make_state(3, value=9), ORIGIN)
    with closing(Checkpoints(copy)) as opened:
        assert_same(opened.restore(make_state(), ORIGIN)[0], make_state(3, value=9))


def test_where_all_checkpoints_are_damaged_nothing_is_moved(copy):
    for step in (1, 2, 3):
        damage("params", copy / str(step))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"/3 can't be used \(params/.* has changed\), and "):
            Checkpoints(copy)
    assert list_steps(copy) == [1, 2, 3]


@pytest.mark.slow
def test_every_bit_that_flips_is_noticed(copy):
    for file in sorted(path for path in (copy / "3").rglob("*") if path.is_file()):
        before = file.read_bytes()
        for place in (0, 0.3, 0.99):
            if before:
                flip_bit(file, place)
                assert find_damage(copy / "3"), file
                file.write_bytes(before)
    assert find_damage(copy / "3") == ""


def test_a_checkpoint_of_before_there_were_checksums_gets_them_where_it_is_first_used(copy):
    (copy / "3" / CHECKSUMS).unlink()
    with closing(Checkpoints(copy)) as opened:
        assert not (copy / "3" / CHECKSUMS).exists()
        opened.restore(make_state(), ORIGIN)
    assert find_damage(copy / "3") == ""
    flip_bit(largest(copy / "3" / "params"))
    assert find_damage(copy / "3")


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "metrics/metrics"])
def test_a_checkpoint_without_checksums_that_can_not_be_read_is_passed_over_too(copy, name):
    (copy / "3" / CHECKSUMS).unlink()
    (copy / "3" / name).write_text("[]")
    with pytest.warns(UserWarning, match=f"/3 is not used .{name} is no JSON"):
        opened = Checkpoints(copy, keep=3)
    with closing(opened):
        assert opened.latest_step == 2


def test_numbers_that_can_not_be_read_are_passed_over_too(copy):
    (copy / "3" / CHECKSUMS).unlink()
    for file in (copy / "3" / "params").glob("ocdbt.process_0/d/*"):
        file.write_bytes(b"")
    with (
        closing(Checkpoints(copy, keep=3)) as opened,
        pytest.warns(UserWarning, match=r"/3 is not used .it can't be read"),
    ):
        assert_same(opened.restore(make_state(), ORIGIN)[0], make_state(2, value=2))


def test_a_step_beyond_the_end_or_under_another_name_is_not_used(copy):
    (copy / "3").rename(copy / "500")
    with pytest.warns(UserWarning, match=r"/500 is not used .the training ends at step 12\)"):
        opened = Checkpoints(copy, keep=3, last=12)
    with closing(opened):
        assert opened.latest_step == 2
    (copy / "2").rename(copy / "7")
    with pytest.warns(UserWarning, match=r"/7 is not used .it is the checkpoint of step 2 under"):
        opened = Checkpoints(copy, keep=3, last=12)
    with closing(opened):
        assert opened.latest_step == 1


def test_checkpoints_are_chosen_by_loss_by_step_and_by_where_training_ends(copy):
    assert choose_checkpoint(copy) == choose_checkpoint(copy, "best") == 3
    assert choose_checkpoint(copy, last=2) == choose_checkpoint(copy, "2") == 2
    assert choose_checkpoint(copy, "best", last=2) == 1
    for use, message in {
        "4": r"no checkpoint of step 4 in .*; it has 1, 2, 3, and best and last can be named\.$",
        "bets": r"'bets' names no checkpoint; take best, last, or a step\.$",
    }.items():
        with pytest.raises(ValueError, match=message):
            choose_checkpoint(copy, use)
    with pytest.raises(ValueError, match=r"no checkpoint at or before step 0 in "):
        choose_checkpoint(copy, last=0)
    damage("average", copy / "3")
    for use in ("last", "best", "3"):
        message = r"/3 is damaged .*; put it right, or give --use 2 for that of step 2\.$"
        with pytest.raises(ValueError, match=message):
            choose_checkpoint(copy, use)
    with pytest.warns(UserWarning, match=r"/3 is damaged .*, so it is not used"):
        assert newest_intact(copy) == 2
    assert list_steps(copy) == [1, 2, 3]


def test_the_best_checkpoint_is_not_guessed_where_a_loss_is_damaged(copy):
    assert choose_checkpoint(copy, "best", last=2) == 1
    (copy / "1" / "metrics" / "metrics").write_text("{}")
    with pytest.raises(ValueError, match=r"/1 is damaged \(metrics/metrics has changed\)"):
        choose_checkpoint(copy, "best", last=2)
    shutil.rmtree(copy / "1")
    for step in (2, 3):
        damage("average", copy / str(step))
    with pytest.raises(ValueError, match=r"/3 is damaged .*; put it right\.$"):
        choose_checkpoint(copy)
    with pytest.warns(UserWarning, match="so it is not used"):
        assert newest_intact(copy) is None


@pytest.mark.parametrize("part", [".", "params", "metrics"])
def test_a_checkpoint_of_before_without_a_marker_is_not_whole(copy, part):
    (copy / "3" / CHECKSUMS).unlink()
    (copy / "3" / part / MARKER).unlink()
    assert find_damage(copy / "3") == f"{MARKER} is missing, with which a save ends"


def test_averaged_parameters_are_read_alone(three):
    state = make_state(2, value=2)
    assert_same(load_average(three / "2", state.average), state.average)
    message = r"another shape: layer.kernel is float32\[1000\] there and float32\[4\] here"
    with pytest.raises(ValueError, match=message):
        load_average(three / "2", {"layer": {"kernel": jnp.zeros(4)}})


def test_a_checkpoint_that_can_not_be_written_is_told_with_its_folder(tmp_path):
    opened = Checkpoints(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").write_text("a file")
    with pytest.raises(OSError, match=r"/model") as error, closing(opened):
        opened.save(make_state(1), ORIGIN)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_threads_and_files_do_not_pile_up(tmp_path):
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    counts = []
    with closing(Checkpoints(tmp_path)) as opened:
        for step in range(12):
            opened.save(make_state(step), ORIGIN)
            opened.wait()
            counts.append(count())
    for early, late in zip(counts[3], counts[-1], strict=True):
        assert late <= early + 2


def test_checkpoints_know_the_tokenizers_unless_they_are_from_before_that():
    there, here = {"seed": 0, "tokenizers": "a1"}, {"seed": 0, "tokenizers": "b2"}
    assert describe_origins(there, here) == "tokenizers (a1 there, b2 here)"
    assert describe_origins({"seed": 0}, here) == ""
    assert describe_origins({"seed": 0, "length": 3}, here) == "length (3 there, None here)"
    # A later version may write down more.
    assert describe_origins(there, {**there, "length": 3}) == ""


def test_strays_are_no_checkpoints(tmp_path):
    for name in ("model/4/params", "model/8/params", "model/README", "rgb/2/params"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("README", ".DS_Store", "model/500", "model/.DS_Store"):
        (tmp_path / name).write_text("stray")
    assert [list_steps(tmp_path / name) for name in ("model", "rgb", "absent")] == [[4, 8], [2], []]

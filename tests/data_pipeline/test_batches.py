import threading
import time

import numpy as np
import pytest

from data_pipeline.batches import BatchIterator, BatchOrder


@pytest.mark.parametrize("num_samples", [1, 2, 7, 16, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 16, 250])
def test_every_sample_appears_once_per_epoch(num_samples, batch_size):
    order = BatchOrder(num_samples, batch_size, seed=1)
    steps = -(-5 * num_samples // batch_size)
    batches = [order.indices(step) for step in range(steps)]
    assert all(batch.shape == (batch_size,) for batch in batches)
    drawn = np.concatenate(batches)
    for epoch in range(5):
        own = drawn[epoch * num_samples : (epoch + 1) * num_samples]
        assert sorted(own.tolist()) == list(range(num_samples))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(BatchOrder(50, 50, seed).indices(epoch).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_a_step_is_a_pure_function():
    order = BatchOrder(20, 6, seed=3)
    forwards = [order.indices(step).tolist() for step in range(30)]
    backwards = [BatchOrder(20, 6, seed=3).indices(step).tolist() for step in range(29, -1, -1)]
    assert forwards == backwards[::-1]


def test_the_order_does_not_depend_on_the_batch_size():
    def drawn(size):
        order = BatchOrder(20, size)
        return np.concatenate([order.indices(step) for step in range(120 // size)]).tolist()

    assert drawn(4) == drawn(8) == drawn(60)


def test_the_order_is_the_same_on_every_machine():
    """Recorded once: resumed runs rely on it."""
    assert BatchOrder(10, 10, seed=0).indices(0).tolist() == [8, 0, 3, 7, 6, 4, 1, 5, 2, 9]


def test_a_batch_may_be_changed_without_changing_the_order():
    order = BatchOrder(10, 4)
    first = order.indices(0)
    copy = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(order.indices(0), copy)


@pytest.mark.parametrize("wrong", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_wrong_orders_are_refused(wrong):
    with pytest.raises(ValueError, match="order of batches got num_samples"):
        BatchOrder(*wrong)
    with pytest.raises(ValueError, match="no step -1"):
        BatchOrder(1, 1).indices(-1)


ORDER = BatchOrder(10, 4, seed=2)


def steps_of(batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


EXPECTED = steps_of(ORDER.indices(step) for step in range(20))


def test_the_iterator_yields_the_order():
    with BatchIterator(ORDER, lambda indices: indices) as batches:
        assert steps_of(next(batches) for _ in range(10)) == EXPECTED[:10]
    with BatchIterator(ORDER, lambda indices: indices, next_step=7, ahead=5) as batches:
        assert steps_of(next(batches) for _ in range(3)) == EXPECTED[7:10]


def test_the_state_counts_what_was_used_not_what_was_loaded():
    with BatchIterator(ORDER, lambda indices: indices, ahead=4) as batches:
        for _ in range(3):
            next(batches)
        time.sleep(0.05)
        state = batches.get_state()
        assert state == {"next_step": 3}
        next(batches)
        batches.set_state(state)
        assert steps_of(next(batches) for _ in range(5)) == EXPECTED[3:8]
        batches.set_state({"next_step": 11})
        assert next(batches).tolist() == EXPECTED[11]
    with BatchIterator(ORDER, lambda indices: indices, **state) as another:
        assert next(another).tolist() == EXPECTED[3]


def test_batches_are_loaded_ahead_but_no_further_than_asked():
    loaded = []
    with BatchIterator(ORDER, lambda indices: loaded.append(1) or indices, ahead=3) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(loaded) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(loaded) == 5  # One used, three waiting, one in the thread's hand.


def test_what_loading_raises_reaches_the_consumer_at_its_step():
    def load(indices):
        if indices.tolist() == EXPECTED[2]:
            raise ValueError("rgb is damaged")
        return indices

    batches = BatchIterator(ORDER, load)
    assert steps_of([next(batches), next(batches)]) == EXPECTED[:2]
    with pytest.raises(ValueError, match="rgb is damaged"):
        next(batches)
    assert batches.get_state() == {"next_step": 2}
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_close_leaves_no_thread_even_while_the_queue_is_full():
    before = threading.active_count()
    for _ in range(5):
        batches = BatchIterator(ORDER, lambda indices: indices, ahead=1)
        next(batches)
        batches.close()
        batches.close()
    assert threading.active_count() == before


def test_loading_nothing_ahead_is_refused():
    with pytest.raises(ValueError, match="ahead=0"):
        BatchIterator(ORDER, lambda indices: indices, ahead=0)

import threading
import time

import grain
import numpy as np
import pytest

from data_pipeline.batches import Batches, BatchIterator, BatchOrder, interleave


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


def test_batches_are_opened_at_any_step_and_their_samples_have_names():
    batches = Batches(ORDER, lambda i: i, lambda i: [f"sample {each}" for each in i], slice(1, 3))
    for step in (0, 3, 11):
        with batches.open(step) as opened:
            next(opened)
            time.sleep(0.05)  # Whatever was loaded ahead, the next one comes next.
            assert next(opened).tolist() == EXPECTED[step + 1][1:3]
        assert batches.samples(step) == [f"sample {each}" for each in EXPECTED[step]]


def test_batches_are_loaded_ahead_but_no_further_than_asked():
    loaded = []
    with BatchIterator(ORDER, lambda indices: loaded.append(1) or indices, ahead=3) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(loaded) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(loaded) == 4  # One used, three waiting.


def test_what_loading_raises_reaches_the_consumer_at_its_step():
    def load(indices):
        if indices.tolist() == EXPECTED[2]:
            raise ValueError("rgb is damaged")
        return indices

    batches = BatchIterator(ORDER, load)
    assert steps_of([next(batches), next(batches)]) == EXPECTED[:2]
    with pytest.raises(ValueError, match="rgb is damaged"):
        next(batches)
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_close_leaves_no_thread_even_while_batches_are_waiting():
    before = set(threading.enumerate())
    for _ in range(5):
        batches = BatchIterator(ORDER, lambda indices: indices, ahead=1)
        next(batches)
        batches.close()
        batches.close()
    deadline = time.monotonic() + 30
    # Threads of other tests may end meanwhile.
    while (started := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not started


def test_several_threads_yield_the_same_in_order():
    def load(indices):
        time.sleep(0.002 * (indices[0] % 3))
        return indices

    with BatchIterator(ORDER, load, ahead=6, threads=3) as batches:
        assert steps_of(next(batches) for _ in range(15)) == EXPECTED[:15]


@pytest.mark.parametrize("wrong", [{"ahead": 0}, {"threads": 0}])
def test_loading_nothing_ahead_is_refused(wrong):
    with pytest.raises(ValueError, match=r"ahead=.*, threads=.*; it loads at least 1"):
        BatchIterator(ORDER, lambda indices: indices, **wrong)


MIXED = BatchOrder((10, 7, 30), 12, seed=2, weights=(1.0, 2.0, 0.5))


@pytest.mark.parametrize("order", [ORDER, MIXED])
def test_any_number_of_processes_have_the_same_batches_together(order):
    whole = [order.indices(step).tolist() for step in range(12)]
    step = 0
    # Resumed twice, each time on another number of processes.
    for processes, steps in ((1, 3), (2, 5), (4, 4)):
        share = order.batch_size // processes
        parts = []
        for process in range(processes):
            rows = slice(process * share, (process + 1) * share)
            with BatchIterator(order, lambda i: i, next_step=step, rows=rows) as batches:
                parts.append([next(batches) for _ in range(steps)])
        joined = [np.concatenate(rows).tolist() for rows in zip(*parts, strict=True)]
        assert joined == whole[step : step + steps]
        step += steps


def test_every_data_set_of_a_mixture_has_epochs_of_its_own():
    drawn = np.concatenate([MIXED.indices(step) for step in range(350)])
    assert drawn.min() == 0 and drawn.max() == 46
    for first, size, weight in ((0, 10, 1.0), (10, 7, 2.0), (17, 30, 0.5)):
        own = drawn[(drawn >= first) & (drawn < first + size)] - first
        assert abs(len(own) - len(drawn) * weight / 3.5) <= 3
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(epochs) > 15 and (np.sort(epochs, axis=1) == np.arange(size)).all()
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 0.9 * len(epochs)


def test_a_mixture_is_a_pure_function_of_the_step_whatever_the_batch_size():
    forwards = np.concatenate([MIXED.indices(step) for step in range(10)])
    backwards = [
        BatchOrder((10, 7, 30), 12, 2, (1.0, 2.0, 0.5)).indices(s) for s in range(9, -1, -1)
    ]
    np.testing.assert_array_equal(forwards, np.concatenate(backwards[::-1]))
    larger = BatchOrder((10, 7, 30), 60, 2, (1.0, 2.0, 0.5))
    np.testing.assert_array_equal(forwards, np.concatenate([larger.indices(0), larger.indices(1)]))


def test_a_mixture_of_one_is_the_data_set():
    for step in range(10):
        alone = BatchOrder((10,), 4, seed=2, weights=(0.3,)).indices(step)
        assert alone.tolist() == EXPECTED[step]


def test_draws_are_interleaved_as_grain_does_it():
    class Places:
        def __init__(self, number):
            self.number = number

        def __len__(self):
            return 10**6

        def __getitem__(self, place):
            return self.number, place

    weights = (100, 230, 700, 100)
    sources = [grain.MapDataset.source(Places(number)) for number in range(4)]
    mixed = grain.MapDataset.mix(sources, weights)
    chosen, places = interleave(weights, np.arange(1000, 3000))
    assert list(zip(chosen.tolist(), places.tolist(), strict=True)) == [
        mixed[position] for position in range(1000, 3000)
    ]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, np.inf, 1.0)])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="for 3 data sets; each has one, positive and finite"):
        BatchOrder((1, 2, 3), 1, weights=weights)

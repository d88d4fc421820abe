"""SIGTERM raises in the main thread, at once or when the work is saved."""

import os
import signal
import threading

import pytest

from fourm.training.termination import Terminated, deferred, raises_terminated


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_raises_at_once_and_the_handler_of_before_comes_back():
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(1))
    try:
        with pytest.raises(Terminated), raises_terminated():
            terminate()
            raise AssertionError("not reached")
        terminate()
        assert called == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_that_handles_failures_takes_it_for_one():
    assert not issubclass(Terminated, Exception)


def test_deferred_it_is_told_to_who_asks_and_raises_on_leaving():
    reached = []
    with pytest.raises(Terminated), raises_terminated(), deferred() as is_terminated:
        reached.append(is_terminated())
        terminate()
        reached.append(is_terminated())
    assert reached == [False, True]


def test_a_second_one_does_not_disturb_the_cleaning_up():
    cleaned = []
    with pytest.raises(Terminated), raises_terminated():
        try:
            terminate()
        finally:
            terminate()
            cleaned.append(1)
    assert cleaned == [1]


def test_an_error_in_deferred_work_is_not_hidden():
    with pytest.raises(KeyError), raises_terminated(), deferred():
        terminate()
        raise KeyError
    with raises_terminated(), deferred() as is_terminated:
        assert not is_terminated()


def test_outside_the_main_thread_nothing_is_installed():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with raises_terminated(), deferred() as is_terminated:
            found.extend([signal.getsignal(signal.SIGTERM), is_terminated()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before, False]

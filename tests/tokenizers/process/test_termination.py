"""Signals raise in the main thread, at once or when the work is saved, and are never lost."""

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.paths import ROOT
from tokenizers.process.termination import Terminated, check_terminated, deferred, raises_terminated


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


def test_a_request_that_is_passed_on_twice_does_not_disturb_the_cleaning_up():
    cleaned = []
    with pytest.raises(Terminated), raises_terminated():
        try:
            terminate()
        finally:
            terminate()
            cleaned.append(1)
    assert cleaned == [1]


def test_a_terminal_that_is_closed_is_as_sigterm_unless_nobody_is_to_hear_of_it():
    with pytest.raises(Terminated, match="SIGHUP"), raises_terminated():
        os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As nohup does.
    try:
        with raises_terminated():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class Cycle:
    """Its callback is where an exception is printed and forgotten."""

    def __init__(self, number: int):
        self.number, self.itself = number, self

    def __del__(self):
        os.kill(os.getpid(), self.number)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_a_callback_of_the_garbage_collector_swallows_is_raised_at_the_next_step(number):
    wanted = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with raises_terminated():
        for _ in range(2):
            Cycle(number)
            gc.collect()
        with pytest.raises(wanted):
            check_terminated()
    with pytest.raises(wanted), raises_terminated(), deferred() as is_terminated:
        Cycle(number)
        gc.collect()
        assert is_terminated()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_second_one_ends_the_process_whatever_it_does(number):
    program = """
import os, sys, time
from tokenizers.process import termination
number, termination.AT_ONCE = int(sys.argv[1]), 0
with termination.raises_terminated():
    try:
        os.kill(os.getpid(), number)
    except BaseException:
        pass
    time.sleep(0.01)
    os.kill(os.getpid(), number)
    print("not reached")
"""
    command = [sys.executable, "-c", program, str(int(number))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (-number, "")


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

"""Reading one part ahead: in order, no further, and errors at their turn."""

import contextvars
import threading
import time

import pytest

from data_pipeline.tokens.read_ahead import read_ahead


def test_parts_come_in_order_and_one_more_is_read_meanwhile():
    begun = []

    def read(part):
        begun.append((part, threading.current_thread() is threading.main_thread()))
        return 10 * part

    found = read_ahead(read, range(5))
    for number in range(5):
        assert next(found) == 10 * number
        time.sleep(0.02)
        assert begun == [(part, False) for part in range(min(number + 2, 5))]
    assert list(found) == []


def test_an_error_is_raised_when_it_is_its_turn():
    found = read_ahead(lambda part: 1 // (2 - part), range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_nothing_more_is_read_once_it_is_closed():
    begun = []
    found = read_ahead(begun.append, range(5))
    next(found)
    found.close()
    seen = list(begun)
    time.sleep(0.05)
    assert begun == seen and len(seen) <= 2


def test_what_the_context_says_holds_for_the_reader():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(3)
    assert list(read_ahead(lambda part: variable.get() + part, [1, 2])) == [4, 5]

"""Whether differences are found, and only those that count."""

import numpy as np
import pytest

from fourm.interop.checks.comparison import compare, compare_exactly

RECORDED = np.array([[3.0, 4.0], [0.0, 12.0]])


def test_the_error_is_relative_to_the_norm_of_what_was_recorded():
    off = np.array([[0.0, 0.0], [0.0, 0.13]])
    assert compare("x", RECORDED + off, RECORDED).error == pytest.approx(0.01)


@pytest.mark.parametrize("ours", [RECORDED * (1 + 2e-4), RECORDED[:1], RECORDED * np.nan])
def test_other_numbers_other_shapes_and_nan_are_not_equal(ours):
    assert not compare("x", ours, RECORDED).is_equal


def test_rows_that_do_not_count_may_hold_anything():
    ours = np.array([[3.0, 4.0], [np.nan, 1e9]])
    assert compare("x", ours, RECORDED, is_valid=np.array([True, False])).is_equal


def test_infinities_and_nan_must_be_where_they_were_recorded():
    recorded = np.array([np.inf, np.nan, 1.0])
    assert compare("x", recorded, recorded).is_equal
    assert not compare("x", np.array([-np.inf, np.nan, 1.0]), recorded).is_equal
    assert not compare("x", np.array([np.inf, 0.0, 1.0]), recorded).is_equal


def test_of_zeros_the_difference_itself_counts():
    assert compare("x", np.full(3, 1e-6), np.zeros(3)).is_equal
    assert not compare("x", np.ones(3), np.zeros(3)).is_equal


def test_ids_must_be_equal_but_for_ties():
    recorded = np.array([1, 2, 3, 4])
    ours = np.array([1, 2, 3, 5])
    assert compare_exactly("ids", ours, recorded).error == 0.25
    assert not compare_exactly("ids", ours, recorded).is_equal
    assert compare_exactly("ids", ours, recorded, may_differ=ours == 5).is_equal
    assert not compare_exactly("ids", ours[:3], recorded).is_equal

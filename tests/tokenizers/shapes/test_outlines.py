"""Outlines: cut, simplified, put into one order, and filled."""

import numpy as np
import pytest

from tokenizers.shapes.outlines import area_of, cut_at_edges, fill, in_usual_order, simplify


def star(corners: int, radius: float, middle: tuple[float, float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angles = np.arange(corners) * 2 * np.pi / corners
    far = radius * rng.uniform(0.3, 1, corners)
    return np.stack([np.cos(angles) * far, np.sin(angles) * far], axis=1) + middle


def covered(points: np.ndarray, side: int = 400, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Which pixels an outline covers, of a picture of [low, high] along both axes."""
    mask = np.zeros((side, side), bool)
    fill(mask, (points - low) / (high - low) * side)
    return mask


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("middle", [(0.5, 0.5), (0.9, 0.1), (-0.2, 0.5), (1.1, 1.1)])
def test_what_is_cut_off_is_what_lies_outside(middle, seed):
    points = star(12, 0.6, middle, seed)
    cut = cut_at_edges(points)
    assert ((cut >= 0) & (cut <= 1)).all()
    # A picture of three times the size, of which the middle is the unit square.
    whole = covered(points, 600, -1.0, 2.0)
    expected = whole[200:400, 200:400]
    found = covered(cut, 200) if len(cut) else np.zeros((200, 200), bool)
    assert (found ^ expected).sum() <= 4


def test_an_outline_outside_is_nothing_and_one_inside_stays():
    assert not len(cut_at_edges(star(5, 0.2, (2, 2), 0)))
    inside = star(5, 0.4, (0.5, 0.5), 0)
    np.testing.assert_array_equal(cut_at_edges(inside), inside)


def test_the_area_is_that_of_the_pixels_inside():
    points = star(9, 0.5, (0.5, 0.5), 1)
    assert area_of(points) == pytest.approx(covered(points).mean(), abs=0.005)
    assert area_of(points[::-1]) == pytest.approx(area_of(points))


def test_corners_that_matter_least_go_first():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    finer = np.insert(square, 1, [0.5, 0.01], axis=0)
    np.testing.assert_array_equal(simplify(finer, 4), square)
    assert len(simplify(finer, 3)) == 3 and simplify(square, 9) is square


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("step", [1, -1])
def test_the_same_outline_has_one_order(turn, step):
    points = star(7, 0.4, (0.5, 0.5), 2)
    usual = in_usual_order(points)
    np.testing.assert_array_equal(in_usual_order(np.roll(points, turn, axis=0)[::step]), usual)
    assert usual.sum(axis=1).argmin() == 0

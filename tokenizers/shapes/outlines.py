"""Outlines of things: cut at a picture's edge, with fewer corners, and the pixels inside."""

import numpy as np
from jaxtyping import Bool, Float

MAX_CROSSINGS = 20_000_000
"""Most rows that all edges of an outline may cross together."""


def area_of(points: Float[np.ndarray, "corners 2"]) -> float:
    """Returns the area inside of an outline, of which turns the other way are subtracted."""
    x, y = points.astype(np.float64).T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


def cut_at_edges(points: Float[np.ndarray, "corners 2"]) -> Float[np.ndarray, "cut 2"]:
    """Returns what of an outline lies in the unit square; nothing if it lies outside.

    Cut at one edge after the other (Sutherland and Hodgman 1974). Of an outline that leaves the
    picture several times, parts stay connected along the edge.
    """
    for axis in (0, 1):
        for edge, sign in ((0.0, 1.0), (1.0, -1.0)):
            if not len(points):
                return points
            inside = sign * (points[:, axis] - edge)
            following = np.roll(points, -1, axis=0)
            next_inside = np.roll(inside, -1)
            crosses = (inside >= 0) != (next_inside >= 0)
            share = np.where(crosses, inside / np.where(crosses, inside - next_inside, 1), 0)
            meeting = points + share[:, None] * (following - points)
            meeting[:, axis] = edge
            # Of every edge its beginning, if that is inside, and where it crosses.
            both = np.stack([points, meeting], axis=1).reshape(-1, 2)
            points = both[np.stack([inside >= 0, crosses], axis=1).ravel()]
    return points


def simplify(points: Float[np.ndarray, "corners 2"], most: int) -> Float[np.ndarray, "kept 2"]:
    """Returns an outline with at most so many corners, at least 3.

    Of every three neighbours the middle one that changes the area least goes first (Visvalingam
    and Whyatt 1993).
    """
    kept = points
    while len(kept) > max(most, 3):
        before, after = np.roll(kept, 1, axis=0) - kept, np.roll(kept, -1, axis=0) - kept
        changes = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
        kept = np.delete(kept, changes.argmin(), axis=0)
    return kept


def in_usual_order(points: Float[np.ndarray, "corners 2"]) -> Float[np.ndarray, "corners 2"]:
    """Returns an outline clockwise, from the corner on that is nearest to the upper left."""
    x, y = points.T
    if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0:  # The y axis points down.
        points = points[::-1]
    return np.roll(points, -int(points.sum(axis=1).argmin()), axis=0)


def fill(covered: Bool[np.ndarray, "height width"], points: Float[np.ndarray, "corners 2"]) -> None:
    """Covers the pixels whose centre is inside of an outline, given in pixels.

    Raises:
        ValueError: If a corner is no number, or the outline is too long.
    """
    if not np.isfinite(points).all():
        raise ValueError("has an outline with a corner that is no number")
    height, width = covered.shape
    x, y = points.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    # Rows whose centre line an edge crosses; half open, so that a corner counts once.
    first = np.ceil(np.minimum(y, next_y) - 0.5).clip(0, height).astype(int)
    last = np.ceil(np.maximum(y, next_y) - 0.5).clip(0, height).astype(int)
    if (last - first).sum() > MAX_CROSSINGS:
        raise ValueError(f"has an outline of {len(points)} corners, which is too many")
    edge = np.repeat(np.arange(len(points)), last - first)
    if not len(edge):
        return
    row = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    share = (row + 0.5 - y[edge]) / (next_y - y)[edge]
    column = np.ceil(x[edge] + share * (next_x - x)[edge] - 0.5).clip(0, width).astype(int)
    top, bottom = int(row.min()), int(row.max()) + 1
    crossings = np.zeros((bottom - top, width + 1), np.int32)
    np.add.at(crossings, (row - top, column), 1)
    covered[top:bottom] |= crossings.cumsum(axis=1)[:, :width] % 2 == 1

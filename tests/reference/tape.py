"""Reverse-mode differentiation of NumPy arrays in float64, for what the judge computes."""

from collections.abc import Callable, Sequence

import numpy as np


class Value:
    """An array that knows what it follows from; `differentiate` fills in `slope`."""

    def __init__(
        self, array, parents: Sequence["Value"] = (), pull: Callable[..., tuple] = lambda slope: ()
    ):
        self.array = np.asarray(array, np.float64)
        self.slope = np.zeros_like(self.array)
        self._parents, self._pull = tuple(parents), pull

    def __add__(self, other):
        other = wrap(other)
        return Value(self.array + other.array, (self, other), lambda slope: (slope, slope))

    def __mul__(self, other):
        a, b = self.array, wrap(other).array
        return Value(a * b, (self, wrap(other)), lambda slope: (slope * b, slope * a))

    def __matmul__(self, other):
        a, b = self.array, other.array

        def pull(slope):
            return slope @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ slope

        return Value(a @ b, (self, other), pull)

    def __getitem__(self, place):
        def pull(slope):
            whole = np.zeros_like(self.array)
            np.add.at(whole, place, slope)
            return (whole,)

        return Value(self.array[place], (self,), pull)

    def reshape(self, *shape):
        before = self.array.shape
        return Value(self.array.reshape(shape), (self,), lambda slope: (slope.reshape(before),))

    def swap(self, a: int, b: int):
        return Value(self.array.swapaxes(a, b), (self,), lambda slope: (slope.swapaxes(a, b),))

    def sum(self, axis=None):
        """Keeps the axis, with one entry."""
        total = self.array.sum(axis, keepdims=True)
        shape = self.array.shape
        return Value(total, (self,), lambda slope: (np.broadcast_to(slope, shape),))

    def power(self, exponent: float):
        slope_here = exponent * self.array ** (exponent - 1)
        return Value(self.array**exponent, (self,), lambda slope: (slope * slope_here,))

    def exp(self):
        e = np.exp(self.array)
        return Value(e, (self,), lambda slope: (slope * e,))

    def log(self):
        return Value(np.log(self.array), (self,), lambda slope: (slope / self.array,))


def wrap(value) -> Value:
    return value if isinstance(value, Value) else Value(value)


def choose(condition: np.ndarray, value: Value, otherwise: float) -> Value:
    """The value where a condition holds, a constant elsewhere."""
    chosen = np.where(condition, value.array, otherwise)
    return Value(chosen, (value,), lambda slope: (np.where(condition, slope, 0.0),))


def softmax(value: Value) -> Value:
    """Along the last axis."""
    shifted = value + (-value.array.max(-1, keepdims=True))
    exponentials = shifted.exp()
    return exponentials * exponentials.sum(-1).power(-1.0)


def differentiate(loss: Value) -> None:
    """Gives every value that a loss follows from its slope."""
    order, seen = [], set()

    def visit(value):
        if id(value) not in seen:
            seen.add(id(value))
            for parent in value._parents:
                visit(parent)
            order.append(value)

    visit(loss)
    loss.slope = np.ones_like(loss.array)
    for value in reversed(order):
        for parent, slope in zip(value._parents, value._pull(value.slope), strict=True):
            parent.slope = parent.slope + unbroadcast(slope, parent.array.shape)


def unbroadcast(slope: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Adds up over the axes along which an array was repeated."""
    slope = slope.sum(tuple(range(slope.ndim - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return slope.sum(repeated, keepdims=True)

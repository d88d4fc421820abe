"""Samples of every dense kind of values, with an edge between a near and a far side."""

import numpy as np


def values_of(name: str, near: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Returns samples of a kind; `near` and `unknown` are bool [batch, height, width]."""
    match name:
        case "colors":
            return np.where(near[..., None], (200, 30, 10), (20, 60, 90)).astype(np.uint8)
        case "reals":
            values = np.where(near[..., None], (1.0, -5.0), (3.0, 9.0)).astype(np.float32)
            values[unknown] = np.nan
            return values
        case "distances":
            return np.where(unknown, 0, np.where(near, 2.0, 5.0)).astype(np.float32)
        case "directions":
            vectors = np.where(near[..., None], (0.6, 0, 0.8), (0, 1.0, 0)).astype(np.float32)
            return np.where(unknown[..., None], 0, vectors).astype(np.float32)
        case "classes":
            return np.where(unknown, 255, near).astype(np.uint8)
    raise ValueError(name)

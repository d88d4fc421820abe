"""Patches described by a few numbers: their principal components, on one scale.

An id says which of some hundred codes a patch is nearest to; what tells one spectrum or one edge
from another is lost with the rest. These numbers keep it, and cost the encoder one projection.
"""

import numpy as np
from jaxtyping import Float

from tokenizers.decomposition import decompose

PATCHES = 2048
"""To which components are fitted."""
NOISE = 0.05
"""Variance, as a share of the mean of the components kept, below which one counts as noise: it is
scaled up no further."""


def fit_components(
    patches: Float[np.ndarray, "patches numbers"], width: int
) -> tuple[Float[np.ndarray, "numbers"], Float[np.ndarray, "numbers width"]]:
    """Returns the mean of patches, and what turns their difference from it into features.

    Features are uncorrelated on these patches. Those that vary most come first and have a variance
    near 1; those in which there is hardly more than noise stay small.

    Args:
        patches: Finite numbers, a row per patch.
        width: Of the features; there may be fewer patches.
    """
    rows = patches[np.linspace(0, len(patches) - 1, min(len(patches), PATCHES)).astype(int)]
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    _, spread, directions = decompose(rows - mean)
    variance = np.zeros(width)
    variance[: len(spread)] = spread[:width] ** 2 / max(len(rows) - 1, 1)
    components = np.zeros((patches.shape[1], width))
    components[:, : len(directions)] = directions[:width].T
    scale = np.sqrt(variance + NOISE * variance.mean())
    components /= np.where(scale > 0, scale, 1.0)
    return mean.astype(np.float32), components.astype(np.float32)

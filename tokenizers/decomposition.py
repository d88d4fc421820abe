"""Singular values and directions of matrices, also where few of their columns vary."""

import numpy as np
from jaxtyping import Float


def decompose(
    rows: Float[np.ndarray, "rows columns"],
) -> tuple[
    Float[np.ndarray, "rows rank"], Float[np.ndarray, "rank"], Float[np.ndarray, "rank columns"]
]:
    """Returns the thin singular value decomposition of finite numbers.

    LAPACK's divide and conquer (gesdd), which NumPy uses, is fast, but may not converge on a matrix
    in which hundreds of directions do not vary at all, as where most classes of a class map are
    absent. Then the slower QR iteration (gesvd) does it.
    """
    try:
        return np.linalg.svd(rows, full_matrices=False)
    except np.linalg.LinAlgError:
        import scipy.linalg  # Which takes a while, and is seldom needed.

        return scipy.linalg.svd(rows, full_matrices=False, lapack_driver="gesvd")

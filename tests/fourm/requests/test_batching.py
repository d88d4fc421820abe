"""Places are whole numbers, one for each sample."""

import numpy as np
import pytest

from fourm.requests.batching import as_places


def test_places_are_those_of_the_batch_unless_others_are_given():
    assert as_places(None, 3).tolist() == [0, 1, 2]
    assert as_places((5, 2**31 - 1), 2).tolist() == [5, 2**31 - 1]


@pytest.mark.parametrize(
    "given", [[0.5, 1], [-1, 1], [2**31, 0], ["a", "b"], 3, np.eye(2, dtype=int)]
)
def test_other_places_are_one_sentence(given):
    with pytest.raises(ValueError, match="give a whole number for each sample, 0 to"):
        as_places(given, 2)
    with pytest.raises(ValueError, match="There are 3 samples and 2 places"):
        as_places([0, 1], 3)

"""What all tokenizers share."""

import numpy as np
import pytest

from tokenizers.base import PADDING, check_ids


@pytest.mark.parametrize("token", [7, -1, -2])
def test_ids_out_of_range_are_one_sentence(token):
    ids = np.array([[0, 6], [token, 3]])
    with pytest.raises(ValueError, match=rf"Token {token} is out of range: .* ids 0 to 6; check"):
        check_ids(ids, 7)
    if token == PADDING:
        check_ids(ids, 7, may_pad=True)
    else:
        with pytest.raises(ValueError, match=rf"Token {token} .* 0 to 6, and -1 for padding"):
            check_ids(ids, 7, may_pad=True)

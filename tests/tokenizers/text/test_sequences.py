import numpy as np
import pytest

from tokenizers.base import SequenceTokens
from tokenizers.text.sequences import pad_sequences, read_sequences

SPECIAL = SequenceTokens(end=0, first_sentinel=1, num_sentinels=2)


def test_sequences_end_and_are_padded_and_lose_what_does_not_fit():
    ids = pad_sequences([[5, 6], [], [5, 6, 7, 8, 9], [5, 6, 7]], end=0, longest=4)
    assert ids.tolist() == [[5, 6, 0, -1], [0, -1, -1, -1], [5, 6, 7, 0], [5, 6, 7, 0]]
    assert ids.dtype == np.int32


def test_reading_gives_back_what_was_padded():
    sequences = [[5, 6], [], [9, 3, 4]]
    read = read_sequences(pad_sequences(sequences, end=0, longest=5), SPECIAL, vocab_size=10)
    assert [row.tolist() for row in read] == sequences


def test_sentinels_padding_and_what_follows_the_end_are_not_read():
    ids = np.array([[1, 5, -1, 2, 6, 0, 7], [3, 4, 5, 6, 7, 8, 9]])
    read = read_sequences(ids, SPECIAL, vocab_size=10)
    assert [row.tolist() for row in read] == [[5, 6], [3, 4, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize("token", [-2, 10])
def test_an_id_out_of_range_is_refused_even_after_the_end(token):
    with pytest.raises(ValueError, match=rf"Token {token} is out of range: .* ids 0 to 9, and -1"):
        read_sequences(np.array([[0, token]]), SPECIAL, vocab_size=10)

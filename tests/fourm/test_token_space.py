"""The token space: every modality owns ids and positions that no other has."""

import numpy as np
import pytest

from fourm.token_space import MASK_ID, TokenSpace
from tests.fourm.tiny import SPACE, Shape
from tokenizers.base import SequenceTokens


def test_ids_of_all_modalities_are_disjoint_and_leave_no_gap_after_the_mask():
    owned = [np.arange(entry.first_id, entry.first_id + entry.vocab_size) for entry in SPACE.ranges]
    np.testing.assert_array_equal(np.concatenate([[MASK_ID], *owned]), np.arange(SPACE.vocab_size))


def test_positions_of_all_modalities_are_disjoint_and_leave_no_gap():
    owned = [
        np.arange(entry.first_position, entry.first_position + entry.num_positions)
        for entry in SPACE.ranges
    ]
    np.testing.assert_array_equal(np.concatenate(owned), np.arange(SPACE.num_positions))


def test_indices_follow_the_order_of_the_mapping():
    assert SPACE.names == ("picture", "map", "text", "boxes", "number")
    assert [entry.index for entry in SPACE.ranges] == [0, 1, 2, 3, 4]


def test_kind_and_size_come_from_the_tokenizer():
    kinds = {entry.name: (entry.kind, entry.num_tokens) for entry in SPACE.ranges}
    assert kinds == {
        "picture": ("grid", 12),
        "map": ("grid", 6),
        "text": ("sequence", 10),
        "boxes": ("sequence", 6),
        "number": ("grid", 1),
    }


def test_a_sequence_has_positions_for_two_sentinels_more_than_tokens():
    assert SPACE["text"].num_positions == 12
    assert SPACE["picture"].num_positions == 12


def test_adding_a_modality_at_the_end_moves_no_other():
    first = {"a": Shape(5, (2, 2)), "b": Shape(9, (3,), SequenceTokens(0, 1, 2))}
    assert TokenSpace.build(first | {"c": Shape(4, (1,))}).ranges[:2] == (
        TokenSpace.build(first).ranges
    )


def test_an_unknown_name_gets_one_sentence_and_the_nearest_name():
    with pytest.raises(
        ValueError,
        match=r"^There is no modality 'pictures' in this model; it has picture, map, text, boxes, "
        r"number\. Did you mean 'picture'\?$",
    ):
        SPACE["pictures"]


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match=r"no modality 'zzz' in this model; .*number\.$"):
        SPACE["zzz"]


def test_a_space_without_modalities_is_refused():
    with pytest.raises(ValueError, match="There is no modality; name at least one"):
        TokenSpace.build({})

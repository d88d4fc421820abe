"""Packing: what is visible, in its order, at the positions that it has."""

import numpy as np
import pytest

from fourm.interop.transformer.batch import cut_patches, group_arrays, read_batch
from fourm.interop.transformer.config import build_space, complete_config
from fourm.token_space import MASK_ID

NAMES = ["caption", "human_poses", "rgb@224", "t5_caption", "tok_semseg@224"]
CONFIG = dict(image_size=224, patch_size=16, norm_bias=False, act_layer="SiLU")
SPACE = build_space(
    complete_config(
        CONFIG | dict(domains_in=NAMES, domains_out=["caption", "human_poses", "tok_semseg@224"])
    ),
    {"caption": 30, "human_poses": 30, "tok_semseg@224": 7, "t5_caption": 4},
)


def sequence(length, shown=(), asked=()):
    """Ids that count up; which of them are shown, and which asked."""
    ids = np.arange(length)[None] % 30
    masks = np.ones((2, 1, length), bool)
    masks[0, 0, list(shown)] = False
    masks[1, 0, list(asked)] = False
    return dict(tensor=ids, input_mask=masks[0], target_mask=masks[1])


def real(side, field):
    return np.asarray(getattr(side, field))[np.asarray(side.is_real)].tolist()


def test_the_arrays_of_a_file_are_grouped_by_modality_in_their_order():
    grouped = group_arrays({"b/tensor": np.ones(1), "a/tensor": np.ones(2), "b/input_mask": None})
    assert list(grouped) == ["b", "a"] and list(grouped["b"]) == ["tensor", "input_mask"]


def test_positions_of_a_sequence_count_what_is_visible_and_targets_are_shifted():
    entry = SPACE["caption"]
    batch = {"caption": sequence(12, shown=(2, 5, 9), asked=(3, 4, 5, 8))}
    inputs, targets = read_batch(batch, SPACE, 5, 5)
    assert inputs.ids.shape == (1, 5)
    assert real(inputs, "ids") == [entry.first_id + i for i in (2, 5, 9)]
    assert real(inputs, "position") == [entry.first_position + i for i in (0, 1, 2)]
    # The gap after 5 ends a run: 8 has nothing before it and nothing after.
    assert real(targets, "previous") == [entry.first_id + i for i in (3, 4)]
    assert real(targets, "ids") == [entry.first_id + i for i in (4, 5)]
    assert real(targets, "position") == [entry.first_position + i for i in (0, 1)]
    assert not np.asarray(targets.ids)[~np.asarray(targets.is_real)].any()


def test_positions_of_a_grid_are_places_and_its_targets_read_the_mask():
    entry = SPACE["tok_semseg@224"]
    arrays = sequence(196, shown=(1, 195), asked=(0, 7))
    arrays["tensor"] = np.arange(196).reshape(1, 14, 14) % 7
    inputs, targets = read_batch({entry.name: arrays}, SPACE, 9, 9)
    assert real(inputs, "position") == [entry.first_position + i for i in (1, 195)]
    assert real(targets, "position") == [entry.first_position + i for i in (0, 7)]
    assert real(targets, "previous") == [MASK_ID] * 2
    assert real(targets, "ids") == [entry.first_id + 0, entry.first_id + 0]


def test_the_first_tokens_are_kept_modality_by_modality():
    batch = {
        "tok_semseg@224": sequence(196, shown=(5, 6), asked=(7,)),
        "caption": sequence(12, shown=(0, 1), asked=(2, 3, 4)),
    }
    batch["tok_semseg@224"]["tensor"] = np.zeros((1, 196), int)
    inputs, targets = read_batch(batch, SPACE, 3, 2)
    assert real(inputs, "modality") == [SPACE["tok_semseg@224"].index] * 2 + [0]
    assert real(targets, "modality") == [SPACE["tok_semseg@224"].index, 0]


def test_positions_too_far_for_the_peer_are_the_first_on_the_decoder_s_side_alone():
    entry = SPACE["human_poses"]
    batch = {"human_poses": sequence(552, shown=range(265), asked=range(270, 536))}
    inputs, targets = read_batch(batch, SPACE, 300, 300)
    place = np.array(real(targets, "position")) - entry.first_position
    assert place.tolist() == [*range(263), 0, 0]
    assert max(real(inputs, "position")) == entry.first_position + 264


def test_pixels_are_cut_row_by_row_with_channels_as_neighbours():
    pictures = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    patches = cut_patches(pictures, 2)
    assert patches.shape == (2, 6, 12)
    expected = [pictures[1, c, 2 + y, 2 + x] for y in (0, 1) for x in (0, 1) for c in (0, 1, 2)]
    assert patches[1, 4].tolist() == expected


def test_features_lie_at_the_position_of_their_token():
    rng = np.random.default_rng(0)
    text = rng.normal(size=(1, 77, 4)).astype(np.float32)
    batch = {
        "t5_caption": sequence(77, shown=(3, 8, 9)) | dict(tensor=text),
        "rgb@224": sequence(196, shown=(2,))
        | dict(tensor=rng.normal(size=(1, 3, 224, 224)).astype(np.float32)),
        "caption": sequence(12, asked=(0, 1)),
    }
    inputs, targets = read_batch(batch, SPACE, 6, 3)
    place = np.array(real(inputs, "position"))
    assert (place[:3] - SPACE["t5_caption"].first_position).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(inputs.features["t5_caption"][0, :3], text[0, [3, 8, 9]])
    assert place[3] - SPACE["rgb@224"].first_position == 2
    assert inputs.features["rgb@224"].shape == (1, 196, 768)
    assert set(real(targets, "modality")) == {SPACE["caption"].index}


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("caption", sequence(12, shown=(1,)) | dict(tensor=np.full((1, 12), 30)), "ids from 30 to"),
        ("caption", sequence(600, shown=range(300)), "shows 300 tokens .* for 258"),
        ("caption", sequence(600, asked=range(400)), None),
        ("tok_normal@224", sequence(196), "There is no modality 'tok_normal@224' in this model"),
    ],
)
def test_what_the_model_has_no_place_for_is_refused(name, arrays, message):
    if message is None:
        read_batch({name: arrays}, SPACE, 9, 9)  # Too far for the peer, which takes the first.
    else:
        with pytest.raises(ValueError, match=message):
            read_batch({name: arrays}, SPACE, 9, 9)

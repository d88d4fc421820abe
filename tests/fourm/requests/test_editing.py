"""Which tokens a region means, what stays of a picture, and texts with blanks."""

import jax
import numpy as np
import pytest
from PIL import Image

from fourm.requests.editing import encode_with_blanks
from fourm.requests.regions import cover, pad_picture, paste, redone_tokens, region_of_classes
from fourm.token_space import TokenSpace
from tests.fourm.tiny import Shape
from tests.fourm.tiny_run import CAPTIONS
from tokenizers.base import PADDING, Crop
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig

GRID = TokenSpace.build({"picture": Shape(13, (3, 4)), "number": Shape(5, (1,))})["picture"]
NUMBER = TokenSpace.build({"number": Shape(5, (1,))})["number"]
KEYS = jax.random.split(jax.random.key(0), 2)


def as_map(row):
    return row.reshape(GRID.token_shape).astype(int).tolist()


def test_a_mask_means_every_token_that_it_touches():
    mask = np.zeros((12, 16), bool)
    mask[3, 4] = mask[11, 15] = True
    one, two = redone_tokens(mask, GRID, KEYS)
    assert as_map(one) == as_map(two) == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    each = redone_tokens(np.stack([mask, ~mask]), GRID, KEYS)
    assert as_map(each[0]) == as_map(one) and each[1].all()
    coarse = np.array([[True, False], [False, False]])
    assert as_map(redone_tokens(coarse, GRID, KEYS)[0]) == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4]
    assert cover(np.ones((5, 7), bool), (3, 4)).all()


def test_a_box_means_every_token_that_it_overlaps():
    box = (0.25, 0.0, 0.5, 0.34)
    assert as_map(redone_tokens(box, GRID, KEYS)[0]) == [[0, 1, 0, 0], [0, 1, 0, 0], [0] * 4]
    first, second = redone_tokens([box, (0.0, 0.0, 1.0, 1.0)], GRID, KEYS)
    assert first.sum() == 2 and second.all()


def test_a_share_means_so_many_random_tokens_of_each_sample():
    redone = redone_tokens(0.5, GRID, KEYS)
    assert redone.sum(1).tolist() == [6, 6] and (redone[0] != redone[1]).any()
    assert (redone_tokens(0.5, GRID, KEYS[1:])[0] == redone[1]).all()
    assert (redone_tokens(0.75, GRID, KEYS) >= redone).all()  # Stronger: the same and others.
    assert not redone_tokens(0, GRID, KEYS).any() and redone_tokens(1.0, NUMBER, KEYS).all()


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (1.5, "share of tokens to redo is 1.5"),
        ((0.5, 0.0, 0.2, 1.0), "is empty; give the least x"),
        ((0.0, 0.0, 2.0, 1.0), "give a mask \\[y, x\\] of booleans"),
        (np.zeros((4, 4)), "give a mask \\[y, x\\] of booleans"),
        ("sky", "The mask sky can.t be read"),
        (True, "give a mask \\[y, x\\] of booleans"),
        ([0.5], "There are 1 regions for 2 samples"),
        ([0.5, 0, 1, 1], "write a box as a tuple"),
        (float("nan"), "share of tokens to redo is nan"),
    ],
)
def test_what_is_no_region_is_one_sentence(region, told):
    with pytest.raises(ValueError, match=told):
        redone_tokens(region, GRID, KEYS)


def test_a_list_of_four_numbers_is_refused_where_it_may_be_a_box_or_four_shares():
    four = jax.random.split(jax.random.key(0), 4)
    with pytest.raises(ValueError, match="write a box as a tuple, "):
        redone_tokens([0.25, 0.0, 0.5, 0.34], GRID, four)
    shares = redone_tokens([1.0, 0.5, 0.0, 0.25], GRID, four)
    assert shares.sum(1).tolist() == [12, 6, 0, 3]
    assert redone_tokens(np.float32(0.5), GRID, four).sum() == 24


def test_a_region_is_of_the_whole_picture_of_which_the_model_sees_a_part():
    # Of a picture that is twice as wide the grid shows the middle half.
    crop = Crop(0.0, 0.25, 1.0, 0.5, flip=False)
    left, outside, middle = (0.25, 0.0, 0.375, 1.0), (0.0, 0.0, 0.25, 1.0), (0.5, 0.0, 0.75, 0.5)
    assert as_map(redone_tokens(left, GRID, KEYS[:1], [crop])[0]) == [[1, 0, 0, 0]] * 3
    assert not redone_tokens(outside, GRID, KEYS[:1], [crop]).any()
    assert as_map(redone_tokens(middle, GRID, KEYS[:1], [crop])[0])[0] == [0, 0, 1, 1]
    mask = np.zeros((6, 16), bool)
    mask[:, 4] = mask[0, 0] = True
    assert as_map(redone_tokens(mask, GRID, KEYS[:1], [crop])[0]) == [[1, 0, 0, 0]] * 3
    with pytest.raises(ValueError, match="mask is 6x8 and does not have the aspect ratio"):
        redone_tokens(np.zeros((6, 8), bool), GRID, KEYS[:1], [crop])


@pytest.mark.parametrize("white", [1, 255])
def test_a_mask_may_be_a_picture(tmp_path, white):
    mask = np.zeros((12, 16), np.uint8)
    mask[3, 4] = white
    file = tmp_path / "mask.png"
    Image.fromarray(mask).save(file)
    for given in (file, str(file), Image.fromarray(mask), mask.astype(bool)):
        assert as_map(redone_tokens(given, GRID, KEYS)[0])[0] == [0, 1, 0, 0]
    Image.fromarray(0 * mask).save(file)
    with pytest.raises(ValueError, match="black all over"):
        redone_tokens(file, GRID, KEYS)
    file.write_bytes(b"none")
    with pytest.raises(ValueError, match=r"The mask .*mask.png is "):
        redone_tokens(file, GRID, KEYS)


def test_margins_are_where_the_picture_is_not():
    picture = np.arange(8, dtype=np.uint8).reshape(2, 4)
    padded, is_margin = pad_picture(picture, (0.25, 0.0, 0.5, 1.0))
    assert padded.shape == is_margin.shape == (4, 7)
    assert (padded[:2, 1:5] == picture).all() and not is_margin[:2, 1:5].any()
    assert is_margin.sum() == 4 * 7 - 8 and padded[3, 6] == 7
    for wrong in ((0.0,) * 4, (-1.0, 0.0, 0.0, 0.0), (9.0, 0.0, 0.0, 0.0)):
        with pytest.raises(ValueError, match="The margins are"):
            pad_picture(picture, wrong)


def test_numbers_have_no_places():
    with pytest.raises(ValueError, match="number has no height and width"):
        redone_tokens((0.0, 0.0, 1.0, 1.0), NUMBER, KEYS)


def test_what_is_kept_stays_pixel_by_pixel():
    original, made = np.zeros((1, 6, 8, 3), np.uint8), np.ones((1, 6, 8, 3), np.uint8)
    redone = np.zeros((1, 12), bool)
    redone[0, [1, 11]] = True
    found = paste(original, made, redone, GRID)
    expected = np.zeros((6, 8), int)
    expected[:2, 2:4] = expected[4:, 6:] = 1
    assert found.dtype == np.uint8 and (found[0] == expected[..., None]).all()
    assert paste(original[..., 0], made[..., 0], redone, GRID).shape == (1, 6, 8)


def test_classes_of_a_class_map_are_a_region():
    class_map = np.array([[[0, 1], [2, 1]]])
    names = ("sky", "tree", "road")
    assert region_of_classes(class_map, ["tree", "road"], names).tolist() == [
        [[False, True], [True, True]]
    ]
    for wrong in (["wood"], []):
        with pytest.raises(ValueError, match="there are sky, tree, road"):
            region_of_classes(class_map, wrong, names)


def test_blanks_become_sentinels_in_their_order():
    tokenizer = TextTokenizerConfig(vocab_size=400, max_tokens=12).fit(Text(), CAPTIONS)
    entry = TokenSpace.build({"caption": tokenizer})["caption"]
    first, end = tokenizer.special.first_sentinel, tokenizer.special.end
    words = [w for w in CAPTIONS[0].split() if len(w) > 1][:2]
    one, two = encode_with_blanks([f"{words[0]} ___ {words[1]}", "____"], tokenizer, entry)
    parts = [ids[(ids != PADDING) & (ids != end)].tolist() for ids in tokenizer.encode(words)]
    assert one[one != PADDING].tolist() == [*parts[0], first, *parts[1], end]
    assert two[two != PADDING].tolist() == [first, end]
    several = encode_with_blanks([f"___ {words[0]} ___"], tokenizer, entry)[0]
    assert several[several != PADDING].tolist() == [first, *parts[0], first + 1, end]
    with pytest.raises(ValueError, match="has no blank; write ___"):
        encode_with_blanks([words[0]], tokenizer, entry)
    with pytest.raises(ValueError, match="tokens with its blanks; 12 are allowed"):
        encode_with_blanks([" ".join([words[0]] * 14) + " ___"], tokenizer, entry)

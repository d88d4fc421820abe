import numpy as np
from PIL import Image

from data_pipeline.doctor.doubles import Twin, digest_of, find_twins, look_of
from tokenizers.base import Boxes

RANDOM = np.random.default_rng(0)


def picture() -> np.ndarray:
    coarse = RANDOM.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC))


def test_equal_values_have_equal_digests_and_others_do_not():
    one = picture()
    assert digest_of(one) == digest_of(one.copy())
    assert digest_of(one) != digest_of(one[:, ::-1])
    assert digest_of(one) != digest_of(one.reshape(24, 96, 3))
    box = Boxes(np.zeros((1, 4), np.float32), np.zeros(1, np.int32))
    assert digest_of(box) != digest_of(box._replace(classes=np.ones(1, np.int32)))


def test_copies_are_found_within_and_between_splits_and_near_ones_between_them():
    first, second, third = picture(), picture(), picture()
    darker = np.clip(second * 0.9, 0, 255).astype(np.uint8)
    twins = find_twins(
        {
            "train": [("a", {"rgb": first}), ("b", {"rgb": second}), ("c", {"rgb": first})],
            "test": [("d", {"rgb": third}), ("e", {"rgb": first}), ("f", {"rgb": darker})],
        },
        ["rgb"],
    )
    assert set(twins) == {
        Twin("rgb", ("train", "a"), ("train", "c"), True),
        Twin("rgb", ("train", "a"), ("test", "e"), True),
        Twin("rgb", ("train", "c"), ("test", "e"), False),
        Twin("rgb", ("train", "b"), ("test", "f"), False),
    } or set(twins) == {
        Twin("rgb", ("train", "a"), ("train", "c"), True),
        Twin("rgb", ("train", "a"), ("test", "e"), True),
        Twin("rgb", ("train", "b"), ("test", "f"), False),
    }


def test_flat_pictures_and_equal_captions_are_no_twins():
    flat = np.full((32, 32, 3), 7, np.uint8)
    samples = [("a", {"rgb": flat, "caption": "a cat"}), ("b", {"rgb": flat, "caption": "a cat"})]
    assert look_of(flat) is None
    assert find_twins({"train": samples, "test": samples}, ["rgb"]) == []
    assert find_twins({"train": samples[:1], "test": samples[1:]}, ["rgb"]) == []


def test_a_picture_keeps_its_look_when_it_is_resized_or_brightened():
    one = picture()
    smaller = np.asarray(Image.fromarray(one).resize((30, 30), Image.Resampling.BICUBIC))
    brighter = np.clip(one.astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    for other in (smaller, brighter, one.mean(axis=-1)):
        assert (look_of(one) != look_of(other)).sum() <= 3
    assert (look_of(one) != look_of(picture())).sum() > 10

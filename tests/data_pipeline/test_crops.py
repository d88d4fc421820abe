import numpy as np
import pytest

from data_pipeline.crops import CropConfig, TransformedSource
from data_pipeline.sources.source import NOTES, Note
from tokenizers.base import REFERENCES, Boxes, Choices, Crop, Mended
from tokenizers.boxes import BoxList
from tokenizers.palettes import Palette
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Distances, Reals

HEIGHT, WIDTH = 48, 64


class Places:
    """Samples with one landmark seen by every modality, at a place that differs by sample."""

    def __init__(self, length: int):
        self.length = length
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        self.reads.append(index)
        y, x = 16 + index, 24 + index
        field = np.zeros((HEIGHT, WIDTH), np.float32)
        field[y : y + 8, x : x + 8] = 1
        corners = np.array([[x / WIDTH, y / HEIGHT, (x + 8) / WIDTH, (y + 8) / HEIGHT]], np.float32)
        return {
            "field": field,
            "coarse": (field[::2, ::2] > 0).astype(np.uint8),
            "boxes": Boxes(corners, np.zeros(1, np.int32)),
            "caption": "a landmark on the left",
            "unwanted": 3,
            "metadata": {"row": y},
        }

    def __getitems__(self, indices) -> list[dict]:
        return [self[index] for index in indices]


VALUES = {
    "field": Reals(),
    "coarse": Classes(("ground", "landmark")),
    "boxes": BoxList(("landmark",)),
    "caption": Text(flip_words=(("left", "right"),)),
}


def transformed(length: int = 6, **changes) -> TransformedSource:
    options = {"size": (32, 32), "views": 8, "crop_scale": (0.4, 1.0), "seed": 0} | changes
    return TransformedSource(Places(length), VALUES, **options)


def bounds(mask: np.ndarray) -> np.ndarray:
    """(x_min, y_min, x_max, y_max) of the True pixels, as fractions."""
    rows, columns = np.nonzero(mask)
    corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return corners / [*mask.shape[::-1], *mask.shape[::-1]]


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 32)])
def test_all_modalities_show_the_landmark_at_the_same_place(size):
    source = transformed(size=size)
    seen = 0
    for sample in source.__getitems__(range(len(source))):
        if len(sample["boxes"].classes) == 0:
            continue
        seen += 1
        box = sample["boxes"].corners[0]
        assert np.abs(bounds(sample["field"][..., 0] > 0.5) - box).max() < 2.5 / 32
        assert np.abs(bounds(sample["coarse"] == 1) - box).max() < 3.5 / 32
    assert seen > 30


def test_captions_follow_the_mirror():
    values = VALUES | {"field": IsMirrored()}
    source = TransformedSource(Places(6), values, size=(32, 32), views=8)
    mirrored = [sample["field"] for sample in source.__getitems__(range(len(source)))]
    captions = [sample["caption"] for sample in source.__getitems__(range(len(source)))]
    assert [("right" in caption) for caption in captions] == mirrored
    assert 0.2 < np.mean(mirrored) < 0.7


class IsMirrored(Reals):
    """Returns whether the crop mirrors, in place of a picture."""

    def crop(self, value, crop: Crop, size: tuple[int, int]):
        return crop.flip


class CropsOnly(Reals):
    """Returns the crop itself, in place of a picture."""

    def crop(self, value, crop: Crop, size: tuple[int, int]):
        return crop


class WholeOnly(Text):
    """Returns the crop itself, in place of a value without a place."""

    def check(self, value, name: str):
        return value

    def crop(self, value, crop: Crop, size: tuple[int, int]):
        return crop


def crops(length: int = 50, **changes) -> list[Crop]:
    options = {"size": (32, 32), "views": 8, "crop_scale": (0.4, 1.0)} | changes
    source = TransformedSource(Places(length), {"field": CropsOnly()}, **options)
    return [sample["field"] for sample in source.__getitems__(range(len(source)))]


def test_crops_are_square_inside_the_picture_and_of_the_wanted_area():
    for crop in crops(10):
        height, width = crop.height * HEIGHT, crop.width * WIDTH
        assert height == pytest.approx(width)
        assert 0.4 - 1e-6 <= (height / HEIGHT) ** 2 <= 1 + 1e-6
        assert crop.top >= 0 and crop.top + crop.height <= 1 + 1e-6
        assert crop.left >= 0 and crop.left + crop.width <= 1 + 1e-6


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (30, 40), (10, 100)])
def test_windows_have_the_aspect_ratio_of_the_result(size):
    aspect = size[0] / size[1]
    largest = min(HEIGHT, WIDTH * aspect)
    for number, crop in enumerate(crops(10, size=size)):
        height, width = crop.height * HEIGHT, crop.width * WIDTH
        assert height / width == pytest.approx(aspect)
        assert 0.4 - 1e-6 <= (height / largest) ** 2 <= 1 + 1e-6
        assert crop.top >= 0 and crop.top + crop.height <= 1 + 1e-6
        assert crop.left >= 0 and crop.left + crop.width <= 1 + 1e-6
        if number % 8 == 0:
            assert height == pytest.approx(largest) and not crop.flip
            # To a pixel in the middle.
            assert abs(2 * crop.top * HEIGHT + height - HEIGHT) < 2
            assert abs(2 * crop.left * WIDTH + width - WIDTH) < 2


def test_samples_without_pictures_are_seen_whole():
    class Captions(Places):
        def __getitem__(self, index: int) -> dict:
            return {"field": 0.0, "caption": "left"}

    source = TransformedSource(Captions(1), {"field": WholeOnly()}, size=(30, 47))
    assert source[0]["field"] == Crop(0.0, 0.0, 1.0, 1.0, flip=False)


def test_view_0_is_the_centred_square():
    assert set(crops(10)[::8]) == {Crop(0.0, 8 / 64, 1.0, 48 / 64, flip=False)}


def test_views_differ_from_each_other_and_from_other_samples_views():
    drawn = crops(10)
    assert len(set(drawn)) == 1 + 10 * 7


def test_a_view_depends_on_seed_and_index_alone():
    everything = crops(10)
    assert crops(50)[: len(everything)] == everything
    source = TransformedSource(Places(10), {"field": CropsOnly()}, size=(32, 32), views=8)
    assert [source[i]["field"] for i in (79, 3, 3)] == [everything[i] for i in (79, 3, 3)]
    assert crops(10, seed=1)[1] != everything[1]


def test_flip_off_changes_nothing_but_the_flips():
    assert crops(10, flip=False) == [crop._replace(flip=False) for crop in crops(10)]


def test_turns_are_drawn_apart_from_all_else():
    turned = crops(50, turn=True)
    assert [crop._replace(quarter_turns=0) for crop in turned] == crops(50)
    turns = [crop.quarter_turns for number, crop in enumerate(turned) if number % 8]
    assert not any(crop.quarter_turns for crop in turned[::8])
    assert np.allclose(np.bincount(turns, minlength=4) / len(turns), 0.25, atol=0.06)


def test_turned_modalities_show_the_landmark_at_the_same_place():
    source = transformed(turn=True)
    seen = set()
    for index, sample in enumerate(source.__getitems__(range(len(source)))):
        turns = source._crop((HEIGHT, WIDTH), index).quarter_turns
        # A text about left and right is not true of a turned picture.
        assert ("caption" in sample) == (turns == 0)
        if len(sample["boxes"].classes):
            seen.add(turns)
            box = sample["boxes"].corners[0]
            assert np.abs(bounds(sample["field"][..., 0] > 0.5) - box).max() < 2.5 / 32
            assert np.abs(bounds(sample["coarse"] == 1) - box).max() < 3.5 / 32
    assert seen == {0, 1, 2, 3}


def test_each_sample_is_read_once_for_all_its_views():
    source = transformed(length=6)
    source.__getitems__(range(48))
    assert source.source.reads == list(range(6))


def test_metadata_passes_through_and_unknown_modalities_are_dropped():
    sample = transformed()[9]
    assert sample.keys() == {*VALUES, "metadata"}
    assert sample["metadata"] == {"row": 17}


def test_missing_modalities_stay_missing():
    class Captions(Places):
        def __getitem__(self, index: int) -> dict:
            return {"caption": "left"}

    source = TransformedSource(Captions(2), VALUES, size=(8, 8), views=4)
    assert {tuple(sample) for sample in source.__getitems__(range(8))} == {("caption",)}


def test_a_wrong_value_is_left_out_with_a_note():
    class Wrong(Places):
        def __getitem__(self, index: int) -> dict:
            return super().__getitem__(index) | ({"coarse": np.float32(1.0)} if index == 2 else {})

    source = TransformedSource(Wrong(4), VALUES, size=(8, 8), views=2)
    assert NOTES not in source[0]
    assert source[5].keys() == source[0].keys() - {"coarse"} | {NOTES}
    (note,) = source[5][NOTES]
    assert (note.kind, note.modality, note.key) == ("unusable", "coarse", "2")
    assert "coarse of sample 2" in note.reason
    source.source.keys = ["a", "b", "c", "d"]
    assert "coarse of sample 'c'" in source[5][NOTES][0].reason


def test_a_sample_that_cannot_be_read_has_nothing_but_a_note():
    class Broken(Places):
        def __getitem__(self, index: int) -> dict:
            if index == 1:
                raise RuntimeError("the record is damaged")
            return super().__getitem__(index)

    samples = TransformedSource(Broken(3), VALUES, size=(8, 8)).__getitems__([0, 1, 2])
    assert [len(sample) for sample in samples] == [5, 1, 5]
    assert samples[1] == {NOTES: [Note("unreadable", "", "1", "", "the record is damaged")]}


def test_every_view_has_one_of_several_values_and_all_have_their_turn():
    class Captioned(Places):
        def __getitem__(self, index: int) -> dict:
            texts = Choices(["first", "second", "", "third"])
            return super().__getitem__(index) | {"caption": texts}

    source = TransformedSource(Captioned(2), VALUES, size=(8, 8), views=6)
    seen = [source[index]["caption"] for index in range(12)]
    assert seen[0] == seen[3] == seen[6] == "first"
    for start in (0, 3, 6, 9):
        assert set(seen[start : start + 3]) == {"first", "second", "third"}
    assert seen == [source[index]["caption"] for index in range(12)]
    (note,) = source[4][NOTES]
    assert note.kind == "one of several not used" and not note.leaves_out


def test_the_only_view_of_a_sample_has_all_its_texts_to_be_compared_with():
    class Captioned(Places):
        def __getitem__(self, index: int) -> dict:
            several = {"caption": Choices(["first", "", "third"])} if index else {"caption": "one"}
            return super().__getitem__(index) | several

    one, two = (TransformedSource(Captioned(2), VALUES, size=(8, 8))[i] for i in (0, 1))
    assert REFERENCES not in one and one["caption"] == "one"
    assert two[REFERENCES] == {"caption": ("first", "third")} and two["caption"] == "first"
    assert REFERENCES not in TransformedSource(Captioned(2), VALUES, size=(8, 8), views=2)[2]


def test_what_had_to_be_mended_is_noted():
    class Mending(Places):
        def __getitem__(self, index: int) -> dict:
            sample = super().__getitem__(index)
            return sample | {"boxes": Mended(sample["boxes"], "boxes cut at the edge")}

    sample = TransformedSource(Mending(1), VALUES, size=(8, 8))[0]
    assert len(sample["boxes"].classes) == 1
    assert sample[NOTES] == [Note("mended", "boxes", "0", "", "boxes cut at the edge")]


def test_modalities_of_another_aspect_ratio_are_left_out():
    class Skewed(Places):
        def __getitem__(self, index: int) -> dict:
            return super().__getitem__(index) | {"coarse": np.zeros((32, 32), np.uint8)}

    sample = TransformedSource(Skewed(1), VALUES, size=(8, 8))[0]
    assert "coarse" not in sample and "field" in sample
    assert sample[NOTES][0].kind == "misaligned"
    assert "coarse of sample 0 is 32x32 but field is 48x64" in sample[NOTES][0].reason


def test_wrong_options_and_indices_are_refused():
    for wrong in (
        {"views": 0},
        {"size": (0, 0)},
        {"crop_scale": (0.5, 0.4)},
        {"crop_scale": (0.0, 1.0)},
        {"size": (32, 0)},
    ):
        with pytest.raises(ValueError, match="The crops got views="):
            transformed(**wrong)
    for index in (-1, 48):
        with pytest.raises(IndexError, match=r"not in \[0, 48\)"):
            transformed()[index]


def test_only_squares_are_turned():
    with pytest.raises(ValueError, match="only squares can be turned"):
        transformed(size=(32, 48), turn=True)
    with pytest.raises(ValueError, match="turn is true and pictures are 32 pixels high and 48"):
        CropConfig(size=32, width=48, turn=True)
    assert CropConfig(size=32, width=32, turn=True).shape == (32, 32)


def test_modalities_may_differ_in_resolution_but_not_in_aspect_ratio():
    sizes = {"field": (32, 48), "coarse": (11, 16), "boxes": (32, 48), "caption": (32, 48)}
    sample = transformed(size=sizes)[1]
    assert sample["field"].shape == (32, 48, 1) and sample["coarse"].shape == (11, 16)
    with pytest.raises(ValueError, match="coarse are to be 16x16 and those of field 32x48"):
        transformed(size=sizes | {"coarse": (16, 16)})


class Single:
    """A source of one sample."""

    def __init__(self, sample: dict):
        self._sample = sample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return self._sample

    def __getitems__(self, indices) -> list[dict]:
        return [self._sample for _ in indices]


@pytest.mark.parametrize(
    ("value", "how"),
    [
        (np.array([[-1.0, 2], [3, 4]]), "negative or infinite distances"),
        (np.array([[-1e-7, 2], [3, 4]], np.float32), "negative or infinite distances"),
        (np.array([[np.inf, 2], [3, 4]]), "negative or infinite distances"),
        (np.array([[-1, 2000], [3000, 4]], np.int16), "negative or infinite distances"),
        (np.array([[np.nan, 0], [3, 400.0]]), ""),
        (np.ma.MaskedArray([[-1, 2000], [3000, 4]], [[True, False], [False, False]]), ""),
    ],
)
def test_distances_that_can_be_none_are_unknown_and_counted(value, how):
    source = TransformedSource(Single({"depth": value}), {"depth": Distances()}, (2, 2))
    sample = source[0]
    assert sample["depth"][0, 0] == 0 and sample["depth"][1, 0] == pytest.approx(3)
    notes = sample.get(NOTES, [])
    assert [(note.kind, note.modality) for note in notes] == ([("mended", "depth")] if how else [])
    assert all(note.reason.startswith(how) for note in notes)


def test_infinite_numbers_are_unknown_and_counted():
    source = TransformedSource(
        Single({"b": np.array([[np.inf, 1], [2, np.nan]])}), {"b": Reals()}, (2, 2)
    )
    sample = source[0]
    np.testing.assert_array_equal(np.isnan(sample["b"][..., 0]), [[True, False], [False, True]])
    assert sample[NOTES][0].reason == "infinite numbers taken as unknown"


def test_a_palette_is_computed_from_what_each_view_shows():
    class Halves:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index) -> dict:
            picture = np.zeros((20, 20, 3), np.uint8)
            picture[:, 10:] = 255
            return {"rgb": picture}

        def __getitems__(self, indices) -> list[dict]:
            return [self[index] for index in indices]

    values = {"rgb": Colors(), "hues": Palette(colors=2, computed_from="rgb")}
    source = TransformedSource(Halves(), values, (8, 8), views=6, seed=0)
    for sample in source.__getitems__(range(6)):
        white = sample["rgb"].mean() / 255
        shares = {round(float(red)): share for red, *_, share in sample["hues"]}
        assert shares[255] == pytest.approx(white, abs=0.05)

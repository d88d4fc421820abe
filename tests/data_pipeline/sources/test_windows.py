"""Ids and crop settings, written as ml-4m's save_vq_tokens writes them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from data_pipeline.crops import CropConfig
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.source import NOTES
from data_pipeline.sources.windows import crops_of, read_windows
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.formats.formats import ArrayFile, BoxesFile, CodesFile, TextFile
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Colors, Reals

HEIGHT, WIDTH = 40, 61
WINDOWS = np.array([[0, 10, 40, 40, 0], [5, 7, 20, 25, 1], [10, 30, 24, 20, 0]])
VALUES = {
    "tok_rgb": Codes(1000, (2, 2)),
    "place": Reals(channels=2),
    "boxes": BoxList(class_names=("a",), max_boxes=4),
    "caption": Text(flip_words=(("left", "right"),)),
}
SIZES = dict.fromkeys(VALUES, (8, 8))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def write(tmp_path):
    """Writes two samples: where every pixel is, ids that tell their view, a box, a text."""

    def write(**changes) -> FilesData:
        down, across = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
        ids = np.repeat(np.arange(3, dtype=np.int16)[:, None], 4, axis=1)
        box = {"boxes": [10 / WIDTH, 10 / HEIGHT, 20 / WIDTH, 20 / HEIGHT], "class_id": 0}
        files = {
            "tok_rgb/{}.npy": npy(ids),
            "crop_settings/{}.npy": npy(WINDOWS),
            "place/{}.npy": npy(np.stack([down, across], -1).astype(np.float32)),
            "boxes/{}.json": json.dumps({"instances": [box]}).encode(),
            "caption/{}.txt": b"a car on the left",
        }
        for name, content in (files | changes.pop("files", {})).items():
            for key in "ab":
                file = tmp_path / "train" / name.format(key)
                file.parent.mkdir(parents=True, exist_ok=True)
                if content is not None:
                    file.write_bytes(content)
        formats = {
            "tok_rgb": CodesFile(shape=(2, 2)),
            "place": ArrayFile(),
            "boxes": BoxesFile(),
            "caption": TextFile(),
        }
        given = {"path": str(tmp_path), "modalities": formats, "crop_settings": "crop_settings"}
        return FilesData(**given | changes)

    return write


def views(data: FilesData, values: dict | None = None, count: int = 3) -> list[dict]:
    values = values or VALUES
    crops = CropConfig(size=8, views=count)
    source = crops.apply(data.open("train"), values, {n: SIZES[n] for n in values}, 0, True)
    return source.__getitems__(range(2 * count))


def test_all_of_a_view_is_seen_through_the_window_that_its_ids_are_of(write):
    samples = views(write())
    seen = set()
    for sample in samples[:3]:
        number = int(sample["tok_rgb"][0, 0])
        assert (sample["tok_rgb"] == number).all()
        seen.add(number)
        top, left, height, width, flip = WINDOWS[number].tolist()
        rows, columns = sample["place"][:, 0, 0], sample["place"][0, :, 1]
        columns = columns[::-1] if flip else columns
        assert abs(rows.mean() - (top + (height - 1) / 2)) < 0.5
        assert abs(columns.mean() - (left + (width - 1) / 2)) < 0.5
        assert (np.diff(columns) > 0).all()
        corners = sample["boxes"].corners
        if len(corners):
            across = np.array([10 - left, 20 - left]) / width
            across = 1 - across[::-1] if flip else across
            np.testing.assert_allclose(corners[0, [0, 2]], across.clip(0, 1), atol=1e-5)
        assert sample["caption"] == f"a car on the {'right' if flip else 'left'}"
        assert NOTES not in sample
    assert seen == {0, 1, 2} and samples[0]["tok_rgb"][0, 0] == 0
    assert [s["tok_rgb"][0, 0] for s in views(write())] == [s["tok_rgb"][0, 0] for s in samples]
    # Evaluation has the window in the middle.
    [middle, _] = views(write(), count=1)
    assert middle["tok_rgb"][0, 0] == 0 and middle["caption"].endswith("left")


def test_without_a_picture_its_size_follows_from_the_window_in_the_middle(write):
    some = {name: VALUES[name] for name in ("tok_rgb", "boxes", "caption")}
    with_picture = views(write())
    for sample, whole in zip(views(write(), some), with_picture, strict=True):
        assert (sample["tok_rgb"] == whole["tok_rgb"]).all()
        np.testing.assert_allclose(sample["boxes"].corners, whole["boxes"].corners, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "its sample has no crop settings"),
        (b"x", "its sample has no crop settings"),
        (npy(WINDOWS[:2]), "another number of views than its sample's 2 crop settings"),
        (npy(WINDOWS * [2, 2, 2, 2, 1]), "they are of another one, or of another size"),
    ],
    ids=["none", "damaged", "too few", "of another picture"],
)
def test_ids_without_their_windows_are_left_out_and_the_rest_stays(
    write, tmp_path, settings, message
):
    data = write()
    file = tmp_path / "train" / "crop_settings" / "b.npy"
    file.unlink()
    if settings is not None:
        file.write_bytes(settings)
    samples = views(data)
    assert "tok_rgb" in samples[0] and NOTES not in samples[0]
    assert set(samples[3]) == {"place", "boxes", "caption", NOTES}
    assert message in " ".join(note.reason for note in samples[3][NOTES] if note.leaves_out)


def test_crop_settings_of_one_view_and_without_flips_are_read():
    assert read_windows(npy(WINDOWS[0])).shape == (1, 5)
    assert read_windows(npy(WINDOWS[:, :4].astype(np.float32)))[:, 4].tolist() == [0, 0, 0]
    crops = crops_of(read_windows(npy(WINDOWS)), (HEIGHT, WIDTH))
    assert crops[1].flip and crops[1].height == 0.5 and crops[0].top == 0
    for wrong, message in (
        (b"[1]", "crop settings are read from npy"),
        (
            npy(np.zeros((2, 3))),
            r"of shape \(2, 3\); crop settings are \[views, 5\]",
        ),
        (npy(WINDOWS * -1), "no windows of a picture"),
        (npy(np.zeros((2, 5))), "no windows of a picture"),
        (npy(WINDOWS + 0.5), "no windows of a picture"),
    ):
        with pytest.raises(ValueError, match=message):
            read_windows(wrong)


def test_pictures_are_not_mixed_up_with_grids_of_ids(write):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(stream, "png")
    one = {"tok_rgb/{}.npy": npy(np.zeros((1, 4), np.int16)), "rgb/{}.png": stream.getvalue()}
    data = write(
        files=one | {"crop_settings/{}.npy": npy(WINDOWS[:1])},
        modalities={"tok_rgb": CodesFile(shape=(2, 2)), "rgb": ArrayFile()},
    )
    values = {"tok_rgb": VALUES["tok_rgb"], "rgb": Colors()}
    crops = CropConfig(size=8, views=2)
    source = crops.apply(data.open("train"), values, dict.fromkeys(values, (8, 8)), 0, True)
    assert all(set(sample) == {"tok_rgb", "rgb"} for sample in source.__getitems__(range(4)))

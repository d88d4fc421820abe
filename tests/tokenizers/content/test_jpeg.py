import io

import numpy as np
import pytest
from PIL import Image

from tokenizers.content.pictures import read_picture
from tokenizers.formats.formats import ArrayFile

KINDS = {
    "plain": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts by rows": {"restart_marker_rows": 2},
    "restarts by blocks": {"restart_marker_blocks": 3},
    "fine colours": {"subsampling": 0},
}


def noise(*shape: int) -> np.ndarray:
    steps = np.random.default_rng(0).normal(0, 4, shape)
    return (steps.cumsum(axis=0).cumsum(axis=1).clip(-120, 120) + 128).astype(np.uint8)


def jpeg(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "jpeg", **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(61, 83, 3), (64, 64), (8, 8, 3), (1, 40)])
def test_whole_pictures_are_read_even_if_they_are_grey(kind, shape):
    for array in (noise(*shape), np.full(shape, 128, np.uint8)):
        data = jpeg(array, **KINDS[kind])
        np.testing.assert_array_equal(read_picture(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(120, 160, 3), (120, 160)])
def test_pictures_of_which_data_are_missing_are_damaged(kind, shape):
    data = jpeg(noise(*shape), **KINDS[kind])
    middle = len(data) // 2
    gap = data[:middle] + data[middle + 800 :]
    # A gap in one of many scans leaves more than enough data in it, as likely as too few.
    for damaged in (data[:middle] + b"\xff\xd9", *([gap] if kind != "progressive" else [])):
        # Pillow has nothing to say of it.
        Image.open(io.BytesIO(damaged)).load()
        with pytest.raises(ValueError, match="a JPEG picture of which data are missing"):
            ArrayFile(as_rgb=True).read(damaged, "jpg")


def test_a_thumbnail_and_a_turned_picture_change_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(noise(40, 60, 3), exif=exif, comment=b"\xff\xda\xff\xd9")
    assert read_picture(data).shape == (60, 40, 3)
    with pytest.raises(ValueError, match="of which data are missing"):
        read_picture(data[: len(data) - 400] + b"\xff\xd9")

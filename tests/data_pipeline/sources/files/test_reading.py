"""From files to the values that tokenizers are given: what a modality's values are decides."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from data_pipeline.crops import CropConfig
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.splits import SplitByFolder
from data_pipeline.sources.source import NOTES
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.formats.formats import ArrayFile, BoxesFile, CodesFile, TextFile
from tokenizers.text import Text
from tokenizers.values import Classes, Colors, Distances, Reals

ONE_SPLIT = SplitByFolder({"train": "train"})


def write(root: Path, modality: str, name: str, data: bytes) -> None:
    file = root / "train" / modality / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def views_of(data: FilesData, values: dict, **crops) -> list[dict]:
    config = CropConfig(**{"size": 8, "views": 1, **crops})
    sizes = dict.fromkeys(values, (8, 8))
    source = config.apply(data.open("train"), values, sizes, seed=0, with_views=True)
    return [source[index] for index in range(len(source))]


def test_files_of_many_kinds_become_what_their_modalities_are(tmp_path):
    upper = np.zeros((8, 8, 3), np.uint8)
    upper[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    write(tmp_path, "photo", "a.png", encoded(Image.fromarray(upper), "png", exif=exif))
    palette = Image.fromarray(upper).quantize(2)
    write(tmp_path, "drawing", "a.png", encoded(palette, "png"))
    write(tmp_path, "map", "a.png", encoded(palette, "png"))
    depth = np.full((8, 8), 2000, np.uint16)
    depth[0] = 65535
    write(tmp_path, "depth", "a.png", encoded(Image.fromarray(depth), "png"))
    elevation = np.full((8, 8), 7.0, np.float32)
    elevation[:4] = -9999
    stream = io.BytesIO()
    tifffile.imwrite(stream, elevation, extratags=[(42113, 2, 0, "-9999", True)])
    write(tmp_path, "elevation", "a.tif", stream.getvalue())
    write(
        tmp_path, "caption", "a.json", json.dumps([{"caption": "one"}, {"caption": "two"}]).encode()
    )
    write(tmp_path, "boxes", "a.txt", b"0 0.1 0.5 0.3 0.5\n")
    values = {
        "photo": Colors(),
        "drawing": Colors(),
        "map": Classes(("one", "other")),
        "depth": Distances(),
        "elevation": Reals(),
        "caption": Text(),
        "boxes": BoxList(("thing",)),
    }
    formats = {name: ArrayFile() for name in ("photo", "drawing", "map", "elevation")}
    formats |= {"depth": ArrayFile(missing=65535), "caption": TextFile(), "boxes": BoxesFile()}
    (sample,) = views_of(FilesData(str(tmp_path), formats, ONE_SPLIT), values)
    np.testing.assert_array_equal(sample["photo"], upper[::-1])
    np.testing.assert_array_equal(sample["drawing"], upper)
    np.testing.assert_array_equal(sample["map"], np.asarray(palette))
    assert (sample["depth"][1:] == 2).all() and not sample["depth"][0].any()
    assert np.isnan(sample["elevation"][:4]).all() and (sample["elevation"][4:] == 7).all()
    assert sample["caption"] == "one"
    np.testing.assert_allclose(sample["boxes"].corners, [[0, 0.25, 0.25, 0.75]], atol=1e-6)


def test_ids_of_several_views_stay_together(tmp_path):
    for name in ("first", "second"):
        stream = io.BytesIO()
        np.save(stream, np.repeat(np.arange(5, dtype=np.int16)[:, None], 4, axis=1))
        write(tmp_path, name, "a.npy", stream.getvalue())
    values = dict.fromkeys(("first", "second"), Codes(5, (2, 2)))
    formats = dict.fromkeys(values, CodesFile(shape=(2, 2)))
    data = FilesData(str(tmp_path), formats, ONE_SPLIT)
    views = views_of(data, values, views=5, scale=(1.0, 1.0), flip=False)
    seen = [view["first"][0, 0] for view in views]
    assert seen[0] == 0 and sorted(seen) == [0, 1, 2, 3, 4]
    for view in views:
        np.testing.assert_array_equal(view["first"], view["second"])


def test_a_picture_of_too_many_pixels_is_noted_with_the_knob(tmp_path):
    write(tmp_path, "photo", "a.png", encoded(Image.new("RGB", (40, 30)), "png"))
    data = FilesData(str(tmp_path), {"photo": ArrayFile()}, ONE_SPLIT, max_pixels=1199)
    (note,) = data.open("train")[0][NOTES]
    assert "40 by 30 pixels, and 1199 are allowed" in note.reason
    assert "--data.max-pixels" in note.reason
    own = {"photo": ArrayFile(max_pixels=1200)}
    assert replace(data, modalities=own).open("train")[0]["photo"].shape == (30, 40, 3)
    assert replace(data, max_pixels=1200).open("train")[0]["photo"].shape == (30, 40, 3)

"""Values as files hold them: what is read through what was inferred is what was written."""

import json

import numpy as np
import pytest
from scipy.io import wavfile

from configs import (
    BoxesFile,
    BoxList,
    Classes,
    Codes,
    CodesFile,
    Colors,
    Directions,
    Distances,
    Embedding,
    Label,
    LogMel,
    Reals,
    Row,
    Signal,
    SignalFile,
    Vectors,
)
from tests.configs.from_folder.folders import RANDOM, colors, infer, samples, save, write


def infer_one(root, name, make, count=8, suffix="npy", size=(40, 56)):
    """Returns the modality that files of a folder are, what is said, what was read and written."""
    written = {}
    for number in range(count):
        save(root / f"rgb/{number}.png", colors(*size))
        written[str(number)] = save(root / f"{name}/{number}.{suffix}", make())
    config, told = infer(root)
    read = {key: sample[name] for key, sample in samples(config).items()}
    return config, told, read, written


def smooth(height=40, width=56) -> np.ndarray:
    """Returns a surface that rises and falls slowly."""
    y, x = np.mgrid[:height, :width] / 10
    return np.sin(y + RANDOM.uniform(0, 6)) + np.cos(x + RANDOM.uniform(0, 6))


@pytest.mark.parametrize("name", ["tok_rgb", "codes"])
def test_grids_of_ids_are_codes_by_their_name(tmp_path, name):
    config, told, read, written = infer_one(
        tmp_path, name, lambda: RANDOM.integers(0, 1000, (10, 14)).astype(np.int64)
    )
    assert config.modalities[name].values == Codes(1024, (10, 14))
    assert config.crops.views == 1 and not config.crops.flip
    assert (config.crops.size, config.crops.width) == (40, 56)
    assert any("ids can't be cropped" in line for line in told)
    for key, ids in written.items():
        np.testing.assert_array_equal(read[key], ids)


def test_ids_are_told_from_measurements_by_their_neighbours(tmp_path):
    config, *_ = infer_one(tmp_path, "x", lambda: RANDOM.integers(0, 500, (8, 8)), size=(48, 48))
    assert config.modalities["x"].values == Codes(512, (8, 8))


def test_ids_of_other_proportions_than_the_pictures_are_left_alone(tmp_path):
    for number in range(4):
        save(tmp_path / f"rgb/{number}.png", colors())
        save(tmp_path / f"tok_rgb/{number}.npy", RANDOM.integers(0, 500, (8, 8)))
    config, told = infer(tmp_path)
    assert list(config.modalities) == ["rgb"]
    assert any("nobody knows of which part of rgb, 40 by 56" in line for line in told)


def test_grids_of_ids_alone_may_be_of_any_proportions(tmp_path):
    for number in range(5):
        save(tmp_path / f"tok_rgb/{number}.npy", RANDOM.integers(0, 500, (8, 16)))
    config, _ = infer(tmp_path)
    assert config.modalities["tok_rgb"].values == Codes(512, (8, 16))


def test_whole_numbers_that_vary_slowly_are_measured(tmp_path):
    config, told, read, written = infer_one(
        tmp_path, "dem", lambda: (smooth() * 100 + 300).astype(np.int16)
    )
    assert config.modalities["dem"].values == Reals()
    assert any("call the folder tok_NAME" in line for line in told)
    for key, heights in written.items():
        np.testing.assert_array_equal(read[key], heights)


def test_ids_of_several_views_and_in_reading_order(tmp_path):
    for number in range(5):
        save(tmp_path / f"tok_a/{number}.npy", RANDOM.integers(0, 60, (3, 196)))
        save(tmp_path / f"tok_b/{number}.npy", RANDOM.integers(0, 60, 49))
    config, _ = infer(tmp_path)
    assert config.data.modalities["tok_a"] == CodesFile(shape=(14, 14))
    assert config.modalities["tok_b"].values == Codes(64, (7, 7))


@pytest.mark.parametrize(
    ("name", "stored", "values"),
    [
        ("depth", np.uint16, Distances(max_distance=5.0, min_distance=0.005)),
        ("depth", np.float32, Distances(max_distance=5000.0, min_distance=0.1)),
        ("disparity", np.uint16, Reals()),
    ],
)
def test_depth_has_a_unit_by_its_type(tmp_path, name, stored, values):
    def make():
        return (smooth() * 500 + 2500).astype(stored)

    config, _, read, written = infer_one(tmp_path, name, make)
    assert config.modalities[name].values == values
    for key, distances in written.items():
        np.testing.assert_array_equal(read[key], distances)


def test_depth_of_8_bits_has_no_unit(tmp_path):
    def make():
        return (smooth() * 60 + 128).astype(np.uint8)

    config, told, read, written = infer_one(tmp_path, "depth", make, suffix="png")
    assert config.modalities["depth"].values == Reals()
    assert "depth: uint8 has no unit of length, so it is read as plain numbers" in told
    for key, distances in written.items():
        np.testing.assert_array_equal(np.asarray(read[key]), distances)


def test_grey_pictures_are_pictures(tmp_path):
    config, *_ = infer_one(tmp_path, "infrared", lambda: colors()[..., 0], suffix="png")
    assert config.modalities["infrared"].values == Colors()


@pytest.mark.parametrize("count", [5, 150])
def test_class_maps_may_have_many_classes(tmp_path, count):
    def make():  # Blocks, as regions are.
        blocks = RANDOM.integers(0, count, (10, 14)).astype(np.uint8)
        return np.kron(blocks, np.ones((4, 4), np.uint8))

    config, _, read, written = infer_one(tmp_path, "labels", make, suffix="png", count=16)
    highest = max(int(each.max()) for each in written.values())
    assert config.modalities["labels"].values == Classes(
        tuple(f"class_{number}" for number in range(highest + 1))
    )
    for key, numbers in written.items():
        np.testing.assert_array_equal(np.asarray(read[key]), numbers)


def test_masks_with_soft_edges_are_grey(tmp_path):
    def make():
        return (255 / (1 + np.exp(-30 * smooth()))).astype(np.uint8)

    config, told, *_ = infer_one(tmp_path, "mask", make, suffix="png")
    assert config.modalities["mask"].values == Colors()
    assert any("too soft, for classes" in line for line in told)


def test_classes_in_jpeg_are_black_and_white_or_none(tmp_path):
    wanted = {}
    for number in range(5):
        save(tmp_path / f"rgb/{number}.jpg", colors())
        wanted[str(number)] = np.kron(RANDOM.integers(0, 2, (5, 7)), np.ones((8, 8))) > 0
        save(tmp_path / f"mask/{number}.jpg", wanted[str(number)].astype(np.uint8) * 255)
        blocks = np.kron(RANDOM.integers(0, 9, (5, 7)), np.ones((8, 8))) * 20
        save(tmp_path / f"labels/{number}.jpg", blocks.astype(np.uint8))
    config, told = infer(tmp_path)
    assert config.modalities["mask"].values == Classes(("background", "foreground"))
    assert config.modalities["labels"].values == Colors()
    assert any("store class maps as PNG" in line for line in told)
    for key, sample in samples(config).items():
        np.testing.assert_array_equal(sample["mask"], wanted[key])


def test_masks_of_true_and_false(tmp_path):
    config, _, read, written = infer_one(tmp_path, "mask", lambda: smooth() > 0)
    assert config.modalities["mask"].values == Classes(("background", "foreground"))
    for key, numbers in written.items():
        np.testing.assert_array_equal(read[key], numbers)


def test_classes_in_whole_numbers_as_real_ones_are_mentioned(tmp_path):
    def make():
        return RANDOM.integers(0, 4, (40, 56)).astype(np.float32)

    config, told, *_ = infer_one(tmp_path, "labels", make)
    assert config.modalities["labels"].values == Reals()
    assert any("store integers" in line for line in told)


def unit() -> np.ndarray:
    """Returns directions."""
    found = RANDOM.normal(size=(40, 56, 3)).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "make", "values"),
    [
        ("whatever", unit, Directions()),
        ("normal", lambda: np.moveaxis(unit(), -1, 0), Directions()),
        ("s1", lambda: np.stack([smooth(), smooth()]).astype("f4"), Reals(channels=2)),
        ("flow", lambda: np.stack([smooth(), smooth()], -1).astype("f4"), Reals(channels=2)),
        (
            "s2",
            lambda: np.stack([(smooth() * 500 + 900).astype(np.int16)] * 12),
            Reals(channels=12, picture=(0, 1, 2)),
        ),
    ],
    ids=["directions", "first", "radar", "flow", "bands"],
)
def test_arrays_of_several_channels(tmp_path, name, make, values):
    config, _, read, written = infer_one(tmp_path, name, make)
    assert config.modalities[name].values == values
    assert config.crops.flip == (name != "flow")
    for key, stored in written.items():
        is_first = stored.shape[0] < 20
        expected = np.moveaxis(stored, 0, -1) if is_first else stored
        np.testing.assert_array_equal(read[key], expected)


def test_tiff_of_twelve_bands(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for number in range(5):
        save(tmp_path / f"rgb/{number}.png", colors())
        (tmp_path / "s2").mkdir(exist_ok=True)
        bands = RANDOM.integers(0, 9000, (12, 40, 56)).astype(np.uint16)
        tifffile.imwrite(
            tmp_path / f"s2/{number}.tif", bands, photometric="minisblack", planarconfig="separate"
        )
    config, _ = infer(tmp_path)
    assert config.modalities["s2"].values == Reals(channels=12, picture=(0, 1, 2))
    assert np.asarray(samples(config)["4"]["s2"]).shape == (40, 56, 12)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(samples(config)["4"]["s2"]), -1, 0), bands)


@pytest.mark.parametrize(
    ("name", "make", "values"),
    [
        ("age", lambda: np.array([RANDOM.normal()]), None),
        ("clip", lambda: RANDOM.normal(size=64).astype("f4"), Embedding(64)),
        ("t5", lambda: RANDOM.normal(size=40).astype("f4"), Embedding(40)),
        ("spectrum", lambda: np.cumsum(RANDOM.normal(size=200)).astype("f4"), Signal(200)),
        ("ecg", lambda: RANDOM.normal(size=(12, 500)).astype("f4"), Signal(500, 12)),
        ("leads", lambda: RANDOM.normal(size=(300, 3)).astype("f4"), Signal(300, 3)),
        ("text_emb", lambda: RANDOM.normal(size=(7, 32)).astype("f4"), Vectors(32, 7)),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_numbers_in_a_row(tmp_path, name, make, values):
    config, *_ = infer_one(tmp_path, name, make)
    found = config.modalities[name].values
    assert type(found).__name__ == "Scalar" if values is None else found == values


def test_signals_in_tables(tmp_path):
    for number in range(6):
        lines = "\n".join(f"{step},{RANDOM.normal()}" for step in range(50))
        write(tmp_path / f"ecg/{number}.csv", f"time,lead\n{lines}\n")
        write(tmp_path / f"diagnosis/{number}.txt", ["sick", "well"][number % 2])
    config, _ = infer(tmp_path)
    assert config.modalities["ecg"].values == Signal(50, 2)
    assert config.data.modalities["ecg"] == SignalFile(extension="csv")
    assert samples(config)["3"]["ecg"].shape == (50, 2)


def tone(seconds: float, rate: int) -> np.ndarray:
    """Returns a sound of 16 bits."""
    wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return (wave * 20000).astype(np.int16)


def test_sounds_are_log_mel_bands_and_short_ones_waves(tmp_path):
    for number in range(6):
        (tmp_path / "speech").mkdir(exist_ok=True)
        (tmp_path / "click").mkdir(exist_ok=True)
        wavfile.write(tmp_path / f"speech/{number}.wav", 16000, tone(0.5 + number / 10, 16000))
        wavfile.write(tmp_path / f"click/{number}.wav", 8000, tone(0.25, 8000))
        write(tmp_path / f"text/{number}.txt", f"what was said in the file {number}")
    config, _ = infer(tmp_path)
    assert config.modalities["click"].values == Signal(2000, rate=8000.0)
    assert config.data.modalities["speech"] == SignalFile(log_mel=LogMel(16000.0))
    assert config.modalities["speech"].values == Signal(59, 64, 16000 / 256, "log power")
    longest = max(samples(config).values(), key=lambda sample: len(sample["speech"]))["speech"]
    assert longest.shape == (59, 64)


def test_folders_of_sounds_are_classes(tmp_path):
    for name in ("yes", "no"):
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            wavfile.write(tmp_path / name / f"{name}{number}.wav", 8000, tone(0.2, 8000))
    config, _ = infer(tmp_path)
    assert config.modalities["label"].values == Label(("no", "yes"))
    assert config.modalities["sound"].values == Signal(1600, rate=8000.0)


def test_boxes_of_annotation_programs(tmp_path):
    for number in range(6):
        save(tmp_path / f"images/{number}.png", colors(100, 200))
        lines = [f"{index % 3} 0.5 0.5 0.25 0.5" for index in range(number)]
        write(tmp_path / f"yolo/{number}.txt", "\n".join(lines))
        box = "<bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax><ymax>60</ymax></bndbox>"
        names = [("cat", "dog")[number % 2]] * max(number, 1)
        objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
        size = "<size><width>200</width><height>100</height></size>"
        write(tmp_path / f"voc/{number}.xml", f"<annotation>{size}{objects}</annotation>")
    config, _ = infer(tmp_path)
    assert config.modalities["yolo"].values == BoxList(
        tuple(f"class_{n}" for n in range(3)), max_boxes=5
    )
    assert config.data.modalities["voc"] == BoxesFile(class_names=("cat", "dog"))
    sample = samples(config)["3"]
    np.testing.assert_allclose(sample["voc"].corners[0], [0.1, 0.1, 0.6, 0.6])
    np.testing.assert_allclose(sample["yolo"].corners[0], [0.375, 0.25, 0.625, 0.75])
    assert sample["voc"].classes.tolist() == [1, 1, 1] and len(sample["yolo"].classes) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "nc: 3\nnames: ['cat', \"dog\",\n  cow]\n"),
        ("data.yaml", "names:\n  0: cat\n  1: dog\n  2: cow\nnc: 3\n"),
        ("data.yaml", "names:\n- cat\n- dog\n- cow\n"),
        ("labels/classes.txt", "cat\ndog\ncow\n"),
    ],
)
def test_classes_of_yolo_have_the_names_of_its_list(tmp_path, name, text):
    for number in range(6):
        save(tmp_path / f"images/{number}.png", colors())
        write(tmp_path / f"labels/{number}.txt", f"{number % 2} 0.5 0.5 0.25 0.5")
    write(tmp_path / name, text)
    config, _ = infer(tmp_path, damaged=int(name.endswith("txt")))
    assert config.modalities["labels"].values == BoxList(("cat", "dog", "cow"), max_boxes=1)


def test_objects_of_numbers_and_words_are_rows(tmp_path):
    for number in range(10):
        save(tmp_path / f"{number}.png", colors())
        row = {"height": number + 0.5, "width": 3, "kind": ["oak", "elm"][number % 2]}
        write(tmp_path / f"{number}.json", json.dumps(row))
    config, _ = infer(tmp_path)
    assert config.modalities["about"].values == Row(("height", "width"), {"kind": ("elm", "oak")})
    assert samples(config)["3"]["about"] == {"height": 3.5, "width": 3, "kind": "elm"}


def test_several_numbers_in_a_text_are_no_caption(tmp_path):
    for number in range(4):
        save(tmp_path / f"rgb/{number}.png", colors())
        write(tmp_path / f"pose/{number}.txt", "0.1 0.2 0.3\n0.4 0.5 0.6")
    config, told = infer(tmp_path)
    assert list(config.modalities) == ["rgb"]
    assert any("several numbers as text; save them as npy" in line for line in told)

"""HDF5 files and zarr folders, written by the tests."""

import io
import json
import os
import pickle
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.crops import CropConfig
from data_pipeline.sources.arrays.data import ArraysData
from data_pipeline.sources.arrays.stores import meaning
from data_pipeline.sources.source import NOTES, DataConfig
from tokenizers.formats.formats import ArrayFile, TextFile
from tokenizers.values import Colors, Reals

MUTATIONS = 30
RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (20, 6, 8, 3), np.uint8)
BANDS = RANDOM.normal(size=(20, 4, 6, 8)).astype(np.float32)
NUMBERS = np.arange(20) / 4
TEXTS = [f"a car, größer {i}" for i in range(20)]


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLORS[number]).save(stream, "png")
    return stream.getvalue()


def hdf5(path: Path, arrays: dict, attributes: dict | None = None) -> Path:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            options = {}
            if isinstance(array, list) and isinstance(array[0], bytes):
                rows = np.empty(len(array), object)
                rows[:] = [np.frombuffer(each, np.uint8) for each in array]
                array = rows
                options["dtype"] = h5py.vlen_dtype(np.uint8)
            elif not isinstance(array, list):
                options = {"chunks": (3, *array.shape[1:]), "compression": "gzip"}
            made = file.create_dataset(name, data=array, **options)
            made.attrs.update((attributes or {}).get(name, {}))
    return path


def zarr_folder(path: Path, arrays: dict, attributes: dict | None = None, version=3) -> Path:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(str(path), mode="w", zarr_format=version)
    for name, array in arrays.items():
        stored = np.asarray(array)
        chunks = (3, *stored.shape[1:])
        if stored.dtype.kind == "U":
            made = root.create_array(name, shape=stored.shape, dtype=str, chunks=chunks)
            made[:] = stored.astype(object)
        else:
            made = root.create_array(name, data=stored, chunks=chunks)
        made.attrs.update((attributes or {}).get(name, {}))
    return path


WRITERS = {
    "hdf5": lambda folder, *given: hdf5(folder / "a.h5", *given),
    "netcdf": lambda folder, *given: hdf5(folder / "a.nc", *given),
    "zarr 2": lambda folder, *given: zarr_folder(folder / "a.zarr", *given, version=2),
    "zarr 3": lambda folder, *given: zarr_folder(folder / "a.zarr", *given),
}
ARRAYS = {"images": COLORS, "sat/bands": BANDS, "age": NUMBERS, "told": TEXTS}
NAMES = {"rgb": "images", "bands": "sat/bands", "age": "age", "caption": "told"}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_are_samples_in_any_order(tmp_path, kind):
    path = WRITERS[kind](tmp_path, ARRAYS)
    data = ArraysData(str(path), NAMES, {"bands": ArrayFile(channels_first=True, bands=(2, 0))})
    assert isinstance(data, DataConfig) and data.splits == ("train", "validation")
    source, rest = data.open("train"), data.open("validation")
    assert len(source) == 18 and len(rest) == 2
    source = pickle.loads(pickle.dumps(source))  # As it goes to another process.
    for index, sample in zip((17, 0, 4), source.__getitems__([17, 0, 4]), strict=True):
        np.testing.assert_array_equal(sample["rgb"], COLORS[index])
        np.testing.assert_array_equal(sample["bands"], np.moveaxis(BANDS[index, [2, 0]], 0, -1))
        assert sample["age"] == NUMBERS[index] and sample["caption"] == TEXTS[index]
        assert NOTES not in sample
    assert rest[1]["caption"] == TEXTS[19]
    assert source.file_of(0, "rgb") == str(path)
    values = {"rgb": Colors(), "bands": Reals(channels=2)}
    crops = CropConfig(size=4).apply(source, values, dict.fromkeys(values, (4, 4)), 0, True)
    assert set(crops[3]) == {"rgb", "bands"}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_arrays_say_of_their_numbers_applies(tmp_path, kind):
    stored = RANDOM.integers(-50, 50, (4, 5, 6)).astype(np.int16)
    stored[:, 0, 0] = -99
    whole = stored.astype(np.uint8)
    about = {"_FillValue": np.int16(-99), "scale_factor": 0.5, "add_offset": 10.0}
    attributes = {
        "packed": {name: value.item() if hasattr(value, "item") and "zarr" in kind else value
                   for name, value in about.items()},
        "whole": {"missing_value": int(whole[1, 2, 3])},
    }  # fmt: skip
    path = WRITERS[kind](tmp_path, {"packed": stored, "whole": whole}, attributes)
    names = {"t": "packed", "w": "whole", "raw": "packed"}
    formats = {"raw": ArrayFile(own_scale=False)}
    split_names = {"train": "train"}
    sample = ArraysData(str(path), names, formats, split_names=split_names).open("train")[1]
    wanted = np.where(stored[1] == -99, np.nan, stored[1] * 0.5 + 10)
    np.testing.assert_allclose(sample["t"], wanted)
    assert sample["t"].dtype == np.float32
    assert sample["w"].dtype == np.uint8 and sample["w"].mask[2, 3]
    assert sample["raw"].dtype == np.int16 and sample["raw"].mask[0, 0]


def test_attributes_of_cf_by_hand():
    numbers = np.array([-1, 0, 100, 7], np.int8)
    read = meaning(numbers, {"_Unsigned": "true", "_FillValue": np.int8(-1)}, True)
    assert read.dtype == np.uint8 and read.mask.tolist() == [True, False, False, False]
    read = meaning(numbers, {"valid_range": [0, 10]}, True)
    assert read.mask.tolist() == [True, False, True, False]
    read = meaning(numbers.astype(">f4"), {"valid_min": 0, "missing_value": [7.0, 100]}, True)
    np.testing.assert_array_equal(read, [np.nan, 0, np.nan, np.nan])
    lowest = np.array([np.finfo(np.float32).min, 1], np.float32)
    read = meaning(lowest, {"_FillValue": -3.4028234663852886e38}, True)
    np.testing.assert_array_equal(np.isnan(read), [True, False])
    for wrong in ({"scale_factor": "x"}, {"add_offset": [1, 2]}, {"_FillValue": "none"}):
        with pytest.raises(ValueError, match="has the attribute"):
            meaning(numbers, wrong, True)


def test_dimensions_of_netcdf_and_xarray_have_names(tmp_path):
    h5py = pytest.importorskip("h5py")
    stored = RANDOM.normal(size=(5, 7, 3)).astype(np.float32)
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["lat"], file["time"], file["band"] = np.arange(5), np.arange(7), np.arange(3)
        made = file.create_dataset("t", data=stored)
        for axis, name in enumerate(("lat", "time", "band")):
            file[name].make_scale(name)
            made.dims[axis].attach_scale(file[name])
    data = ArraysData(str(tmp_path / "a.nc"), {"t": "t"}, sample_axis="time")
    np.testing.assert_array_equal(data.open("train")[5]["t"], stored[:, 5])
    with pytest.raises(ValueError, match=r"no dimension 'times' of 't'; .* lat, time, band"):
        ArraysData(str(tmp_path / "a.nc"), {"t": "t"}, sample_axis="times").open("train")


@pytest.mark.parametrize("version", [2, 3])
def test_dimensions_of_xarray_have_names(tmp_path, version):
    stored = np.arange(24, dtype=np.int16).reshape(4, 6)
    path = zarr_folder(tmp_path / "a", {"t": stored}, version=version)
    file = path / "t" / ("zarr.json" if version == 3 else ".zarray")
    about = json.loads(file.read_text())
    if version == 3:
        about["dimension_names"] = ["x", "time"]
    else:
        about["fill_value"] = 7
        (path / "t" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["x", "time"]}')
    file.write_text(json.dumps(about))
    sample = ArraysData(str(path), {"t": "t"}, sample_axis="time").open("train")[1]["t"]
    assert np.asarray(sample).tolist() == [1, 7, 13, 19]
    assert np.ma.getmaskarray(sample).tolist() == [False, version == 2, False, False]


@pytest.mark.parametrize("kind", WRITERS)
def test_splits_are_files_or_groups_or_cut(tmp_path, kind):
    write = WRITERS[kind]
    for split, start in (("train", 0), ("val", 10)):
        write(tmp_path / "by file" / split, {"x": NUMBERS[start : start + 10]})
    data = ArraysData(str(tmp_path / "by file"), {"x": "x"})
    assert data.splits == ("train", "validation")
    assert data.open("validation")[9]["x"] == NUMBERS[19]
    path = write(tmp_path / "by group", {"train/x": NUMBERS[:10], "test/x": NUMBERS[10:]})
    data = ArraysData(str(path), {"x": "{split}/x"})
    assert data.splits == ("train", "test") and data.open("test")[0]["x"] == NUMBERS[10]
    for place in range(2):
        write(tmp_path / "parts" / str(place), {"x": NUMBERS[10 * place :][:10]})
    source = ArraysData(str(tmp_path / "parts"), {"x": "x"}, key_array="x").open("train")
    assert [sample["x"] for sample in source.__getitems__(range(18))] == NUMBERS[:18].tolist()
    assert source.keys[11] == "2.75"


def test_rows_may_be_the_bytes_of_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = hdf5(tmp_path / "a.h5", {"images": [png(i) for i in range(4)]})
    with h5py.File(path, "a") as file:
        file["fixed"] = np.array([b"a  ", b"bc\0", b"", b"x"], "S3")
        file["letters"] = np.array([list("ab"), list("c "), ["", ""], list("de")], "S1")
    names = {"rgb": "images", "caption": "fixed", "other": "letters"}
    formats = {"rgb": ArrayFile(as_rgb=True), "other": TextFile()}
    source = ArraysData(
        str(path), names, formats, metadata=("fixed",), split_names={"all": "train"}
    ).open("all")
    np.testing.assert_array_equal(source[2]["rgb"], COLORS[2])
    assert [source[i].get("caption") for i in range(4)] == ["a", "bc", None, "x"]
    assert [source[i].get("other") for i in range(4)] == ["ab", "c", None, "de"]
    assert source[1]["metadata"] == {"fixed": "bc"}


def test_a_row_that_can_not_be_read_is_left_out_and_the_others_stay(tmp_path):
    path = zarr_folder(tmp_path / "a.zarr", {"x": NUMBERS, "y": NUMBERS})
    (path / "x" / "c" / "1").write_bytes(b"damaged")
    source = ArraysData(str(path), {"x": "x", "y": "y"}).open("train")
    assert source[0]["x"] == 0 and source[6]["x"] == 1.5
    sample = source[4]
    assert set(sample) == {"y", NOTES}
    assert sample[NOTES][0].leaves_out and "can't be read" in sample[NOTES][0].reason


def test_a_changed_store_is_noticed(tmp_path):
    path = zarr_folder(tmp_path / "a.zarr", {"x": NUMBERS})
    data = ArraysData(str(path), {"x": "x"})
    before = data.open("train").state_of(0)
    assert data.open("train").state_of(0) == before
    os.utime(path / "x" / "c" / "1", (1, 10**9 * 3))
    assert data.open("train").state_of(0) != before


def test_what_is_no_such_data_gets_one_sentence(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = hdf5(tmp_path / "a.h5", ARRAYS | {"short": NUMBERS[:3], "single": [1.0, 2.0]})
    hdf5(tmp_path / "other.h5", {"x": NUMBERS})
    with h5py.File(path, "a") as file:
        file["away"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        file.create_dataset("outside", (3,), "u1", external=[("/etc/passwd", 0, 3)])
        file["table"] = np.zeros(20, [("a", "f4"), ("b", "i4")])
        file["complex"] = np.zeros(20, np.complex64)
        file["none"] = 1.0
        layout = h5py.VirtualLayout((20,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (20,))
        file.create_virtual_dataset("virtual", layout)
    (tmp_path / "b.h5").write_bytes(b"nothing of the kind")
    (tmp_path / "c.nc").write_bytes(b"CDF\x01" + bytes(100))
    (tmp_path / "empty").mkdir()
    for changes, message in (
        ({"arrays": {"x": "image"}}, "no array 'image'; there are age, .*Set data.arrays"),
        ({"arrays": {"x": "sat"}}, "a group 'sat' and no array; in it are sat/bands"),
        ({"arrays": {"x": "away"}}, "a link to another file at 'away'"),
        ({"arrays": {"x": "outside"}}, "data of other files at 'outside'"),
        ({"arrays": {"x": "virtual"}}, "data of other files at 'virtual'"),
        ({"arrays": {"x": "table"}}, "a table of a, b at 'table'"),
        ({"arrays": {"x": "complex"}}, "complex64 at 'complex'; arrays of numbers, texts"),
        ({"arrays": {"x": "none"}}, "a single value at 'none'"),
        ({"arrays": {"x": "age", "y": "short"}}, "different numbers of samples: age 20, short 3"),
        ({"arrays": {}}, "No modality is to be read; set --data.arrays. The arrays .* are age"),
        ({"path": "nowhere"}, "no file or folder 'nowhere'"),
        ({"path": str(tmp_path / "b.h5")}, "b.h5 can't be read"),
        ({"path": str(tmp_path / "c.nc")}, "NetCDF file of an earlier version than 4"),
        ({"path": str(tmp_path / "empty")}, "neither HDF5 files nor zarr folders"),
        ({"arrays": {"x": "{split}/x"}}, "no arrays {split}/x for any of train, training"),
        ({"max_pixels": 5}, "A value of x of .* would take"),
        ({"split_names": {"test": "test"}}, "no split 'train'; there are test"),
    ):
        given = {"path": str(path), "arrays": {"x": "sat/bands"}} | changes
        with pytest.raises(ValueError, match=message):
            ArraysData(**given).open("train")
    with pytest.raises(ValueError, match=r"ArraysData.cache_megabytes is 0"):
        ArraysData(cache_megabytes=0)


def test_codecs_of_zarr_that_may_run_anything_are_refused(tmp_path):
    for version, key in ((2, "filters"), (3, "codecs")):
        path = zarr_folder(tmp_path / str(version), {"x": NUMBERS}, version=version)
        file = path / "x" / ("zarr.json" if version == 3 else ".zarray")
        about = json.loads(file.read_text())
        name = {"id": "pickle"} if version == 2 else {"name": "numcodecs.pickle"}
        about[key] = [name, *(about[key] or [])]
        file.write_text(json.dumps(about))
        with pytest.raises(ValueError, match="packed by pickle, which is not read; pack it by"):
            ArraysData(str(path), {"x": "x"}).open("train")


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    for package, path in (("h5py", tmp_path / "a.h5"), ("tensorstore", tmp_path / "a.zarr")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        if package == "h5py":
            path.write_bytes(b"\x89HDF\r\n\x1a\n")
        else:
            path.mkdir()
            (path / "zarr.json").write_text("{}")
        with pytest.raises(ValueError, match=f"needs `pip install {package}`"):
            ArraysData(str(path), {"x": "x"}).open("train")


def read_all(path: Path) -> None:
    """Reads all values of a store, which may be damaged: values, or a sentence for each."""
    try:
        source = ArraysData(str(path), NAMES, metadata=("age",)).open("train")
        samples = source.__getitems__(range(min(len(source), 40)))
    except ValueError as error:
        assert type(error) is ValueError and str(error) and "\n" not in str(error)
        return
    for sample in samples:
        assert all("\n" not in note.reason for note in sample.get(NOTES, ()))


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 8)):
        changed[place] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
    return bytes(changed[: random.integers(len(data))] if random.random() < 0.1 else changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_stores_give_values_or_sentences(tmp_path, kind):
    path = WRITERS[kind](tmp_path, ARRAYS)
    random = np.random.default_rng(2)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    whole = [each.read_bytes() for each in files]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(MUTATIONS):
        number = int(random.integers(len(files)))
        files[number].write_bytes(damaged(whole[number], random))
        start = time.perf_counter()
        read_all(path)
        assert time.perf_counter() - start < 5
        files[number].write_bytes(whole[number])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 1024
    shutil.rmtree(path, ignore_errors=True)

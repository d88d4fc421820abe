import json

import ml_dtypes
import numpy as np
import pytest

from tokenizers.storage.folders import check_finite, fingerprint_files, load_folder, save_folder

ARRAYS = {
    "encoder/0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "file": np.array(3),
    "names": np.array(["a", "bc"]),
    "mask": np.array([True, False]),
}


def test_what_is_saved_is_loaded(tmp_path):
    description = {"kind": "x", "sizes": [1, 2], "nested": {"é": 0.5}}
    save_folder(tmp_path / "new" / "t", description, ARRAYS, {"model.bin": b"\x00\xff"})
    loaded, arrays, files = load_folder(tmp_path / "new" / "t")
    assert loaded == description
    assert files == {"model.bin": b"\x00\xff"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_saving_twice_writes_the_same_bytes(tmp_path):
    for name in "ab":
        save_folder(tmp_path / name, {"x": 1}, ARRAYS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_saving_replaces_the_whole_folder_and_leaves_nothing_beside_it(tmp_path):
    save_folder(tmp_path / "t", {"version": 1}, {}, {"old.bin": b"1"})
    save_folder(tmp_path / "t", {"version": 2}, {})
    description, arrays, files = load_folder(tmp_path / "t")
    assert (description, arrays, files) == ({"version": 2}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_failed_save_leaves_the_earlier_folder(tmp_path):
    save_folder(tmp_path / "t", {"version": 1}, {})
    with pytest.raises(ValueError, match="JSON compliant"):
        save_folder(tmp_path / "t", {"version": float("nan")}, {})
    assert load_folder(tmp_path / "t")[0] == {"version": 1}


def test_another_kind_of_tokenizer_is_one_sentence(tmp_path):
    save_folder(tmp_path / "t", {"tokenizer": "text"}, {})
    assert load_folder(tmp_path / "t", "text")[0] == {"tokenizer": "text"}
    with pytest.raises(ValueError, match=r"of kind 'text', not 'boxes'; .*\.$"):
        load_folder(tmp_path / "t", "boxes")


def test_an_absent_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"^Nothing saved in .*absent.*\.$"):
        load_folder(tmp_path / "absent")


@pytest.mark.parametrize("name", ["arrays.npz", "model.bin", "description.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "deleted"])
def test_damage_to_any_file_is_one_sentence(tmp_path, name, damage):
    save_folder(tmp_path / "t", {"x": 1}, ARRAYS, {"model.bin": b"content"})
    path = tmp_path / "t" / name
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "changed":
            path.write_bytes(b"?" + content[1:])
        case "deleted":
            path.unlink()
    with pytest.raises(ValueError, match=r"^(Damaged folder|Nothing saved in) .* make it again\.$"):
        load_folder(tmp_path / "t")


@pytest.mark.parametrize("name", ["../out", "a/b", "/abs", "arrays.npz", "description.json", ""])
def test_file_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is not allowed: use a plain name"):
        save_folder(tmp_path / "t", {}, {}, {name: b""})
    save_folder(tmp_path / "t", {}, {})
    path = tmp_path / "t" / "description.json"
    record = json.loads(path.read_text())
    record["sha256"][name] = "0"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"is not allowed|is not what was written"):
        load_folder(tmp_path / "t")


@pytest.mark.parametrize("array", [np.array([None]), np.zeros(2, dtype="V2")])
def test_arrays_that_need_pickle_are_refused(tmp_path, array):
    with pytest.raises(ValueError, match="cannot be stored without pickle"):
        save_folder(tmp_path / "t", {}, {"x": array})
    assert not (tmp_path / "t").exists()


def test_a_fingerprint_follows_names_and_contents(tmp_path):
    file = tmp_path / "a" / "b" / "c.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([1]))
    first = fingerprint_files(tmp_path / "a")
    assert fingerprint_files(tmp_path / "a") == first
    file.write_text(json.dumps([2]))
    second = fingerprint_files(tmp_path / "a")
    file.rename(file.with_name("d.json"))
    assert len({first, second, fingerprint_files(tmp_path / "a")}) == 3


def test_weights_that_are_not_finite_are_named_whatever_their_dtype():
    whole = np.ones((2, 3), np.float32)
    broken = whole.copy()
    broken[1, 2], broken[0, 0] = np.nan, np.inf
    half = broken.astype(ml_dtypes.bfloat16)
    check_finite({"a": whole, "ids": np.arange(3), "words": np.array(["nan"])}, "runs/x")
    with pytest.raises(ValueError, match=r"runs/x are not all finite; .* in a/b \(2 of 6\), c \(2"):
        check_finite({"a": whole, "a/b": broken, "c": half}, "runs/x")


def test_only_some_of_many_broken_arrays_are_listed():
    arrays = {f"a{i}": np.full(2, np.inf) for i in range(9)}
    with pytest.raises(ValueError, match=r"a4 \(2 of 2\) and 4 more arrays"):
        check_finite(arrays, "file")

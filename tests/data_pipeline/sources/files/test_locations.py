import gzip

import pytest

from data_pipeline.sources.files import locations
from data_pipeline.sources.files.listing import list_folder
from data_pipeline.sources.files.locations import check_keys_meet, read_bytes, why_apart
from tokenizers.formats.file_names import natural_order, normal_key, split_name


def test_a_file_cut_after_it_was_listed_is_noticed(tmp_path):
    file = tmp_path / "1.txt"
    file.write_text("a caption")
    [(_, location)] = list_folder(str(tmp_path)).files
    assert read_bytes(location) == b"a caption"
    file.write_text("a")
    with pytest.raises(ValueError, match=r"1\.txt has changed or was cut short"):
        read_bytes(location)
    file.unlink()
    with pytest.raises(ValueError, match=r"1\.txt can't be read: No such file"):
        read_bytes(location)


def test_gzip_files_are_unpacked_whatever_they_are_called(tmp_path, monkeypatch):
    packed = gzip.compress(b"[1, 2]") + gzip.compress(b"")
    (tmp_path / "1.json.gz").write_bytes(packed)
    (tmp_path / "2.json").write_bytes(packed)
    (tmp_path / "3.json.gz").write_bytes(packed[:12])
    (tmp_path / "4.json.gz").write_bytes(packed[:10] + bytes(20))
    good, also_good, cut, damaged = [each for _, each in list_folder(str(tmp_path)).files]
    assert good.extension == "json"
    assert read_bytes(good) == read_bytes(also_good) == b"[1, 2]"
    with pytest.raises(ValueError, match="cut short"):
        read_bytes(cut)
    with pytest.raises(ValueError, match="damaged gzip file"):
        read_bytes(damaged)
    monkeypatch.setattr(locations, "MOST_UNPACKED", 5)
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_bytes(good)


def test_the_state_changes_with_the_file(tmp_path):
    file = tmp_path / "1.txt"
    file.write_text("a")
    [(_, before)] = list_folder(str(tmp_path)).files
    assert before.state == list_folder(str(tmp_path)).files[0][1].state
    file.write_text("ab")
    assert before.state != list_folder(str(tmp_path)).files[0][1].state


def test_names_are_split_at_their_extension():
    assert split_name("dog.s/0001") == ("dog.s/0001", "")
    assert split_name("a/0001.depth.PNG") == ("a/0001.depth", "png")
    assert split_name("0001.json.gz") == ("0001", "json")
    assert split_name("0001.gz") == ("0001", "gz")


def test_keys_have_one_form_and_can_be_written_down():
    assert normal_key("Zu\u0308rich") == "Z\u00fcrich"
    assert normal_key("Z\udcfcrich") == "Z\u00fcrich"  # A Latin-1 name, as Python reads it.


def test_natural_order_counts_rather_than_spells():
    names = ["frame_10", "frame_2", "frame_02", "a", "10", "9"]
    assert sorted(names, key=natural_order) == ["9", "10", "a", "frame_02", "frame_2", "frame_10"]


@pytest.mark.parametrize(
    ("own", "others", "reason"),
    [
        (["A1", "B2"], ["a1", "b2"], "upper and lower case"),
        (["0001"], ["1"], "leading zeros"),
        (["1.depth", "2.depth"], ["1", "2"], "the extension"),
        (["x/1"], ["1"], "the folders before"),
        (["1_depth", "2_depth"], ["1", "2", "3"], "the first end in '_depth'"),
        (["1", "2"], ["1_rgb", "2_rgb"], "the others end in '_rgb'"),
        (["depth_1"], ["1"], "the first begin with 'depth_'"),
        (["a_rgb", "b_rgb"], ["a_depth", "b_depth"], "'_rgb', the others in '_depth'"),
        (["x"], ["y"], ""),
    ],
)
def test_the_likeliest_reason_is_found(own, others, reason):
    assert reason in why_apart(own, others)
    assert bool(why_apart(own, others)) == bool(reason)


def test_modalities_must_share_a_sample_with_one_other():
    check_keys_meet({"a": {"1"}, "b": {"1", "2"}, "c": {"2"}})
    check_keys_meet({"a": {"1"}})
    with pytest.raises(ValueError, match=r"c shares no sample.*look like '3', those of a like '1'"):
        check_keys_meet({"a": {"1"}, "b": {"1"}, "c": {"3"}})

import random
import tarfile

import pytest

from data_pipeline.sources.files.locations import find_files, natural_order, read_bytes

MEMBERS = {f"{i:04d}.txt": bytes([65 + i]) * (i * 300) for i in range(8)}


def contents(folder, extension=""):
    return {key: read_bytes(location) for key, location in find_files(folder, extension).items()}


def test_folder_and_shards_give_the_same_keys_and_bytes(tmp_path, write_tar):
    for name, data in MEMBERS.items():
        for part in ("plain", "all/all"):
            file = tmp_path / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    names = list(MEMBERS)
    for shard in range(2):
        write_tar(
            tmp_path / "shards" / f"shard-{shard}.tar", {n: MEMBERS[n] for n in names[shard::2]}
        )
    expected = {name.removesuffix(".txt"): data for name, data in MEMBERS.items()}
    for folder in ("plain", "all", "shards"):
        assert contents(tmp_path / folder) == expected


def test_class_folders_stay_in_the_key(tmp_path):
    for name in ("cat/1.txt", "dog/1.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    assert contents(tmp_path) == {"cat/1": b"cat/1.txt", "dog/1": b"dog/1.txt"}


def test_extension_picks_one_modality_of_a_mixed_archive(tmp_path, write_tar):
    write_tar(tmp_path / "a.tar", {"1.JPG": b"picture", "1.txt": b"caption", "1.cls": b"3"})
    assert contents(tmp_path, "jpg") == {"1": b"picture"}
    assert contents(tmp_path, ".txt") == {"1": b"caption"}
    with pytest.raises(ValueError, match=r"same key '1'.*`extension`"):
        find_files(tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "1.txt").write_text("a")
    assert list(find_files(tmp_path)) == ["1"]
    (tmp_path / "notes.doc").write_text("")
    with pytest.raises(ValueError, match=r"notes\.doc is not of a kind.*`extension`"):
        find_files(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.png file"):
        find_files(tmp_path, "png")


def test_a_path_out_of_an_archive_is_only_a_key(tmp_path, write_tar):
    folder = tmp_path / "inner"
    write_tar(folder / "a.tar", {"../../evil.txt": b"x", "/etc/evil.txt": b"y"})
    with pytest.raises(ValueError, match="holds no file"):  # Parts that begin with a dot: hidden.
        write_tar(tmp_path / "other" / "a.tar", {"../../evil.txt": b"x"})
        find_files(tmp_path / "other")
    assert contents(folder) == {"/etc/evil": b"y"}
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == []


def test_links_in_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("1.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"1\.txt in .*a\.tar is a link"):
        find_files(tmp_path)


def test_compressed_archives_are_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"compressed.*plain"):
        find_files(tmp_path)


def test_a_tar_cut_short_anywhere_is_noticed(tmp_path, write_tar):
    """Cut at a block or off it, inside a member or between two."""
    whole = write_tar(tmp_path / "whole" / "a.tar", MEMBERS).read_bytes()
    used = len(whole.rstrip(b"\0"))
    chosen = random.Random(0).sample(range(1, used), 40)
    cut = tmp_path / "cut" / "a.tar"
    cut.parent.mkdir()
    for length in [*chosen, *range(512, used, 512)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.tar is damaged"):
            find_files(cut.parent)


def test_a_damaged_header_is_noticed_rather_than_taken_for_the_end(tmp_path, write_tar):
    file = write_tar(tmp_path / "a.tar", MEMBERS)
    data = bytearray(file.read_bytes())
    data[data.index(b"0004.txt")] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged or cut short after 4 members"):
        find_files(tmp_path)


def test_something_else_called_tar_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello" * 300)
    with pytest.raises(ValueError, match=r"a\.tar is damaged or not a tar archive"):
        find_files(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.tar is damaged or not a tar archive"):
        find_files(tmp_path)


def test_an_archive_that_changed_is_indexed_again(tmp_path, write_tar):
    write_tar(tmp_path / "a.tar", {"1.txt": b"a"})
    assert list(find_files(tmp_path)) == ["1"]
    write_tar(tmp_path / "a.tar", {"2.txt": b"a" * 20_000})
    assert list(find_files(tmp_path)) == ["2"]


def test_a_file_cut_after_it_was_listed_is_noticed(tmp_path):
    file = tmp_path / "1.txt"
    file.write_text("a caption")
    location = find_files(tmp_path)["1"]
    file.write_text("a")
    with pytest.raises(ValueError, match=r"1\.txt has changed or was cut short"):
        read_bytes(location)
    file.unlink()
    with pytest.raises(ValueError, match=r"1\.txt can't be read: No such file"):
        read_bytes(location)


def test_natural_order_counts_rather_than_spells():
    names = ["frame_10", "frame_2", "frame_02", "a", "10", "9"]
    assert sorted(names, key=natural_order) == ["9", "10", "a", "frame_02", "frame_2", "frame_10"]

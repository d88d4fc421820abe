import os

from data_pipeline.sources.files.listing import list_folder


def names(folder) -> list[str]:
    return [name for name, _ in list_folder(str(folder)).files]


def write(folder, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_files_are_listed_in_order_by_their_names_below_the_folder(tmp_path):
    write(tmp_path, "b/2.txt", "b/1.txt", "a/3.txt", "0.txt")
    assert names(tmp_path) == ["0.txt", "a/3.txt", "b/1.txt", "b/2.txt"]


def test_what_systems_and_people_leave_beside_samples_is_remarked(tmp_path, write_tar):
    junk = [".DS_Store", "._1.txt", "Thumbs.db", "desktop.ini", "README.md", "LICENSE"]
    junk += [".git/config", "__MACOSX/1.txt", "a/readme.txt"]
    write(tmp_path / "plain", "1.txt", "liberty.txt", "a/2.txt", *junk)
    listing = list_folder(str(tmp_path / "plain"))
    assert [name for name, _ in listing.files] == ["1.txt", "a/2.txt", "liberty.txt"]
    assert len(listing.remarks) == len(junk)
    assert {remark.kind for remark in listing.remarks} == {"ignored"}
    members = dict.fromkeys(["./1.txt", "./._1.txt", "__MACOSX/._1.txt", "LICENSE"], b"x")
    write_tar(tmp_path / "tars" / "a.tar", members)
    listing = list_folder(str(tmp_path / "tars"))
    assert [name for name, _ in listing.files] == ["1.txt"]
    assert len(listing.remarks) == 3


def test_archives_stand_for_their_members_and_hide_what_is_beside_them(tmp_path, write_tar):
    write_tar(tmp_path / "shard-10.tar", {"3.txt": b""})
    write_tar(tmp_path / "shard-9.tar", {"5.txt": b""})
    write(tmp_path, "shard-9_stats.json")
    write_tar(tmp_path.parent / "outer" / "inner" / "a.tar", {"1.txt": b""})
    listing = list_folder(str(tmp_path))
    assert [name for name, _ in listing.files] == ["5.txt", "3.txt"]
    assert "lies beside archives" in listing.remarks[0].reason
    assert names(tmp_path.parent / "outer") == ["inner/1.txt"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path, "a/1.txt")
    os.symlink(tmp_path / "a", tmp_path / "b")
    os.symlink(tmp_path / "a", tmp_path / "a" / "again")
    os.symlink(tmp_path / "nowhere", tmp_path / "2.txt")
    listing = list_folder(str(tmp_path))
    assert [name for name, _ in listing.files] == ["a/1.txt", "b/1.txt"]
    assert listing.remarks[0].kind == "unreadable"


def test_a_pipe_is_never_read(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    listing = list_folder(str(tmp_path))
    assert [name for name, _ in listing.files] == ["b.png"]
    assert [each.reason for each in listing.remarks] == ["is neither a file nor a folder"]

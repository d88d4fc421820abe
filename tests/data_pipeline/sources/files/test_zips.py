"""Zip archives, written by the tests."""

import io
import os
import random
import stat
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.files import locations
from data_pipeline.sources.files.archives import index_archive
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.locations import read_bytes
from data_pipeline.sources.files.splits import SplitByFolder
from tokenizers.formats.formats import ArrayFile, TextFile

MEMBERS = {f"b/{i:04d}.txt": bytes([65 + i]) * (i * 300) for i in range(8)} | {"ü.txt": b"x"}
METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.mkdir("folder")
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def contents(file) -> dict[str, bytes]:
    return {name: read_bytes(location) for name, location in index_archive(str(file)).files}


def remarks(file) -> str:
    return "; ".join(f"{each.kind} {each.reason}" for each in index_archive(str(file)).remarks)


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "a.zip"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_members_are_read_in_place_however_they_are_packed(write, method, name):
    file = write(packed(MEMBERS, METHODS[method]), name)
    assert contents(file) == MEMBERS and not remarks(file)
    assert str(index_archive(str(file)).files[1][1]) == f"b/0001.txt in {file}"
    assert contents(write(b"something in front" + packed(MEMBERS), "b.zip")) == {}


def test_of_an_archive_that_was_cut_the_members_before_the_cut_are_read(write):
    whole = packed(MEMBERS)
    file = write(whole[: len(whole) // 3])
    found = contents(file)
    assert 0 < len(found) < len(MEMBERS) and found.items() <= MEMBERS.items()
    assert "cut is damaged or cut short after" in remarks(file)
    assert contents(write(b"PK\x03\x04" + bytes(800), "b.zip")) == {}


def test_damage_inside_of_a_member_is_noticed(write):
    data = bytearray(packed({"a.txt": b"x" * 1000, "b.txt": b"y"}, zipfile.ZIP_STORED))
    data[data.index(b"x" * 500)] ^= 1
    files = index_archive(str(write(bytes(data)))).files
    with pytest.raises(ValueError, match=r"a\.txt in .*a\.zip is damaged \(a checksum is wrong\)"):
        read_bytes(files[0][1])
    assert read_bytes(files[1][1]) == b"y"


def test_bombs_are_refused_and_not_unpacked(write, monkeypatch):
    monkeypatch.setattr(locations, "MOST_UNPACKED", 1 << 20)
    [(_, location)] = index_archive(str(write(packed({"a.txt": bytes(1 << 24)})))).files
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB"):
        read_bytes(location)
    # One that says that it is small.
    data = packed({"a.txt": bytes(1 << 24)})
    small = data.replace((1 << 24).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    [(_, location)] = index_archive(str(write(small, "b.zip"))).files
    with pytest.raises(ValueError, match="is damaged"):
        read_bytes(location)


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/evil.txt", "a/../../b.txt", "C:/a.txt"])
def test_paths_out_of_an_archive_are_refused(write, name):
    with pytest.raises(ValueError, match="leads out of the archive"):
        index_archive(str(write(packed({name: b"x"}))))


def test_links_and_encrypted_members_are_not_read(write, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"link\.txt in .* is a link"):
        index_archive(str(write(stream.getvalue())))
    data = bytearray(packed({"a.txt": b"x"}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert "unreadable is encrypted; unpack" in remarks(write(bytes(data), "b.zip"))


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize("top", ["", "data set/"])
@pytest.mark.parametrize("place", ["all.zip", "all", "train.zip", "by modality"])
def test_a_folder_in_a_zip_is_a_data_set(tmp_path, top, place):
    folders = {"train": 3, "val": 2}
    members = {
        f"{top}{split}/{name}": content
        for split, count in folders.items()
        for i in range(count)
        for name, content in ((f"rgb/{i}.png", picture(i)), (f"caption/{i}.txt", b"a %d" % i))
    } | {"__MACOSX/._x.png": b"", f"{top}README.md": b"x"}
    path = tmp_path
    match place:
        case "all.zip":
            path = tmp_path / "all.zip"
            path.write_bytes(packed(members))
        case "all":
            (tmp_path / "all.zip").write_bytes(packed(members))
        case "train.zip":
            for split in folders:
                own = {n.partition(f"{split}/")[2]: c for n, c in members.items() if split in n}
                (tmp_path / f"{split}.zip").write_bytes(packed(own))
        case "by modality":
            for split in folders:
                for name in ("rgb", "caption"):
                    folder = f"{split}/{name}/"
                    own = {n.rpartition("/")[2]: c for n, c in members.items() if folder in n}
                    (tmp_path / split / name).mkdir(parents=True)
                    (tmp_path / split / name / "a.zip").write_bytes(packed(own))
    source = FilesData(
        path=str(path),
        modalities={"rgb": ArrayFile(), "caption": TextFile()},
        splits_by=SplitByFolder({"train": "train", "test": "val"}),
    ).open("train")
    assert source.keys == ["0", "1", "2"]
    assert source[2]["caption"] == "a 2" and source[2]["rgb"][0, 0, 0] == 2


def test_a_zip_beside_what_was_unpacked_from_it_is_passed_over(tmp_path):
    folder = tmp_path / "train" / "rgb"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(picture(0))
    (folder / "all.zip").write_bytes(packed({"0.png": picture(9)}))
    source = FilesData(path=str(tmp_path), modalities={"rgb": ArrayFile()}).open("train")
    assert source[0]["rgb"][0, 0, 0] == 0 and len(source) == 1


def test_random_damage_never_ends_in_anything_but_members_or_a_sentence(tmp_path):
    file = tmp_path / "a.zip"
    dice = random.Random(0)
    forms = [packed(MEMBERS, method) for method in METHODS.values()]
    start = time.monotonic()
    for round_number in range(200):
        data = bytearray(dice.choice(forms))
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        file.write_bytes(data[: dice.randrange(len(data))] if dice.random() < 0.2 else data)
        os.utime(file, (round_number, round_number))
        try:
            found = index_archive(str(file)).files
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
            continue
        for _, location in found:
            try:
                read_bytes(location)
            except ValueError as error:
                assert str(error).endswith(".") and "\n" not in str(error)
    assert time.monotonic() - start < 20

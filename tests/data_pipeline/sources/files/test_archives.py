import io
import os
import random
import tarfile
import time

import numpy as np
import pyarrow
import pytest

from data_pipeline.sources.files import archives
from data_pipeline.sources.files.archives import index_archive
from data_pipeline.sources.files.locations import read_bytes

MEMBERS = {f"{i:04d}.txt": bytes([65 + i]) * (i * 300) for i in range(8)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fourm" / "archives"


def contents(file) -> dict[str, bytes]:
    return {name: read_bytes(location) for name, location in index_archive(str(file)).files}


def remarks(file) -> str:
    return "; ".join(f"{each.kind} {each.reason}" for each in index_archive(str(file)).remarks)


def packed(mode: str, members: dict[str, bytes], **options) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_in_place_in_every_format(tmp_path, form):
    members = MEMBERS | {f"{'long/' * 18}{'x' * 60}.txt": b"long"}
    if form != tarfile.USTAR_FORMAT:
        members |= {f"{'ü' * 200}.txt": b"longer"}
    (tmp_path / "a.tar").write_bytes(packed("w", members, format=form))
    assert contents(tmp_path / "a.tar") == members
    assert not remarks(tmp_path / "a.tar")


def test_zstd_archives_are_read_as_far_as_they_go(tmp_path):
    members = {f"{i}.txt": np.random.default_rng(i).bytes(300_000) for i in range(8)}
    stream = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(stream, "zstd") as output:
        output.write(packed("w", members))
    whole = stream.getvalue().to_pybytes()
    (tmp_path / "a.tar.zst").write_bytes(whole)
    assert contents(tmp_path / "a.tar.zst") == members and not remarks(tmp_path / "a.tar.zst")
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    assert 0 < len(contents(tmp_path / "b.tar")) < 8
    assert remarks(tmp_path / "b.tar").startswith("cut")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_compressed_archives_are_told_by_their_bytes_and_unpacked_once(tmp_path, cache, mode, name):
    (tmp_path / name).write_bytes(packed(mode, MEMBERS))
    assert contents(tmp_path / name) == MEMBERS
    [copy] = cache.iterdir()
    archives._index.cache_clear()
    before = copy.stat().st_mtime_ns
    location = index_archive(str(tmp_path / name)).files[0][1]
    assert copy.stat().st_mtime_ns == before
    assert str(location) == f"0000.txt in {tmp_path / name}"
    (tmp_path / name).write_bytes(packed(mode, {"1.txt": b"other"}))
    assert contents(tmp_path / name) == {"1.txt": b"other"}
    assert len(list(cache.iterdir())) == 1


def test_a_cut_compressed_archive_gives_the_members_before_the_cut(tmp_path):
    noise = {name: random.Random(name).randbytes(3000) for name in MEMBERS}
    for mode in ("w:gz", "w:bz2", "w:xz"):
        whole = packed(mode, noise)
        file = tmp_path / f"{mode[2:]}.tar"
        file.write_bytes(whole[: len(whole) * 2 // 3])
        found = contents(file)
        assert len(found) < 8 and found == {name: noise[name] for name in found}
        assert "damaged or" in remarks(file)  # bz2 packs all of it as one block.
        assert bool(found) == (mode != "w:bz2")
    whole = bytearray(packed("w:gz", noise))
    whole[-8] ^= 1  # Its checksum.
    (tmp_path / "checksum.tar").write_bytes(whole)
    assert len(contents(tmp_path / "checksum.tar")) >= 5
    assert "damaged or cut short" in remarks(tmp_path / "checksum.tar")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(archives, "MOST_MORE", 0)
    (tmp_path / "a.tar").write_bytes(packed("w:gz", {"1.txt": bytes(1_000_000)}))
    with pytest.raises(ValueError, match="more than 200 times its size"):
        index_archive(str(tmp_path / "a.tar"))
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "a.tar").write_bytes(packed("w:gz", MEMBERS))
    with pytest.raises(ValueError, match=r"can't be unpacked into the cache.*XDG_CACHE_HOME"):
        index_archive(str(tmp_path / "a.tar"))


def test_archives_in_a_row_are_all_read(tmp_path):
    first, second = packed("w", {"1.txt": b"a"}), packed("w", {"2.txt": b"b"})
    file = tmp_path / "a.tar"
    file.write_bytes(first + second)
    assert contents(file) == {"1.txt": b"a", "2.txt": b"b"}
    file.write_bytes(first + b"something else" * 100)
    assert contents(file) == {"1.txt": b"a"}
    assert "1400 bytes after its end mark that are not a tar" in remarks(file)


def test_a_tar_cut_anywhere_gives_the_members_before_the_cut_and_says_so(tmp_path):
    """Cut at a block or off it, inside a member or between two."""
    whole = packed("w", MEMBERS)
    used = len(whole.rstrip(b"\0"))
    chosen = random.Random(0).sample(range(1, used), 40)
    file = tmp_path / "a.tar"
    for length in [*chosen, *range(512, used, 512)]:
        file.write_bytes(whole[:length])
        found = contents(file)
        assert list(found.items()) == list(MEMBERS.items())[: len(found)]
        assert len(found) >= int(length > 512)
        assert "cut short" in remarks(file) or length < 512
    file.write_bytes(whole[: -(-used // 512) * 512])
    assert contents(file) == MEMBERS
    assert "after 8 members (it has no end mark)" in remarks(file)


def test_a_damaged_header_is_noticed_rather_than_taken_for_the_end(tmp_path):
    data = bytearray(packed("w", MEMBERS))
    data[data.index(b"0004.txt")] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    assert list(contents(tmp_path / "a.tar")) == list(MEMBERS)[:4]
    assert "damaged or cut short after 4 members" in remarks(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello" * 300, "not a tar archive"),
        (b"", "not a tar archive"),
        (b"<html>" * 200, "a page of HTML"),
        (b"7z\xbc\xaf" + bytes(800), "a 7z archive"),
    ],
)
def test_something_else_called_tar_is_named(tmp_path, data, kind):
    (tmp_path / "a.tar").write_bytes(data)
    assert contents(tmp_path / "a.tar") == {}
    assert remarks(tmp_path / "a.tar").startswith("unreadable is damaged or not a tar archive")
    assert kind in remarks(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_archives_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("1.txt")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"1\.txt in .*a\.tar is a link"):
        index_archive(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/evil.txt", "a/../../b.txt", "C:\\a.txt"])
def test_paths_out_of_an_archive_are_refused(tmp_path, write_tar, name):
    write_tar(tmp_path / "a.tar", {name: b"x"})
    with pytest.raises(ValueError, match=r"leads out of the archive"):
        index_archive(str(tmp_path / "a.tar"))


def test_an_archive_that_changed_is_indexed_again(tmp_path, write_tar):
    write_tar(tmp_path / "a.tar", {"1.txt": b"a"})
    assert list(contents(tmp_path / "a.tar")) == ["1.txt"]
    write_tar(tmp_path / "a.tar", {"2.txt": b"a" * 20_000})
    assert list(contents(tmp_path / "a.tar")) == ["2.txt"]


def test_random_damage_never_ends_in_anything_but_members_or_a_sentence(tmp_path):
    members = {**MEMBERS, f"{'x' * 150}.txt": b"long"}
    file = tmp_path / "a.tar"
    dice = random.Random(0)
    forms = [packed("w", members, format=form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    forms.append(packed("w:gz", members))
    start = time.monotonic()
    for round_number in range(150):
        data = bytearray(dice.choice(forms))
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(0, min(len(data), 20_000)) // 512 * 512 + dice.randrange(512)
            data[place % len(data)] = dice.randrange(256)
        file.write_bytes(data)
        os.utime(file, (round_number, round_number))
        try:
            index_archive(str(file))
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
    assert time.monotonic() - start < 20

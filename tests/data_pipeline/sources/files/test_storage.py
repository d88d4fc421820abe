"""Data at a URL: in fsspec's memory, and on a web server of the test's own."""

import importlib.util
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.files import storage
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.splits import SplitByFolder
from data_pipeline.sources.files.storage import local_path
from data_pipeline.sources.parquet import ParquetData
from tokenizers.formats.formats import ArrayFile, TextFile

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/data", recursive=True)


@pytest.fixture
def server(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def log_message(self, format, *args):
            self.asked.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}", folder, Quiet.asked
    web.shutdown()
    web.server_close()


def again(*arguments) -> Path:
    """Asks as another process would."""
    storage._copy.cache_clear()
    return local_path(*arguments)


def test_a_path_is_itself(tmp_path, cache):
    assert local_path(str(tmp_path)) == tmp_path and local_path(f"file://{tmp_path}") == tmp_path
    assert local_path("~/x") == Path.home() / "x"
    assert not os.path.exists(cache)


def test_a_folder_is_copied_and_kept_up_to_date(memory, cache):
    memory.pipe({"/data/set/a/0.txt": b"zero", "/data/set/b.txt": b"b"})
    root = again("memory://data/set", cache)
    assert root.parent == Path(cache)
    assert {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.txt")} == {
        "a/0.txt": b"zero",
        "b.txt": b"b",
    }
    memory.pipe("/data/set/a/0.txt", b"ZERO")
    memory.pipe("/data/set/c.csv", b"c")
    memory.rm("/data/set/b.txt")
    memory.pipe("/data/set/b.txt", b"b")
    assert again("memory://data/set/", cache, ".txt") != root
    assert again("memory://data/set", cache) == root
    assert (root / "a" / "0.txt").read_bytes() == b"ZERO" and (root / "c.csv").is_file()
    kept = (root / "a" / "0.txt").stat()
    again("memory://data/set", cache)
    assert (root / "a" / "0.txt").stat().st_ino == kept.st_ino
    memory.rm("/data/set/c.csv")
    again("memory://data/set", cache)
    assert not (root / "c.csv").exists()


def test_samples_are_read_from_a_url(memory, cache, tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(picture).save(tmp_path / "0.png")
    memory.pipe("/data/pets/train/rgb/0.png", (tmp_path / "0.png").read_bytes())
    memory.pipe("/data/pets/train/caption/0.txt", b"a cat")
    data = FilesData(
        "memory://data/pets",
        {"rgb": ArrayFile(), "caption": TextFile()},
        splits_by=SplitByFolder({"train": "train"}),
        cache_folder=cache,
    )
    sample = data.open("train")[0]
    assert sample["caption"] == "a cat" and (sample["rgb"] == picture).all()


def test_parquet_files_are_read_from_a_url(server, cache):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    url, folder, _ = server
    pq.write_table(pa.table({"text": ["one", "two"]}), folder / "train.parquet")
    names = {"train": "train"}
    data = ParquetData(f"{url}/train.parquet", {"text": "text"}, split_names=names,
                       cache_folder=cache)  # fmt: skip
    assert data.open("train")[1] == {"text": "two"}


def test_a_range_of_archives_is_fetched_from_the_web_once(server, cache):
    url, folder, asked = server
    for number in (8, 9, 10):
        (folder / f"{number}.txt").write_text(f"text {number}")
        with tarfile.open(folder / f"train-{number:02}.tar", "w") as archive:
            archive.add(folder / f"{number}.txt", f"{number}.txt")
    data = FilesData(
        f"{url}/train-{{08..10}}.tar",
        {"caption": TextFile()},
        splits_by=SplitByFolder({"train": "train"}),
        cache_folder=cache,
    )
    source = data.open("train")
    assert [sample["caption"] for sample in source.__getitems__(range(3))] == [
        *("text 8", "text 9", "text 10")
    ]
    fetched = len(asked)
    again(f"{url}/train-{{08..10}}.tar", cache)
    # They are asked whether they changed, and not fetched.
    assert fetched == 6 and len(asked) == 9


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x", "Reading s3://bucket/x needs `pip install s3fs`"),
        ("foo://bucket/x", "foo://bucket/x can't be read .*foo"),
        ("memory://data/nothing", "There is no file at memory://data/nothing"),
        ("http://127.0.0.1:9/a.tar", r"127\.0\.0\.1:9/a\.tar can't be read \(.*check the address"),
        ("http://127.0.0.1:9/{3..1}.tar", "a range that ends before it begins"),
    ],
)
def test_what_can_not_be_fetched_is_named(url, message, cache):
    if url.startswith("s3") and importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(ValueError, match=message):
        again(url, cache)


def test_a_web_server_says_what_it_does_not_have(server, cache):
    url, _, _ = server
    with pytest.raises(ValueError, match=r"b\.tar can't be read \(the server says 404"):
        again(f"{url}/b.tar", cache)
    with pytest.raises(ValueError, match="is no file, and a web server lists none"):
        again(f"{url}/", cache)


def test_a_file_that_is_cut_short_is_not_kept(memory, cache, monkeypatch):
    memory.pipe("/data/set/a.txt", b"whole")
    monkeypatch.setattr(type(memory), "get_file", lambda self, path, to: Path(to).write_text("w"))
    with pytest.raises(ValueError, match=r"Of a\.txt of memory://data/set only 1 of 5 bytes came"):
        again("memory://data/set", cache)
    assert not [path for path in Path(cache).rglob("*") if path.is_file()]


def test_a_disk_without_room_is_named(memory, cache, monkeypatch):
    memory.pipe("/data/set/a.txt", b"whole")
    full = SimpleNamespace(free=4)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(ValueError, match=r"has room for 0\.0 GB; set --data\.cache-folder"):
        again("memory://data/set", cache)

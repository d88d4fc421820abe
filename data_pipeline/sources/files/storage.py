"""Data at a URL: copied into a folder of the user's cache, and read there like any other.

http and https need nothing; s3, gs and whatever else fsspec knows need its package for them. A copy
has the time of change that follows from what the server says of the file, so that a file is
fetched again if, and only if, it is another one.
"""

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.sources.source import MayBeDamaged
from tokenizers.process.compile_cache import user_cache
from tokenizers.storage.unfinished import partial_name

PACKAGES = {
    **{"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"},
    **{"az": "adlfs", "abfs": "adlfs", "sftp": "paramiko", "ssh": "paramiko", "oci": "ocifs"},
}
"""What has to be installed for some kinds of URLs."""
AT_ONCE = 8
"""Files that are fetched at the same time."""
TIMEOUT = 60
"""Seconds that a server may take to answer."""
CHUNK = 2**20
STAMPS = (
    *("ETag", "etag", "md5Hash", "content_md5", "checksum", "version_id", "generation"),
    *("LastModified", "last_modified", "mtime", "updated", "created"),
)
"""What kinds of storage call that which tells two states of a file apart; the first one counts."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_URLS = 100_000


@dataclass(frozen=True)
class MayBeRemote(MayBeDamaged):
    """Data whose path may be a URL."""

    cache_folder: str = field(default="", kw_only=True)
    """Where copies of data at a URL are kept; the user's folder for such if empty."""


class _Remote(NamedTuple):
    """One file at a URL."""

    name: str
    """Path below the data's folder."""
    size: int
    """In bytes; -1 if the server does not say."""
    stamp: str
    """Another one if the content is."""
    fetch: Callable[[Path], None]
    """Writes the content to a file."""

    @property
    def changed(self) -> int:
        """When a copy is said to have been changed, in seconds: a number that the state gives."""
        state = f"{self.size} {self.stamp}".encode()
        return 10**9 + int.from_bytes(hashlib.sha256(state).digest()[:3], "big")


def local_path(path: str, cache_folder: str = "", ending: str = "") -> Path:
    """Returns where a path's data are on this machine.

    A path is what it is, but for `~`. What a URL leads to, a file or a folder with all below it, is
    copied, unless a copy of the same state is there; an interrupted copy goes on file by file.
    A URL may name a range of files: https://host/train-{00000..00015}.tar.

    Args:
        path: A path or URL.
        cache_folder: Where copies are kept; the user's folder for such if empty.
        ending: Copy only files whose names end so.

    Raises:
        ValueError: If there is nothing at the URL, it can't be read, or the disk is too small.
    """
    scheme = path.partition("://")[0].lower() if "://" in path else ""
    if scheme in ("file", "local"):
        return Path(urllib.parse.unquote(path.partition("://")[2])).expanduser()
    return _copy(path, cache_folder, ending) if scheme else Path(path).expanduser()


@lru_cache(maxsize=256)  # A server is asked once, so that all splits are of one state.
def _copy(url: str, cache_folder: str, ending: str) -> Path:
    is_web = url.lower().startswith(("http://", "https://"))
    root = Path(cache_folder).expanduser() if cache_folder else _usual_folder()
    # The name says what it is, and parts of it that no server has to know stay out.
    plain = url.partition("?")[0].rstrip("/")
    last = re.sub(r"[^\w.-]+", "_", plain.rpartition("/")[2])[:60]
    folder = root / f"{last}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    is_file, files = _web_files(url) if is_web else _stored_files(url)
    files = [each for each in files if each.name.endswith(ending)]
    if not files:
        raise ValueError(f"There is no {ending or 'file'} at {url}; check the address.")
    try:
        _fetch_all(url, files, folder)
    except OSError as error:
        raise ValueError(
            f"{url} can't be copied to {folder} ({error.strerror or error}); set "
            "--data.cache-folder."
        ) from error
    return folder / files[0].name if is_file else folder


def _usual_folder() -> Path:
    try:
        return user_cache() / "fourm" / "remote"
    except RuntimeError as error:
        raise ValueError("The user has no home; set --data.cache-folder.") from error


def _fetch_all(url: str, files: list[_Remote], folder: Path) -> None:
    missing = [each for each in files if not _is_there(each, folder / each.name)]
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(max(0, each.size) for each in missing)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(
            f"Copying {url} takes {needed / 1e9:.1f} GB and {folder} has room for "
            f"{free / 1e9:.1f} GB; set --data.cache-folder to another disk."
        )

    def fetch(file: _Remote) -> None:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = partial_name(target)
        try:
            _said_of(f"{file.name} of {url}", lambda: file.fetch(unfinished))
            size = unfinished.stat().st_size
            if file.size >= 0 and size != file.size:
                raise ValueError(
                    f"Of {file.name} of {url} only {size} of {file.size} bytes came; give the "
                    "command again."
                )
            os.utime(unfinished, (file.changed, file.changed))
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(fetch, each) for each in missing]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    # What is no longer there is no longer part of the data.
    names = {each.name for each in files}
    for path in folder.rglob("*"):
        is_ours = path.is_file() and not path.name.startswith(".")
        if is_ours and path.relative_to(folder).as_posix() not in names:
            path.unlink(missing_ok=True)


def _is_there(file: _Remote, path: Path) -> bool:
    if file.size < 0 and not file.stamp:
        return False  # The server does not say whether it changed.
    try:
        state = path.stat()
    except OSError:
        return False
    return state.st_mtime_ns == file.changed * 10**9 and file.size in (-1, state.st_size)


def _stored_files(url: str) -> tuple[bool, list[_Remote]]:
    """Returns whether a URL is that of a single file, and the files there, as fsspec finds them."""
    scheme = url.partition("://")[0].lower()
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ValueError(f"Reading {url} needs `pip install fsspec`.") from error
    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(scheme)
        wanted = f"`pip install {package}`" if package else f"another package ({error})"
        raise ValueError(f"Reading {url} needs {wanted}.") from error
    except Exception as error:
        raise ValueError(f"{url} can't be read ({_first_line(error)}); check it.") from error

    def find() -> dict[str, dict[str, Any]]:
        system.invalidate_cache()
        return system.find(root, detail=True)

    found = _said_of(url, find)
    is_file = [*found] == [root]
    files = []
    for path, about in sorted(found.items()):
        name = path.rpartition("/")[2] if is_file else path[len(root) :].lstrip("/")
        stamp = next((str(about[each]) for each in STAMPS if about.get(each)), "")
        size = about.get("size")
        fetch = _fetch_stored(system, path)
        files.append(_Remote(_inside(name, url), -1 if size is None else int(size), stamp, fetch))
    return is_file, files


def _fetch_stored(system: Any, path: str) -> Callable[[Path], None]:
    return lambda target: system.get_file(path, str(target))


def _web_files(url: str) -> tuple[bool, list[_Remote]]:
    """Returns whether a URL is that of a single file, and the files; folders can't be listed."""
    urls = list(_expanded(url))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return len(urls) == 1, list(pool.map(_ask, urls))


def _expanded(url: str) -> Iterator[str]:
    """Yields the URLs that one with a range stands for."""
    found = RANGE.search(url)
    if found is None:
        yield url
        return
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST_URLS:
        raise ValueError(f"{url} has a range that ends before it begins, or is too long.")
    for number in range(first, last + 1):
        digits = str(number).zfill(len(found[1]))
        yield from _expanded(f"{url[: found.start()]}{digits}{url[found.end() :]}")


def _ask(url: str) -> _Remote:
    def ask() -> tuple[int, str]:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            size = answer.headers.get("Content-Length", "")
            stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return int(size) if size.isdecimal() else -1, stamp

    def fetch(target: Path) -> None:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(target, "wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)

    size, stamp = _said_of(url, ask)
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    if not name:
        raise ValueError(f"{url} is no file, and a web server lists none; give a file's address.")
    return _Remote(_inside(name, url), size, stamp, fetch)


def _inside(name: str, url: str) -> str:
    parts = name.split("/")
    if ".." in parts or "" in parts or "\\" in name or "\0" in name:
        raise ValueError(f"{url} has a file {name!r}, a name that leads out of its folder.")
    return name


def _said_of(what: str, read: Callable[[], Any]) -> Any:
    """Returns what `read` does; whatever it raises is said in one sentence."""
    try:
        return read()
    except urllib.error.HTTPError as error:
        said = f"{error.code} {error.reason}"
        raise ValueError(f"{what} can't be read (the server says {said}).") from error
    except MemoryError:
        raise
    except Exception as error:  # Each kind of storage has its own.
        raise ValueError(
            f"{what} can't be read ({_first_line(error)}); check the address, the connection and "
            "that you have access."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__

"""Folders of zarr, of both versions."""

import contextlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.arrays.stores import USED, About, said_of, some_of

FILES = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
"""One of which a folder has that is a zarr store."""
CODECS = {
    *("bytes", "transpose", "sharding_indexed", "crc32c"),
    *("blosc", "zstd", "gzip", "zlib", "bz2"),
}
"""What arrays of numbers may be packed by."""
TEXTS = "vlen-utf8"
"""How rows that are texts are written."""
MOST_CHUNK = 2**30
"""Bytes that a chunk may take, unpacked: it can only be read as a whole."""
MOST_TEXTS = 2**26
"""Bytes that the texts of a chunk may take."""
STEP = 2**20
DIMENSIONS = "_ARRAY_DIMENSIONS"
"""Attribute in which xarray names the dimensions of an array of zarr's second version."""


class ZarrStore:
    """A zarr folder. Its numbers are read by tensorstore, which makes no objects of anything."""

    def __init__(self, path: Path):
        try:
            import tensorstore  # Takes time to import, and only those who have such data need it.
        except ImportError as error:
            raise ValueError(f"Reading {path} needs `pip install tensorstore`.") from error
        self._tensorstore = tensorstore
        self._path = path
        self._arrays: dict[str, Any] = {}

    def names(self) -> list[str]:
        found = []
        for file in sorted(self._path.rglob("*")):
            folder = file.parent.relative_to(self._path).as_posix()
            if file.name == ".zarray" or (file.name == "zarr.json" and _is_array(file)):
                found.append("" if folder == "." else folder)
        return found

    def about(self, name: str) -> About:
        about = self._described(name)
        with said_of(self._path):
            said = about.get("attributes", {})
            file = self._path / name.strip("/") / ".zattrs"
            if "zarr_format" in about and about["zarr_format"] == 2 and file.is_file():
                said = read_json(file)
            attributes = {key: said[key] for key in USED if key in said}
            if _are_texts(about):
                kind, shape, chunks = np.dtype(object), about["shape"], _chunk_shape(about)
            else:
                array = self._opened(name)
                kind, shape = np.dtype(array.dtype.numpy_dtype), array.shape
                chunks = array.chunk_layout.read_chunk.shape
            names = about.get("dimension_names") or said.get(DIMENSIONS) or [""] * len(shape)
            fill = about.get("fill_value")
            if about.get("zarr_format") == 2 and DIMENSIONS in said and kind.kind in "iuf":
                # Which is where xarray keeps the number for "no data".
                attributes |= {"_FillValue": fill} if fill is not None else {}
        if kind.kind not in "biufO":
            raise ValueError(f"{self._path} has {kind} at {name!r}; numbers and texts can be read.")
        names = tuple(str(each or "") for each in names)
        return About(tuple(shape), kind, tuple(chunks), names, attributes)

    def read(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        with said_of(self._path):
            about = self._described(name)
            if _are_texts(about):
                return self._texts(name, about, start, stop)
            array = self._opened(name)
            part = array[(*[slice(None)] * axis, slice(start, stop))]
            return np.asarray(part.read().result())

    def close(self) -> None:
        self._arrays.clear()

    def _opened(self, name: str) -> Any:
        if name not in self._arrays:
            about, inner = self._described(name), name.strip("/")
            if unknown := sorted(_codecs(about) - CODECS):
                raise ValueError(
                    f"{self._path} has {name!r} packed by {', '.join(unknown)}, which is not read; "
                    "pack it by zstd, blosc or gzip, without filters."
                )
            driver = "zarr" if about.get("zarr_format") == 2 else "zarr3"
            store = {"driver": "file", "path": str((self._path / inner).absolute())}
            spec = {"driver": driver, "kvstore": store}
            self._arrays[name] = self._tensorstore.open(spec, open=True, read=True).result()
        return self._arrays[name]

    def _described(self, name: str) -> dict[str, Any]:
        """Returns what the store says of an array."""
        path, inner = self._path, name.strip("/")
        if ".." in inner.split("/"):
            raise ValueError(f"{path} is asked for {name!r}, which leads out of it.")
        files = [path / inner / each for each in (".zarray", "zarr.json")]
        file = next((each for each in files if each.is_file()), None)
        if file is None or (file.name == "zarr.json" and not _is_array(file)):
            stored = some_of(self.names())
            raise ValueError(f"{path} has no array {name!r}; there are {stored}. Set data.arrays.")
        about = read_json(file)
        shape, chunks = about.get("shape"), _chunk_shape(about)
        both = [shape, chunks]
        if not all(isinstance(each, list) and all(map(_is_count, each)) for each in both):
            raise ValueError(f"{path} is damaged at {name!r} (it has no shape).")
        assert isinstance(shape, list)
        if len(shape) != len(chunks) or not 0 < math.prod(chunks) <= MOST_CHUNK:
            raise ValueError(
                f"{path} has {name!r} of shape {str(shape)[:60]} in chunks of {str(chunks)[:60]} "
                "numbers, which can't be read."
            )
        return about

    def _texts(self, name: str, about: dict[str, Any], start: int, stop: int) -> np.ndarray:
        """Returns rows that are texts: a count, then the bytes of each behind its length."""
        rows, [count] = _chunk_shape(about)[0], about["shape"]
        key = about.get("chunk_key_encoding") or {}
        prefix = "" if about.get("zarr_format") == 2 or key.get("name") == "v2" else "c/"
        found = np.empty(stop - start, object)
        for number in range(start // rows, -(-stop // rows)):
            file = self._path / name.strip("/") / f"{prefix}{number}"
            texts = [""] * rows
            if file.is_file():
                texts = _parse_texts(_unpacked(file.read_bytes(), _codecs(about) - {TEXTS}))
            first = number * rows
            if len(texts) < min(rows, count - first):
                raise ValueError(f"a chunk of {name} has {len(texts)} texts")
            for row in range(max(start, first), min(stop, first + rows)):
                found[row - start] = texts[row - first]
        return found


def _is_array(file: Path) -> bool:
    with contextlib.suppress(ValueError):
        return read_json(file).get("node_type") == "array"
    return False


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _chunk_shape(about: Mapping[str, Any]) -> list[int]:
    grid = about.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) else None
    inner = settings.get("chunk_shape") if isinstance(settings, dict) else None
    chunks = about.get("chunks") if inner is None else inner
    return chunks if isinstance(chunks, list) else []


def _are_texts(about: Mapping[str, Any]) -> bool:
    is_text = about.get("data_type") == "string" or about.get("dtype") == "|O"
    return is_text and TEXTS in _codecs(about) and len(about["shape"]) == 1


def _codecs(about: Mapping[str, Any]) -> set[str]:
    """Returns the names of all that an array is packed by, in either version of zarr."""
    filters = about.get("filters")
    waiting: list[Any] = [about.get("codecs"), about.get("compressor")]
    waiting += filters if isinstance(filters, list) else [filters]
    names = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            names.add(str(each.get("name", each.get("id", ""))).removeprefix("numcodecs."))
            settings = each.get("configuration")
            inner = settings if isinstance(settings, dict) else {}
            waiting += [inner[key] for key in ("codecs", "index_codecs") if key in inner]
        elif each is not None:
            names.add(str(each))
    return names


def _unpacked(data: bytes, codecs: set[str]) -> bytes:
    """Returns a chunk of texts, of no more than `MOST_TEXTS` bytes."""
    match sorted(codecs):
        case []:
            found = data
        case ["zstd"]:
            import pyarrow  # Takes long to import, and few stores need it.

            stream = pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd")
            found = b""
            while (part := stream.read(STEP)) and len(found) <= MOST_TEXTS:
                found += part
        case ["gzip" | "zlib"]:
            found = zlib.decompressobj(wbits=47).decompress(data, MOST_TEXTS + 1)
        case ["blosc"]:
            import imagecodecs

            if len(data) < 16 or int.from_bytes(data[4:8], "little") > MOST_TEXTS:
                raise ValueError("a chunk of texts is damaged, or too large")
            found = bytes(imagecodecs.blosc_decode(data))
        case others:
            raise ValueError(f"texts are packed by {', '.join(others)}, which is not read")
    if len(found) > MOST_TEXTS:
        raise ValueError(f"a chunk of texts unpacks to more than {MOST_TEXTS >> 20} MiB")
    return found


def _parse_texts(data: bytes) -> list[str]:
    count, place, texts = int.from_bytes(data[:4], "little"), 4, []
    for _ in range(count):
        length = int.from_bytes(data[place : place + 4], "little")
        if place + 4 + length > len(data):
            raise ValueError("a chunk of texts is damaged")
        texts.append(data[place + 4 : place + 4 + length].decode("utf-8"))
        place += 4 + length
    return texts


def read_json(file: Path) -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
        ValueError: If the file is none.
    """
    try:
        content = json.loads(file.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged (it holds no JSON object).")
    return content

"""HDF5 files, NetCDF4 among them."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.arrays.hdf5_lengths import read_lengths
from data_pipeline.sources.arrays.stores import USED, About, said_of, some_of

START = b"\x89HDF\r\n\x1a\n"


class Hdf5Store:
    """An HDF5 file. Nothing of it may be in another file."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            start = file.read(len(START))
        if start[:3] == b"CDF":
            raise ValueError(
                f"{path} is a NetCDF file of an earlier version than 4, which is HDF5; convert it: "
                "nccopy -k netCDF-4 OLD NEW."
            )
        try:
            # Takes time to import, and only those who have such data have it installed.
            h5py = import_module("h5py")
        except ImportError as error:
            raise ValueError(f"Reading {path} needs `pip install h5py`.") from error
        self._h5py = h5py
        self._path = path
        # What is read here is not written to, and file systems of clusters refuse locks.
        self._file = h5py.File(path, "r", locking=False)
        self._raw = open(path, "rb")  # noqa: SIM115  Closed with the store.

    def names(self) -> list[str]:
        found: list[str] = []

        def add(name: str, thing: Any) -> None:
            if isinstance(thing, self._h5py.Dataset):
                found.append(name)

        with said_of(self._path):
            self._file.visititems(add)
        return found

    def about(self, name: str) -> About:
        with said_of(self._path):
            dataset = self._dataset(name)
            dimensions = tuple(self._dimension(dataset, axis) for axis in range(dataset.ndim))
            attributes = {key: _plain(dataset.attrs[key]) for key in USED if key in dataset.attrs}
            chunks = dataset.chunks or (1, *dataset.shape[1:])
            kind = self._type_of(dataset, name)
            return About(dataset.shape, kind, chunks, dimensions, attributes)

    def read(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        with said_of(self._path):
            dataset = self._dataset(name)
            if self._h5py.check_vlen_dtype(dataset.dtype) is not None:
                return read_lengths(dataset, self._raw, start, stop)
            return np.asarray(dataset[(*[slice(None)] * axis, slice(start, stop))])

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _dataset(self, name: str) -> Any:
        """Returns an array, of which nothing may be in another file."""
        path = self._path
        thing: Any = self._file
        for part in name.strip("/").split("/"):
            is_group = isinstance(thing, self._h5py.Group)
            link = thing.get(part, getlink=True) if is_group and part in thing else None
            if link is None and not (is_group and part in thing):
                raise ValueError(
                    f"{path} has no array {name!r}; there are {some_of(self.names())}. Set "
                    "data.arrays."
                )
            if isinstance(link, self._h5py.ExternalLink):
                raise ValueError(f"{path} has a link to another file at {name!r}; copy it in.")
            thing = thing[part]
        if not isinstance(thing, self._h5py.Dataset):
            inner = [f"{name}/{each}" for each in thing]
            raise ValueError(
                f"{path} has a group {name!r} and no array; in it are {some_of(inner)}."
            )
        if thing.external or thing.is_virtual or thing.file.filename != self._file.filename:
            raise ValueError(f"{path} has data of other files at {name!r}; copy them into it.")
        return thing

    def _type_of(self, dataset: Any, name: str) -> np.dtype:
        kind = dataset.dtype
        if self._h5py.check_vlen_dtype(kind) is not None and dataset.ndim != 1:
            raise ValueError(
                f"{self._path} has rows of different lengths in {dataset.ndim} axes at {name!r}; "
                "one is read, that of samples."
            )
        is_reference = self._h5py.check_ref_dtype(kind) is not None
        if is_reference or kind.names or kind.kind not in "biufSOV":
            what = f"a table of {', '.join(kind.names)}" if kind.names else f"{kind}"
            raise ValueError(
                f"{self._path} has {'references' if is_reference else what} at {name!r}; arrays of "
                "numbers, texts and bytes can be read."
            )
        return kind

    def _dimension(self, dataset: Any, axis: int) -> str:
        dimension = dataset.dims[axis]
        names = [each.name or "" for each in dimension.values()]
        return (names[0] if names else dimension.label).rpartition("/")[2]


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

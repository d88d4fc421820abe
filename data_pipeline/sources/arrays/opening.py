"""Which files and folders hold arrays, and how they are opened."""

from pathlib import Path

from data_pipeline.sources.arrays.hdf5_store import Hdf5Store
from data_pipeline.sources.arrays.stores import Store, said_of
from data_pipeline.sources.arrays.zarr_store import FILES, ZarrStore

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".cdf")


def is_store(path: Path) -> bool:
    """True for a file that is named like HDF5, and for a zarr folder."""
    if path.is_dir():
        return any((path / name).is_file() for name in FILES)
    return path.suffix.lower() in HDF5_ENDINGS


def open_store(path: Path) -> Store:
    """Returns a store that is open for reading.

    Raises:
        ValueError: If it is neither HDF5 nor zarr, or is damaged, or a package is missing.
    """
    with said_of(path):
        return ZarrStore(path) if path.is_dir() else Hdf5Store(path)

"""What several of these tests need: a small real data set, and the same as tar shards."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paths import FIXTURES


@pytest.fixture
def eo_folder() -> Path:
    """Five Earth-observation samples in six modalities: val/MODALITY/all/KEY.EXT."""
    return FIXTURES / "eo"


@pytest.fixture
def write_tar() -> Callable[[Path, dict[str, bytes]], Path]:
    """Writes a tar archive of the given members, in the given order."""

    def write(file: Path, members: dict[str, bytes]) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w") as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file

    return write

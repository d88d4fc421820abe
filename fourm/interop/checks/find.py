"""Our arithmetic against recorded outputs of ml-4m, array by array.

A folder holds what was recorded of one thing (weights, inputs, outputs); which thing it is shows in
its files. A folder of such folders is checked one by one.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from fourm.interop.checks.comparison import Comparison
from fourm.interop.checks.divae import check_divae
from fourm.interop.checks.generation import check_generation
from fourm.interop.checks.masking import check_masking
from fourm.interop.checks.noise import check_schedules
from fourm.interop.checks.transformer import check_fm
from fourm.interop.checks.vqvae import check_vqvae

Check = Callable[[Path], Iterator[Comparison]]


def find_check(folder: Path) -> Check | None:
    """Returns what checks a folder, told by its files; None if it holds no recording."""
    if not (folder / "outputs.npz").is_file():
        return check_masking if (folder / "spans.json").is_file() else None
    if (folder / "schedules.json").is_file():
        return check_generation
    if (folder / "timesteps.json").is_file():
        return check_schedules
    if not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "domains_in" in config:
        return check_fm
    return check_divae if str(config.get("dec_type", "")).startswith("unet") else check_vqvae


def find_recordings(folder: Path) -> dict[str, tuple[Path, Check]]:
    """Returns the recordings in a folder, itself or those just below, by name.

    Raises:
        ValueError: If there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; give one that holds recorded outputs.")
    own = find_check(folder)
    if own is not None:
        return {folder.resolve().name: (folder, own)}
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    found = {path.name: (path, find_check(path)) for path in below}
    found = {name: (path, check) for name, (path, check) in found.items() if check is not None}
    if not found:
        raise ValueError(
            f"{folder} holds no recorded outputs, nor do the folders in it; they have an "
            "outputs.npz or a spans.json."
        )
    return found


def check(folder: Path) -> Iterator[Comparison]:
    """Yields one comparison per array recorded in a folder, or in each folder in it.

    Raises:
        ValueError: If there is nothing to compare, or a file can't be read.
    """
    for name, (path, check_folder) in find_recordings(folder).items():
        for comparison in check_folder(path):
            yield comparison._replace(name=f"{name}/{comparison.name}")

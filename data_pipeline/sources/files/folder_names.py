"""Modalities that are a folder's name: PATH/train/dog/0001.jpg is of the class dog."""

from collections.abc import Iterable

from data_pipeline.sources.files.locations import Location


def folder_cells(keys: Iterable[str]) -> dict[str, Location]:
    """Returns where each key's folder name is, if it has one."""
    cells = {}
    for key in keys:
        folder, slash, _ = key.partition("/")
        if slash and folder:
            content = folder.encode()
            member = f"folder of {key}"
            cells[key] = Location(folder, 0, len(content), member, "txt", content=content)
    return cells

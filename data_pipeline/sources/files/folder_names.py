"""Modalities that are a folder's name: PATH/train/dog/0001.jpg is of the class dog."""

from collections.abc import Iterable
from dataclasses import dataclass

from data_pipeline.sources.files.locations import Location
from tokenizers.formats.file_format import FileFormat
from tokenizers.settings.checked import name_knob


@dataclass(frozen=True)
class FolderName(FileFormat):
    """The first folder in a sample's key, in place of files: dog for dog/0001.

    A sample whose file lies in no such folder lacks the modality.
    """

    def check_knobs(self, knob: str) -> None:
        if self.folder or self.extension or self.pattern or self.skip:
            raise ValueError(
                f"{name_knob(knob, 'folder')}, extension, pattern and skip are of files; a "
                "folder's name has none: FolderName()."
            )

    def read(self, data: bytes, extension: str) -> str:
        return data.decode()


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

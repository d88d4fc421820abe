"""Aligned files: a folder per modality, or tar shards per modality, one key per sample."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.sources.files.formats import FileFormat
from data_pipeline.sources.files.locations import Location, find_files, natural_order, read_bytes
from data_pipeline.sources.files.splits import SplitByFolder, Splits, Table, load_table
from data_pipeline.sources.source import Sample
from tokenizers.settings.checked import Checked


@dataclass(frozen=True)
class FilesData(Checked):
    """Aligned files: PATH/SPLIT/MODALITY/KEY.png, or PATH/SPLIT/MODALITY/shard-00000.tar of these.

    These are the two layouts of 4M, told apart by what is there. Any extension that can be read
    will do, and files may lie in class folders, MODALITY/CLASS/KEY.png.

    The samples are the union of all keys: one whose file is missing in a modality has the
    others. Pickled data is refused and archives are never unpacked.
    """

    path: str = ""
    """Folder of the data set."""
    modalities: dict[str, FileFormat] = field(default_factory=dict)
    """What to read, by modality: where its files are and how they store it."""
    splits_by: Splits = SplitByFolder()  # noqa: RUF009  Frozen, so it may be shared.
    """How samples are divided into train, validation and test."""
    required: tuple[str, ...] = ()
    """Modalities without which a sample is left out."""
    table: str = ""
    """CSV file below the path with a row per sample, such as train_scenes.csv: groups to split
    by, and columns that become metadata for probing. None if empty."""
    key_column: str = "key"
    """The table's column with the samples' keys."""
    class_folders: bool = False
    """Whether the folder in front of a key (rgb/dog/0001.jpg) is the sample's class, which then
    becomes metadata `class`."""

    @property
    def splits(self) -> tuple[str, ...]:
        return self.splits_by.names

    def open(self, split: str) -> "FilesSource":
        """Returns one split.

        Raises:
            ValueError: If a folder, table or split is not there or a tar archive is damaged.
        """
        if split not in self.splits:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(self.splits)}.")
        if not self.modalities:
            raise ValueError("No modality is to be read; set data.modalities.")
        if unknown := set(self.required) - set(self.modalities):
            raise ValueError(
                f"`required` names {', '.join(sorted(unknown))}; modalities are "
                f"{', '.join(self.modalities)}."
            )
        root = Path(self.path).expanduser()
        if not self.path or not root.is_dir():
            raise ValueError(
                f"There is no data folder {self.path!r}; set --data.path to the data set."
            )
        root = root / self.splits_by.folder_of(split)
        files = {
            name: find_files(self._folder(root, name, each), each.extension)
            for name, each in self.modalities.items()
        }
        _warn_of_disjoint_keys(files)
        keys = sorted(set().union(*files.values()), key=natural_order)
        keys = [key for key in keys if all(key in files[name] for name in self.required)]
        table = None
        if self.table:
            table = load_table(Path(self.path).expanduser() / self.table, self.key_column)
        columns = _metadata_columns(table, self.splits_by.grouping) if table else {}
        if self.class_folders:
            columns["class"] = {key: key.partition("/")[0] for key in keys if "/" in key}
        chosen = self.splits_by.select(split, keys, table)
        if not chosen:
            raise ValueError(
                f"The split {split!r} of {self.path} has no sample; check `required` and splits_by."
            )
        return FilesSource(chosen, self.modalities, files, columns)

    def _folder(self, root: Path, name: str, file_format: FileFormat) -> Path:
        folder = root / (file_format.folder or name)
        if not folder.is_dir():
            parent = folder.parent
            while not parent.is_dir():
                parent = parent.parent
            have = sorted(each.name for each in parent.iterdir() if each.is_dir())
            raise ValueError(
                f"There is no folder {folder} for the modality {name}; {parent} has "
                f"{', '.join(have) or 'no folders'}. Set --data.path, "
                f"data.modalities.{name}.folder or data.splits_by."
            )
        return folder


class FilesSource:
    """One split of a `FilesData`.

    Attributes:
        keys: Of every sample, in natural order.
        present: Number of samples that have each modality.
        metadata_names: Of every metadata column that holds words: the word for each number.
    """

    def __init__(
        self,
        keys: Sequence[str],
        formats: dict[str, FileFormat],
        files: dict[str, dict[str, Location]],
        columns: dict[str, dict[str, str]],
    ):
        self.keys = list(keys)
        self._formats = formats
        self._files = files
        self.present = {name: sum(key in each for key in keys) for name, each in files.items()}
        self._metadata: dict[str, dict[str, float | int]] = {}
        self.metadata_names: dict[str, tuple[str, ...]] = {}
        for column, by_key in columns.items():
            numbers, names = _numbers_of(by_key)
            self._metadata[column] = numbers
            if names:
                self.metadata_names[column] = names

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample, with `metadata` if the data set has any.

        Raises:
            ValueError: If a file is damaged or is not what its modality's format says.
        """
        key = self.keys[index]
        sample: Sample = {
            name: self._read(name, key, files[key])
            for name, files in self._files.items()
            if key in files
        }
        if self._metadata:
            sample["metadata"] = {
                column: numbers[key] for column, numbers in self._metadata.items() if key in numbers
            }
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def _read(self, name: str, key: str, location: Location) -> Any:
        data = read_bytes(location)
        try:
            return self._formats[name].read(data, location.extension)
        except Exception as error:  # Decoders raise whatever they like on damaged files.
            reason = str(error) if type(error) is ValueError else f"is damaged ({error})"
            raise ValueError(
                f"{location} ({name} of the sample {key!r}) {reason.rstrip('.')}."
            ) from error


def _warn_of_disjoint_keys(files: dict[str, dict[str, Location]]) -> None:
    for name, own in files.items():
        others = [each for other, each in files.items() if other != name]
        if others and not any(own.keys() & each.keys() for each in others):
            example, other = next(iter(own)), next(iter(others[0]))
            warnings.warn(
                f"The modality {name} shares no sample with any other: its keys look like "
                f"{example!r}, others like {other!r}.",
                stacklevel=3,
            )


def _metadata_columns(table: Table, group: str) -> dict[str, dict[str, str]]:
    # A group is in one split only, so nothing about it can be learnt and then tested.
    return {
        column: {key: row[column] for key, row in table.rows.items() if row[column]}
        for column in table.columns
        if column != group
    }


def _numbers_of(by_key: dict[str, str]) -> tuple[dict[str, float | int], tuple[str, ...]]:
    """Returns a column as numbers: its own, or each word's place among all words of the column.

    The words are those of the whole table, so that a number means the same in every split.
    """
    for number in (int, float):
        try:
            return {key: number(text) for key, text in by_key.items()}, ()
        except ValueError:
            continue
    names = tuple(sorted(set(by_key.values())))
    return {key: names.index(text) for key, text in by_key.items()}, names

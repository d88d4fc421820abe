"""Aligned files: a folder per modality, or tar shards per modality, one key per sample."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.files.folder_names import folder_cells
from data_pipeline.sources.files.layout import Layout
from data_pipeline.sources.files.listing import is_archive
from data_pipeline.sources.files.locations import (
    Location,
    check_keys_meet,
    open_file,
    read_bytes,
)
from data_pipeline.sources.files.patterns import check_pattern
from data_pipeline.sources.files.splits import SplitByFolder, Splits
from data_pipeline.sources.files.storage import MayBeRemote, local_path
from data_pipeline.sources.files.tables import (
    Table,
    TableColumn,
    cells_of,
    facts_of,
    load_table,
    numbers_of,
    rows_of,
)
from data_pipeline.sources.source import CROPS, NOTES, Note, Sample
from data_pipeline.sources.windows import read_windows
from tokenizers.base import Mended
from tokenizers.content.kinds import PICTURE_KINDS, describe, kind_of
from tokenizers.content.limits import MAX_PIXELS
from tokenizers.formats.cells import FolderName
from tokenizers.formats.file_names import natural_order
from tokenizers.formats.formats import CodesFile, FileFormat
from tokenizers.settings.checked import name_knob

MOST_LOOKED_AT = 20
"""Files of a modality that are looked at for what all of them must share."""
SINGLE_KINDS = ("npy", "text", "xml", "html", "wav", "mp3", "pdf", "parquet", "hdf5")
"""Kinds of files that are a sample's, or no data set of files."""


@dataclass(frozen=True)
class FilesData(MayBeRemote):
    """Aligned files: PATH/SPLIT/MODALITY/KEY.png, or PATH/SPLIT/MODALITY/shard-00000.tar of these.

    These are the two layouts of 4M, told apart by what is there. Any extension that can be read
    will do, and files may lie in class folders, MODALITY/CLASS/KEY.png. A modality without a folder
    is looked for in the split's own folder or archives (PATH/SPLIT/*.tar, PATH/SPLIT.tar), where
    a file's name says of which modality it is (KEY.depth.png), or its extension does. Everything
    else has a `pattern`.

    The samples are the union of all keys: one whose file is missing in a modality has the
    others. Pickled data is refused and archives are never extracted.
    """

    path: str = ""
    """Folder of the data set, an archive that holds all of it, or a URL of either."""
    modalities: dict[str, FileFormat] = field(default_factory=dict)
    """What to read, by modality: where its files are and how they store it."""
    splits_by: Splits = SplitByFolder()  # noqa: RUF009  Frozen, so it may be shared.
    """How samples are divided into train, validation and test."""
    required: tuple[str, ...] = ()
    """Modalities without which a sample is left out."""
    table: str = ""
    """Table below the path with a row per sample, such as train_scenes.csv, or
    {split}/metadata.csv: groups to split by, modalities (`TableColumn`), and columns that become
    metadata for probing. CSV, TSV or lines of JSON; none if empty."""
    key_column: str = "key"
    """The table's column with the samples' keys, or the names of their files; if there is no such
    column, file_name. If empty, the rows are samples of their own, numbered from 0."""
    class_folders: bool = False
    """Whether the folder in front of a key (rgb/dog/0001.jpg) is the sample's class, which then
    becomes metadata `class`."""
    crop_settings: str = ""
    """Folder of 4M's crop settings, `crop_settings` as a rule: npy files [views, 5] with the
    windows of which the ids of `CodesFile`s were made. Each view of a sample is then one of them,
    and all else is cropped and mirrored as it is; `crops.scale` and `crops.flip` do not apply."""
    pattern: str = ""
    """Names of the files below the path, such as {split}/{modality}/{key}.{ext}, or
    {split}/{scene}/{modality}/{frame}.png; empty for the layouts above. `{split}` and
    `{modality}` are the folders of these; see `files/patterns.py`."""

    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)
    """Pixels that a picture may have, of formats that do not say it themselves: what is small on
    disk may unpack to more than the memory holds."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if self.max_pixels < 1:
            raise ValueError(
                f"{name_knob(knob, 'max_pixels')} is {self.max_pixels}; at least 1 is allowed."
            )
        for pattern in (self.pattern, *(each.pattern for each in self.modalities.values())):
            if pattern:
                check_pattern(pattern, name_knob(knob, "pattern"))
        for each in self.modalities.values():
            if each.skip and not (each.pattern or self.pattern):
                raise ValueError(
                    f"{name_knob(knob, 'skip')} is {', '.join(each.skip)}, and there is no pattern "
                    "from which to take these files away; give a pattern."
                )
            for pattern in each.skip:
                check_pattern(pattern, name_knob(knob, "skip"))

    @property
    def splits(self) -> tuple[str, ...]:
        return self.splits_by.names

    def open(self, split: str) -> "FilesSource":
        """Returns one split.

        Raises:
            ValueError: If a folder, table or split is not there, or a modality, a table or a filter
                matches nothing.
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
        if not self.path or not self._root.exists():
            raise ValueError(
                f"There is no data folder {self.path!r}; set --data.path to the data set."
            )
        _check_is_no_sample(self._root)
        layout = self._layout(split)
        files = layout.find(self.pattern)
        windows = files.pop(CROPS, None)
        table = self._table_of(split, files)
        known = set().union(*files.values())
        for name, each in self.modalities.items():
            if isinstance(each, FolderName):
                files[name] = folder_cells(known)
        files |= self._cells(table, known)
        check_keys_meet(files)
        keys = sorted(set().union(*files.values()), key=natural_order)
        keys = [key for key in keys if all(key in files[name] for name in self.required)]
        columns = self._facts(split, table)
        if self.class_folders:
            columns["class"] = self._classes(split, keys)
        chosen = self.splits_by.select(split, keys, table)
        if not chosen:
            raise ValueError(
                f"The split {split!r} of {self.path} has no sample; check `required` and splits_by."
            )
        files = {name: files[name] for name in self.modalities}
        notes = [*layout.notes, *(table.notes if table else ())]
        formats = {
            name: each
            if each.max_pixels != MAX_PIXELS
            else replace(each, max_pixels=self.max_pixels)
            for name, each in self.modalities.items()
        }
        formats = {name: each.settled(_first(files[name])) for name, each in formats.items()}
        return FilesSource(chosen, formats, files, columns, notes, windows)

    @property
    def _root(self) -> Path:
        return local_path(self.path, self.cache_folder)

    def _layout(self, split: str) -> Layout:
        formats = {
            name: each
            for name, each in self.modalities.items()
            if not isinstance(each, TableColumn | FolderName)
        }
        if self.crop_settings:
            formats[CROPS] = CodesFile(folder=self.crop_settings, extension="npy", shape=(5,))
        return Layout(self._root, self.splits_by.folder_of(split), formats)

    def _classes(self, split: str, keys: Sequence[str]) -> dict[str, str]:
        """Returns the class of every key, and those of other splits, which number them."""
        own = self.splits_by.folder_of(split)
        others = {self.splits_by.folder_of(other): other for other in self.splits}
        classes = {
            f"{folder}:{name}": name
            for folder, other in others.items()
            if folder != own
            for name in self._layout(other).class_names(self.pattern)
        }
        return classes | {key: key.partition("/")[0] for key in keys if "/" in key}

    def _table_of(self, split: str, files: Mapping[str, Mapping[str, Location]]) -> Table | None:
        """Returns the table of a split, with rows by the keys of its files."""
        if not self.table:
            return None
        folder = self.splits_by.folder_of(split)
        file = self._root / self.table.replace("{split}", folder)
        names = [each.folder or name for name, each in self.modalities.items()]
        folders = [folder, *names, *(f"{folder}/{name}" for name in names)]
        return rows_of(load_table(file, self.key_column), files, str(self._root), folders)

    def _cells(self, table: Table | None, keys: set[str]) -> dict[str, dict[str, Location]]:
        """Returns the modalities that are columns of the table.

        Rows of a table for all splits tell nothing of which samples this one has, if files do.
        """
        cells = {}
        for name, each in self.modalities.items():
            if isinstance(each, TableColumn):
                if table is None:
                    raise ValueError(
                        f"The modality {name} is a column of the data's table, and there is none; "
                        "set data.table."
                    )
                own = cells_of(table, name, each)
                if keys and "{split}" not in self.table:
                    own = {key: cell for key, cell in own.items() if key in keys}
                cells[name] = own
        return cells

    def _facts(self, split: str, table: Table | None) -> dict[str, dict[str, str]]:
        """Returns the facts of a split's table, and those of other splits, which number them."""
        if table is None:
            return {}
        modalities = [
            column
            for name, each in self.modalities.items()
            if isinstance(each, TableColumn)
            for column in each.columns_of(name)
        ]
        facts = facts_of(table, [self.splits_by.grouping, *modalities])
        for other in self.splits if "{split}" in self.table else ():
            folder = self.splits_by.folder_of(other)
            file = self._root / self.table.replace("{split}", folder)
            if other != split and file.is_file():
                further = facts_of(load_table(file, self.key_column), ())
                for name in facts.keys() & further.keys():
                    # Rows of other splits have keys of their own, whatever they are called.
                    facts[name] |= {f"{folder}:{k}": v for k, v in further[name].items()}
        return facts


def _first(files: Mapping[str, Location]) -> Iterator[bytes]:
    """Yields the content of the first few files that can be read."""
    for key in sorted(files, key=natural_order)[:MOST_LOOKED_AT]:
        with contextlib.suppress(ValueError):
            yield read_bytes(files[key])


def _check_is_no_sample(path: Path) -> None:
    """Raises ValueError if a path is a single file of a kind that holds no others."""
    if not path.is_file() or is_archive(path.name):
        return
    with open_file(str(path)) as file:
        head = file.read(1024)
    if kind_of(head) in (*PICTURE_KINDS, *SINGLE_KINDS):
        raise ValueError(
            f"{path} is {describe(head)}, not a folder or an archive; set --data.path to the "
            "folder that holds it and the others."
        )


class FilesSource:
    """One split of a `FilesData`.

    Attributes:
        keys: Of every sample, in natural order.
        present: Number of samples that have each modality.
        metadata_names: Of every metadata column that holds words: the word for each number.
        notes: On files and rows that are not used.
    """

    def __init__(
        self,
        keys: Sequence[str],
        formats: Mapping[str, FileFormat],
        files: dict[str, dict[str, Location]],
        columns: dict[str, dict[str, str]],
        notes: Sequence[Note] = (),
        windows: Mapping[str, Location] | None = None,
    ):
        self.keys = list(keys)
        self.notes = list(notes)
        self._formats = formats
        self._files = files
        self._windows = windows
        self.present = {name: sum(key in each for key in keys) for name, each in files.items()}
        self._metadata: dict[str, dict[str, float | int]] = {}
        self.metadata_names: dict[str, tuple[str, ...]] = {}
        for column, by_key in columns.items():
            numbers, names = numbers_of(by_key)
            self._metadata[column] = numbers
            if names:
                self.metadata_names[column] = names

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample, with `metadata` if the data set has any.

        A file that is damaged, or is not what its modality's format says, is left out with a note.
        """
        key = self.keys[index]
        sample: Sample = {}
        notes: list[Note] = []
        for name, files in self._files.items():
            if key in files:
                file = str(files[key])
                try:
                    value = self._read(name, files[key])
                except ValueError as error:
                    notes.append(Note("unreadable", name, key, file, str(error)))
                    continue
                if isinstance(value, Mended):
                    notes.append(Note("mended", name, key, file, value.how))
                    value = value.value
                sample[name] = value
        if self._windows is not None:
            sample[CROPS] = self._crops(key, notes)
        if notes:
            sample[NOTES] = notes
        if self._metadata:
            sample["metadata"] = {
                column: numbers[key] for column, numbers in self._metadata.items() if key in numbers
            }
        return sample

    def file_of(self, index: int, modality: str) -> str:
        """Returns where a value is stored; empty if the sample has none."""
        return str(self._files[modality].get(self.keys[index], ""))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def state_of(self, index: int) -> str:
        """Returns a text that is another one if a file of a sample has changed; reads nothing."""
        key = self.keys[index]
        places = {**self._files, **({CROPS: self._windows} if self._windows else {})}
        states = {name: files[key].state for name, files in places.items() if key in files}
        return " ".join(f"{name}:{state}" for name, state in states.items())

    def _crops(self, key: str, notes: list[Note]) -> np.ndarray | None:
        location = (self._windows or {}).get(key)
        if location is None:
            return None
        try:
            return read_windows(read_bytes(location))
        except ValueError as error:
            notes.append(Note("crop settings unreadable", "", key, str(location), str(error)))
            return None

    def _read(self, name: str, location: Location) -> Any:
        data = read_bytes(location)
        try:
            return self._formats[name].read(data, location.extension)
        except MemoryError:
            raise
        except Exception as error:  # Decoders raise whatever they like on damaged files.
            reason = str(error) if type(error) is ValueError else f"is damaged ({error})"
            raise ValueError(f"{location} {reason.rstrip('.')}.") from error

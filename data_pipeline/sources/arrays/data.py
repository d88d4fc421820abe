"""HDF5, NetCDF4 and zarr: arrays of which one axis counts samples, read in any order."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.arrays.opening import is_store, open_store
from data_pipeline.sources.arrays.rows import ArrayRows
from data_pipeline.sources.arrays.stores import About, meaning
from data_pipeline.sources.files.storage import MayBeRemote, local_path
from data_pipeline.sources.slices import (
    WORDS,
    group_by_split,
    name_of_slice,
    rows_of_slice,
    split_of_path,
    usual_splits,
)
from data_pipeline.sources.source import Sample
from data_pipeline.sources.values import plain_value, put
from tokenizers.content.kinds import kind_of
from tokenizers.content.limits import MAX_PIXELS, check_memory
from tokenizers.formats.file_names import natural_order
from tokenizers.formats.formats import ArrayFile, FileFormat
from tokenizers.settings.checked import name_knob

SPLIT = "{split}"
FILE_KINDS = ("png", "jpeg", "webp", "gif", "tiff", "npy", "wav")
"""Kinds of files whose bytes may be a row of numbers from 0 to 255."""


@dataclass(frozen=True)
class ArraysData(MayBeRemote):
    """Arrays in HDF5 files, NetCDF4 among them, or in zarr folders: each modality is one of them.

    The first axis of every array counts the samples, or the one that `sample_axis` names. What an
    array says of its numbers (`_FillValue`, `missing_value`, `scale_factor`, `add_offset`,
    `valid_range`: the CF conventions) applies. Rows may also be texts, or the bytes of pictures.
    """

    path: str = ""
    """A file, a zarr folder, or a folder of several of these, or the URL of one. Names of several
    say of which split they are: train.h5, val/0.zarr."""
    arrays: dict[str, str] = field(default_factory=dict)
    """Array of each modality, with its groups: rgb: images, or rgb: {split}/images, where {split}
    stands for the split's name. If empty, the modalities are those of `formats`, from arrays of
    their names."""
    formats: dict[str, FileFormat] = field(default_factory=dict)
    """How a modality's numbers, bytes or texts store what they mean, where that is not as usual."""
    metadata: tuple[str, ...] = ()
    """Arrays that become metadata for probing: a number or a short text per sample."""
    sample_axis: str = ""
    """Name of the dimension that counts the samples, such as time; each array's first if empty."""
    split_names: dict[str, str] = field(default_factory=dict)
    """What each split is called in the files' names, or in those of arrays; slices such as
    train[:90%] are allowed. If empty: what is there, and of a single split the last tenth for
    validation."""
    key_array: str = ""
    """Array that names each sample; its number if empty."""
    cache_megabytes: int = 256
    """How much of what was read is kept in memory, in every process that reads."""
    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)
    """An eighth of the bytes that a value may take."""

    def check_knobs(self, knob: str) -> None:
        super().check_knobs(knob)
        if min(self.cache_megabytes, self.max_pixels) < 1:
            raise ValueError(
                f"{name_knob(knob, 'cache_megabytes')} is {self.cache_megabytes} and "
                f"{name_knob(knob, 'max_pixels')} {self.max_pixels}; both must be at least 1."
            )
        for name in self.split_names.values():
            name_of_slice(name)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._split_names())

    def open(self, split: str) -> "ArraysSource":
        """Returns one split.

        Raises:
            ValueError: If files, the split or an array are not there, or a file is damaged.
        """
        root = self._root
        if not self.path or not root.exists():
            raise ValueError(
                f"There is no file or folder {self.path!r}; set --data.path to HDF5 or zarr."
            )
        names = self._split_names()
        if split not in names:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(names)}.")
        own = self.arrays or {name: name for name in self.formats}
        if not own:
            stored = ", ".join(open_store(self._first).names()) or "none"
            raise ValueError(
                f"No modality is to be read; set --data.arrays. The arrays of {self._first} are "
                f"{stored}."
            )
        wanted = name_of_slice(names[split])
        found = self._files()
        files = found.get("", []) or found.get(wanted) or found.get(split_of_path(wanted), [])
        if not files:
            raise ValueError(
                f"{self.path} has no file of the split {names[split]!r}; there are files of "
                f"{', '.join(found) or 'none'}. Set --data.split-names."
            )
        own, facts, [key] = (
            {name: each.replace(SPLIT, wanted) for name, each in own.items()},
            {each: each.replace(SPLIT, wanted) for each in self.metadata},
            [self.key_array.replace(SPLIT, wanted)],
        )
        return ArraysSource(files, own, facts, key, names[split], self)

    @property
    def _root(self) -> Path:
        return local_path(self.path, self.cache_folder)

    @property
    def _is_split_inside(self) -> bool:
        return any(SPLIT in each for each in self.arrays.values())

    @property
    def _first(self) -> Path:
        return next(iter(self._files().values()))[0]

    def _split_names(self) -> dict[str, str]:
        if self.split_names:
            return dict(self.split_names)
        if not self.path or not self._root.exists():
            return usual_splits([])
        return usual_splits(self._splits_inside() if self._is_split_inside else [*self._files()])

    def _splits_inside(self) -> list[str]:
        """Returns what splits are called in the names of arrays."""
        stored = set(open_store(self._first).names())
        words = [word for words in WORDS.values() for word in words]
        found = [
            word
            for word in words
            if all(each.replace(SPLIT, word).strip("/") in stored for each in self.arrays.values())
        ]
        if not found:
            raise ValueError(
                f"{self._first} has no arrays {', '.join(self.arrays.values())} for any of "
                f"{', '.join(words)}; set --data.split-names."
            )
        return found

    def _files(self) -> dict[str, list[Path]]:
        """Returns the files by split; under "" those of all splits."""
        root = self._root
        if root.is_file() or is_store(root):
            return {"" if self._is_split_inside else "train": [root]}
        inner = sorted(_stores_below(root, ""), key=natural_order)
        if not inner:
            raise ValueError(f"{root} has neither HDF5 files nor zarr folders; set --data.path.")
        if self._is_split_inside:
            return {"": [root / path for path in inner]}
        names = {name_of_slice(name) for name in self.split_names.values()}
        return {
            split: [root / path for path in paths]
            for split, paths in group_by_split(inner, names).items()
        }


def _stores_below(folder: Path, prefix: str) -> list[str]:
    """Returns the files and folders of arrays, without looking into the latter."""
    found = []
    for each in folder.iterdir():
        if each.name.startswith("."):
            continue
        if is_store(each):
            found.append(prefix + each.name)
        elif each.is_dir() and not each.is_symlink():
            found += _stores_below(each, f"{prefix}{each.name}/")
    return found


class ArraysSource:
    """One split of an `ArraysData`.

    Attributes:
        keys: Of every sample; only there if an array has them.
    """

    keys: list[str]

    def __init__(
        self,
        files: list[Path],
        arrays: dict[str, str],
        facts: dict[str, str],
        key: str,
        part: str,
        config: ArraysData,
    ):
        self._config, self._arrays, self._facts = config, arrays, facts
        every = list(dict.fromkeys([*arrays.values(), *facts.values(), *([key] if key else [])]))
        self._rows = ArrayRows(files, every, config.sample_axis, config.cache_megabytes << 20)
        self._chosen = rows_of_slice(part, len(self._rows))
        for name, array in arrays.items():
            _check_size(self._rows.about(array), config.max_pixels, f"{name} of {files[0]}")
        if key:
            self.keys = [str(_text_or_number(self._rows.row(key, row))) for row in self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample; what can't be read is absent, with a note."""
        row = self._chosen[index]
        file = str(self._rows.file(row))
        key = self.keys[index] if self._config.key_array else str(index)
        sample: Sample = {}
        for name, array in self._arrays.items():
            put(sample, name, lambda n=name, a=array: self._value(n, a, row), key, file)
        for name, array in self._facts.items():
            put(sample, name, lambda a=array: self._fact(a, row), key, file, fact=True)
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        # In the order of the files, so that nothing is decoded twice.
        order = sorted(range(len(indices)), key=lambda place: indices[place])
        samples: list[Sample] = [{}] * len(indices)
        for place in order:
            samples[place] = self[indices[place]]
        return samples

    def file_of(self, index: int, modality: str) -> str:
        """Returns in which file a sample is."""
        return str(self._rows.file(self._chosen[index]))

    def state_of(self, index: int) -> str:
        """Returns a text that is another one if the file of a sample has changed."""
        return self._rows.state(self._chosen[index])

    def _value(self, name: str, array: str, row: int) -> Any:
        stored = self._rows.row(array, row)
        file_format = self._config.formats.get(name)
        content = _content_of(stored)
        if content is None and isinstance(stored, np.ndarray) and stored.dtype.kind in "biuf":
            return self._numbers(stored, array, file_format)
        if content is None:
            raise ValueError(f"holds {getattr(stored, 'dtype', type(stored).__name__)}, unreadable")
        if not content.strip(b"\0 "):
            return None
        if kind_of(content) not in ("text", "binary"):
            given = file_format or ArrayFile(max_pixels=self._config.max_pixels)
            return given.read(content, "")
        if file_format is not None:
            is_json = content.lstrip()[:1] in (b"{", b"[")
            return file_format.read(content, "json" if is_json else "txt")
        return plain_value(content.rstrip(b"\0 "))

    def _numbers(self, stored: np.ndarray, array: str, file_format: FileFormat | None) -> Any:
        attributes = self._rows.about(array).attributes
        if isinstance(file_format, ArrayFile):
            has_own = file_format.scale == 1 and file_format.offset == 0 and file_format.own_scale
            numbers = meaning(stored, attributes, has_own)
            return _single(numbers) if numbers.ndim == 0 else file_format.read_array(numbers)
        numbers = meaning(stored, attributes, is_scaled=True)
        if numbers.ndim == 0:
            return _single(numbers)
        if file_format is not None:
            packed = io.BytesIO()
            np.save(packed, np.ma.filled(numbers.astype(float), np.nan)
                    if np.ma.is_masked(numbers) else np.asarray(numbers))  # fmt: skip
            return file_format.read(packed.getvalue(), "npy")
        return numbers

    def _fact(self, array: str, row: int) -> Any:
        stored = self._rows.row(array, row)
        if isinstance(stored, np.ndarray) and stored.dtype.kind in "biuf":
            return _single(meaning(stored, self._rows.about(array).attributes, is_scaled=True))
        return _text_or_number(stored) or None


def _check_size(about: About, max_pixels: int, what: str) -> None:
    """Raises ValueError if a value, or a chunk of them, takes too much memory."""
    if about.dtype.kind == "O":
        return
    try:
        check_memory(int(np.prod(about.shape[1:], dtype=float)) * about.dtype.itemsize, max_pixels)
        check_memory(int(np.prod(about.chunks, dtype=float)) * about.dtype.itemsize, max_pixels)
    except ValueError as error:
        raise ValueError(f"A value of {what} {error}.") from error


def _content_of(stored: Any) -> bytes | None:
    """Returns the bytes of a text or of a file that a row is; None if it is numbers."""
    if isinstance(stored, np.ndarray):
        if stored.ndim == 0 and stored.dtype.kind in "OSUVT":
            return _content_of(stored.item() if stored.dtype.kind != "V" else stored.tobytes())
        if stored.dtype.kind == "S" and stored.dtype.itemsize == 1:
            return stored.tobytes()  # Characters, as NetCDF has texts.
        is_bytes = stored.dtype == np.uint8 and stored.ndim == 1
        data = stored.tobytes() if is_bytes else b""
        return data if kind_of(data) in FILE_KINDS else None
    if isinstance(stored, str):
        return stored.encode("utf-8", "replace")
    if isinstance(stored, np.void):
        return stored.tobytes()
    return bytes(stored) if isinstance(stored, bytes) else None


def _single(number: Any) -> float | int | None:
    """Returns a number as one of Python's; None if it is unknown."""
    if np.ma.is_masked(number) or number.size != 1:
        return None
    single = np.asarray(number).reshape(()).item()
    return None if isinstance(single, float) and np.isnan(single) else single


def _text_or_number(stored: Any) -> Any:
    content = _content_of(stored)
    if content is not None:
        return content.decode("utf-8").strip("\0 ")
    return np.asarray(stored).reshape(-1)[0].item() if np.size(stored) == 1 else str(stored)

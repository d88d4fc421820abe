"""Any TFDS data set, read by random access, which needs no tensorflow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.source import NOTES, MayBeDamaged, Note, Sample
from data_pipeline.sources.values import boxes_of, class_number, class_text, plain_value, put
from tokenizers.base import Boxes, Mended
from tokenizers.formats.formats import BoxesFile


@dataclass(frozen=True)
class TfdsData(MayBeDamaged):
    """A data set of tensorflow_datasets, prepared beforehand in the array_record format.

    To prepare one: `tfds.builder(NAME, data_dir=...).download_and_prepare(file_format=
    "array_record")`. Some data sets need tensorflow for that step; reading never does.
    """

    name: str = ""
    """Name as TFDS knows it, with a configuration or version if wanted: coco/2017:1.1.0."""
    data_dir: str = ""
    """Folder that TFDS keeps its data sets in; its own default if empty."""
    split_names: dict[str, str] = field(
        default_factory=lambda: {
            "train": "train[:90%]",
            "validation": "train[90%:]",
            "test": "test",
        }
    )
    """What TFDS calls each split; slices such as train[:90%] are allowed."""
    features: dict[str, str] = field(default_factory=dict)
    """Feature of each modality, such as rgb: image. Entries of nested features are joined by a
    slash. A feature with `bbox` and `label` entries becomes boxes; one with several texts, such as
    captions/text, gives every view of a sample one of them."""
    class_names_as_text: dict[str, str] = field(default_factory=dict)
    """Text modalities made of a class label's name, such as caption: label."""
    metadata: tuple[str, ...] = ()
    """Features that become metadata for probing, such as label: numbers or short strings."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.split_names)

    def open(self, split: str) -> "TfdsSource":
        """Returns one split.

        Raises:
            ValueError: If the data set, the split or a feature is not there.
        """
        if split not in self.splits:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(self.splits)}.")
        # Takes seconds to import, and only those who read such data need it installed.
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ValueError(
                f"Reading {self.name} needs `pip install tensorflow-datasets array-record`."
            ) from error
        folder = str(Path(self.data_dir).expanduser()) if self.data_dir else None
        try:
            builder = tfds.builder(self.name, data_dir=folder, try_gcs=False)
            name = self.split_names[split]
            records = builder.as_data_source(split=name)  # pyright: ignore[reportCallIssue]
        except Exception as error:  # TFDS has an exception of its own for each of many causes.
            reason = str(error).strip().split("\n")[0].rstrip(".:")
            raise ValueError(
                f"TFDS can't read the split {self.split_names[split]!r} of {self.name!r} "
                f"({reason}); check data.name, data.data_dir and data.split_names, and that the "
                "data set was prepared with file_format='array_record'."
            ) from error
        wanted = [*self.features.values(), *self.class_names_as_text.values(), *self.metadata]
        for path in wanted:
            _feature_at(builder.info.features, path)
        return TfdsSource(records, builder.info.features, self)


class TfdsSource:
    """One split of a `TfdsData`.

    Attributes:
        metadata_names: Of every class label in the metadata: the name of each number.
    """

    def __init__(self, records: Any, features: Any, config: TfdsData):
        self._records = records
        self._config = config
        self._class_names = {
            path: tuple(_feature_at(features, path).names)
            for path in (
                *config.features.values(),
                *config.class_names_as_text.values(),
                *config.metadata,
            )
            if hasattr(_feature_at(features, path), "names")
        }
        for name, path in config.class_names_as_text.items():
            if path not in self._class_names:
                raise ValueError(
                    f"The text of {name} is to be the class name of {path!r}, which is no class "
                    "label; use `features` for features that are text already."
                )
        self.metadata_names = {
            path: self._class_names[path] for path in config.metadata if path in self._class_names
        }

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample; what is missing or can't be read is absent, the latter with a note.

        An empty list, None and the class label -1 are missing.
        """
        key, config = str(index), self._config
        try:
            record = self._records[int(index)]
        except Exception as error:  # TFDS decodes all features at once.
            reason = str(error).strip().split("\n")[0]
            return {NOTES: [Note("unreadable", "", key, "", f"is damaged ({reason})")]}
        sample: Sample = {}
        for name, path in config.features.items():
            put(sample, name, lambda path=path: self._value(record, path), key, path)
        for name, path in config.class_names_as_text.items():
            names = self._class_names[path]
            put(
                sample,
                name,
                lambda path=path, names=names: class_text(_entry_at(record, path), names),
                key,
                path,
            )
        for path in config.metadata:
            put(sample, path, lambda path=path: self._value(record, path), key, path, fact=True)
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self[index] for index in indices]

    def _value(self, record: Any, path: str) -> Any:
        value = _entry_at(record, path)
        if isinstance(value, dict):
            return _boxes(value)
        if path in self._class_names and np.ndim(value) == 0:
            return class_number(value, self._class_names[path])
        return plain_value(value)


def _boxes(value: dict[str, Any]) -> Boxes | Mended:
    if not {"bbox", "label"} <= value.keys():
        raise ValueError(
            f"has the entries {', '.join(value)}; only a feature with bbox and label makes boxes. "
            "Name an entry, such as objects/label"
        )
    rows = np.asarray(value["bbox"], np.float64).reshape(-1, 4)
    labels = np.asarray(value["label"], np.int64).reshape(-1)
    # TFDS has (y_min, x_min, y_max, x_max).
    return boxes_of(rows[:, [1, 0, 3, 2]].tolist(), labels.tolist(), None, BoxesFile())


def _entry_at(record: Any, path: str) -> Any:
    for part in path.split("/"):
        record = record[part]
    return record


def _feature_at(features: Any, path: str) -> Any:
    for part in path.split("/"):
        inner = getattr(features, "feature", features)  # Of a sequence: what it is a sequence of.
        if not hasattr(inner, "keys") or part not in inner:
            have = ", ".join(sorted(inner.keys())) if hasattr(inner, "keys") else "no entries"
            raise ValueError(f"There is no feature {path!r}; where {part!r} is looked for: {have}.")
        features = inner[part]
    return features

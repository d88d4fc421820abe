"""The kinds of data by name, as a command line chooses among them; one of them is none at all."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipeline.sources.arrays.data import ArraysData
from data_pipeline.sources.coco import CocoData, Part
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.mixed import MixedData
from data_pipeline.sources.parquet import ParquetData
from data_pipeline.sources.scenes.data import ScenesData
from data_pipeline.sources.source import Source
from data_pipeline.sources.tfds import TfdsData
from tokenizers.base import Values
from tokenizers.boxes import BoxList
from tokenizers.formats.formats import format_for
from tokenizers.settings.checked import Checked
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors

KINDS = ("scenes", "files", "tfds", "parquet", "arrays", "coco", "none")


@dataclass(frozen=True)
class NoData(Checked):
    """No data: what trains on stored tokens where the data that they were made from is not."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ()

    def open(self, split: str) -> Source:
        """Raises ValueError: there is nothing to open."""
        raise ValueError(
            f"There is no data to read, and so no split {split!r}; name a kind of data: "
            f"{', '.join(KINDS[:-1])}."
        )


AnyData = (
    ScenesData | FilesData | TfdsData | ParquetData | ArraysData | CocoData | MixedData | NoData
)


def blank_data(kind: str, values: Mapping[str, Values]) -> AnyData:
    """Returns data of a kind, of which nothing is set but what follows from the modalities.

    Args:
        kind: One of `KINDS`.
        values: What the raw numbers of each modality mean, which tells the formats of files.

    Raises:
        ValueError: If there is no such kind.
    """
    match kind:
        case "scenes":
            return ScenesData()
        case "files":
            formats = {name: format_for(name, each) for name, each in values.items()}
            return FilesData(modalities=formats)
        case "tfds":
            return TfdsData()
        case "parquet":
            return ParquetData(
                formats={name: format_for(name, each) for name, each in values.items()}
            )
        case "arrays":
            return ArraysData(
                formats={name: format_for(name, each) for name, each in values.items()}
            )
        case "coco":
            return _blank_coco(values)
        case "none":
            return NoData()
    raise ValueError(f"There is no kind of data {kind!r}; there are {', '.join(KINDS)}.")


def _blank_coco(values: Mapping[str, Values]) -> CocoData:
    """Returns what COCO's annotations can give of some modalities, each after its kind."""
    parts: dict[str, Part] = {}
    names: tuple[str, ...] = ()
    for name, each in values.items():
        match each:
            case Colors():
                parts[name] = "image"
            case BoxList(class_names=class_names):
                parts[name], names = "boxes", class_names
            case Polygons(class_names=class_names):
                parts[name], names = "polygons", class_names
            case Points(class_names=class_names):
                parts[name], names = "keypoints", names or class_names
            case Classes(names=class_names):
                # The first is that of pixels of no class.
                parts[name], names = "classes", names or class_names[1:]
            case Text():
                parts[name] = "captions"
    return CocoData(modalities=parts, class_names=names)

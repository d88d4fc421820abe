"""All that a configuration is made of: `from configs import RunConfig, Modality, ...`.

So is what a kind, a tokenizer or a source of data of one's own is made of. The names stay where the
modules that define them move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import fourm  # noqa: F401  Puts our folder `tokenizers` before another package of that name.

if TYPE_CHECKING:
    from configs.presets.components import any_to_any, complete_from, one_to_all
    from configs.runs.further import load_run
    from configs.schema import RunConfig
    from data_pipeline.augment import AugmentConfig
    from data_pipeline.crops import CropConfig
    from data_pipeline.sources.arrays.data import ArraysData
    from data_pipeline.sources.coco import CocoData, coco_class_names
    from data_pipeline.sources.files.data import FilesData
    from data_pipeline.sources.files.splits import SplitByColumn, SplitByFolder, SplitByFraction
    from data_pipeline.sources.kinds import NoData
    from data_pipeline.sources.mixed import MixedData
    from data_pipeline.sources.parquet import ParquetData
    from data_pipeline.sources.scenes.data import SEMSEG_CLASSES, ScenesData
    from data_pipeline.sources.scenes.sampler import COLOR_NAMES, SHAPES
    from data_pipeline.sources.source import DataConfig, Sample, Source
    from data_pipeline.sources.tfds import TfdsData
    from fourm.devices.layout import MeshConfig
    from fourm.evaluation.config import EvaluationConfig, LikelihoodTasks, RegionConfig
    from fourm.evaluation.probes import ProbeConfig
    from fourm.evaluation.probing.heads import HeadConfig
    from fourm.inference.settings import GenerationConfig
    from fourm.masking.mixture import MaskingComponent, MaskingConfig
    from fourm.model.config import ModelConfig
    from fourm.training.loop import TrainingConfig
    from fourm.training.masked_loss import LossConfig
    from fourm.training.train_state import OptimizerConfig
    from tokenizers.base import (
        PADDING,
        Better,
        Boxes,
        Choices,
        Crop,
        Instances,
        Mended,
        RawBatch,
        SequenceTokens,
        Tokenizer,
        TokenizerSettings,
        Values,
        rank_features,
    )
    from tokenizers.boxes import BoxList, BoxTokenizerConfig
    from tokenizers.codes import Codes, CodesTokenizerConfig
    from tokenizers.embeddings.embedding_tokenizer import EmbeddingTokenizerConfig
    from tokenizers.embeddings.values import Embedding
    from tokenizers.features import Vectors, VectorsTokenizerConfig
    from tokenizers.formats.cells import FolderName, TableColumn, TableRow
    from tokenizers.formats.formats import (
        ArrayFile,
        BoxesFile,
        CodesFile,
        FileFormat,
        InstancesFile,
        JsonFile,
        NumberFile,
        PaletteFile,
        TextFile,
    )
    from tokenizers.formats.signals import LogMel, SignalFile
    from tokenizers.images.code_encoder import CodeEncoderConfig, QuantizerConfig
    from tokenizers.images.diffusion_tokenizer import DiffusionTokenizerConfig
    from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
    from tokenizers.images.vit import NetworkConfig
    from tokenizers.images.vit_tokenizer import ViTTokenizerConfig
    from tokenizers.labels import Label, LabelTokenizerConfig
    from tokenizers.modality import Modality, SavedTokenizerConfig
    from tokenizers.palettes import Palette, PaletteTokenizerConfig
    from tokenizers.rows import Row, RowTokenizerConfig
    from tokenizers.scalars import Scalar, ScalarTokenizerConfig
    from tokenizers.settings.checked import Checked, name_knob
    from tokenizers.settings.plain import to_plain
    from tokenizers.shapes.instance_tokenizer import InstanceTokenizerConfig
    from tokenizers.shapes.points import Points
    from tokenizers.shapes.polygons import Polygons
    from tokenizers.signals.signal_tokenizer import SignalTokenizerConfig
    from tokenizers.signals.values import Signal
    from tokenizers.storage.folders import load_folder, read_part, save_folder
    from tokenizers.text import Text, TextTokenizerConfig
    from tokenizers.text.wordpiece import WordPieceTokenizerConfig
    from tokenizers.values import Classes, Colors, DenseValues, Directions, Distances, Reals

__all__ = [
    "COLOR_NAMES",
    "PADDING",
    "SEMSEG_CLASSES",
    "SHAPES",
    "ArrayFile",
    "ArraysData",
    "AugmentConfig",
    "Better",
    "BoxList",
    "BoxTokenizerConfig",
    "Boxes",
    "BoxesFile",
    "Checked",
    "Choices",
    "Classes",
    "CocoData",
    "CodeEncoderConfig",
    "Codes",
    "CodesFile",
    "CodesTokenizerConfig",
    "Colors",
    "Crop",
    "CropConfig",
    "DataConfig",
    "DenseValues",
    "DiffusionTokenizerConfig",
    "Directions",
    "Distances",
    "Embedding",
    "EmbeddingTokenizerConfig",
    "EvaluationConfig",
    "FileFormat",
    "FilesData",
    "FolderName",
    "GenerationConfig",
    "HeadConfig",
    "ImageTokenizerConfig",
    "InstanceTokenizerConfig",
    "Instances",
    "InstancesFile",
    "JsonFile",
    "Label",
    "LabelTokenizerConfig",
    "LikelihoodTasks",
    "LogMel",
    "LossConfig",
    "MaskingComponent",
    "MaskingConfig",
    "Mended",
    "MeshConfig",
    "MixedData",
    "Modality",
    "ModelConfig",
    "NetworkConfig",
    "NoData",
    "NumberFile",
    "OptimizerConfig",
    "Palette",
    "PaletteFile",
    "PaletteTokenizerConfig",
    "ParquetData",
    "Points",
    "Polygons",
    "ProbeConfig",
    "QuantizerConfig",
    "RawBatch",
    "Reals",
    "RegionConfig",
    "Row",
    "RowTokenizerConfig",
    "RunConfig",
    "Sample",
    "SavedTokenizerConfig",
    "Scalar",
    "ScalarTokenizerConfig",
    "ScenesData",
    "SequenceTokens",
    "Signal",
    "SignalFile",
    "SignalTokenizerConfig",
    "Source",
    "SplitByColumn",
    "SplitByFolder",
    "SplitByFraction",
    "TableColumn",
    "TableRow",
    "Text",
    "TextFile",
    "TextTokenizerConfig",
    "TfdsData",
    "Tokenizer",
    "TokenizerSettings",
    "TrainingConfig",
    "Values",
    "Vectors",
    "VectorsTokenizerConfig",
    "ViTTokenizerConfig",
    "WordPieceTokenizerConfig",
    "any_to_any",
    "coco_class_names",
    "complete_from",
    "load_folder",
    "load_run",
    "name_knob",
    "one_to_all",
    "rank_features",
    "read_part",
    "save_folder",
    "to_plain",
]

MODULES = {
    "configs.presets.components": ("any_to_any", "complete_from", "one_to_all"),
    "configs.runs.further": ("load_run",),
    "configs.schema": ("RunConfig",),
    "data_pipeline.augment": ("AugmentConfig",),
    "data_pipeline.crops": ("CropConfig",),
    "data_pipeline.sources.arrays.data": ("ArraysData",),
    "data_pipeline.sources.coco": ("CocoData", "coco_class_names"),
    "data_pipeline.sources.files.data": ("FilesData",),
    "tokenizers.formats.cells": ("FolderName", "TableColumn", "TableRow"),
    "tokenizers.formats.formats": (
        "ArrayFile",
        "BoxesFile",
        "CodesFile",
        "FileFormat",
        "InstancesFile",
        "JsonFile",
        "NumberFile",
        "PaletteFile",
        "TextFile",
    ),
    "data_pipeline.sources.files.splits": ("SplitByColumn", "SplitByFolder", "SplitByFraction"),
    "data_pipeline.sources.kinds": ("NoData",),
    "data_pipeline.sources.mixed": ("MixedData",),
    "data_pipeline.sources.parquet": ("ParquetData",),
    "data_pipeline.sources.scenes.data": ("SEMSEG_CLASSES", "ScenesData"),
    "data_pipeline.sources.scenes.sampler": ("COLOR_NAMES", "SHAPES"),
    "tokenizers.formats.signals": ("LogMel", "SignalFile"),
    "data_pipeline.sources.source": ("DataConfig", "Sample", "Source"),
    "data_pipeline.sources.tfds": ("TfdsData",),
    "fourm.devices.layout": ("MeshConfig",),
    "fourm.evaluation.config": ("EvaluationConfig", "LikelihoodTasks", "RegionConfig"),
    "fourm.evaluation.probes": ("ProbeConfig",),
    "fourm.evaluation.probing.heads": ("HeadConfig",),
    "fourm.inference.settings": ("GenerationConfig",),
    "fourm.masking.mixture": ("MaskingComponent", "MaskingConfig"),
    "fourm.model.config": ("ModelConfig",),
    "fourm.training.loop": ("TrainingConfig",),
    "fourm.training.masked_loss": ("LossConfig",),
    "fourm.training.train_state": ("OptimizerConfig",),
    "tokenizers.base": (
        "PADDING",
        "Better",
        "Boxes",
        "Choices",
        "Crop",
        "Instances",
        "Mended",
        "RawBatch",
        "SequenceTokens",
        "Tokenizer",
        "TokenizerSettings",
        "Values",
        "rank_features",
    ),
    "tokenizers.boxes": ("BoxList", "BoxTokenizerConfig"),
    "tokenizers.codes": ("Codes", "CodesTokenizerConfig"),
    "tokenizers.embeddings.embedding_tokenizer": ("EmbeddingTokenizerConfig",),
    "tokenizers.embeddings.values": ("Embedding",),
    "tokenizers.features": ("Vectors", "VectorsTokenizerConfig"),
    "tokenizers.images.code_encoder": ("CodeEncoderConfig", "QuantizerConfig"),
    "tokenizers.images.diffusion_tokenizer": ("DiffusionTokenizerConfig",),
    "tokenizers.images.patch_tokenizer": ("ImageTokenizerConfig",),
    "tokenizers.images.vit": ("NetworkConfig",),
    "tokenizers.images.vit_tokenizer": ("ViTTokenizerConfig",),
    "tokenizers.labels": ("Label", "LabelTokenizerConfig"),
    "tokenizers.modality": ("Modality", "SavedTokenizerConfig"),
    "tokenizers.palettes": ("Palette", "PaletteTokenizerConfig"),
    "tokenizers.rows": ("Row", "RowTokenizerConfig"),
    "tokenizers.scalars": ("Scalar", "ScalarTokenizerConfig"),
    "tokenizers.settings.checked": ("Checked", "name_knob"),
    "tokenizers.settings.plain": ("to_plain",),
    "tokenizers.shapes.instance_tokenizer": ("InstanceTokenizerConfig",),
    "tokenizers.shapes.points": ("Points",),
    "tokenizers.shapes.polygons": ("Polygons",),
    "tokenizers.signals.signal_tokenizer": ("SignalTokenizerConfig",),
    "tokenizers.signals.values": ("Signal",),
    "tokenizers.storage.folders": ("load_folder", "read_part", "save_folder"),
    "tokenizers.text": ("Text", "TextTokenizerConfig"),
    "tokenizers.text.wordpiece": ("WordPieceTokenizerConfig",),
    "tokenizers.values": ("Classes", "Colors", "DenseValues", "Directions", "Distances", "Reals"),
}
"""Where these names are. A module is imported when one of its names is first used, since commands
have to begin before that."""

_MODULE_OF = {name: module for module, names in MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

import ast
import dataclasses
import inspect
import itertools
import json
import typing
from dataclasses import replace

import pytest

from configs.command_line import PRESETS
from configs.schema import CropConfig, RunConfig
from data_pipeline.augment import AugmentConfig
from data_pipeline.sources.arrays.data import ArraysData
from data_pipeline.sources.coco import CocoData
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.splits import SplitByFolder, SplitByFraction
from data_pipeline.sources.kinds import NoData
from data_pipeline.sources.mixed import MixedData
from data_pipeline.sources.parquet import ParquetData
from data_pipeline.sources.scenes.data import ScenesData
from data_pipeline.sources.tfds import TfdsData
from fourm.devices.layout import MeshConfig
from fourm.evaluation.config import EvaluationConfig, LikelihoodTasks, RegionConfig
from fourm.evaluation.probes import ProbeConfig
from fourm.evaluation.probing.heads import HeadConfig
from fourm.inference.settings import GenerationConfig
from fourm.masking.mixture import MaskingComponent, MaskingConfig, Ml4mRules
from fourm.model.config import ModelConfig, PublishedOptions
from fourm.training.loop import TrainingConfig
from fourm.training.masked_loss import LossConfig
from fourm.training.train_state import OptimizerConfig
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
    InstancesFile,
    JsonFile,
    NumberFile,
    PaletteFile,
    TextFile,
)
from tokenizers.formats.signals import LogMel, SignalFile
from tokenizers.images.code_encoder import CodeEncoderConfig, QuantizerConfig
from tokenizers.images.diffusion import DiffusionConfig
from tokenizers.images.diffusion_tokenizer import DiffusionTokenizerConfig, SamplingConfig
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.images.unet import UNetConfig
from tokenizers.images.vit import NetworkConfig
from tokenizers.images.vit_tokenizer import DecoderConfig, ViTTokenizerConfig
from tokenizers.labels import Label, LabelTokenizerConfig
from tokenizers.modality import Modality, SavedTokenizerConfig
from tokenizers.palettes import Palette, PaletteTokenizerConfig
from tokenizers.rows import Row, RowTokenizerConfig
from tokenizers.scalars import Scalar, ScalarTokenizerConfig
from tokenizers.settings.checked import checked_later
from tokenizers.settings.plain import differing_knobs, from_plain, to_plain
from tokenizers.shapes.instance_tokenizer import InstanceTokenizerConfig
from tokenizers.shapes.points import Points
from tokenizers.shapes.polygons import Polygons
from tokenizers.signals.signal_tokenizer import SignalTokenizerConfig
from tokenizers.signals.values import Signal
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.text.wordpiece import WordPieceTokenizerConfig
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

CONFIG_CLASSES = {
    *(
        RunConfig,
        CropConfig,
        AugmentConfig,
        Modality,
        EvaluationConfig,
        RegionConfig,
        GenerationConfig,
    ),
    *(
        LikelihoodTasks,
        LossConfig,
        MaskingComponent,
        MaskingConfig,
        ModelConfig,
        HeadConfig,
        ProbeConfig,
        OptimizerConfig,
    ),
    *(TrainingConfig, ScenesData, FilesData, TfdsData, SplitByFolder, SplitByFraction),
    *(ArrayFile, BoxesFile, NumberFile, TextFile, Colors, Distances, Directions, Classes, Reals),
    *(Text, BoxList, Scalar, ImageTokenizerConfig, TextTokenizerConfig, BoxTokenizerConfig),
    *(Label, LabelTokenizerConfig, Row, RowTokenizerConfig, Signal, SignalTokenizerConfig),
    *(JsonFile, SignalFile, LogMel, TableColumn, TableRow),
    *(ScalarTokenizerConfig, ViTTokenizerConfig, CodeEncoderConfig, QuantizerConfig),
    *(NetworkConfig, DecoderConfig, DiffusionTokenizerConfig, DiffusionConfig, SamplingConfig),
    *(UNetConfig, Codes, Vectors, WordPieceTokenizerConfig, SavedTokenizerConfig),
    *(MeshConfig, NoData, PublishedOptions, Ml4mRules, ParquetData, ArraysData),
    *(CocoData, MixedData, CodesFile, Embedding, EmbeddingTokenizerConfig),
    *(Points, Polygons, InstanceTokenizerConfig, InstancesFile),
    *(CodesTokenizerConfig, VectorsTokenizerConfig, FolderName),
    *(Palette, PaletteTokenizerConfig, PaletteFile),
}


def described_fields(cls: type) -> set[str]:
    """Returns the fields of a class, inherited ones included, with a docstring below them."""
    found = set()
    for base in cls.__mro__:
        if base is object or not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(inspect.getsource(base).lstrip()).body[0].body
        for entry, below in itertools.pairwise(body):
            match entry, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(text)):
                    if isinstance(text, str) and len(text) > 5:
                        found.add(name)
    return found


@pytest.mark.parametrize("cls", sorted(CONFIG_CLASSES, key=lambda cls: cls.__name__))
def test_every_field_of_a_configuration_has_its_help_below_it(cls):
    assert cls.__doc__
    fields = {entry.name for entry in dataclasses.fields(cls)}
    assert fields - described_fields(cls) == set()


def reachable_classes(hint, found):
    """Collects the dataclasses of a type hint, whatever they are wrapped in."""
    if dataclasses.is_dataclass(hint) and hint not in found:
        found.add(hint)
        hints = typing.get_type_hints(hint)
        for entry in dataclasses.fields(hint):
            reachable_classes(hints[entry.name], found)
    for inner in typing.get_args(hint):
        reachable_classes(inner, found)
    return found


def test_the_classes_checked_above_are_all_that_a_run_is_made_of():
    found = reachable_classes(RunConfig, set())
    abstract = {cls for cls in found if cls.__subclasses__() and cls not in CONFIG_CLASSES}
    assert found - abstract <= CONFIG_CLASSES


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_comes_back_from_its_plain_form(name):
    config = PRESETS[name]()
    assert from_plain(json.loads(json.dumps(to_plain(config))), RunConfig) == config


def test_keys_that_are_numbers_survive_json():
    data = FilesData(
        modalities={
            "labels": ArrayFile(values={-1: 255, 7: 0}, other=255),
            "colored": ArrayFile(colors={(0, 0, 0): 1, (128, 64, 128): 0}),
            "table": ArrayFile(colors=((0, 0, 0), (128, 64, 128))),
        }
    )
    assert from_plain(json.loads(json.dumps(to_plain(data))), FilesData) == data


@pytest.mark.parametrize("name", PRESETS)
def test_a_plain_configuration_survives_json(name):
    plain = to_plain(PRESETS[name]())
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert differing_knobs(plain, json.loads(json.dumps(plain))) == []
    assert plain["class"] == "RunConfig" and plain["model"]["class"] == "ModelConfig"


def leaves(plain, path=""):
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, plain


def with_leaf(plain, path, value):
    head, _, rest = path.partition(".")
    return {**plain, head: with_leaf(plain[head], rest, value) if rest else value}


@pytest.mark.slow
def test_differing_knobs_names_exactly_the_leaf_that_was_changed():
    plain = to_plain(PRESETS["scenes"]())
    paths = [path for path, value in leaves(plain) if value != {}]
    assert len(paths) > 100
    for path in paths:
        changed = with_leaf(plain, path, "something else")
        assert differing_knobs(plain, changed) == [path]
        assert differing_knobs(changed, plain) == [path]


SCENES = PRESETS["scenes"]()
COMPONENT = MaskingComponent(inputs={"rgb": 1.0}, targets={"caption": 1.0})


def with_component(**changes) -> MaskingConfig:
    return MaskingConfig((replace(COMPONENT, **changes),))


with checked_later():
    WRONG = {
        r"--generation\.dept names 'dept'; did you mean depth\? The modalities are rgb": dict(
            generation={"dept": GenerationConfig()}
        ),
        r"--generation\.rgb\.via names 'layout'": dict(
            generation={"rgb": GenerationConfig(via=("layout",))}
        ),
        r"--generation\.rgb\.num-steps is 0": dict(
            generation={"rgb": GenerationConfig(num_steps=0)}
        ),
        r"--evaluation\.pairs names 'dept'": dict(
            evaluation=EvaluationConfig(pairs=("rgb->dept",))
        ),
        r"--evaluation\.region\.modality names 'labels'": dict(
            evaluation=EvaluationConfig(region=RegionConfig(modality="labels"))
        ),
        r"--probes\.input names 'rbg'": dict(
            probes=ProbeConfig(input="rbg", tasks=("object_count",))
        ),
        r"--loss\.weights names 'deep'": dict(loss=LossConfig(weights={"deep": 1.0})),
        r"--masking\.components\.0\.targets names 'caption s'": dict(
            masking=with_component(targets={"caption s": 1.0})
        ),
        r"--masking\.components\.0\.keep-of names 'text'": dict(
            masking=with_component(keep_of={"text": "all"})
        ),
        r"--masking\.ml4m\.chunk-sizes names 'text'": dict(
            masking=MaskingConfig((COMPONENT,), rules="ml4m", ml4m=Ml4mRules({"text": 2}))
        ),
        r"--masking\.components\.0\.num-targets is 0 9": dict(
            masking=with_component(num_targets=(0, 9))
        ),
        r"--loss\.tile is -3; it must be": dict(loss=LossConfig(tile=-3)),
        r"patch-size is 8, which does not divide --crops\.size, 60": dict(
            crops=CropConfig(size=60)
        ),
        r"patch-size is 8, which does not divide --crops\.width, 60": dict(
            crops=CropConfig(size=64, width=60)
        ),
        r"--crops\.width is -1; at least 1": dict(crops=CropConfig(width=-1)),
        r"--modalities\.rgb\.size is 0 and --modalities\.rgb\.width 32": dict(
            modalities={"rgb": replace(SCENES.modalities["rgb"], width=32)}
        ),
        r"Pictures of rgb are to be 32x48 and those of depth 64x64": dict(
            modalities=SCENES.modalities
            | {"rgb": replace(SCENES.modalities["rgb"], size=32, width=48)}
        ),
        r"--crops\.views -1; both must be": dict(crops=CropConfig(views=-1)),
        r"--crops\.scale is 0\.9 0\.2": dict(crops=CropConfig(scale=(0.9, 0.2))),
        r"--crops\.augment\.hue is 0\.6; it must be 0 to 0\.5": dict(
            crops=CropConfig(augment=AugmentConfig(hue=0.6))
        ),
        r"--crops\.augment\.modalities names 'rbg'; the modalities are rgb, ": dict(
            crops=CropConfig(augment=AugmentConfig(hue=0.1, modalities=("rbg",)))
        ),
        r"--crops\.augment is set and --crops\.views is 1; the first view": dict(
            crops=CropConfig(views=1, augment=AugmentConfig(hue=0.1))
        ),
        r"--seed is -1": dict(seed=-1),
        r"--tokenizer-samples is 0": dict(tokenizer_samples=0),
        r"no modalities": dict(modalities={}),
        r"--training\.batch-size is 30; .*divisible": dict(
            training=TrainingConfig(batch_size=30, accumulation=4)
        ),
    }


@pytest.mark.parametrize("reason", WRONG)
def test_check_refuses_what_the_parts_cannot_see_by_themselves(reason):
    with pytest.raises(ValueError, match=reason):
        replace(SCENES, **WRONG[reason]).check()


@pytest.mark.parametrize(
    ("part", "knob", "said"),
    [
        ("crops", "scale", "--crops.scale"),
        ("training", "average_decay", "--training.average-decay"),
    ],
)
def test_what_is_not_a_number_is_refused_by_its_knob(part, knob, said):
    config = PRESETS["scenes"]()
    before = getattr(getattr(config, part), knob, None)
    nan = float("nan")
    wrong = (nan, 1.0) if isinstance(before, tuple) else nan
    with checked_later():
        changed = replace(config, **{part: replace(getattr(config, part), **{knob: wrong})})
    with pytest.raises(ValueError, match=f"{said}.* (is|must)"):
        changed.check()


def test_sizes_follow_the_aspect_ratio_of_the_crops():
    half = replace(SCENES.modalities["rgb"], size=24)
    square = replace(SCENES, modalities={"rgb": half, "caption": SCENES.modalities["caption"]})
    assert square.sizes == {"rgb": (24, 24), "caption": (64, 64)}
    wide = replace(square, crops=CropConfig(size=48, width=80))
    assert wide.sizes == {"rgb": (24, 40), "caption": (48, 80)}


def test_a_configuration_that_was_stored_without_a_width_is_of_squares():
    stored = to_plain(CropConfig(size=48))
    del stored["width"]
    del stored["augment"]  # Which came still later, and is off.
    assert from_plain(stored, CropConfig) == CropConfig(size=48)


def test_a_region_of_classes_that_there_are_not_is_refused():
    config = PRESETS["scenes"]()
    region = RegionConfig("semseg", ("nonsense",))
    with pytest.raises(ValueError, match=r"--evaluation.region.classes is nonsense; allowed"):
        replace(config, evaluation=replace(config.evaluation, region=region)).check()

"""Preset over NYU Depth v2: real indoor photographs."""

from configs.presets.components import any_to_any, complete_from, one_to_all
from configs.presets.scenes import SINGLE_PASS
from configs.schema import CropConfig, RunConfig
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.splits import SplitByFraction
from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.probes import ProbeConfig
from fourm.inference.settings import GenerationConfig
from fourm.masking.mixture import MaskingConfig
from fourm.model.config import ModelConfig
from fourm.training.loop import TrainingConfig
from fourm.training.train_state import OptimizerConfig
from tokenizers.boxes import BoxList, BoxTokenizerConfig
from tokenizers.formats.formats import ArrayFile, BoxesFile, TextFile
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.modality import Modality
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Classes, Colors, Directions, Distances

# NYU40 (Gupta et al. 2013), in the order of the class maps.
NYU_CLASSES = (
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "refrigerator",
    "television",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "night stand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "otherstructure",
    "otherfurniture",
)

NYU_MODALITIES = {
    "rgb": Modality(Colors(), ImageTokenizerConfig(codebook_size=1024)),
    "depth": Modality(Distances(), ImageTokenizerConfig()),
    "normals": Modality(Directions(), ImageTokenizerConfig()),
    # 39 mixes "other" with unlabelled pixels, so it is neither learned nor scored.
    "semseg": Modality(
        Classes(names=NYU_CLASSES, ignore=39),
        ImageTokenizerConfig(patch_size=4, width=128, batch_size=4),
    ),
    "caption": Modality(Text(), TextTokenizerConfig(vocab_size=1024, max_tokens=24)),
    "boxes": Modality(
        BoxList(class_names=NYU_CLASSES, max_boxes=12),
        BoxTokenizerConfig(num_bins=64, num_sentinels=16),
    ),
}

NYU_TARGETS = {name: 1.0 for name in NYU_MODALITIES}


def nyuv2() -> RunConfig:
    """NYU Depth v2, 795 frames split by scene: `python train.py nyuv2 --data.path PATH`.

    PATH holds train/{rgb,depth,normal,semseg,caption,det}/shard-*.tar and train_scenes.csv.
    About ten minutes on two cores. On held-out scenes expect depth->normals 21 degrees and
    semseg->depth abs_rel 0.28 (floors 48 and 0.35), and little from rgb: normals 44 degrees.
    """
    return RunConfig(
        modalities=NYU_MODALITIES,
        data=FilesData(
            modalities={
                "rgb": ArrayFile(as_rgb=True),
                "depth": ArrayFile(scale=0.001),
                "normals": ArrayFile(folder="normal"),
                "semseg": ArrayFile(),
                "caption": TextFile(),
                "boxes": BoxesFile(folder="det", class_names=NYU_CLASSES),
            },
            splits_by=SplitByFraction(group_column="scene", validation=0.1, test=0.15),
            table="train_scenes.csv",
        ),
        crops=CropConfig(size=64, views=8, scale=(0.5, 1.0)),
        masking=MaskingConfig(
            components=(
                one_to_all("rgb", NYU_TARGETS, num_inputs=64, num_targets=96, weight=4.0),
                one_to_all("depth", NYU_TARGETS, num_inputs=64, num_targets=96, weight=1.0),
                one_to_all("semseg", NYU_TARGETS, num_inputs=64, num_targets=96, weight=1.0),
                one_to_all("caption", NYU_TARGETS, num_inputs=64, num_targets=96, weight=1.0),
                complete_from(("caption",), "rgb", num_inputs=64, num_targets=96, weight=1.0),
                any_to_any(NYU_TARGETS, num_inputs=(8, 64), num_targets=96, weight=2.0),
            )
        ),
        model=ModelConfig(),
        training=TrainingConfig(
            steps=1000,
            batch_size=32,
            optimizer=OptimizerConfig(name="muon", learning_rate=2e-3, weight_decay=0.1),
        ),
        generation={
            "rgb": GenerationConfig(num_steps=16, temperature=0.8, choice_noise=2.0),
            "depth": SINGLE_PASS,
            "normals": SINGLE_PASS,
            "semseg": SINGLE_PASS,
            "caption": GenerationConfig(scheme="autoregressive", temperature=0.0),
            "boxes": GenerationConfig(scheme="autoregressive", temperature=0.0),
        },
        evaluation=EvaluationConfig(
            pairs=(
                "rgb->depth",
                "rgb->normals",
                "rgb->semseg",
                "rgb->caption",
                "rgb->boxes",
                "depth->semseg",
                "depth->normals",
                "semseg->depth",
                "caption->rgb",
                "caption->semseg",
            )
        ),
        probes=ProbeConfig(input="rgb", tasks=("scene_type",)),
    )

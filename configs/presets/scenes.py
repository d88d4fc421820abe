"""Presets over the built-in scenes."""

from dataclasses import replace

from configs.presets.components import any_to_any, complete_from, one_to_all
from configs.schema import CropConfig, RunConfig
from data_pipeline.sources.scenes.data import SEMSEG_CLASSES, ScenesData
from data_pipeline.sources.scenes.sampler import COLOR_NAMES, SHAPES
from fourm.evaluation.config import EvaluationConfig, LikelihoodTasks, RegionConfig
from fourm.evaluation.probes import ProbeConfig
from fourm.inference.settings import GenerationConfig
from fourm.masking.mixture import MaskingConfig
from fourm.model.config import ModelConfig
from fourm.training.loop import TrainingConfig
from fourm.training.masked_loss import LossConfig
from fourm.training.train_state import OptimizerConfig
from tokenizers.boxes import BoxList, BoxTokenizerConfig
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.modality import Modality
from tokenizers.scalars import Scalar, ScalarTokenizerConfig
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Classes, Colors, Directions, Distances

SCENE_MODALITIES = {
    "rgb": Modality(Colors(), ImageTokenizerConfig(codebook_size=2048)),
    "depth": Modality(
        Distances(min_distance=2.0, max_distance=20.0),
        ImageTokenizerConfig(codebook_size=256, steps=800),
    ),
    "normals": Modality(Directions(), ImageTokenizerConfig(codebook_size=256, steps=800)),
    "semseg": Modality(
        Classes(names=SEMSEG_CLASSES), ImageTokenizerConfig(codebook_size=256, steps=800)
    ),
    "caption": Modality(
        Text(
            attributes={"color": COLOR_NAMES, "shape": SHAPES},
            pairs=(("color", "shape"),),
        ),
        TextTokenizerConfig(vocab_size=512, max_tokens=40, num_sentinels=20),
    ),
    "boxes": Modality(
        BoxList(class_names=SHAPES, max_boxes=4),
        BoxTokenizerConfig(num_bins=64, num_sentinels=12),
    ),
    "distance": Modality(Scalar(unit="m"), ScalarTokenizerConfig(num_bins=64)),
}

SINGLE_PASS = GenerationConfig(num_steps=1, temperature=0.0, decode="expected")
"""The expected picture in one pass: the best guess where one answer is right."""

SCENE_GENERATION = {
    "rgb": GenerationConfig(
        num_steps=8, temperature=0.7, guidance=3.0, choice_noise=4.0, via=("boxes",)
    ),
    "depth": SINGLE_PASS,
    "normals": SINGLE_PASS,
    "semseg": SINGLE_PASS,
    "caption": GenerationConfig(scheme="autoregressive", temperature=0.0),
    "boxes": GenerationConfig(scheme="autoregressive", temperature=0.0),
    "distance": SINGLE_PASS,
}

# What is asked: as Dirichlet concentrations, so about so many shares of the targets each.
SCENE_TARGETS = {
    "rgb": 1.0,
    "depth": 1.0,
    "normals": 1.0,
    "semseg": 1.0,
    "caption": 1.0,
    "boxes": 1.0,
    "distance": 0.2,
}
# A caption leaves most of a picture open; what it does settle is where things are and of what
# colour, so the picture itself is asked for most.
CAPTION_TARGETS = {"rgb": 3.0, "semseg": 1.0, "boxes": 1.0, "depth": 0.3, "normals": 0.3}

SCENE_MIXTURE = MaskingConfig(
    components=(
        one_to_all("rgb", SCENE_TARGETS, num_inputs=64, num_targets=96, weight=4.0),
        one_to_all("semseg", SCENE_TARGETS, num_inputs=64, num_targets=96, weight=1.0),
        one_to_all("depth", SCENE_TARGETS, num_inputs=64, num_targets=96, weight=0.5),
        one_to_all("normals", SCENE_TARGETS, num_inputs=64, num_targets=96, weight=0.5),
        one_to_all("caption", CAPTION_TARGETS, num_inputs=64, num_targets=96, weight=1.5),
        # Where things are is settled before what they look like (`via` of SCENE_GENERATION).
        complete_from(("caption",), "rgb", num_inputs=64, num_targets=96, weight=0.3),
        complete_from(("caption", "boxes"), "rgb", num_inputs=64, num_targets=96, weight=1.7),
        any_to_any(SCENE_TARGETS, num_inputs=(8, 64), num_targets=96, weight=1.0),
    )
)


def scenes() -> RunConfig:
    """Built-in scenes, seven modalities, on a laptop's CPU: `python train.py`.

    About nine minutes and 4 GB on four cores. Expect rgb->depth abs_rel 0.036, rgb->semseg mIoU
    0.85, rgb->caption colour-shape F1 0.87, and pairs read back from caption->rgb F1 0.69.

    Wide pictures, of 60 tokens in place of 64: `--crops.size 48 --crops.width 80 --data.image-size
    48 --data.image-width 80`.
    """
    return RunConfig(
        modalities=SCENE_MODALITIES,
        data=ScenesData(num_train=12_000, num_validation=64, num_test=1024),
        crops=CropConfig(views=1),
        masking=SCENE_MIXTURE,
        loss=LossConfig(weights={"caption": 2.0, "distance": 0.25}),
        model=ModelConfig(),
        training=TrainingConfig(
            steps=1500,
            batch_size=32,
            optimizer=OptimizerConfig(name="muon", learning_rate=2e-3),
        ),
        generation=SCENE_GENERATION,
        evaluation=EvaluationConfig(
            pairs=(
                "rgb->depth",
                "rgb->normals",
                "rgb->semseg",
                "rgb->caption",
                "rgb->boxes",
                "rgb->distance",
                "depth->semseg",
                "depth->normals",
                "semseg->caption",
                "semseg->depth",
                "caption->rgb->caption",
                "caption->semseg",
            ),
            region=RegionConfig(modality="semseg", classes=SHAPES),
            likelihood_tasks=LikelihoodTasks(
                zero_shot={"dominant_color": COLOR_NAMES, "dominant_shape": SHAPES},
                # As captions name an object: its size, colour and shape.
                templates={
                    "dominant_color": tuple(f"a large {{}} {shape}" for shape in SHAPES),
                    "dominant_shape": tuple(f"a large {color} {{}}" for color in COLOR_NAMES),
                },
            ),
        ),
        probes=ProbeConfig(
            input="rgb",
            tasks=(
                "object_count",
                "dominant_color",
                "has_sphere",
                "has_cube",
                "has_cylinder",
                "has_cone",
            ),
            attentive=("object_count", "dominant_color"),
        ),
    )


def scenes_gpu() -> RunConfig:
    """Built-in scenes with a larger model and more of them, for ten minutes on one datacentre
    GPU: `python train.py scenes_gpu`. Not measured yet."""
    base = scenes()
    return replace(
        base,
        data=replace(base.data, num_train=100_000),
        model=ModelConfig(
            dim=384,
            num_heads=6,
            encoder_layers=6,
            decoder_layers=6,
            scan_layers=True,
        ),
        training=TrainingConfig(
            steps=8_000,
            batch_size=256,
            average_decay=0.999,
            optimizer=OptimizerConfig(name="muon", learning_rate=1e-3, warmup_steps=500),
        ),
    )

"""Your own photographs with captions: each predicts the other.

python train.py examples/photos.py --data.path ~/photos

The folder has photographs in PATH/rgb/KEY.jpg and captions in PATH/caption/KEY.txt. Either may be
missing for a key. A tenth of the keys is held out for validation, another tenth for the test.
"""

from configs import (
    ArrayFile,
    Colors,
    CropConfig,
    EvaluationConfig,
    FilesData,
    GenerationConfig,
    ImageTokenizerConfig,
    MaskingConfig,
    Modality,
    ModelConfig,
    ProbeConfig,
    RunConfig,
    SplitByFraction,
    Text,
    TextFile,
    TextTokenizerConfig,
    TrainingConfig,
    any_to_any,
    one_to_all,
)

BOTH = {"rgb": 1.0, "caption": 1.0}

config = RunConfig(
    modalities={
        "rgb": Modality(Colors(), ImageTokenizerConfig(patch_size=8, codebook_size=1024)),
        "caption": Modality(Text(), TextTokenizerConfig(vocab_size=1024, max_tokens=32)),
    },
    data=FilesData(
        modalities={"rgb": ArrayFile(as_rgb=True), "caption": TextFile()},
        splits_by=SplitByFraction(folder=""),
    ),
    crops=CropConfig(size=64, views=4, scale=(0.6, 1.0)),
    masking=MaskingConfig(
        components=(
            *(one_to_all(name, BOTH, num_inputs=64, num_targets=64) for name in BOTH),
            any_to_any(BOTH, num_inputs=(4, 64), num_targets=64),
        )
    ),
    model=ModelConfig(dim=256, num_heads=8, encoder_layers=4, decoder_layers=4),
    training=TrainingConfig(steps=5000, batch_size=64),
    # Sixteen passes make the parts of a picture agree; a caption is written word by word.
    generation={"rgb": GenerationConfig(num_steps=16, guidance=2.0)},
    evaluation=EvaluationConfig(pairs=("rgb->caption", "caption->rgb->caption")),
    probes=ProbeConfig(),
)

"""Fine-tunes an imported model on your own files, with a smaller learning rate.

python -m fourm.interop.ml4m import EPFL-VILAB/4M-21_B \\
    EPFL-VILAB/4M_tokenizers_rgb_16k_224-448 --out runs/4m21
python train.py examples/fine_tune.py --data.path ~/mine

The files are in PATH/train/MODALITY/KEY.EXT and PATH/val/MODALITY/KEY.EXT. Of modalities whose
tokenizer was imported they are raw values; of the others, ids that were made elsewhere. A modality
may be missing. FOURM_RUN names another run than runs/4m21; one that train.py made will do as well.
"""

import os
from dataclasses import replace
from pathlib import Path

from configs import OptimizerConfig, TrainingConfig, load_run

RUN = Path(os.environ.get("FOURM_RUN", "runs/4m21"))

# Tokenizers, the model's shape and the masks are the run's; training starts from its weights.
base, _ = load_run(RUN)
config = replace(
    base,
    training=TrainingConfig(
        steps=2000,
        batch_size=16,
        average_decay=0.999,
        evaluate_every=200,
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=200, weight_decay=0.01),
    ),
    run_dir=f"{RUN}-mine",
)

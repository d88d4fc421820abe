"""A configuration that trains a run further: fine-tuning, on the same data or on others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.presets.components import any_to_any
from configs.presets.published import DOMAINS, mixture
from configs.schema import CropConfig, RunConfig
from data_pipeline.sources.files.data import FilesData
from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.probes import ProbeConfig
from fourm.inference.settings import read_settings
from fourm.masking.mixture import MaskingConfig
from fourm.masking.packing import is_predictable
from fourm.model.saved_model import load_shape
from fourm.token_space import TokenSpace
from fourm.training.loop import TrainingConfig
from fourm.training.train_state import OptimizerConfig
from tokenizers.base import Tokenizer
from tokenizers.formats.formats import format_for
from tokenizers.modality import Modality, SavedTokenizerConfig, load_tokenizer
from tokenizers.settings.own_code import CodeNeeded
from tokenizers.settings.plain import from_plain
from tokenizers.storage.folders import check_made_with
from tokenizers.storage.pieces import check_pieces
from tokenizers.storage.run_paths import CONFIG, MODEL, TOKENIZERS


def is_run(folder: Path) -> bool:
    """True for a folder that is, or will be, a run directory."""
    return (folder / CONFIG).is_file()


def load_run(folder: Path) -> tuple[RunConfig, str]:
    """Returns what trains the model of a run further, and a line about it.

    Tokenizers and the model's shape are the run's. All else is as in the run if `train.py` made
    it. Of an imported model nothing else is known: its data is to be given as files, its masks
    are those that it was published with, if it is a published one.

    Raises:
        ValueError: If the run has no model yet, or its configuration can't be read.
    """
    if not (folder / MODEL).is_dir():
        raise ValueError(
            f"The run {folder} has no model yet to start from; finish it first, or give a preset."
        )
    check_pieces(folder, [CONFIG, MODEL])
    check_made_with(folder / MODEL, folder / TOKENIZERS)
    model, space = load_shape(folder / MODEL)
    saved = {name: folder / TOKENIZERS / name for name in space.names}
    tokenizers = {name: load_tokenizer(path) for name, path in saved.items()}
    modalities = {
        name: Modality(tokenizer.values, SavedTokenizerConfig(str(saved[name])), *_size(tokenizer))
        for name, tokenizer in tokenizers.items()
    }
    try:
        plain = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = (
            from_plain(plain, RunConfig)
            if "class" in plain
            else _published(plain, space, tokenizers)
        )
    except CodeNeeded:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{folder / CONFIG} can't be used ({error}); give a FILE.py with --start-from {folder}."
        ) from error
    config = replace(
        config,
        modalities=modalities,
        # Precision is this machine's choice again.
        model=replace(model, compute_dtype="auto"),
        start_from=str(folder),
        run_dir=f"{folder}-tuned",
    )
    return config, f"The model of {folder}, trained further."


def _size(tokenizer: Tokenizer) -> tuple[int, int]:
    """Returns size and width, as of a modality, of what a tokenizer reads; 0 where left open."""
    height, width = getattr(tokenizer, "picture_size", (0, 0))
    return height, 0 if width == height else width


def _published(
    plain: dict[str, Any], space: TokenSpace, tokenizers: dict[str, Tokenizer]
) -> RunConfig:
    """Returns a configuration for a model that was imported."""
    shown = [entry.name for entry in space.ranges if entry.is_input]
    asked = [entry.name for entry in space.ranges if is_predictable(entry)]
    source = next((name for name in ("rgb@224", "tok_rgb@224") if name in shown), shown[0])
    files = {name: format_for(name, each.values) for name, each in tokenizers.items()}
    return RunConfig(
        modalities={},
        data=FilesData(modalities=files),
        # Ids that were made beforehand can't be cropped.
        crops=CropConfig(size=224, views=1, flip=False),
        masking=_masking(shown, asked),
        tokenizer_samples=512,
        training=TrainingConfig(
            steps=1000, batch_size=16, optimizer=OptimizerConfig(learning_rate=1e-4)
        ),
        generation={
            name: read_settings(name, given) for name, given in plain.get("generation", {}).items()
        },
        evaluation=EvaluationConfig(
            pairs=tuple(f"{source}->{name}" for name in asked if name != source), num_samples=64
        ),
        probes=ProbeConfig(input=source),
    )


def _masking(shown: list[str], asked: list[str]) -> MaskingConfig:
    for modalities, (inputs, targets) in DOMAINS.items():
        if {*shown, *asked} == {*inputs, *targets}:
            return mixture(modalities)
    component = any_to_any(dict.fromkeys(asked, 1.0), num_inputs=(8, 128), num_targets=128)
    return MaskingConfig((replace(component, inputs=dict.fromkeys(shown, 0.3)),))

"""What a configuration leaves open is chosen: from its modalities, its samples and this machine.

The numbers are of `docs/ablations.md`. What was chosen stands in the run's config.json, and a run
that was begun keeps it, whichever machine goes on with it.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from configs.presets.components import any_to_any, complete_from, one_to_all
from configs.presets.scenes import SINGLE_PASS
from configs.schema import RunConfig
from data_pipeline.sources.arrays.data import ArraysData
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.mixed import MixedData
from data_pipeline.sources.parquet import ParquetData
from data_pipeline.tokens.index import StoreIndex
from fourm.devices.processes import is_main
from fourm.inference.settings import GenerationConfig
from fourm.masking.mixture import MaskingConfig
from fourm.model.config import ModelConfig
from tokenizers.base import CountsTokens
from tokenizers.boxes import BoxList
from tokenizers.codes import Codes
from tokenizers.features import Vectors
from tokenizers.formats.formats import FileFormat, format_for
from tokenizers.modality import Modality, SavedTokenizerConfig, load_tokenizer
from tokenizers.settings.plain import from_plain
from tokenizers.storage.run_paths import CONFIG
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors
from tokenizers.values.dense import DenseValues

VIEWED = 4096
"""Views of all samples together, about; few samples are seen in more views, at most eight."""
PASSES = 50
"""Times that a sample is learned from. After more, a few hundred are known by heart."""
LEAST_SEEN = 12_800
"""Samples that are learned from whatever their number: fewer don't show what belongs together."""
SEEN_PER_CORE = 24_000
"""Most of them, so that training takes about eight minutes."""
SEEN_BY_ACCELERATOR = 2_048_000
"""The same on a GPU or TPU."""
CORE_SPEED = 36e9
"""Operations per second that a core does in training; for the estimate that is printed."""
FEW_CLASSES = 16
"""A class map of so many classes gets on with half the codes."""
MANY_SAMPLES = 5000
"""Enough to learn of twice as many codes."""
LARGE = {
    "dim": 384,
    "num_heads": 6,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "scan_layers": True,
}
"""Shape of a model for many samples, as in the preset scenes_gpu."""


@dataclass(frozen=True)
class Machine:
    """What sizes depend on of the machine that begins a run."""

    cores: int
    is_accelerator: bool

    @classmethod
    def this(cls) -> "Machine":
        """Returns that of this process, or of all together if there are several."""
        devices = jax.device_count()
        if jax.process_count() > 1:  # Processes must agree, and know only the devices of others.
            return cls(devices, jax.default_backend() != "cpu")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return cls(cores or 1, jax.default_backend() != "cpu")


def close_sizes(config: RunConfig, fork: str = "") -> RunConfig:
    """Returns a configuration that leaves nothing open, and prints what was chosen.

    Args:
        config: As the command line gives it.
        fork: The run to go on from, if the command names one.
    """
    config = with_formats(config)
    if not open_knobs(config):
        return config
    for folder in (config.run_dir, fork):
        file = Path(folder).expanduser() / CONFIG
        if folder and file.is_file():
            try:
                before = from_plain(json.loads(file.read_text(encoding="utf-8")), RunConfig)
            except (OSError, ValueError, TypeError, LookupError, RecursionError):
                break  # What is wrong is said when it is opened.
            return _closed_as(config, before)
    machine = Machine.this()
    samples = count_samples(config)
    chosen = choose_sizes(config, samples, machine)
    if is_main():
        print(describe_sizes(config, chosen, samples, machine))
    return chosen


def with_formats(config: RunConfig) -> RunConfig:
    """Returns a configuration whose files are read as its modalities say, unless it says how."""
    formats = {name: format_for(name, each.values) for name, each in config.modalities.items()}
    data = _with_formats(config.data, formats)
    return config if data == config.data else replace(config, data=data)


def _with_formats(data: Any, formats: dict[str, FileFormat]) -> Any:
    match data:
        case FilesData(modalities=given) if not given:
            return replace(data, modalities=formats)
        case ParquetData():
            wanted = data.columns or data.formats or formats
            chosen = {name: each for name, each in formats.items() if name in wanted}
            return replace(data, formats=chosen | data.formats)
        case ArraysData():
            wanted = data.arrays or data.formats or formats
            chosen = {name: each for name, each in formats.items() if name in wanted}
            return replace(data, formats=chosen | data.formats)
        case MixedData(sources=sources):
            filled = {name: _with_formats(each, formats) for name, each in sources.items()}
            return replace(data, sources=filled)
    return data


def open_knobs(config: RunConfig) -> list[str]:
    """Returns the names of the knobs that are still to be chosen."""
    is_open = {
        "crops.views": not config.crops.views,
        "masking.components": not config.masking.components,
        "model": not config.model.dim,
        "training.batch_size": not config.training.batch_size,
        "training.steps": config.training.steps < 0,
        "generation": not config.generation,
    }
    codes = [f"modalities.{name}" for name, each in config.modalities.items() if _is_open(each)]
    return [name for name, answer in is_open.items() if answer] + codes


def choose_sizes(config: RunConfig, samples: int, machine: Machine) -> RunConfig:
    """Returns a configuration in which everything that was open is chosen.

    Args:
        config: Of the run.
        samples: Training samples, not counting views.
        machine: That begins the run.
    """
    views = config.crops.views
    if not views:
        can_crop = any(_is_dense(each.values) for each in config.modalities.values())
        can_crop &= not any(isinstance(each.values, Codes) for each in config.modalities.values())
        views = min(max(VIEWED // max(samples, 1), 1), 8) if can_crop else 1
        if config.crops.augment.is_on:  # The first view is never changed.
            views = max(views, 2)
    modalities = {
        name: _with_codes(each, samples) if _is_open(each) else each
        for name, each in config.modalities.items()
    }
    config = replace(config, modalities=modalities, crops=replace(config.crops, views=views))
    if not config.masking.components:
        components = mixture_of(modalities, config.sizes).components
        config = replace(config, masking=replace(config.masking, components=components))
    if not config.model.dim:
        is_large = machine.is_accelerator and samples >= 4 * MANY_SAMPLES
        sizes = LARGE if is_large else {"dim": 128}
        usual = ModelConfig(dim=0)
        given = {name for name in sizes if getattr(config.model, name) != getattr(usual, name)}
        sizes = {name: value for name, value in sizes.items() if name not in given}
        config = replace(config, model=replace(config.model, **sizes))
    training = config.training
    if not training.batch_size:
        large = 256 if samples * views >= 16 * 256 else 64
        batch_size = large if machine.is_accelerator else 32
        batch_size = math.lcm(batch_size, training.accumulation)
        training = replace(training, batch_size=batch_size)
    if training.steps < 0:
        most = SEEN_BY_ACCELERATOR if machine.is_accelerator else SEEN_PER_CORE * machine.cores
        seen = min(max(PASSES * samples, LEAST_SEEN), most)
        training = replace(training, steps=max(10 * round(seen / training.batch_size / 10), 10))
    generation = config.generation or {
        name: settings_for(each.values) for name, each in modalities.items()
    }
    return replace(config, training=training, generation=generation)


def mixture_of(
    modalities: Mapping[str, Modality], sizes: Mapping[str, tuple[int, int]]
) -> MaskingConfig:
    """Returns a mixture that shows each modality whole, and random parts of all.

    Args:
        modalities: Of the run.
        sizes: Height and width of their pictures.
    """
    counts = {name: count_tokens(each, sizes[name]) for name, each in modalities.items()}
    grids = sorted(n for name, n in counts.items() if _is_grid(modalities[name]))
    # Half of the grids can be shown whole; of finer ones a part is.
    num_inputs = min(max(grids[len(grids) // 2] if grids else max(counts.values()), 16), 256)
    num_targets = 3 * num_inputs // 2
    targets = {
        name: 0.2 if count == 1 else 1.0
        for name, count in counts.items()
        if not isinstance(modalities[name].values, Vectors)  # Which are only ever shown.
    }
    budgets = {"num_inputs": num_inputs, "num_targets": num_targets}
    if len(modalities) == 1:
        name = next(iter(modalities))
        parts = any_to_any(
            {name: 1.0}, num_inputs=(num_inputs // 8, num_inputs), num_targets=num_targets
        )
        return MaskingConfig((parts,))
    components = [one_to_all(name, targets, **budgets) for name in modalities]
    texts = [name for name, each in modalities.items() if isinstance(each.values, Text)]
    pictures = [name for name, each in modalities.items() if isinstance(each.values, Colors)]
    components += [complete_from((t,), p, **budgets) for t in texts for p in pictures]
    parts = any_to_any(
        targets, num_inputs=(num_inputs // 8, num_inputs), num_targets=num_targets, weight=2.0
    )
    components.append(replace(parts, inputs=dict.fromkeys(modalities, 0.3)))
    return MaskingConfig(tuple(components))


def count_tokens(modality: Modality, size: tuple[int, int]) -> int:
    """Returns the most tokens of a sample's modality, as far as settings tell."""
    settings = modality.tokenizer
    if isinstance(settings, SavedTokenizerConfig):
        return math.prod(load_tokenizer(Path(settings.path).expanduser()).token_shape)
    if isinstance(modality.values, Vectors):
        return modality.values.longest
    if isinstance(modality.values, Codes):
        return math.prod(modality.values.shape)
    if _is_grid(modality):
        cells = math.prod(length // getattr(settings, "patch_size", length) for length in size)
        return cells * getattr(settings, "num_heads", 1)
    if isinstance(settings, CountsTokens):
        return settings.most_tokens(modality.values)
    if isinstance(modality.values, BoxList):
        return 5 * modality.values.max_boxes + 1
    return getattr(settings, "max_tokens", 1)


def settings_for(values: Any) -> GenerationConfig:
    """Returns how a kind is generated by default.

    Pictures are drawn in several passes, as there are many that fit; of all else that has pixels
    the expected value is the answer, and sequences are written word by word.
    """
    match values:
        case Colors() | Codes():
            return GenerationConfig(num_steps=8, temperature=0.7, choice_noise=4.0)
        case _ if isinstance(values, Text | BoxList) or getattr(values, "is_sequence", False):
            return GenerationConfig(scheme="autoregressive", temperature=0.0)
        case _:
            return SINGLE_PASS


def count_samples(config: RunConfig) -> int:
    """Returns how many training samples a run has, not counting views.

    Raises:
        ValueError: If its data can't be opened.
    """
    if config.tokens:
        folders = (Path(folder).expanduser() for folder in config.tokens)
        return sum(StoreIndex.read(folder).samples for folder in folders)
    return len(config.data.open("train"))


def describe_sizes(before: RunConfig, after: RunConfig, samples: int, machine: Machine) -> str:
    """Returns one sentence: from what which sizes were chosen."""
    kinds, knobs = len(after.modalities), open_knobs(before)
    where = "an accelerator" if machine.is_accelerator else f"{machine.cores} cores"
    model, training = after.model, after.training
    layers = f"{model.encoder_layers} + {model.decoder_layers}"
    parts = {
        "crops.views": f"{after.crops.views} views of each",
        "masking.components": f"{len(after.masking.components)} ways of masking, of "
        f"{after.masking.max_inputs} + {after.masking.max_targets} tokens",
        "model": f"a model of width {model.dim} with {layers} layers",
        "training.steps": f"{training.steps:,} steps of {training.batch_size}",
    }
    chosen = [text for knob, text in parts.items() if knob in knobs]
    if not chosen:
        chosen = ["what was left open"]
    time = ""
    if not machine.is_accelerator:
        seconds = training.steps * step_work(after) / (CORE_SPEED * machine.cores)
        time = f"; training takes about {max(round(seconds / 60), 1)} minutes"
    given = ", ".join(f"--{knob.replace('_', '-')}" for knob in knobs)
    return (
        f"{samples:,} samples of {kinds} modalities, {where}: {', '.join(chosen)}{time}. Chosen "
        f"unless given: {given}."
    )


def step_work(config: RunConfig) -> float:
    """Returns about how many operations a training step takes."""
    model, masking = config.model, config.masking
    tokens = (
        12 * model.encoder_layers * masking.max_inputs
        + 16 * model.decoder_layers * masking.max_targets
    )
    return 6.0 * model.dim**2 * tokens * config.training.batch_size


def _closed_as(config: RunConfig, before: RunConfig) -> RunConfig:
    """Returns a configuration with what an earlier start of the same run chose."""
    knobs = open_knobs(config)
    if "crops.views" in knobs:
        config = replace(config, crops=replace(config.crops, views=before.crops.views))
    if "masking.components" in knobs:
        components = before.masking.components
        config = replace(config, masking=replace(config.masking, components=components))
    if "model" in knobs:
        found = {name: getattr(before.model, name) for name in LARGE}
        config = replace(config, model=replace(config.model, **found))
    for name in ("batch_size", "steps"):
        if f"training.{name}" in knobs:
            value = getattr(before.training, name)
            config = replace(config, training=replace(config.training, **{name: value}))
    if "generation" in knobs:
        config = replace(config, generation=before.generation)
    modalities = dict(config.modalities)
    for name, each in modalities.items():
        if _is_open(each) and name in before.modalities:
            settings = before.modalities[name].tokenizer
            codes = getattr(settings, "codebook_size", 0)
            modalities[name] = replace(each, tokenizer=replace(each.tokenizer, codebook_size=codes))
    return replace(config, modalities=modalities)


def _is_open(modality: Modality) -> bool:
    return getattr(modality.tokenizer, "codebook_size", 1) == 0


def _with_codes(modality: Modality, samples: int) -> Modality:
    values = modality.values
    is_simple = isinstance(values, Classes) and len(values.names) <= FEW_CLASSES
    codes = (512 if samples < MANY_SAMPLES else 1024) // (2 if is_simple else 1)
    return replace(modality, tokenizer=replace(modality.tokenizer, codebook_size=codes))


def _is_grid(modality: Modality) -> bool:
    return _is_dense(modality.values) or (
        isinstance(modality.values, Codes) and len(modality.values.shape) == 2
    )


def _is_dense(values: Any) -> bool:
    return isinstance(values, DenseValues) or getattr(values, "is_map", False)

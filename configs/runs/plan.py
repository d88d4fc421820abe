"""What a training will take, before there is any of it: tokens, parameters, memory, time, disk."""

import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from configs.runs.sizes import CORE_SPEED, Machine, count_samples, count_tokens, step_work
from configs.schema import RunConfig
from fourm.devices.layout import Layout
from fourm.model.transformer import FourM
from fourm.token_space import TokenRange, TokenSpace
from fourm.training.fit_memory import step_bytes
from fourm.training.masked_loss import MaskedLoss
from tokenizers.base import PADDING, CountsIds, SequenceTokens, TokenBatch
from tokenizers.boxes import BoxList
from tokenizers.modality import Modality, SavedTokenizerConfig, load_tokenizer

MIB = 2**20


def plan_space(config: RunConfig) -> TokenSpace:
    """Returns the token space that a run will have, about: vocabularies of texts may be smaller."""
    return TokenSpace.lay_out(
        _planned(name, each, config.sizes[name]) for name, each in config.modalities.items()
    )


def describe_plan(config: RunConfig, with_memory: bool = True) -> list[str]:
    """Returns lines on the training to come.

    Args:
        config: That leaves nothing open.
        with_memory: Whether to compile the training step to know its memory, which takes a while.
    """
    space, machine, samples = plan_space(config), Machine.this(), count_samples(config)
    counts = {each.name: math.prod(each.token_shape) for each in space.ranges}
    stored = samples * config.crops.views
    model = nnx.eval_shape(lambda: FourM(space, config.model, nnx.Rngs(0)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    parameters = sum(sizes)
    training = config.training
    seen = training.steps * training.batch_size
    tokens = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    numbers = {each.name: each.feature_width for each in space.ranges if each.feature_width}
    store = stored * sum(
        count * (np.min_scalar_type(max(each.vocab_size - 1, 0)).itemsize + each.feature_width)
        for each, count in zip(space.ranges, counts.values(), strict=True)
    )
    augmented = config.crops.augment.names({n: m.values for n, m in config.modalities.items()})
    # Of changed views, ids of what is shown besides.
    store += (stored - samples) * sum(
        counts[each.name] * np.min_scalar_type(each.vocab_size - 1).itemsize
        for each in space.ranges
        if each.name in augmented and each.vocab_size
    )
    # A checkpoint has the parameters, their average and the optimizer's moments.
    saved = 4 * parameters * (2 + 2) * max(training.keep_checkpoints, 1) + 4 * parameters
    lines = [
        f"samples: {samples:,}, in {config.crops.views} views each: {stored:,} to learn from",
        f"tokens of a sample at most: {tokens}; together {sum(counts.values()):,}",
        f"shown and asked at a time: {config.masking.max_inputs} and {config.masking.max_targets}",
        f"parameters: {parameters:,}",
        f"training: {training.steps:,} steps of {training.batch_size}, so every sample about "
        f"{seen / max(samples, 1):.1f} times",
    ]
    if numbers:
        told = ", ".join(f"{name} {width}" for name, width in numbers.items())
        lines.insert(2, f"numbers beside each token: {told}")
    if augmented:
        lines.insert(1, f"shown changed in all views but the first: {', '.join(augmented)}")
    if with_memory:
        lines.append(f"memory of a step: {_memory(config, space) / MIB:,.0f} MiB a device")
    if machine.is_accelerator:
        lines.append("time: not known on an accelerator; see benchmarks.gpu")
    else:
        seconds = training.steps * step_work(config) / (CORE_SPEED * machine.cores)
        lines.append(f"time of training the model: about {max(seconds / 60, 0.1):.1f} minutes")
    lines.append(
        f"disk: about {store / MIB:,.0f} MiB of tokens and {saved / MIB:,.0f} MiB of checkpoints "
        "and model"
    )
    return lines


def _memory(config: RunConfig, space: TokenSpace) -> int:
    layout, size = Layout.build(config.mesh), config.training.batch_size
    shape = config.model
    if shape.remat == "auto":
        shape = replace(shape, remat="none")
    loss = MaskedLoss(space, config.masking, config.loss, layout)
    rows = layout.rows(size)
    batch = layout.distribute(_absent(space, rows.stop - rows.start))
    # Which arrays there are at a time does not depend on how fast the machine code is to be.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if jax.default_backend() == "cpu" else None
    return step_bytes(space, shape, config.training, loss, batch, layout, options)


def _absent(space: TokenSpace, size: int) -> TokenBatch:
    """Returns a batch of samples without any token, of which shapes alone count."""
    ids, features, num_real = {}, {}, {}
    for each in space.ranges:
        count = math.prod(each.token_shape)
        num_real[each.name] = np.zeros(size, np.int32)
        if each.vocab_size:
            ids[each.name] = np.full((size, count), PADDING, np.int32)
        if each.feature_width:
            shape = (size, count, each.feature_width)
            features[each.features_name] = np.zeros(shape, np.float32)
            num_real[each.features_name] = np.zeros(size, np.int32)
    return TokenBatch(ids, num_real, np.arange(size, dtype=np.int32), features or None)


def _planned(name: str, modality: Modality, size: tuple[int, int]) -> TokenRange:
    """Returns the range of a modality, as far as the settings of its tokenizer tell."""
    settings, values = modality.tokenizer, modality.values
    if isinstance(settings, SavedTokenizerConfig):
        saved = load_tokenizer(Path(settings.path).expanduser())
        return TokenSpace.build({name: saved}).ranges[0]
    count = count_tokens(modality, size)
    place = {"index": 0, "first_id": 0, "first_position": 0}
    codes = getattr(settings, "codebook_size", 0)
    if codes:
        patch = getattr(settings, "patch_size", 1)
        rows = size[0] // patch if count > 1 and count % max(size[0] // patch, 1) == 0 else 1
        numbers = getattr(settings, "shown_numbers", 0)
        shape = (rows, count // rows)
        return TokenRange(name, codes, shape, None, **place, feature_width=numbers)
    sentinels = getattr(settings, "num_sentinels", 0)
    special = SequenceTokens(0, 1, sentinels) if sentinels else None
    ids = getattr(settings, "vocab_size", getattr(settings, "num_bins", 256))
    if isinstance(settings, CountsIds):
        ids = settings.count_ids(values)
    elif isinstance(values, BoxList):
        ids = 1 + sentinels + 4 * ids + len(values.class_names)
    return TokenRange(name, ids, (count,), special, **place)

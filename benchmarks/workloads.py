"""Models, modalities and tokens of the sizes that were published, filled with random numbers."""

from dataclasses import replace
from typing import Literal

import jax.numpy as jnp
import numpy as np

from configs.presets.published import fourm_b, fourm_l, fourm_xl
from fourm.interop.transformer.config import build_space, complete_config, to_model_config
from fourm.interop.transformer.modalities import find_published
from fourm.masking.mixture import MaskingComponent, MaskingConfig, Rules
from fourm.model.config import ModelConfig
from fourm.token_space import TokenSpace
from tokenizers.base import PADDING, TokenBatch

Size = Literal["nano", "tiny", "b", "l", "xl"]
Modalities = Literal["7", "21"]
Precision = Literal["float32", "bfloat16"]

MEAN_LENGTHS = {"caption": 26, "det": 41}
"""Mean tokens of texts in 4M's data; other sequences are taken as full."""


def build_workload(
    size: Size = "tiny",
    modalities: Modalities = "7",
    features: bool = False,
    scan_layers: bool = False,
    dtype: Precision = "float32",
) -> tuple[TokenSpace, ModelConfig]:
    """Returns a published model's modalities and shape.

    Args:
        size: tiny is ml-4m's `fm_tiny_6e_6d_swiglu_nobias`, 384 wide, of which no weights were
            published. nano, 32 wide with 1 + 1 layers, is for trying a measurement.
        modalities: Those of 4M-7 or 4M-21.
        features: Also those that are only ever read and have no tokens: pixels, T5 embeddings.
            The others are 7, or 17.
        scan_layers: Scan over layers instead of unrolling them.
        dtype: Precision of activations.
    """
    build = {"l": fourm_l, "xl": fourm_xl}.get(size, fourm_b)
    config = complete_config(build(modalities))
    if size == "tiny":
        config |= {"dim": 384, "encoder_depth": 6, "decoder_depth": 6, "num_heads": 6}
    if size == "nano":
        config |= {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}
    if not features:
        tokens = [name for name in config["domains_in"] if find_published(name).is_predicted]
        config |= {"domains_in": tokens}
    model = replace(to_model_config(config), scan_layers=scan_layers, compute_dtype=dtype)
    return build_space(config, {}), model


def draw_tokens(space: TokenSpace, batch: int, seed: int = 0) -> TokenBatch:
    """Draws random tokens of whole samples, none of them lacking a modality."""
    rng = np.random.default_rng(seed)
    ids, num_real, features = {}, {}, {}
    for entry in space.ranges:
        shape = (batch, entry.num_tokens)
        if entry.kind == "features":
            values = rng.normal(size=(*shape, entry.feature_width))
            features[entry.name] = jnp.asarray(values, jnp.float32)
            num_real[entry.name] = jnp.full(batch, entry.num_tokens, jnp.int32)
            continue
        # Past the ids that have a role in sequences.
        first = 256 if entry.kind == "sequence" else 0
        length = MEAN_LENGTHS.get(entry.name, entry.num_tokens)
        values = rng.integers(first, entry.vocab_size, shape)
        values[:, length:] = PADDING
        ids[entry.name] = jnp.asarray(values, jnp.int32)
        num_real[entry.name] = jnp.full(batch, length, jnp.int32)
    return TokenBatch(ids, num_real, jnp.arange(batch, dtype=jnp.int32), features or None)


def build_mixture(
    space: TokenSpace, budget: int = 128, alpha: float = 0.5, rules: Rules = "ours"
) -> MaskingConfig:
    """Returns one component that shows and asks `budget` tokens of all modalities alike."""
    component = MaskingComponent(
        inputs={entry.name: alpha for entry in space.ranges if entry.is_input},
        targets={entry.name: alpha for entry in space.ranges if entry.is_target},
        num_inputs=(budget, budget),
        num_targets=(budget, budget),
    )
    return MaskingConfig((component,), rules=rules)

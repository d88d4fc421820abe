"""The configuration of a published model, to ours and back."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fourm.interop.tensors import read_settings
from fourm.interop.transformer.modalities import find_published
from fourm.model.config import ModelConfig, PublishedOptions
from fourm.token_space import MASK_ID, TokenRange, TokenSpace

Config = dict[str, Any]

REQUIRED = ("domains_in", "domains_out", "image_size", "patch_size", "norm_bias", "act_layer")
"""Keys without which there is no model."""

DEFAULTS: Config = {
    "dim": 768,
    "encoder_depth": 12,
    "decoder_depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "gated_mlp": False,
    "qk_norm": False,
    "decoder_causal_mask": False,
    "decoder_sep_mask": True,
    "num_register_tokens": 0,
    "share_modality_embeddings": True,
    "use_act_checkpoint": False,
    "drop_path_rate_encoder": 0.0,
    "drop_path_rate_decoder": 0.0,
    "shared_drop_path": False,
}
"""What a key means that is not given. The last four matter to training alone."""

BOUNDS = {
    "image_size": (1, 2**16),
    "patch_size": (1, 2**16),
    "dim": (4, 2**16),
    "encoder_depth": (1, 2**10),
    "decoder_depth": (1, 2**10),
    "num_heads": (1, 2**12),
    "mlp_ratio": (0.01, 2**10),
    "num_register_tokens": (0, 2**16),
}
"""Least and largest value of numbers; rates of dropped paths lie between 0 and 1."""

ALWAYS_WRITTEN = (*REQUIRED, *tuple(DEFAULTS)[:10])
"""Keys that are written even where they have their default."""

ACTIVATION_NAMES = {
    ("GELU", False): "gelu",
    ("SiLU", False): "silu",
    ("ReLU", False): "relu",
    ("GELU", True): "geglu",
    ("SiLU", True): "swiglu",
    ("ReLU", True): "reglu",
}
"""Our names by theirs and whether the MLP is gated."""


def read_config(file: Path, metadata: Mapping[str, str]) -> Config:
    """Returns the complete configuration of a model.

    Args:
        file: Its weights. A config.json beside them counts before their metadata.
        metadata: Of the file, all strings.

    Raises:
        ValueError: If a key is missing, unknown, or has a value of the wrong kind.
    """
    return complete_config(read_settings(file, metadata))


def complete_config(given: Config) -> Config:
    """Returns a configuration with its defaults.

    Raises:
        ValueError: If a key is missing, unknown, or has a value of the wrong kind.
    """
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise ValueError(
            f"The configuration lacks {', '.join(missing)}; put the config.json that the weights "
            "came with beside them."
        )
    unknown = sorted(given.keys() - {*REQUIRED, *DEFAULTS})
    if unknown:
        raise ValueError(
            f"The configuration has {', '.join(unknown)}, which no published model has; known are "
            f"{', '.join((*REQUIRED, *DEFAULTS))}."
        )
    config = DEFAULTS | given
    for key, value in config.items():
        if key.startswith("domains"):
            kind, is_right = "a list of names", isinstance(value, list | tuple)
            is_right = is_right and all(isinstance(name, str) for name in value)
        elif key == "act_layer":
            kind, is_right = "a name", isinstance(value, str)
        elif key == "norm_bias" or isinstance(DEFAULTS.get(key), bool):
            kind, is_right = "True or False", isinstance(value, bool)
        else:
            is_whole = not isinstance(DEFAULTS.get(key), float)
            kind = "a whole number" if is_whole else "a number"
            is_right = not isinstance(value, bool) and isinstance(
                value, int if is_whole else int | float
            )
            least, most = BOUNDS.get(key, (0, 1))
            kind += f", {least} to {most}"
            is_right = is_right and least <= value <= most
        if not is_right:
            raise ValueError(f"The configuration's {key} is {value!r}; it must be {kind}.")
    return config


def domains(config: Config) -> tuple[str, ...]:
    """Returns the names of all modalities in alphabetical order, as published lists are."""
    return tuple(sorted({*config["domains_in"], *config["domains_out"]}))


def to_model_config(config: Config) -> ModelConfig:
    """Returns our configuration of the model.

    Raises:
        ValueError: If the activation is one that we don't have, or the shape impossible.
    """
    pair = (config["act_layer"], config["gated_mlp"])
    if pair not in ACTIVATION_NAMES:
        raise ValueError(
            f"The configuration's act_layer is {pair[0]!r}; known are "
            f"{', '.join(sorted({name for name, _ in ACTIVATION_NAMES}))}."
        )
    sets = [name for name in domains(config) if find_published(name).kind == "code_set"]
    ours = ModelConfig(
        dim=config["dim"],
        num_heads=config["num_heads"],
        encoder_layers=config["encoder_depth"],
        decoder_layers=config["decoder_depth"],
        mlp_ratio=float(config["mlp_ratio"]),
        activation=ACTIVATION_NAMES[pair],
        norm="layernorm",
        qk_norm=config["qk_norm"],
        num_registers=config["num_register_tokens"],
        published=PublishedOptions(
            qkv_bias=config["qkv_bias"],
            out_bias=config["proj_bias"],
            mlp_bias=config["mlp_bias"],
            norm_bias=config["norm_bias"],
            registers_in_context=config["num_register_tokens"] > 0,
            learned_positions=False,
            separate_positions=tuple(sets),
            share_token_embeddings=False,
            share_modality_embeddings=config["share_modality_embeddings"],
            separate_targets=config["decoder_sep_mask"],
            causal_targets=config["decoder_causal_mask"],
        ),
        embedding_std=0.02,
        same_place=False,
        within_place=False,
        inside_boxes=False,
        scan_layers=True,
        remat="blocks" if config["use_act_checkpoint"] else "none",
        # So are they compared with recordings.
        compute_dtype="float32",
    )
    if not ours.num_heads:
        raise ValueError("The configuration's num_heads is 0; it must be at least 1.")
    return ours


def build_space(config: Config, sizes: Mapping[str, int]) -> TokenSpace:
    """Lays out the model's modalities.

    Args:
        config: Complete.
        sizes: Vocabulary of a modality, or width of its embeddings, where not the published one.

    Raises:
        ValueError: If a modality is unknown, or there is none.
    """
    if not config["domains_in"] or not config["domains_out"]:
        raise ValueError("The configuration's domains_in or domains_out is empty; name some.")
    ranges = []
    first_id, first_position = MASK_ID + 1, 0
    for index, name in enumerate(domains(config)):
        known = find_published(name)
        size = sizes.get(name, known.size)
        width = {"pixels": 3 * known.patch**2, "embeddings": size}.get(known.kind, 0)
        entry = TokenRange(
            name=name,
            vocab_size=0 if width else size,
            token_shape=known.token_shape(config["image_size"]),
            special=known.special(size),
            index=index,
            first_id=first_id,
            first_position=first_position,
            feature_width=width,
            feature_bias=known.kind == "embeddings",
            is_input=name in config["domains_in"],
            is_target=name in config["domains_out"] and known.is_predicted,
        )
        ranges.append(entry)
        first_id += entry.vocab_size
        first_position += entry.num_positions
    return TokenSpace(tuple(ranges))


def from_ours(space: TokenSpace, model: ModelConfig) -> Config:
    """Returns the configuration of our model as the published ones have it.

    Raises:
        ValueError: If they have no such model.
    """
    pairs = {ours: pair for pair, ours in ACTIVATION_NAMES.items()}
    act_layer, gated_mlp = pairs[model.activation]
    sets = [e for e in space.ranges if find_published(e.name).kind == "code_set"]
    # What a set of codes covers follows from the picture's size, in their terms.
    image_size = 56 * math.isqrt(sets[0].num_tokens) if sets else 224
    config = DEFAULTS | {
        "domains_in": [entry.name for entry in space.ranges if entry.is_input],
        "domains_out": [entry.name for entry in space.ranges if entry.is_target],
        "image_size": image_size,
        "patch_size": 16,
        "norm_bias": model.published.norm_bias,
        "act_layer": act_layer,
        "dim": model.dim,
        "encoder_depth": model.encoder_layers,
        "decoder_depth": model.decoder_layers,
        "num_heads": model.num_heads,
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.published.qkv_bias,
        "proj_bias": model.published.out_bias,
        "mlp_bias": model.published.mlp_bias,
        "gated_mlp": gated_mlp,
        "qk_norm": model.qk_norm,
        "decoder_causal_mask": model.published.causal_targets,
        "decoder_sep_mask": model.published.separate_targets,
        "num_register_tokens": model.num_registers,
        "share_modality_embeddings": model.published.share_modality_embeddings,
        "use_act_checkpoint": model.remat != "none",
    }
    again = to_model_config(config)
    # These are matters of starting and of computing, not of what is computed.
    free = ("embedding_std", "scan_layers", "remat", "compute_dtype")
    again = replace(again, **{name: getattr(model, name) for name in free})
    parts = ((model, again), (model.published, again.published))
    wrong = {
        field.name: getattr(ours, field.name)
        for ours, theirs in parts
        for field in fields(ours)
        if field.name != "published" and getattr(ours, field.name) != getattr(theirs, field.name)
    }
    if wrong:
        told = ", ".join(f"{name} {value!r}" for name, value in wrong.items())
        raise ValueError(f"Published models have no {told}; this model can't be written as one.")
    sizes = {entry.name: entry.vocab_size or entry.feature_width for entry in space.ranges}
    for ours, theirs in zip(space.ranges, build_space(config, sizes).ranges, strict=True):
        if ours != theirs:
            raise ValueError(
                f"The modality {ours.name} is not laid out as in published models: it has shape "
                f"{ours.token_shape}, there {theirs.token_shape}; this model can't be written as "
                "one."
            )
    return config


def write_metadata(config: Config) -> dict[str, str]:
    """Returns a configuration as a file's metadata, all strings."""
    return {
        key: str(value)
        for key, value in config.items()
        if key in ALWAYS_WRITTEN or value != DEFAULTS[key]
    }

"""Published diffusion tokenizers (DiVAE): their configurations and tensors, to ours and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from flax import nnx
from jaxtyping import Float

from fourm.interop.autoencoders.encoder import (
    Config,
    build_abstract,
    export_encoder,
    export_encoder_config,
    load_encoder,
    read_decoder_settings,
    read_encoder_config,
    read_presets,
)
from fourm.interop.autoencoders.published_folder import write_published
from fourm.interop.autoencoders.vqvae import default_statistics, default_values
from fourm.interop.tensors import (
    CONVOLUTION,
    SAME,
    Layout,
    Place,
    Places,
    Tensors,
    export,
    linear,
    load,
    norm,
    read_file,
    require_none,
)
from tokenizers.images.diffusion import DiffusionConfig, Prediction, Sampler
from tokenizers.images.diffusion_tokenizer import (
    DiffusionTokenizer,
    DiffusionTokenizerConfig,
    SamplingConfig,
)
from tokenizers.images.unet import Attention, Downsample, ResidualBlock, UNet, UNetConfig, Upsample
from tokenizers.values import DenseValues

UNETS = {
    "unet_patched": {
        "patch_size": 4,
        "model_channels": 256,
        "num_res_blocks": 3,
        "attention_resolutions": [4, 8],
        "channel_mult": [1, 2, 2, 2],
    }
}
"""Sizes of the published decoder, by the name of its type."""

UNET_DEFAULTS = {"num_heads": 1, "groups": 32}

NUM_STEPS = 50
"""Steps of sampling of an imported tokenizer; no configuration says how many."""

DECODER_DEFAULTS: Config = {
    "dec_type": "unet_patched",
    "num_train_timesteps": 1000,
    "cls_free_guidance_dropout": 0.0,
    "masked_cfg": False,
    "masked_cfg_low": 0,
    "masked_cfg_high": None,
    "scheduler": "ddpm",
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "thresholding": True,
    "zero_terminal_snr": True,
    "image_size_dec": None,
    # Of decoders that are no U-nets, which are refused by their dec_type.
    "conditioning": "concat",
    "dec_transformer_dropout": 0.2,
}
"""What a configuration leaves out, for the decoder."""

SEQUENCE = Layout(lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None])
"""A convolution of width 1 over a sequence, and a linear layer."""


def import_divae(
    path: Path,
    values: DenseValues | None = None,
    statistics: Mapping[str, Float[np.ndarray, "..."]] | None = None,
    grid: tuple[int, int] | None = None,
) -> DiffusionTokenizer:
    """Reads a published diffusion tokenizer.

    Args:
        path: A .safetensors file with its config.json, if any, beside it; or their folder.
        values: What raw values mean; by default the numbers that its networks read, as they are.
        statistics: How raw values become what the networks read; by default as little as
            possible: colours go to [-1, 1].
        grid: Patches (down, across) of the pictures it will be used for; by default those that
            it was trained on.

    Raises:
        ValueError: If the file or its configuration is not as it should be, with names.
    """
    tensors, settings = read_file(path)
    config, theirs = read_divae_config(settings, read_presets(path))
    channels = theirs["n_channels"]
    values = values or default_values(theirs)
    statistics = statistics or default_statistics(values, theirs["undo_std"])
    if values.num_outputs < channels:
        raise ValueError(
            f"The tokenizer draws {channels} channels, but {type(values).__name__} as given takes "
            f"{values.num_outputs}; give other values."
        )
    tokenizer = build_abstract(DiffusionTokenizer, config, values, statistics, grid)
    leftover = load_encoder(tokenizer, config.encoder, channels, tensors)
    require_none(load(tokenizer, unet_places(tokenizer.decoder), leftover))
    return tokenizer


def read_divae_config(
    settings: Mapping[str, Any], presets: Mapping[str, Config]
) -> tuple[DiffusionTokenizerConfig, Config]:
    """Returns our configuration, and theirs with what it leaves out.

    Raises:
        ValueError: If a setting is unknown, or has a value that is.
    """
    encoder, theirs, rest = read_encoder_config(settings, presets)
    theirs |= read_decoder_settings(rest, theirs, DECODER_DEFAULTS, "diffusion tokenizer")
    if theirs["n_labels"]:
        raise ValueError(
            f"The configuration has n_labels {theirs['n_labels']}; diffusion tokenizers of class "
            "maps can't be read, only those of numbers."
        )
    if theirs["image_size_dec"] not in (None, theirs["image_size"]):
        raise ValueError(
            f"The configuration has image_size {theirs['image_size']} and image_size_dec "
            f"{theirs['image_size_dec']}; only tokenizers that draw what they read can be read."
        )
    prediction = one_of("prediction_type", theirs["prediction_type"], get_args(Prediction))
    limit = "clip" if theirs["clip_sample"] else "none"
    schedule = theirs["beta_schedule"]
    ends_without_signal = theirs["zero_terminal_snr"] or schedule.startswith("shifted_cosine")
    return (
        DiffusionTokenizerConfig(
            encoder=encoder,
            decoder=read_unet(theirs["dec_type"], presets),
            diffusion=DiffusionConfig(
                num_timesteps=theirs["num_train_timesteps"],
                schedule=schedule,
                prediction=prediction,
                zero_terminal_snr=theirs["zero_terminal_snr"],
                limit="threshold" if theirs["thresholding"] else limit,
                may_divide_by_zero=prediction == "epsilon" and ends_without_signal,
            ),
            sampling=SamplingConfig(
                sampler=one_of("scheduler", theirs["scheduler"], get_args(Sampler)),
                num_steps=min(NUM_STEPS, theirs["num_train_timesteps"]),
            ),
            code_dropout=theirs["cls_free_guidance_dropout"],
            codes_kept=_codes_kept(theirs, encoder.native_grid),
        ),
        theirs,
    )


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    """Returns a setting, if it is one of those known."""
    if value not in allowed:
        raise ValueError(
            f"The configuration's {name} is {value!r}; it must be one of {', '.join(allowed)}."
        )
    return value


def read_unet(kind: str, presets: Mapping[str, Config]) -> UNetConfig:
    """Returns the sizes that the name of a type stands for.

    Args:
        kind: The name.
        presets: Sizes of those that have no published name.
    """
    known = UNETS | {name: sizes for name, sizes in presets.items() if name.startswith("unet_")}
    if kind not in known:
        raise ValueError(
            f"The configuration names a decoder {kind!r}; known are {', '.join(known)}, or put its "
            "sizes into a preset.json beside the file."
        )
    sizes = UNET_DEFAULTS | known[kind]
    allowed = {*UNETS["unet_patched"], *UNET_DEFAULTS}
    if set(sizes) != allowed:
        raise ValueError(
            f"preset.json gives {kind} {', '.join(sorted(sizes))}; it takes "
            f"{', '.join(sorted(allowed))}."
        )
    return UNetConfig(
        patch_size=sizes["patch_size"],
        width=sizes["model_channels"],
        multipliers=tuple(sizes["channel_mult"]),
        num_blocks=sizes["num_res_blocks"],
        attention_at=tuple(sizes["attention_resolutions"]),
        num_heads=sizes["num_heads"],
        num_groups=sizes["groups"],
    )


def unet_name(config: UNetConfig) -> tuple[str, Config]:
    """Returns the name of a U-net's type, and sizes for preset.json if it has no public one."""
    sizes = {
        "patch_size": config.patch_size,
        "model_channels": config.width,
        "num_res_blocks": config.num_blocks,
        "attention_resolutions": list(config.attention_at),
        "channel_mult": list(config.multipliers),
        "num_heads": config.num_heads,
        "groups": config.num_groups,
    }
    for name, published in UNETS.items():
        if UNET_DEFAULTS | published == sizes:
            return name, {}
    return "unet_own", {"unet_own": sizes}


def unet_places(unet: UNet, ours: str = "decoder") -> Places:
    """Returns where the arrays of a `UNet` are in the file.

    Args:
        unet: May be abstract.
        ours: Path of the module in what contains it.
    """
    places = linear(f"{ours}/time_in", "decoder.time_embed.0")
    places |= linear(f"{ours}/time_out", "decoder.time_embed.2")
    for side, their_side in (("down", "input_blocks"), ("up", "output_blocks")):
        for i, layers in enumerate(getattr(unet, side)):
            for j, layer in enumerate(layers):
                path = f"{ours}/{side}/{i}/{j}"
                places |= _layer_places(layer, path, f"decoder.{their_side}.{i}.{j}")
    for j, layer in enumerate(unet.middle):
        places |= _layer_places(layer, f"{ours}/middle/{j}", f"decoder.middle_block.{j}")
    places |= norm(f"{ours}/norm", "decoder.out.0")

    # Where pictures go in and out, channels of a patch come first there and last here.
    order = _patch_order(unet.channels, unet.config.patch_size)
    codes = len(order) + np.arange(unet.code_dim)
    places[f"{ours}/down/0/0/kernel"] = Place(
        "decoder.input_blocks.0.0.weight", _reordered(CONVOLUTION, np.append(order, codes), axis=1)
    )
    places[f"{ours}/out/kernel"] = Place("decoder.out.2.weight", _reordered(CONVOLUTION, order))
    places[f"{ours}/out/bias"] = Place("decoder.out.2.bias", _reordered(SAME, order))
    return places


def export_tensors(tokenizer: DiffusionTokenizer) -> Tensors:
    """Returns a tokenizer's tensors as they lie in a published file."""
    tensors = export_encoder(tokenizer, tokenizer.config.encoder, tokenizer.num_inputs)
    return tensors | export(tokenizer, unet_places(tokenizer.decoder))


def export_config(tokenizer: DiffusionTokenizer) -> tuple[Config, Config]:
    """Returns a published tokenizer's configuration, and sizes of networks for preset.json.

    Raises:
        ValueError: If their classes have no such tokenizer.
    """
    config = tokenizer.config
    if tokenizer.num_inputs != tokenizer.num_channels:
        raise ValueError(
            f"This tokenizer reads {tokenizer.num_inputs} channels and draws "
            f"{tokenizer.num_channels}; ml-4m's read what they draw: set encoder.num_channels."
        )
    settings, presets = export_encoder_config(config.encoder, tokenizer.num_channels, None)
    name, more_presets = unet_name(config.decoder)
    fewest, most = config.codes_kept
    settings |= {
        "dec_type": name,
        "num_train_timesteps": config.diffusion.num_timesteps,
        "beta_schedule": config.diffusion.schedule,
        "prediction_type": config.diffusion.prediction,
        "zero_terminal_snr": config.diffusion.zero_terminal_snr,
        "thresholding": config.diffusion.limit == "threshold",
        "clip_sample": config.diffusion.limit == "clip",
        "scheduler": config.sampling.sampler,
        "cls_free_guidance_dropout": config.code_dropout,
        "masked_cfg": most > 0,
        "masked_cfg_low": fewest,
    }
    if most:
        settings["masked_cfg_high"] = most
    return settings, presets | more_presets


def export_divae(tokenizer: DiffusionTokenizer, folder: Path) -> None:
    """Writes a tokenizer as a published one: model.safetensors, config.json and preset.json.

    The normalisation is not part of it: their networks take what ours take after it.

    Raises:
        ValueError: If their classes have no such tokenizer.
    """
    settings, presets = export_config(tokenizer)  # Which says if there is no such tokenizer.
    write_published(folder, export_tensors(tokenizer), settings, presets)


def _layer_places(layer: nnx.Module, ours: str, theirs: str) -> Places:
    """Returns where the arrays of one layer of a block are."""
    match layer:
        case nnx.Conv():
            return linear(ours, theirs, CONVOLUTION)
        case Downsample():
            return linear(f"{ours}/conv", f"{theirs}.op", CONVOLUTION)
        case Upsample():
            return linear(f"{ours}/conv", f"{theirs}.conv", CONVOLUTION)
        case Attention():
            places = norm(f"{ours}/norm", f"{theirs}.norm")
            places |= linear(f"{ours}/qkv", f"{theirs}.qkv", SEQUENCE)
            return places | linear(f"{ours}/out", f"{theirs}.proj_out", SEQUENCE)
        case ResidualBlock():
            places = norm(f"{ours}/norm1", f"{theirs}.in_layers.0")
            places |= linear(f"{ours}/conv1", f"{theirs}.in_layers.2", CONVOLUTION)
            places |= linear(f"{ours}/time", f"{theirs}.emb_layers.1")
            places |= norm(f"{ours}/norm2", f"{theirs}.out_layers.0")
            places |= linear(f"{ours}/conv2", f"{theirs}.out_layers.3", CONVOLUTION)
            if layer.shortcut is not None:
                places |= linear(f"{ours}/shortcut", f"{theirs}.skip_connection", CONVOLUTION)
            return places
    raise TypeError(f"A U-net has no layers of type {type(layer).__name__}.")


def _patch_order(channels: int, size: int) -> np.ndarray:
    """Returns which number of their patch each number of ours is."""
    theirs = np.arange(channels * size * size).reshape(channels, size, size)
    return np.moveaxis(theirs, 0, 2).ravel()


def _reordered(layout: Layout, order: np.ndarray, axis: int = 0) -> Layout:
    """Returns a layout whose file has the entries along an axis in another order."""
    back = np.argsort(order)
    return Layout(
        lambda a: layout.to_ours(np.take(a, order, axis)),
        lambda a: np.take(layout.to_theirs(a), back, axis),
    )


def _codes_kept(theirs: Config, grid: tuple[int, int]) -> tuple[int, int]:
    """Returns how many codes a picture that loses codes keeps, fewest and most.

    What a configuration calls the number of codes to mask out is the number that is kept.
    """
    if not theirs["masked_cfg"]:
        return 0, 0
    low, high = theirs["masked_cfg_low"], theirs["masked_cfg_high"]
    high = grid[0] * grid[1] if high is None else high
    if not (type(low) is type(high) is int and 0 <= low <= high):
        raise ValueError(
            f"The configuration's masked_cfg_low is {low!r} and masked_cfg_high {high!r}; they "
            "must be whole numbers, the first at least 0 and at most the second."
        )
    return low, high

"""Published VQ-VAE tokenizers: their configurations and tensors, to ours and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fourm.interop.autoencoders.encoder import (
    Config,
    build_abstract,
    encoder_places,
    export_encoder,
    export_encoder_config,
    image_size,
    load_encoder,
    native_grid,
    network_name,
    network_places,
    read_decoder_settings,
    read_encoder_config,
    read_network,
    read_presets,
)
from fourm.interop.autoencoders.published_folder import write_published
from fourm.interop.tensors import (
    CONVOLUTION,
    LINEAR,
    POINTWISE,
    SAME,
    Place,
    Places,
    Tensors,
    export,
    linear,
    load,
    norm,
    patches_out,
    read_file,
    require_none,
)
from tokenizers.images.vit_tokenizer import DecoderConfig, ViTTokenizer, ViTTokenizerConfig
from tokenizers.values import Classes, Colors, DenseValues, Reals

DECODER_DEFAULTS: Config = {
    "dec_type": "vit_b_dec",
    "out_conv": False,
    "image_size_dec": None,
    "patch_size_dec": None,
}
"""What a configuration leaves out, for the half that draws."""

NUM_CONVOLUTIONS = 2
"""Blocks of an `out_conv`."""

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def import_vqvae(
    path: Path,
    values: DenseValues | None = None,
    statistics: Mapping[str, Float[np.ndarray, "..."]] | None = None,
    grid: tuple[int, int] | None = None,
) -> ViTTokenizer:
    """Reads a published tokenizer.

    Args:
        path: A .safetensors file with its config.json, if any, beside it; or their folder.
        values: What raw values mean. By default class indices, if the tokenizer is for class
            maps, and else the numbers that its network reads, as they are.
        statistics: How raw values become what the network reads; by default as little as
            possible: colours go to [-1, 1].
        grid: Patches (down, across) of the pictures it will be used for; by default those that
            it was trained on.

    Raises:
        ValueError: If the file or its configuration is not as it should be, with names.
    """
    tensors, settings = read_file(path)
    config, theirs = read_vqvae_config(settings, read_presets(path))
    if values is None:
        values = default_values(theirs)
    if statistics is None:
        statistics = default_statistics(values, theirs["undo_std"])
    channels, labels = theirs["n_channels"], theirs["n_labels"]
    if values.num_outputs != (labels or channels):
        raise ValueError(
            f"The tokenizer draws {labels or channels} channels, but {type(values).__name__} as "
            f"given takes {values.num_outputs}; give other values."
        )
    tokenizer = build_abstract(ViTTokenizer, config, values, statistics, grid)
    leftover = load_encoder(tokenizer, config.encoder, channels, tensors)
    require_none(load(tokenizer, decoder_places(config, labels or channels), leftover))
    return tokenizer


def read_vqvae_config(
    settings: Mapping[str, Any], presets: Mapping[str, Config]
) -> tuple[ViTTokenizerConfig, Config]:
    """Returns our configuration, and theirs with what it leaves out.

    Raises:
        ValueError: If a setting is unknown, or has a value that is.
    """
    encoder, theirs, rest = read_encoder_config(settings, presets)
    theirs |= read_decoder_settings(rest, theirs, DECODER_DEFAULTS, "VQ-VAE")
    network = read_network(theirs["dec_type"], theirs["post_mlp"], presets)
    patch_size = theirs["patch_size_dec"] or theirs["patch_size"]
    is_pointwise = network.kind == "mlp" or not theirs["patch_proj"]
    has_convolutions = theirs["out_conv"] and network.kind == "vit"
    decoder = DecoderConfig(
        patch_size=1 if is_pointwise else patch_size,
        network=network,
        native_grid=native_grid(
            network, theirs["image_size_dec"] or theirs["image_size"], patch_size
        ),
        num_convolutions=NUM_CONVOLUTIONS if has_convolutions else 0,
    )
    return ViTTokenizerConfig(encoder=encoder, decoder=decoder), theirs


def default_values(theirs: Mapping[str, Any]) -> DenseValues:
    """Returns the kind of values that says least about what a tokenizer reads."""
    if theirs["n_labels"]:
        return Classes(tuple(f"class {i}" for i in range(theirs["n_labels"])), ignore=-1)
    return Reals(theirs["n_channels"])


def default_statistics(values: DenseValues, undo_std: bool) -> dict[str, np.ndarray]:
    """Returns a normalisation that changes as little as possible.

    Args:
        values: Class maps, colours, which go to [-1, 1], or real values.
        undo_std: Whether real values are standardised as for ImageNet, and go to [-1, 1] too.
    """
    match values:
        case Classes():
            return {"weight": np.ones(len(values.names), np.float32)}
        case Colors():
            return {name: np.full(3, 127.5, np.float32) for name in ("mean", "std")}
        case Reals() if undo_std:
            # (x - mean) / std = 2 * (x * imagenet_std + imagenet_mean) - 1
            std = 1 / (2 * IMAGENET_STD)
            return {"mean": (1 - 2 * IMAGENET_MEAN) * std, "std": std}
        case Reals():
            shape = values.channels
            return {"mean": np.zeros(shape, np.float32), "std": np.ones(shape, np.float32)}
    raise ValueError(
        f"There is no known normalisation of {type(values).__name__} for published tokenizers; "
        "give statistics=."
    )


def decoder_places(config: ViTTokenizerConfig, channels: int) -> Places:
    """Returns where the arrays between codes and pictures are in the file.

    Args:
        config: Of the tokenizer.
        channels: That it draws.
    """
    decoder = config.decoder
    places = linear("unproject", "post_quant_proj", POINTWISE)
    places |= network_places(decoder.network, "decoder", "decoder")
    if decoder.network.kind == "mlp":
        places |= linear("decoder/into", "decoder.linear_in")
        places |= linear("decoder/out", "decoder.linear_out")
        return places
    layout = patches_out(channels, decoder.patch_size or config.patch_size)
    places["decoder/out/kernel"] = Place("decoder.out_proj.weight", layout)
    places["decoder/out/bias"] = Place("decoder.out_proj.bias", layout)
    for i in range(decoder.num_convolutions):
        ours, theirs = f"decoder/convolutions/{i}", f"decoder.out_conv.{i}"
        places[f"{ours}/scale"] = Place(f"{theirs}.gamma", SAME)
        places |= linear(f"{ours}/depthwise", f"{theirs}.dwconv", CONVOLUTION)
        places |= norm(f"{ours}/norm", f"{theirs}.norm")
        places |= linear(f"{ours}/mlp/up", f"{theirs}.pwconv1", LINEAR)
        places |= linear(f"{ours}/mlp/down", f"{theirs}.pwconv2", LINEAR)
    return places


def vqvae_places(tokenizer: ViTTokenizer) -> Places:
    """Returns where all arrays of a tokenizer are in the file."""
    config = tokenizer.config
    return encoder_places(config.encoder, _channels_read(config, tokenizer.values)) | (
        decoder_places(config, tokenizer.values.num_outputs)
    )


def export_tensors(tokenizer: ViTTokenizer) -> Tensors:
    """Returns a tokenizer's tensors as they lie in a published file."""
    config = tokenizer.config
    tensors = export_encoder(tokenizer, config.encoder, _channels_read(config, tokenizer.values))
    return tensors | export(tokenizer, decoder_places(config, tokenizer.values.num_outputs))


def export_config(tokenizer: ViTTokenizer) -> tuple[Config, Config]:
    """Returns a published tokenizer's configuration, and sizes of networks for preset.json.

    Raises:
        ValueError: If their classes have no such tokenizer.
    """
    config, values = tokenizer.config, tokenizer.values
    encoder, decoder = config.encoder, config.decoder
    patch_size = decoder.patch_size or config.patch_size
    channels = _channels_read(config, values)
    is_same = values.num_outputs == channels or encoder.class_channels
    networks = (encoder.network, decoder.network)
    has_patches = [
        network.kind == "mlp" and size != 1
        for network, size in zip(networks, (config.patch_size, patch_size), strict=True)
    ]
    if (
        not is_same
        or any(has_patches)
        or len({n.final_mlp for n in networks if n.kind == "vit"}) > 1
        or decoder.num_convolutions not in (0, NUM_CONVOLUTIONS)
    ):
        raise ValueError(
            f"This tokenizer reads {channels} channels and draws {values.num_outputs}, with "
            f"{decoder.num_convolutions} convolutions; ml-4m's read what they draw (set "
            "encoder.num_channels), have 0 or 2 convolutions, mlps without patches, and "
            "final_mlp on both sides or none."
        )
    settings, presets = export_encoder_config(
        encoder, channels, values.num_outputs if encoder.class_channels else None
    )
    name, more_presets = network_name(decoder.network, "dec")
    settings |= {"dec_type": name, "out_conv": decoder.num_convolutions > 0}
    if decoder.network.kind == "vit":
        settings["image_size_dec"] = image_size(decoder.native_grid, patch_size)
        settings["patch_size_dec"] = patch_size
        settings["post_mlp"] = decoder.network.final_mlp
    return settings, presets | more_presets


def export_vqvae(tokenizer: ViTTokenizer, folder: Path) -> None:
    """Writes a tokenizer as a published one: model.safetensors, config.json and preset.json.

    The normalisation is not part of it: their networks take what ours take after it.

    Raises:
        ValueError: If their classes have no such tokenizer.
    """
    settings, presets = export_config(tokenizer)  # Which says if there is no such tokenizer.
    write_published(folder, export_tensors(tokenizer), settings, presets)


def _channels_read(config: ViTTokenizerConfig, values: DenseValues) -> int:
    encoder = config.encoder
    return encoder.class_channels or encoder.num_channels or values.num_inputs

"""The half of published tokenizers that makes ids: configuration and tensors, to ours and back.

VQ-VAE and diffusion tokenizers share it. `read_encoder_config` and `load_encoder` take what
concerns it and return the rest, which is the other half's.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from fourm.interop.tensors import (
    POINTWISE,
    POSITIONS,
    SAME,
    Place,
    Places,
    Tensors,
    export,
    linear,
    load,
    norm,
    patches_in,
)
from tokenizers.images.code_encoder import CodeEncoder, CodeEncoderConfig, QuantizerConfig
from tokenizers.images.learned_tokenizer import DenseTokenizer
from tokenizers.images.vit import NetworkConfig
from tokenizers.values.dense import DenseValues

Config = dict[str, Any]

NETWORKS = {
    "vit_s": {"dim_tokens": 512, "depth": 8, "num_heads": 8},
    "vit_b": {"dim_tokens": 768, "depth": 12, "num_heads": 12},
    "vit_l": {"dim_tokens": 1024, "depth": 24, "num_heads": 16},
}
"""Sizes of the published networks, by the name of their type without `_enc` or `_dec`."""

NETWORK_DEFAULTS = {"mlp_ratio": 4, "qkv_bias": True, "norm_eps": 1e-6}

ENCODER_DEFAULTS: Config = {
    "image_size": 224,
    "image_size_enc": None,
    "n_channels": 3,
    "n_labels": None,
    "enc_type": "vit_b_enc",
    "patch_proj": True,
    "post_mlp": False,
    "patch_size": 16,
    "quant_type": "lucid",
    "codebook_size": 16384,
    "num_codebooks": 1,
    "latent_dim": 32,
    "norm_codes": True,
    "norm_latents": False,
    # Sums over a batch here are sums over all of it, on however many devices.
    "sync_codebook": True,
    "ema_decay": 0.99,
    "threshold_ema_dead_code": 0.25,
    "code_replacement_policy": "batch_random",
    "commitment_weight": 1.0,
    # Of no effect once codes are there; a file without any is refused.
    "kmeans_init": False,
    "ckpt_path": None,
    "ignore_keys": None,
    "freeze_enc": False,
    "undo_std": False,
}
"""What a configuration leaves out, for the half that makes ids."""

REPLACEMENTS = {"batch_random": "latents", "linde_buzo_gray": "split"}


def read_presets(path: Path) -> dict[str, Config]:
    """Returns the sizes of networks that lie beside a file, by name; none where there are none."""
    file = (path if path.is_dir() else path.parent) / "preset.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_encoder_config(
    config: Mapping[str, Any], presets: Mapping[str, Config]
) -> tuple[CodeEncoderConfig, Config, Config]:
    """Reads what a configuration says of the half that makes ids.

    Args:
        config: All of it.
        presets: Sizes of networks that have no published name.

    Returns:
        encoder: Ours.
        settings: Theirs, of this half, with what it leaves out.
        leftover: What it says of the other half.
    """
    settings = {
        name: checked(name, config.get(name, default), default)
        for name, default in ENCODER_DEFAULTS.items()
    }
    leftover = {name: value for name, value in config.items() if name not in settings}
    if settings["ckpt_path"] is not None:
        raise ValueError(
            f"The configuration's ckpt_path is {settings['ckpt_path']!r}, a pickle; only weights "
            "in the file itself are read."
        )
    network = read_network(settings["enc_type"], settings["post_mlp"], presets)
    is_pointwise = network.kind == "mlp" or not settings["patch_proj"]
    return (
        CodeEncoderConfig(
            patch_size=1 if is_pointwise else settings["patch_size"],
            network=network,
            quantizer=_quantizer(settings),
            native_grid=native_grid(
                network,
                settings["image_size_enc"] or settings["image_size"],
                settings["patch_size"],
            ),
            num_channels=0 if settings["n_labels"] else settings["n_channels"],
            class_channels=settings["n_channels"] if settings["n_labels"] else 0,
            is_frozen=settings["freeze_enc"],
        ),
        settings,
        leftover,
    )


def read_network(kind: str, final_mlp: bool, presets: Mapping[str, Config]) -> NetworkConfig:
    """Returns the layers that the name of a type stands for."""
    mlp = re.fullmatch(r"BottleneckMLP/B_(\d+)-Wi_(\d+)(?:-E_(\d+))?", kind)
    if mlp:
        depth, width, expansion = (int(group or 4) for group in mlp.groups())
        return NetworkConfig(
            kind="mlp", depth=depth, width=width, expansion=float(expansion), norm_epsilon=1e-5
        )
    known = NETWORKS | dict(presets)
    name = kind if kind in known else re.sub("_(enc|dec)$", "", kind)
    if name not in known or not name.startswith("vit"):
        raise ValueError(
            f"The configuration names a network {kind!r}; known are BottleneckMLP/B_n-Wi_w[-E_e] "
            f"and {', '.join(n for n in known if n.startswith('vit'))} (followed by _enc or "
            "_dec), or put its sizes into a preset.json beside the file."
        )
    sizes = NETWORK_DEFAULTS | known[name]
    allowed = {"dim_tokens", "depth", "num_heads", *NETWORK_DEFAULTS}
    if set(sizes) != allowed:
        raise ValueError(
            f"preset.json gives {name} {', '.join(sorted(sizes))}; it takes "
            f"{', '.join(sorted(allowed))}."
        )
    return NetworkConfig(
        width=sizes["dim_tokens"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        expansion=float(sizes["mlp_ratio"]),
        qkv_bias=sizes["qkv_bias"],
        norm_epsilon=float(sizes["norm_eps"]),
        final_mlp=final_mlp,
    )


def encoder_places(config: CodeEncoderConfig, channels: int, ours: str = "encoder") -> Places:
    """Returns where the arrays of a `CodeEncoder` are in the file.

    Args:
        config: Its settings.
        channels: That its network reads: the classes', where it has them.
        ours: Path of the module in what contains it.
    """
    network, quantizer = config.network, config.quantizer
    places = network_places(network, f"{ours}/network", "encoder")
    if network.kind == "vit":
        layout = patches_in(channels, config.patch_size)
        places |= linear(f"{ours}/network/into", "encoder.proj", layout)
    else:
        places |= linear(f"{ours}/network/into", "encoder.linear_in")
        places |= linear(f"{ours}/network/out", "encoder.linear_out")
    places |= linear(f"{ours}/project", "quant_proj", POINTWISE)
    if config.class_channels:
        places[f"{ours}/classes"] = Place("cls_emb.weight", SAME)
    if quantizer.kind == "memcodes":
        places[f"{ours}/quantizer/codes"] = Place("quantize.codes", SAME)
        places[f"{ours}/quantizer/to_key"] = Place("quantize.to_k.weight", SAME)
        places[f"{ours}/quantizer/to_value"] = Place("quantize.to_v.weight", SAME)
        return places
    codebook = "quantize._codebook"
    places[f"{ours}/quantizer/codes"] = Place(f"{codebook}.embed", SAME)
    places[f"{ours}/quantizer/counts"] = Place(f"{codebook}.cluster_size", SAME)
    if quantizer.distance == "euclidean":
        places[f"{ours}/quantizer/sums"] = Place(f"{codebook}.embed_avg", SAME)
    return places


def load_encoder(
    module: nnx.Module,
    config: CodeEncoderConfig,
    channels: int,
    tensors: Mapping[str, np.ndarray],
    ours: str = "encoder",
) -> Tensors:
    """Fills the half that makes ids and returns the tensors that it did not need.

    Args:
        module: What contains a `CodeEncoder`, may be abstract.
        config: The encoder's settings.
        channels: That its network reads.
        tensors: Of the file.
        ours: The attribute of `module` that is the encoder.

    Raises:
        ValueError: If tensors are missing or of another shape, with their names.
    """
    leftover = load(module, encoder_places(config, channels, ours), tensors)
    encoder: CodeEncoder = getattr(module, ours)
    if config.quantizer.kind == "vq":
        initted = leftover.pop("quantize._codebook.initted", np.ones(1))
        if not np.all(initted):
            raise ValueError(
                "The file's codebook was never started (quantize._codebook.initted is 0); it "
                "holds an untrained tokenizer."
            )
        if config.quantizer.distance == "cosine":
            encoder.quantizer.sums.set_value(encoder.quantizer.codes.get_value())
    return leftover


def export_encoder(
    module: nnx.Module, config: CodeEncoderConfig, channels: int, ours: str = "encoder"
) -> Tensors:
    """Returns the tensors of the half that makes ids, as they lie in a file."""
    tensors = export(module, encoder_places(config, channels, ours))
    if config.quantizer.kind == "vq":
        tensors["quantize._codebook.initted"] = np.ones(1, np.float32)
    return tensors


def export_encoder_config(
    config: CodeEncoderConfig, channels: int, num_classes: int | None
) -> tuple[Config, Config]:
    """Returns a configuration that reads as `config`, and sizes for preset.json.

    Raises:
        ValueError: If their classes have no such tokenizer.
    """
    quantizer = config.quantizer
    counts = quantizer.kind == "vq" and quantizer.averages == "counts"
    if quantizer.kind != "memcodes" and not (counts and quantizer.num_heads == 1):
        raise ValueError(
            f"A quantiser of kind {quantizer.kind} with num_heads={quantizer.num_heads} and "
            f"averages={quantizer.averages} has no counterpart in ml-4m; export takes vq with "
            "averages=counts and one head, and memcodes."
        )
    name, presets = network_name(config.network, "enc")
    settings: Config = {
        "enc_type": name,
        "n_channels": channels,
        "n_labels": num_classes,
        "latent_dim": quantizer.code_dim,
        "codebook_size": quantizer.codebook_size,
        "sync_codebook": False,
        "freeze_enc": config.is_frozen,
    }
    if config.network.kind == "vit":
        settings["image_size"] = image_size(config.native_grid, config.patch_size)
        settings["patch_size"] = config.patch_size
        settings["post_mlp"] = config.network.final_mlp
    if quantizer.kind == "memcodes":
        settings |= {"quant_type": "memcodes", "num_codebooks": quantizer.num_heads}
    else:
        policies = {ours: theirs for theirs, ours in REPLACEMENTS.items()}
        settings |= {
            "norm_codes": quantizer.distance == "cosine",
            "norm_latents": quantizer.normalize_latents,
            "ema_decay": quantizer.decay,
            "commitment_weight": quantizer.commitment,
            "threshold_ema_dead_code": quantizer.rare,
            "code_replacement_policy": policies[quantizer.replacement],
        }
    return {name: value for name, value in settings.items() if value is not None}, presets


def network_name(config: NetworkConfig, half: str) -> tuple[str, Config]:
    """Returns the name of a network's type, and sizes for preset.json if it has no public one."""
    if config.kind == "mlp":
        if config.expansion != int(config.expansion) or config.norm_epsilon != 1e-5:
            raise ValueError(
                f"An mlp of expansion={config.expansion} and norm_epsilon={config.norm_epsilon} "
                "has no counterpart in ml-4m, which has whole expansions and 1e-5."
            )
        expansion = "" if config.expansion == 4 else f"-E_{int(config.expansion)}"
        return f"BottleneckMLP/B_{config.depth}-Wi_{config.width}{expansion}", {}
    sizes = {
        "dim_tokens": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.expansion,
        "qkv_bias": config.qkv_bias,
        "norm_eps": config.norm_epsilon,
    }
    for name, published in NETWORKS.items():
        if NETWORK_DEFAULTS | published == sizes:
            return f"{name}_{half}", {}
    name = f"vit_own_{half}"
    return name, {name: sizes}


def network_places(config: NetworkConfig, ours: str, theirs: str) -> Places:
    """Returns where the arrays of a network's layers are, without what leads in and out."""
    places: Places = {}
    if config.kind == "mlp":
        for i in range(config.depth):
            block = f"{ours}/layers/blocks/{i}"
            places |= norm(f"{ours}/layers/norms/{i}", f"{theirs}.layernorms.{i}")
            places |= linear(f"{block}/up", f"{theirs}.blocks.{i}.block.0")
            places |= linear(f"{block}/down", f"{theirs}.blocks.{i}.block.2")
        return places
    places[f"{ours}/layers/positions"] = Place(f"{theirs}.pos_emb", POSITIONS)
    for i in range(config.depth):
        block, their_block = f"{ours}/layers/blocks/{i}", f"{theirs}.blocks.{i}"
        places |= norm(f"{block}/attention_norm", f"{their_block}.norm1")
        places |= linear(
            f"{block}/attention/qkv", f"{their_block}.attn.qkv", has_bias=config.qkv_bias
        )
        places |= linear(f"{block}/attention/out", f"{their_block}.attn.proj")
        places |= norm(f"{block}/mlp_norm", f"{their_block}.norm2")
        places |= linear(f"{block}/mlp/up", f"{their_block}.mlp.fc1")
        places |= linear(f"{block}/mlp/down", f"{their_block}.mlp.fc2")
    if config.final_mlp:
        places |= norm(f"{ours}/layers/final_norm", f"{theirs}.norm_mlp")
        places |= linear(f"{ours}/layers/final_mlp/up", f"{theirs}.post_mlp.fc1")
        places |= linear(f"{ours}/layers/final_mlp/down", f"{theirs}.post_mlp.fc2")
    return places


def checked(name: str, value: Any, default: Any) -> Any:
    """Returns a setting, if it is of the type of its default; sizes may be pairs.

    Raises:
        ValueError: If it is not.
    """
    is_size = name.startswith(("image_size", "patch_size_", "n_labels"))
    match default:
        case _ if name.startswith("masked_cfg_"):
            return value  # Checked where the two of them meet.
        case bool():
            allowed, is_allowed = "true or false", isinstance(value, bool)
        case str():
            allowed, is_allowed = "a name", isinstance(value, str)
        case float():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            allowed, is_allowed = "a number of at least 0", is_number and value >= 0
        case _ if is_size or isinstance(default, int):
            whole = list(value) if isinstance(value, list | tuple) and is_size else [value]
            is_whole = [type(number) is int and number > 0 for number in whole]
            allowed = "a whole number of at least 1"
            is_allowed = all(is_whole) or (default is None and value is None)
        case _:
            return value
    if not is_allowed:
        raise ValueError(f"The configuration's {name} is {value!r}; it must be {allowed}.")
    return value


def native_grid(
    network: NetworkConfig, image_size: int | list[int], patch_size: int
) -> tuple[int, int]:
    """Returns the patches (down, across) of a picture; one for networks that know no places."""
    if network.kind == "mlp":
        return 1, 1
    height, width = image_size if isinstance(image_size, list | tuple) else [image_size] * 2
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"The configuration's pictures are {height} by {width}, which its patch_size "
            f"{patch_size} does not divide."
        )
    return height // patch_size, width // patch_size


def image_size(grid: tuple[int, int], patch_size: int) -> int | list[int]:
    """Returns the size of a picture as a configuration has it."""
    height, width = (length * patch_size for length in grid)
    return height if height == width else [height, width]


def _quantizer(settings: Config) -> QuantizerConfig:
    kind, heads = settings["quant_type"], settings["num_codebooks"]
    sizes = {"codebook_size": settings["codebook_size"], "code_dim": settings["latent_dim"]}
    if kind == "memcodes":
        return QuantizerConfig(kind="memcodes", num_heads=heads, **sizes)
    policy = settings["code_replacement_policy"]
    if kind != "lucid" or heads != 1 or policy not in REPLACEMENTS:
        raise ValueError(
            f"The configuration has quant_type {kind!r} with num_codebooks {heads} and "
            f"code_replacement_policy {policy!r}; known are memcodes, and lucid with one codebook "
            f"and {' or '.join(REPLACEMENTS)}."
        )
    return QuantizerConfig(
        averages="counts",
        distance="cosine" if settings["norm_codes"] else "euclidean",
        normalize_latents=settings["norm_latents"],
        decay=float(settings["ema_decay"]),
        commitment=float(settings["commitment_weight"]),
        rare=float(settings["threshold_ema_dead_code"]),
        replacement=REPLACEMENTS[policy],
        **sizes,
    )


def read_decoder_settings(
    rest: Mapping[str, Any], theirs: Config, defaults: Config, kind: str
) -> Config:
    """Returns the settings of a decoder, with what the file leaves out.

    Args:
        rest: Settings that are not of the encoder.
        theirs: Those that are.
        defaults: Of all settings that the decoder has.
        kind: Of tokenizer, for the sentence.

    Raises:
        ValueError: If there is a setting that is not known, or one has a value of another type.
    """
    unknown = [name for name in rest if name not in defaults]
    if unknown:
        raise ValueError(
            f"The configuration has the settings {', '.join(unknown)}, which no {kind} has; known "
            f"are {', '.join([*theirs, *defaults])}."
        )
    return {
        name: checked(name, rest.get(name, default), default) for name, default in defaults.items()
    }


def build_abstract(
    kind: type[DenseTokenizer],
    config: Any,
    values: DenseValues,
    statistics: Mapping[str, Float[np.ndarray, "..."]],
    grid: tuple[int, int] | None,
) -> DenseTokenizer:
    """Returns a tokenizer that has its normalisation, but no weights yet."""
    grid = grid or config.encoder.native_grid
    tokenizer = nnx.eval_shape(lambda: kind(config, values, dict(statistics), grid, nnx.Rngs(0)))
    for name, value in statistics.items():
        tokenizer.statistics[name].set_value(jnp.asarray(value, jnp.float32))
    return tokenizer

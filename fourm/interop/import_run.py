"""A run directory out of published files, and the other way."""

import glob
import importlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourm.evaluation.results import write_json
from fourm.interop.autoencoders.divae import export_divae, import_divae
from fourm.interop.autoencoders.vqvae import export_vqvae, import_vqvae
from fourm.interop.tensors import INDEX, SUFFIX, Weights, read_settings
from fourm.interop.transformer.modalities import PUBLISHED
from fourm.interop.transformer.weights import export_fm, import_fm
from fourm.load_run import load
from fourm.model.saved_model import save_model
from fourm.token_space import TokenRange
from tokenizers.base import Tokenizer
from tokenizers.codes import Codes, CodeTokenizer
from tokenizers.features import PixelTokenizer, Vectors, VectorTokenizer
from tokenizers.images.diffusion_tokenizer import DiffusionTokenizer
from tokenizers.images.vit_tokenizer import ViTTokenizer
from tokenizers.process.command import make_visible
from tokenizers.storage.run_paths import CONFIG, MODEL, TOKENIZERS
from tokenizers.storage.unfinished import clear_unfinished, new_folder
from tokenizers.text.sentencepiece import Text
from tokenizers.text.wordpiece import WordPieceTokenizer
from tokenizers.values import Colors

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")

FILE_NAMES = {
    "tok_dinov2_global": ("dinov2", "global"),
    "tok_imagebind_global": ("imagebind", "global"),
    "tok_dinov2": ("dinov2",),
    "tok_imagebind": ("imagebind",),
    "tok_clip": ("clip",),
    "tok_semseg": ("semseg",),
    "tok_normal": ("normal",),
    "tok_depth": ("depth",),
    "tok_canny_edge": ("edge",),
    "tok_sam_edge": ("edge",),
    "tok_rgb": ("rgb",),
}
"""What the published names of a modality's tokenizer contain; the first that fits is meant."""

PICTURE = {"scheme": "random", "num_steps": 25, "schedule": "linear", "guidance": 2.0}
SINGLE_PASS = {"num_steps": 1, "temperature": 0.0}


def import_run(paths: Sequence[str], out: Path) -> None:
    """Writes a run directory from published files.

    Args:
        paths: A model, tokenizers and the text tokenizer, as on the command line: PATH or
            MODALITY=PATH.
        out: Where to write; must not exist yet.

    Raises:
        ValueError: If a file is not there, not known or damaged, does not fit the model, or `out`
            is there already.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; give --out another name, or delete it.")
    named = [_split_name(path) for path in paths]
    found = [(name, resolve(path)) for name, path in named]
    models = [path for _, path in found if kind_of(path) == "model"]
    if len(models) != 1:
        raise ValueError(
            f"There are {len(models)} models among what is given; give exactly one, and any number "
            "of tokenizers."
        )
    model = import_fm(models[0])
    given = {}
    for name, path in found:
        if path == models[0]:
            continue
        owners = [name] if name else find_owners(path, model.space.names)
        for owner in owners:
            given[owner] = read_tokenizer(path, model.space[owner])
    tokenizers = {
        entry.name: given.get(entry.name) or codes_tokenizer_for(entry)
        for entry in model.space.ranges
    }
    clear_unfinished(out.parent, glob.escape(out.name) + ".*")
    with new_folder(out) as partial:
        for name, tokenizer in tokenizers.items():
            tokenizer.save(partial / TOKENIZERS / name)
        save_model(partial / MODEL, model)  # With the fingerprints of the tokenizers beside it.
        config = {
            "imported_from": [str(path) for path in paths],
            "generation": {entry.name: settings_of(entry) for entry in model.space.ranges},
        }
        write_json(partial / CONFIG, config)
    without = [name for name in tokenizers if name not in given]
    shown = make_visible(str(out))
    print(
        f"{shown} has {len(tokenizers)} modalities; these take and give ids or numbers: {without}"
    )


def _split_name(text: str) -> tuple[str | None, str]:
    name, separator, path = text.partition("=")
    return (name, path) if separator and name in PUBLISHED else (None, text)


def resolve(path: str) -> Path:
    """Returns the file or folder that is meant, fetched from the hub if need be.

    Raises:
        ValueError: If there is none, or it is a pickle.
    """
    if Path(path).suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code when it is read; give a .safetensors file."
        )
    if Path(path).exists():
        return Path(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise ValueError(f"There is no {path}; give a file, a folder, or a name on the hub.")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        return Path(
            hub.snapshot_download(
                path, allow_patterns=["config.json", f"model*{SUFFIX}", f"model{INDEX}"]
            )
        )
    except Exception as error:  # Of the network, or of a package that is not installed.
        raise ValueError(
            f"There is no folder {path}, and it can't be fetched from the hub "
            f"({type(error).__name__}); download config.json and model.safetensors from "
            f"https://huggingface.co/{path} into that folder."
        ) from error


def kind_of(path: Path) -> str:
    """Returns "model", "vqvae", "divae" or "text".

    Raises:
        ValueError: If the file says nothing about what it is.
    """
    if path.suffix == ".json" and not path.name.endswith(INDEX):
        return "text"
    weights = Weights(path)
    names = read_settings(weights.file, weights.metadata)
    if "domains_in" in names:
        return "model"
    if "codebook_size" not in names and "enc_type" not in names:
        raise ValueError(
            f"{path} says nothing about what it holds; put the config.json it came with beside it."
        )
    return "divae" if str(names.get("dec_type", "")).startswith("unet") else "vqvae"


def find_owners(path: Path, names: Sequence[str]) -> list[str]:
    """Returns the modalities that a tokenizer is for, told by its file's name.

    Raises:
        ValueError: If the name tells none.
    """
    if kind_of(path) == "text":
        return [name for name in names if name in PUBLISHED and PUBLISHED[name].kind == "sequence"]
    # A folder's name, or a file's; the last parts first, as a whole path may say anything.
    for part in reversed(path.resolve().parts):
        words = part.lower().replace("-", "_")
        fitting = [
            base for base, marks in FILE_NAMES.items() if all(mark in words for mark in marks)
        ]
        if fitting:
            meant = {base for base in fitting if FILE_NAMES[base] == FILE_NAMES[fitting[0]]}
            return [name for name in names if name.split("@")[0] in meant]
    raise ValueError(
        f"{path} does not say which modality it is for; write MODALITY={path}, with one of "
        f"{', '.join(names)}."
    )


def read_tokenizer(path: Path, entry: TokenRange) -> Tokenizer:
    """Returns a published tokenizer, set up for one modality of the model.

    Raises:
        ValueError: If it does not fit.
    """
    kind = kind_of(path)
    if kind == "text":
        tokenizer = WordPieceTokenizer(Text(), path.read_bytes(), entry.num_tokens)
    else:
        read = import_divae if kind == "divae" else import_vqvae
        grid = entry.token_shape if len(entry.token_shape) == 2 else None
        values = Colors() if entry.name.startswith("tok_rgb") else None
        tokenizer = read(path, values=values, grid=grid)
    has = (tokenizer.vocab_size, math.prod(tokenizer.token_shape))
    if has != (entry.vocab_size, entry.num_tokens):
        raise ValueError(
            f"{path} has {has[0]} ids and {has[1]} tokens, but {entry.name} of the model has "
            f"{entry.vocab_size} and {entry.num_tokens}; give the tokenizer that it was trained "
            "with."
        )
    return tokenizer


def codes_tokenizer_for(entry: TokenRange) -> Tokenizer:
    """Returns what serves a modality of which no tokenizer is given."""
    if entry.kind != "features":
        values = Codes(entry.vocab_size, entry.token_shape, entry.kind == "sequence")
        return CodeTokenizer(values, entry.special)
    if len(entry.token_shape) == 1:
        return VectorTokenizer(Vectors(entry.feature_width, entry.num_tokens))
    patch = round((entry.feature_width / 3) ** 0.5)
    return PixelTokenizer(entry.token_shape[0] * patch, patch)


def settings_of(entry: TokenRange) -> dict[str, Any]:
    """Returns how a modality is generated unless the user says otherwise."""
    if entry.kind == "sequence":
        return {"scheme": "autoregressive", "temperature": 0.3}
    return PICTURE if entry.name.startswith("tok_rgb") else SINGLE_PASS


def export_run(run: Path, out: Path) -> None:
    """Writes the model of a run, and those of its tokenizers that ml-4m has, as published files.

    Raises:
        ValueError: If there is no such run, or ml-4m has no such model.
    """
    loaded = load(run)
    if out.exists():
        raise ValueError(f"{out} exists already; give --out another name, or delete it.")
    clear_unfinished(out.parent, glob.escape(out.name) + ".*")
    with new_folder(out) as partial:
        export_fm(loaded.model, partial / "model.safetensors")
        for name, tokenizer in loaded.tokenizers.items():
            if isinstance(tokenizer, ViTTokenizer):
                export_vqvae(tokenizer, partial / name)
            elif isinstance(tokenizer, DiffusionTokenizer):
                export_divae(tokenizer, partial / name)
    print(make_visible(f"{out} holds the model of {run}"))

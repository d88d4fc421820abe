"""A model on disk: weights and shape, from which it is rebuilt without any configuration."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM
from fourm.token_space import TokenRange, TokenSpace
from tokenizers.settings.plain import from_plain
from tokenizers.storage.folders import (
    check_finite,
    fingerprint_files,
    load_folder,
    read_description,
    save_folder,
)


def save_model(folder: Path, model: FourM) -> None:
    """Writes a model, weights and shape, into `folder`, whole or not at all.

    Where the tokenizers of its modalities lie beside it, as in a run directory, their fingerprints
    are written down with it: its weights mean something by them alone.
    """
    saved = {name: Path(folder).parent / "tokenizers" / name for name in model.space.names}
    description = {
        "model": asdict(model.config),
        "token_space": [asdict(entry) | {"special": entry.special} for entry in model.space.ranges],
        "tokenizers": {n: fingerprint_files(path) for n, path in saved.items() if path.is_dir()},
    }
    save_folder(folder, description, {name: np.asarray(v[...]) for name, v in _weights(model)})


def load_model(folder: Path) -> FourM:
    """Returns the model that `save_model` wrote.

    Raises:
        ValueError: One sentence, if it is absent, damaged, or of another version, or if weights
            are not finite.
    """
    description, arrays, _ = load_folder(folder)
    check_finite(arrays, folder)
    config, space = _read_shape(folder, description)
    model = nnx.eval_shape(lambda: FourM(space, config, nnx.Rngs(0)))
    weights = dict(_weights(model))
    for name in sorted({*weights, *arrays}):
        needed = weights[name].get_value().shape if name in weights else "nothing of that name"
        found = arrays[name].shape if name in arrays else "nothing"
        if needed != found:
            raise ValueError(
                f"The weights in {folder} do not fit its description: for {name!r} there is "
                f"{found}, needed is {needed}; train it again."
            )
        weights[name].set_value(jnp.asarray(arrays[name]))
    return model


def load_shape(folder: Path) -> tuple[ModelConfig, TokenSpace]:
    """Returns what a model that `save_model` wrote looks like, without its weights.

    Raises:
        ValueError: As `load_model` does.
    """
    return _read_shape(folder, read_description(folder))


def _read_shape(folder: Path, description: Mapping[str, Any]) -> tuple[ModelConfig, TokenSpace]:
    try:
        config = from_plain(description["model"], ModelConfig)
        space = TokenSpace(from_plain(description["token_space"], tuple[TokenRange, ...]))
        space.check()
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:400].rstrip(".")
        raise ValueError(
            f"{folder} does not describe a model of this version ({reason}); put its "
            "description.json back, or train it again."
        ) from error
    return config, space


def _weights(model: FourM) -> list[tuple[str, nnx.Variable]]:
    flat = nnx.to_flat_state(nnx.state(model))
    return [("/".join(map(str, path)), variable) for path, variable in flat]

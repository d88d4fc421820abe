"""A folder of a published tokenizer: model.safetensors, config.json and preset.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def write_published(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    presets: Mapping[str, Any],
) -> None:
    """Writes the files of a published tokenizer; a configuration that is empty has no file."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {name: str(value) for name, value in settings.items()}
    save_file(dict(tensors), folder / "model.safetensors", metadata)
    for name, content in {"config.json": settings, "preset.json": presets}.items():
        if content:
            text = json.dumps(content, indent=1, sort_keys=True)
            (folder / name).write_text(text + "\n", encoding="utf-8")

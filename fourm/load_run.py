"""A run directory as a run in use: all of its pieces, checked to belong together."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from flax import nnx

from fourm.any2any import Any2Any
from fourm.inference.settings import read_settings
from fourm.model.saved_model import load_model, load_shape
from fourm.run_directory.saved_checkpoints import (
    check_tokenizers,
    choose_checkpoint,
    load_average,
)
from tokenizers.formats.recorded import read_formats
from tokenizers.modality import load_tokenizer
from tokenizers.settings.own_code import run_file
from tokenizers.storage.folders import check_made_with, fingerprint_together
from tokenizers.storage.pieces import check_pieces, record_pieces
from tokenizers.storage.run_paths import CHECKPOINTS, CONFIG, FORMATS, MODEL, TOKENIZERS


def load(
    folder: str | Path, use: str = "last", code: str | Path | Sequence[str | Path] = ()
) -> Any2Any:
    """Loads a run directory, all of which it needs.

    Args:
        folder: What `train.py` wrote, such as runs/scenes.
        use: Which parameters, all averaged over the last steps: "last", of the end of the training;
            "best", of the checkpoint of the lowest held-out loss; or of that of a step, as "500".
        code: Files of your own whose classes the run names, such as its configuration; they are
            run. What has been imported already need not be named.

    Raises:
        ValueError: One sentence, if there is no run or checkpoint, it is not finished or damaged,
            or a piece of it belongs to another run.
    """
    for file in [code] if isinstance(code, str | Path) else code:
        run_file(Path(file).expanduser())
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"There is no run directory {folder}; train one with python train.py, or give the "
            "path of one that exists."
        )
    check_pieces(folder, [CONFIG, MODEL, TOKENIZERS])
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        settings = {
            name: read_settings(name, given)
            for name, given in (config.get("generation") or {}).items()
        }
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is not a run directory: it has no {CONFIG}; give one that train.py wrote."
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{folder / CONFIG} can't be read ({error}); restore it, or train again."
        ) from error
    if not (folder / MODEL).is_dir():
        raise ValueError(
            f"The run {folder} has no model yet; let python train.py finish; it resumes where "
            "it stopped."
        )
    names = load_shape(folder / MODEL)[1].names
    pieces = [CONFIG, FORMATS, MODEL, *(f"{TOKENIZERS}/{name}" for name in names)]
    check_pieces(folder, pieces)
    check_made_with(folder / MODEL, folder / TOKENIZERS)
    model = load_model(folder / MODEL)
    if use != "last":
        checkpoints = folder / CHECKPOINTS / MODEL
        checkpoint = checkpoints / str(choose_checkpoint(checkpoints, use))
        check_tokenizers(checkpoint, fingerprint_together(folder / TOKENIZERS, names))
        params = nnx.state(model, nnx.Param)
        nnx.replace_by_pure_dict(params, load_average(checkpoint, nnx.to_pure_dict(params)))
        nnx.update(model, params)
    tokenizers = {name: load_tokenizer(folder / TOKENIZERS / name) for name in names}
    for entry in model.space.ranges:
        found = tokenizers[entry.name]
        # A set of ids has no shape, but its tokenizer may give it one.
        if (found.vocab_size, math.prod(found.token_shape)) != (entry.vocab_size, entry.num_tokens):
            raise ValueError(
                f"The tokenizer {folder / TOKENIZERS / entry.name} is not the one that the model "
                "was trained with; train again, or restore it."
            )
    values = {name: tokenizer.values for name, tokenizer in tokenizers.items()}
    recorded = read_formats(folder, config).of(values)
    record_pieces(folder, pieces)
    return Any2Any(model, tokenizers, config, settings, recorded.formats, recorded.notes)

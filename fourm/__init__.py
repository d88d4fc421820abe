"""Any-to-any multimodal masked modelling: one transformer, any modality in, any out."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm.any2any import Any2Any, Generated
    from fourm.inference.likelihood import TokenLikelihood
    from fourm.inference.settings import GenerationConfig
    from fourm.load_run import load
    from fourm.requests.scoring import classify, score_pairs, surprise
    from fourm.requests.variations import interpolate, outpaint
    from tokenizers.base import PADDING, Boxes, Instances

__all__ = [
    "PADDING",
    "Any2Any",
    "Boxes",
    "Generated",
    "GenerationConfig",
    "Instances",
    "TokenLikelihood",
    "classify",
    "interpolate",
    "load",
    "outpaint",
    "score_pairs",
    "surprise",
]

MODULES = {
    "Any2Any": "fourm.any2any",
    "Generated": "fourm.any2any",
    "load": "fourm.load_run",
    "GenerationConfig": "fourm.inference.settings",
    "TokenLikelihood": "fourm.inference.likelihood",
    "classify": "fourm.requests.scoring",
    "score_pairs": "fourm.requests.scoring",
    "surprise": "fourm.requests.scoring",
    "interpolate": "fourm.requests.variations",
    "outpaint": "fourm.requests.variations",
    "Boxes": "tokenizers.base",
    "Instances": "tokenizers.base",
    "PADDING": "tokenizers.base",
}
"""Where the names are that users type. They are imported when one is first used, since commands
have to begin before that."""


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def _put_our_tokenizers_first() -> None:
    """Makes `tokenizers` the folder beside this one, not the Hugging Face package of that name.

    Raises:
        ImportError: If theirs is imported already.
    """
    root = Path(__file__).resolve().parents[1]
    imported = sys.modules.get("tokenizers")
    if imported is not None and root not in Path(str(imported.__file__)).resolve().parents:
        raise ImportError(
            "The package tokenizers of Hugging Face is imported already, and fourm has a folder of "
            "that name; use fourm and packages such as transformers in processes of their own."
        )
    found = [Path(path or ".").resolve() for path in sys.path]
    theirs = [n for n, path in enumerate(found) if path != root and (path / "tokenizers").is_dir()]
    if root not in found or (theirs and theirs[0] < found.index(root)):
        sys.path.insert(0, str(root))


_put_our_tokenizers_first()

"""Any-to-any multimodal masked modelling: one transformer, any modality in, any out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm.any2any import Any2Any, load

__all__ = ["Any2Any", "load"]


def __getattr__(name: str) -> Any:
    # Commands have to begin before all that this needs is imported.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fourm import any2any as run

    return getattr(run, name)

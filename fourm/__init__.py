"""Any-to-any multimodal masked modelling: one transformer, any modality in, any out."""

from fourm.run import Any2Any, load

__all__ = ["Any2Any", "load"]

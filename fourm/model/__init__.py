"""The transformer, and how it is configured."""

from fourm.model.layers import ModelConfig

__all__ = ["ModelConfig"]

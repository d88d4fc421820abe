"""The transformer, and how it is configured."""

from fourm.model.config import ModelConfig

__all__ = ["ModelConfig"]

"""What is shown and what is predicted, and how that is configured."""

from fourm.masking.mixture import MaskingComponent, MaskingConfig

__all__ = ["MaskingComponent", "MaskingConfig"]

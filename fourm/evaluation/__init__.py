"""What held-out samples say of a model, and how it is configured."""

from fourm.evaluation.config import EvaluationConfig, RegionConfig

__all__ = ["EvaluationConfig", "RegionConfig"]

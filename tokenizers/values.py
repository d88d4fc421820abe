"""The kinds of dense modality: what the numbers of a picture-like array mean."""

from tokenizers.values_classes import Classes
from tokenizers.values_colors import Colors, Reals
from tokenizers.values_dense import Constant, DenseValues
from tokenizers.values_geometry import Directions, Distances

KINDS: dict[str, type[DenseValues]] = {
    kind.__name__: kind for kind in (Colors, Reals, Distances, Directions, Classes)
}
"""Those that a saved tokenizer can name."""

__all__ = [
    "KINDS",
    "Classes",
    "Colors",
    "Constant",
    "DenseValues",
    "Directions",
    "Distances",
    "Reals",
]

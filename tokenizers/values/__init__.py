"""The kinds of dense modality: what the numbers of a picture-like array mean."""

from tokenizers.values.classes import Classes
from tokenizers.values.colors import Colors, Reals
from tokenizers.values.dense import Constant, DenseValues
from tokenizers.values.geometry import Directions, Distances

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

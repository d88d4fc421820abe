"""Probes of maps: a linear layer on every token of a grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from fourm.any2any import Any2Any
from fourm.evaluation.probing.heads import HeadConfig, train_map
from fourm.evaluation.probing.material import Answered, Material, Probe, Probes, choose_decay
from fourm.evaluation.probing.tasks import score
from fourm.evaluation.probing.views import average_down, tokenizer_features
from tokenizers.spread import evenly_spread
from tokenizers.values.dense import DenseValues

MOST_LAYERS = 4
"""Layers among which the best is sought, as each takes a training of its own."""
CELL = 4
"""Side to which the pixels of a token's place are averaged down for a map read off pixels."""


class TokenMaps(NamedTuple):
    """Features of training and of held-out samples at the places of a grid's tokens.

    Attributes:
        maps: float32 [rows, y, x, dim] of both, 0 where a token is missing.
        real: bool [rows, y, x] of both.
    """

    maps: Sequence[Float[np.ndarray, "_ y x dim"]]
    real: Sequence[Bool[np.ndarray, "_ y x"]]

    @classmethod
    def of(cls, maps: Sequence[Float[np.ndarray, "_ y x dim"]]) -> "TokenMaps":
        """Returns features in which a missing token is NaN."""
        return cls(
            [np.nan_to_num(each).astype(np.float32) for each in maps],
            [np.isfinite(each).all(axis=-1) for each in maps],
        )


def map_probes(material: Material) -> Probes:
    """Yields the probes of a task that has an answer per pixel.

    Raises:
        ValueError: If no input is a grid.
    """
    model, ids = material.model, material.ids
    shapes = {name: model.tokenizers[name].token_shape for name in material.config.inputs}
    grid = next((name for name, shape in shapes.items() if len(shape) == 2), None)
    if grid is None:
        raise ValueError(
            f"{material.task.name} is a map, and none of the inputs {', '.join(shapes)} has its "
            "tokens in a grid; add one that has to --inputs."
        )
    (height, width), values = shapes[grid], material.task.values

    def encoded(by: Any2Any, layer: int | None = None) -> TokenMaps:
        chosen = None if layer is None else (layer,)
        found = [by.features({}, chosen, "none", known=each) for each in ids]
        return TokenMaps.of([each.values[grid][:, 0] for each in found])

    def pixels(shown: Mapping[str, np.ndarray]) -> Float[np.ndarray, "rows y x dim"]:
        raw = np.nan_to_num(np.asarray(shown[grid], np.float32))
        raw = raw.reshape(*raw.shape[:3], -1)
        small = average_down(raw, (CELL * height, CELL * width))
        down, across = small.shape[1] // height, small.shape[2] // width
        cells = small[:, : down * height, : across * width]
        cells = cells.reshape(len(raw), height, down, width, across, -1)
        return cells.swapaxes(2, 3).reshape(len(raw), height, width, -1)

    def codes(known: Mapping[str, np.ndarray]) -> Float[np.ndarray, "rows y x dim"]:
        found = tokenizer_features(known[grid], grid, model.tokenizers[grid])
        return found.reshape(len(found), height, width, -1)

    assert isinstance(values, DenseValues)
    yield ("linear", "encoder"), lambda: _linear(material, values, encoded(model))
    if not material.config.rivals:
        return
    yield ("linear", "best_layer"), lambda: _best_layer(material, values, encoded)
    yield (
        ("linear", "raw_pixels"),
        lambda: _linear(material, values, TokenMaps.of([pixels(each) for each in material.shown])),
    )
    yield (
        ("linear", "untrained"),
        lambda: _linear(material, values, encoded(material.untrained)),
    )
    yield (
        ("linear", "tokenizer"),
        lambda: _linear(material, values, TokenMaps.of([codes(each) for each in ids])),
    )


def _linear(material: Material, values: DenseValues, features: TokenMaps) -> Probe:
    def answer(few: Int[np.ndarray, "few"]) -> Answered:
        def judge(head: HeadConfig, fitted: np.ndarray, chosen: np.ndarray) -> float:
            said = _fit(material, values, features, fitted, head)
            answers = said(features.maps[0][chosen], features.real[0][chosen])
            return score(material.task, answers, material.known.labels[chosen])

        head = choose_decay(few, judge, material.task.better, material.config)
        said = _fit(material, values, features, few, head)
        return Answered(
            said(features.maps[1], features.real[1]), {"weight_decay": head.weight_decay}
        )

    return answer


def _fit(
    material: Material,
    values: DenseValues,
    features: TokenMaps,
    few: Int[np.ndarray, "few"],
    head: HeadConfig,
) -> Callable[..., np.ndarray]:
    given = features.maps[0][few], features.real[0][few], material.known.labels[few]
    return train_map(*given, values, head, jax.random.key(material.config.seed))


def _best_layer(
    material: Material, values: DenseValues, encoded: Callable[[Any2Any, int], TokenMaps]
) -> Probe:
    last = material.model.model.config.encoder_layers
    layers = [last - int(layer) for layer in evenly_spread(last + 1, MOST_LAYERS)]
    head, fifth = material.config.head, len(material.known.labels) * 4 // 5
    sign = 1 if material.task.better == "higher" else -1
    order = np.random.Generator(np.random.Philox(0)).permutation(len(material.known.labels))
    reached = {}
    for layer in layers:
        features = encoded(material.model, layer)
        said = _fit(material, values, features, order[:fifth], head)
        answers = said(features.maps[0][order[fifth:]], features.real[0][order[fifth:]])
        truth = material.known.labels[order[fifth:]]
        reached[layer] = sign * score(material.task, answers, truth)
    best = max(layers, key=lambda layer: reached[layer])
    linear = _linear(material, values, encoded(material.model, best))

    def answer(few: Int[np.ndarray, "few"]) -> Answered:
        found = linear(few)
        return found._replace(chosen={**found.chosen, "layer": best})

    return answer

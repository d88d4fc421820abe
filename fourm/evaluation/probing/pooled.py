"""Probes of a class, of several labels or of a number."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from fourm.evaluation.probing.heads import HeadConfig, train_attentive
from fourm.evaluation.probing.linear import Fitted, Kind, fit_linear
from fourm.evaluation.probing.material import Answered, Material, Probe, Probes, choose_decay
from fourm.evaluation.probing.neighbours import ask_neighbours
from fourm.evaluation.probing.tasks import score
from fourm.evaluation.probing.views import (
    histograms,
    raw_features,
    side_by_side,
    token_rows,
    tokenizer_features,
)

Pair = Sequence[Float[np.ndarray, "_ features"]]
"""One vector of each training sample, and of each held-out one."""


def pooled_probes(material: Material) -> Probes:
    """Yields the probes of a task that has one answer per sample."""
    model, ids, inputs = material.model, material.ids, material.config.inputs
    mean = [model.features({}, known=each)[:, 0] for each in ids]
    yield ("linear", "encoder"), lambda: _linear(material, mean)
    yield ("attentive", "encoder"), lambda: _attentive(material)
    yield ("neighbours", "encoder"), lambda: _neighbours(material, mean)
    if not material.config.rivals:
        return
    yield ("linear", "best_layer"), lambda: _best_layer(material)
    own = [{name: each[name] for name in inputs} for each in ids]
    views: dict[str, Callable[[], Pair]] = {
        "raw_pixels": lambda: [
            np.concatenate([raw_features(raw) for raw in each.values()], axis=1)
            for each in material.shown
        ],
        "untrained": lambda: [
            material.untrained.features({}, known=each)[:, 0] for each in material.ids
        ],
        "token_histogram": lambda: [histograms(each, model.tokenizers) for each in own],
        "tokenizer": lambda: [_codes(material, each) for each in own],
    }
    for name, view in views.items():
        yield ("linear", name), lambda view=view: _linear(material, view())


def _codes(material: Material, ids: dict[str, np.ndarray]) -> Float[np.ndarray, "rows features"]:
    tokenizers = material.model.tokenizers
    parts = [tokenizer_features(own, name, tokenizers[name]) for name, own in ids.items()]
    return np.concatenate([side_by_side(part) for part in parts], axis=1)


def _kind(material: Material) -> Kind:
    kind = material.task.kind
    assert kind != "map"
    return kind


def _fit(material: Material, features: np.ndarray, few: Int[np.ndarray, "few"]) -> Fitted:
    config, labels = material.config, material.known.labels[few]
    given = features[few], labels, _kind(material), config.inverse_regularization
    return fit_linear(*given, config.folds)


def _linear(material: Material, features: Pair) -> Probe:
    def answer(few: Int[np.ndarray, "few"]) -> Answered:
        fitted = _fit(material, features[0], few)
        return Answered(fitted.predict(features[1]), {"inverse_regularization": fitted.strength})

    return answer


def _best_layer(material: Material) -> Probe:
    layers = [*range(material.model.model.config.encoder_layers + 1)]
    of_all = [material.model.features({}, layers, known=each) for each in material.ids]
    everyone = np.arange(len(material.known.labels))
    # Cross-validation, since a single layer's choice of C has a score of its own only there.
    reached = [_fit(material, of_all[0][:, layer], everyone).score for layer in layers]
    best = int(np.nanargmax(reached)) if np.isfinite(reached).any() else layers[-1]
    linear = _linear(material, [each[:, best] for each in of_all])

    def answer(few: Int[np.ndarray, "few"]) -> Answered:
        found = linear(few)
        return found._replace(chosen={**found.chosen, "layer": best})

    return answer


def _neighbours(material: Material, features: Pair) -> Probe:
    task, asked = material.task, material.asked.labels

    def answer(few: Int[np.ndarray, "few"]) -> Answered:
        labels = material.known.labels[few]
        found = ask_neighbours(features[0][few], labels, features[1], _kind(material))
        by_k = {str(k): score(task, answers, asked) for k, answers in found.by_k.items()}
        return Answered(found.by_k[found.k], {"k": found.k, "by_k": by_k})

    return answer


def _attentive(material: Material) -> Probe:
    training, heldout = (token_rows(material.model, each) for each in material.ids)
    labels, key = material.known.labels, jax.random.key(material.config.seed)

    def fit(few: Int[np.ndarray, "few"], head: HeadConfig) -> Callable[..., np.ndarray]:
        given = training.tokens[few], training.is_real[few], labels[few]
        return train_attentive(*given, _kind(material), head, key)

    def judge(head: HeadConfig, fitted: np.ndarray, chosen: np.ndarray) -> float:
        said = fit(fitted, head)(training.tokens[chosen], training.is_real[chosen])
        return score(material.task, said, labels[chosen])

    def answer(few: Int[np.ndarray, "few"]) -> Answered:
        head = choose_decay(few, judge, material.task.better, material.config)
        said = fit(few, head)(heldout.tokens, heldout.is_real)
        return Answered(said, {"weight_decay": head.weight_decay})

    return answer

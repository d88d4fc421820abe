"""Probes of the frozen encoder, beside rivals that never saw the training."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, Shaped

from fourm.any2any import Any2Any
from fourm.evaluation.directions import Predictor
from fourm.evaluation.intervals import interval_of_mean
from fourm.evaluation.probing.heads import HeadConfig, train_attentive
from fourm.evaluation.probing.linear import fit_linear
from fourm.evaluation.probing.neighbours import ask_neighbours
from fourm.evaluation.probing.views import (
    TokenRows,
    raw_features,
    token_histogram,
    token_rows,
)
from fourm.evaluation.results import format_number, why_failed
from fourm.model.transformer import FourM
from fourm.run_directory.sample_set import SampleSet
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.spread import evenly_spread


@dataclass(frozen=True)
class ProbeConfig(Checked):
    """What a linear classifier is asked to read from the frozen encoder's features."""

    input: str = "rgb"
    """Modality shown to the encoder, whole."""
    tasks: tuple[str, ...] = ()
    """Facts of the data's metadata, each a classification; none for no probes."""
    num_train: int = 2048
    """Training samples of the probe, at most, evenly spread over those that were kept."""
    num_test: int = 512
    """Held-out samples, at most, evenly spread over those that were kept."""
    inverse_regularization: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Candidates for C of the logistic regression on standardised features. Each probe takes the
    one that is best on a fifth of its training samples, drawn at random; while that is the smallest
    or largest of several, the one beyond it is tried as well, within 1e-6 to 1e4."""
    max_iterations: int = 200
    """Most iterations of its solver."""
    attentive: tuple[str, ...] = ()
    """Tasks that are also read by an attentive probe, if they are probed; it takes seconds each."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """How attentive probes are trained."""

    def check_knobs(self, knob: str) -> None:
        if not self.inverse_regularization or min(self.inverse_regularization) <= 0:
            raise ValueError(
                f"{name_knob(knob, 'inverse_regularization')} is {self.inverse_regularization}; "
                "give at least one number, all above 0."
            )
        if self.num_train < 2 or self.num_test < 1:
            raise ValueError(
                f"{name_knob(knob, 'num_train')} is {self.num_train} and "
                f"{name_knob(knob, 'num_test')} {self.num_test}; at least 2 and 1 are allowed."
            )


def probe(
    model: Predictor,
    untrained: Predictor,
    training: SampleSet,
    heldout: SampleSet,
    config: ProbeConfig,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fits probes and scores them on held-out samples.

    Every rival gets the same classifier, the same samples and the same choice of regularisation:
    `raw_pixels` sees the input itself, pictures averaged down to 16 x 16 pixels; `untrained` the
    features of the same architecture with fresh weights; `token_histogram` how often each token
    occurs in the input; `chance` always answers the commonest training label. Beside the linear
    probe the same features are read by their neighbours (`knn`), and where `config.attentive` says
    so all tokens by an attentive probe.

    Args:
        model: Trained.
        untrained: The same tokenizers and architecture with fresh weights.
        training: Samples of the training split, on which probes are fitted.
        heldout: Samples on which they are scored.
        config: What to probe.

    Returns:
        One row per task, {"task", "metric", "value", "raw_pixels", "untrained",
        "token_histogram", "chance", "inverse_regularization", "interval", "knn", "knn_k"} and
        perhaps "attentive" and "attentive_interval"; the strength of regularisation is that chosen
        for the trained model, intervals are 95 %, and what can't be had is None. And one sentence
        per task that was left out or rival that can't be had, which says why.
    """
    rows, notes = [], []
    if not config.tasks:
        return rows, notes
    train_rows, test_rows = (
        rows[evenly_spread(len(rows), most)]
        for rows, most in (
            (training.rows([config.input]), config.num_train),
            (heldout.rows([config.input]), config.num_test),
        )
    )
    for rows_of, samples in ((train_rows, "training"), (test_rows, "held-out")):
        if not len(rows_of):
            missing = f"no {samples} sample that was kept has {config.input}"
            return rows, [f"The probes could not be measured: {missing}."]
    shown = training.take(config.input, train_rows), heldout.take(config.input, test_rows)
    # Once for all: to make tokens of pictures takes as long as to encode them.
    known = [model.encode_inputs({config.input: values}) for values in shown]
    tokens: list[TokenRows] = []
    if set(config.attentive) & set(config.tasks):
        try:
            tokens = [token_rows(model, ids) for ids in known]
        except Exception as error:  # Likewise.
            notes.append(why_failed("Of the probes, attentive", error))
    views = {
        "value": lambda: _embed(model, known),
        "raw_pixels": lambda: tuple(raw_features(values) for values in shown),
        "untrained": lambda: _embed(untrained, known),
        "token_histogram": lambda: _histograms(model, config.input, known),
    }
    features = {}
    for name, compute in views.items():
        try:
            features[name] = compute()
        except Exception as error:  # Whatever it is: the others can still be compared.
            notes.append(why_failed(f"Of the probes, {name}", error))
    for task in config.tasks:
        try:
            fit_on, labels = _labels(training, task, train_rows)
            test_on, truth = _labels(heldout, task, test_rows)
            kinds, counts = np.unique(labels, return_counts=True)
            if len(kinds) < 2:
                raise ValueError("its label is the same in all training samples")
            row = _score_features(features, fit_on, labels, test_on, truth, config)
            if tokens and task in config.attentive:
                row |= _score_attentive(tokens, fit_on, labels, test_on, truth, config)
        except Exception as error:  # Whatever it is: the others can still be probed.
            notes.append(why_failed(f"The probe of {task}", error))
            continue
        chance = float((truth == kinds[counts.argmax()]).mean())
        missing = dict.fromkeys(name for name in views if name not in features)
        rows.append({"task": task, "metric": "accuracy", **row, **missing, "chance": chance})
    return rows, notes


def why_not_probed(samples: SampleSet, tasks: Sequence[str]) -> list[str]:
    """Returns a sentence for every fact that can't be probed, as samples alone tell."""
    sentences = []
    for task in tasks:
        try:
            _labels(samples, task, np.arange(samples.size))
        except ValueError as error:
            sentences.append(f"The fact {task!r} can't be probed: {error}.")
    return sentences


def _labels(
    samples: SampleSet, task: str, rows: Int[np.ndarray, "rows"]
) -> tuple[Bool[np.ndarray, "rows"], Shaped[np.ndarray, "known"]]:
    """Returns which of the samples have a fact, and it.

    Raises:
        ValueError: In half a sentence, if none has it or it is none of several classes.
    """
    if task not in samples.metadata:
        known = ", ".join(samples.metadata) or "none"
        raise ValueError(f"the data's metadata has {known}; change --probes.tasks")
    is_known = np.isin(rows, samples.metadata[task].index)
    if not is_known.any():
        raise ValueError("no sample has it")
    labels = samples.labels(task, rows[is_known])
    if labels.ndim != 1:
        raise ValueError(f"it is an array of shape {labels.shape[1:]}, and only classes are probed")
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == labels.round())).all():
        raise ValueError(
            f"it is a number, such as {labels[0]:.4g}, and only classes are probed; take it out of "
            "--probes.tasks"
        )
    return is_known, labels


def untrained_like(model: Any2Any, seed: int = 0) -> Any2Any:
    """Returns the same tokenizers around the same architecture with fresh weights."""
    fresh = FourM(model.space, model.model.config, nnx.Rngs(seed))
    return dataclasses.replace(model, model=fresh)


def format_probes(rows: Sequence[dict[str, Any]]) -> str:
    """Returns probes as aligned text."""
    names = ("value", "attentive", "knn", "raw_pixels", "untrained", "token_histogram", "chance")
    width = max(len(row["task"]) for row in rows) + 2
    lines = ["probe".ljust(width) + "".join(name.rjust(17) for name in names)]
    for row in rows:
        numbers = "".join(format_number(row.get(name)).rjust(17) for name in names)
        lines.append(row["task"].ljust(width) + numbers)
    return "\n".join(lines)


Two = tuple[Float[np.ndarray, "train features"], Float[np.ndarray, "test features"]]
"""Features of the training and of the held-out samples."""


def _score_features(
    features: Mapping[str, Two],
    fit_on: Bool[np.ndarray, "train"],
    labels: Shaped[np.ndarray, "known"],
    test_on: Bool[np.ndarray, "test"],
    truth: Shaped[np.ndarray, "asked"],
    config: ProbeConfig,
) -> dict[str, Any]:
    """Returns the part of a row that is read off one vector per sample."""
    row: dict[str, Any] = dict.fromkeys(("inverse_regularization", "interval", "knn", "knn_k"))
    for name, (fit, test) in features.items():
        fitted = fit_linear(
            fit[fit_on],
            labels,
            "class",
            config.inverse_regularization,
            max_iterations=config.max_iterations,
        )
        is_right = fitted.predict(test[test_on]) == truth
        row[name] = float(is_right.mean())
        if name == "value":
            row["inverse_regularization"] = fitted.strength
            row["interval"] = list(interval_of_mean(is_right))
            nearest = ask_neighbours(fit[fit_on], labels, test[test_on], "class")
            row["knn"] = float((nearest.by_k[nearest.k] == truth).mean())
            row["knn_k"] = nearest.k
    return row


def _score_attentive(
    tokens: Sequence[TokenRows],
    fit_on: Bool[np.ndarray, "train"],
    labels: Shaped[np.ndarray, "known"],
    test_on: Bool[np.ndarray, "test"],
    truth: Shaped[np.ndarray, "asked"],
    config: ProbeConfig,
) -> dict[str, Any]:
    fit, test = tokens
    known = fit.tokens[fit_on], fit.is_real[fit_on], labels, "class"
    answer = train_attentive(*known, config.head, jax.random.key(0))
    is_right = answer(test.tokens[test_on], test.is_real[test_on]) == truth
    interval = list(interval_of_mean(is_right))
    return {"attentive": float(is_right.mean()), "attentive_interval": interval}


def _embed(model: Predictor, known: Sequence[Mapping[str, np.ndarray]]) -> Two:
    train, test = (np.asarray(model.features({}, known=ids))[:, 0] for ids in known)
    return train, test


def _histograms(model: Predictor, name: str, known: Sequence[Mapping[str, np.ndarray]]) -> Two:
    size = model.tokenizers[name].vocab_size
    train, test = (token_histogram(ids[name].reshape(len(ids[name]), -1), size) for ids in known)
    return train, test

"""Linear probes of the frozen encoder, beside rivals that never saw the training."""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float, Int, Shaped

from fourm.evaluation import Predictor
from fourm.model import FourM
from fourm.run import Any2Any
from fourm.sample_set import SampleSet
from tokenizers.base import RawBatch

PROBE_PIXELS = 16
"""Side to which pictures are averaged down for the probe on raw pixels."""


@dataclass(frozen=True)
class ProbeConfig:
    """What a linear classifier is asked to read from the frozen encoder's features."""

    input: str = "rgb"
    """Modality shown to the encoder, whole."""
    tasks: tuple[str, ...] = ()
    """Facts of the data's metadata, each a classification; none for no probes."""
    num_train: int = 2048
    """Training samples of the probe, at most."""
    num_test: int = 512
    """Held-out samples, at most."""
    inverse_regularization: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Candidates for C of the logistic regression on standardised features. Each probe takes the
    one that is best on a fifth of its training samples."""
    max_iterations: int = 200
    """Of its solver."""

    def __post_init__(self) -> None:
        if not self.inverse_regularization or min(self.inverse_regularization) <= 0:
            raise ValueError(
                f"Probes got inverse_regularization={self.inverse_regularization}; give at least "
                "one number, all above 0."
            )
        if self.num_train < 2 or self.num_test < 1:
            raise ValueError(
                f"Probes got num_train={self.num_train} and num_test={self.num_test}; at least 2 "
                "and 1 are allowed."
            )


def probe(
    model: Predictor,
    untrained: Predictor,
    training: SampleSet,
    heldout: SampleSet,
    config: ProbeConfig,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fits linear probes and scores them on held-out samples.

    Every rival gets the same classifier, the same samples and the same choice of regularisation:
    `raw_pixels` sees the input itself, pictures averaged down to 16 x 16 pixels; `untrained` the
    features of the same architecture with fresh weights; `token_histogram` how often each token
    occurs in the input; `chance` always answers the commonest training label.

    Args:
        model: Trained.
        untrained: The same tokenizers and architecture with fresh weights.
        training: Samples of the training split, on which probes are fitted.
        heldout: Samples on which they are scored.
        config: What to probe.

    Returns:
        One row per task, {"task", "metric", "value", "raw_pixels", "untrained",
        "token_histogram", "chance"}, and one sentence per task that was left out.
    """
    rows, notes = [], []
    if not config.tasks:
        return rows, notes
    train_rows = training.rows([config.input])[: config.num_train]
    test_rows = heldout.rows([config.input])[: config.num_test]
    shown = training.take(config.input, train_rows), heldout.take(config.input, test_rows)
    views = {
        "value": _embed(model, config.input, shown),
        "raw_pixels": tuple(raw_features(values) for values in shown),
        "untrained": _embed(untrained, config.input, shown),
        "token_histogram": _histograms(model, config.input, shown),
    }
    for task in config.tasks:
        if task not in training.metadata or task not in heldout.metadata:
            known = ", ".join(training.metadata) or "none"
            raise ValueError(
                f"There is no fact {task!r} to probe; the data's metadata has {known}: change "
                "probes.tasks."
            )
        fit_on = np.isin(train_rows, training.metadata[task].index)
        test_on = np.isin(test_rows, heldout.metadata[task].index)
        labels = training.labels(task, train_rows[fit_on])
        truth = heldout.labels(task, test_rows[test_on])
        kinds, counts = np.unique(labels, return_counts=True)
        if len(kinds) < 2 or not len(truth):
            notes.append(f"{task} was not probed: its label is the same in all samples.")
            continue
        accuracy = {
            name: _accuracy(fit[fit_on], labels, test[test_on], truth, config)
            for name, (fit, test) in views.items()
        }
        chance = float((truth == kinds[counts.argmax()]).mean())
        rows.append({"task": task, "metric": "accuracy", **accuracy, "chance": chance})
    return rows, notes


def untrained_like(model: Any2Any, seed: int = 0) -> Any2Any:
    """Returns the same tokenizers around the same architecture with fresh weights."""
    fresh = FourM(model.space, model.model.config, nnx.Rngs(seed))
    return dataclasses.replace(model, model=fresh)


def format_probes(rows: Sequence[dict[str, Any]]) -> str:
    """Returns probes as aligned text."""
    names = ("value", "raw_pixels", "untrained", "token_histogram", "chance")
    width = max(len(row["task"]) for row in rows) + 2
    lines = ["probe".ljust(width) + "".join(name.rjust(17) for name in names)]
    for row in rows:
        numbers = "".join(f"{row[name]:17.3f}" for name in names)
        lines.append(row["task"].ljust(width) + numbers)
    return "\n".join(lines)


def raw_features(values: RawBatch) -> Float[np.ndarray, "batch features"]:
    """Returns what a linear model sees of raw values: numbers, or pictures averaged down."""
    array = np.nan_to_num(np.asarray(values, np.float32))
    if array.ndim < 3:
        return array.reshape(len(array), -1)
    for axis in (1, 2):
        # Uneven sizes get windows that differ by one pixel.
        edges = np.linspace(0, array.shape[axis], min(PROBE_PIXELS, array.shape[axis]) + 1)
        starts = np.floor(edges).astype(int)
        sums = np.add.reduceat(array, starts[:-1], axis=axis)
        shape = [1] * array.ndim
        shape[axis] = -1
        array = sums / np.diff(starts).reshape(shape)
    return array.reshape(len(array), -1).astype(np.float32)


def token_histogram(
    ids: Int[np.ndarray, "batch tokens"], vocab_size: int
) -> Float[np.ndarray, "batch {vocab_size}"]:
    """Returns how often each id occurs in each sample; padding counts nowhere."""
    rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    real = ids >= 0
    flat = rows[real] * vocab_size + ids[real]
    counts = np.bincount(flat, minlength=len(ids) * vocab_size)
    return counts.reshape(len(ids), vocab_size).astype(np.float32)


Two = tuple[Float[np.ndarray, "train features"], Float[np.ndarray, "test features"]]
"""Features of the training and of the held-out samples."""


def _embed(model: Predictor, name: str, shown: tuple[RawBatch, RawBatch]) -> Two:
    train, test = (np.asarray(model.embed({name: values}), np.float32) for values in shown)
    return train, test


def _histograms(model: Predictor, name: str, shown: tuple[RawBatch, RawBatch]) -> Two:
    size = model.tokenizers[name].vocab_size
    ids = [model.tokenize({name: values})[name].reshape(len(values), -1) for values in shown]
    train, test = (token_histogram(each, size) for each in ids)
    return train, test


def _accuracy(
    features: Float[np.ndarray, "train features"],
    labels: Shaped[np.ndarray, "train"],
    test: Float[np.ndarray, "test features"],
    truth: Shaped[np.ndarray, "test"],
    config: ProbeConfig,
) -> float:
    # Take long to import, and a run is trained before it is probed.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    def fit(c: float, part: slice) -> Pipeline:
        regression = LogisticRegression(C=c, max_iter=config.max_iterations)
        return make_pipeline(StandardScaler(), regression).fit(features[part], labels[part])

    most = max(1, len(labels) * 4 // 5)
    can_choose = len(config.inverse_regularization) > 1 and len(np.unique(labels[:most])) > 1
    # One thread: on problems of this size the threads of BLAS cost far more than they save.
    with threadpool_limits(1), warnings.catch_warnings():
        # The limit of iterations is the probe's definition: it stops all rivals alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = config.inverse_regularization[0]
        if can_choose:
            chosen_on = slice(most, None)
            scores = [
                fit(c, slice(most)).score(features[chosen_on], labels[chosen_on])
                for c in config.inverse_regularization
            ]
            best = config.inverse_regularization[int(np.argmax(scores))]
        return float(fit(best, slice(None)).score(test, truth))

"""Linear probes of the frozen encoder, beside rivals that never saw the training."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, Shaped

from fourm.any2any import Any2Any
from fourm.evaluation.directions import Predictor
from fourm.evaluation.results import format_number, why_failed
from fourm.model.transformer import FourM
from fourm.run_directory.sample_set import SampleSet
from tokenizers.base import RawBatch
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.spread import evenly_spread

LEAST_C, MOST_C = 1e-6, 1e4
"""How far the grid of C may grow beyond the candidates that were given."""
PROBE_PIXELS = 16
"""Side to which pictures are averaged down for the probe on raw pixels."""


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
        "token_histogram", "chance", "inverse_regularization"}, the last chosen for the trained
        model, a rival that can't be had None; and one sentence per task that was left out or rival
        that can't be had, which says why.
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
    views = {
        "value": lambda: _embed(model, config.input, shown),
        "raw_pixels": lambda: tuple(raw_features(values) for values in shown),
        "untrained": lambda: _embed(untrained, config.input, shown),
        "token_histogram": lambda: _histograms(model, config.input, shown),
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
            found = {
                name: _accuracy(fit[fit_on], labels, test[test_on], truth, config)
                for name, (fit, test) in features.items()
            }
        except Exception as error:  # Whatever it is: the others can still be probed.
            notes.append(why_failed(f"The probe of {task}", error))
            continue
        chance = float((truth == kinds[counts.argmax()]).mean())
        accuracy = {name: found[name][0] if name in found else None for name in views}
        chosen = found["value"][1] if "value" in found else None
        row = {"task": task, "metric": "accuracy", **accuracy, "chance": chance}
        rows.append(row | {"inverse_regularization": chosen})
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
    names = ("value", "raw_pixels", "untrained", "token_histogram", "chance")
    width = max(len(row["task"]) for row in rows) + 2
    lines = ["probe".ljust(width) + "".join(name.rjust(17) for name in names)]
    for row in rows:
        numbers = "".join(format_number(row[name]).rjust(17) for name in names)
        lines.append(row["task"].ljust(width) + numbers)
    return "\n".join(lines)


def raw_features(values: RawBatch) -> Float[np.ndarray, "batch features"]:
    """Returns what a linear model sees of raw values: numbers, or pictures averaged down."""
    try:
        array = np.nan_to_num(np.asarray(values, np.float32))
    except (TypeError, ValueError) as error:
        kind = type(values[0]).__name__ if len(values) else "nothing"
        raise ValueError(
            f"values of type {kind}, or of different sizes, are no pixels or numbers"
        ) from error
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
) -> tuple[float, float]:
    """Returns the accuracy on held-out samples, and the C that was chosen for it."""
    # Take long to import, and a run is trained before it is probed.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    # Samples may lie sorted by class, so that a fifth is drawn at random, always the same.
    order = np.random.Generator(np.random.Philox(0)).permutation(len(labels))
    most = max(1, len(labels) * 4 // 5)
    fitted_on, chosen_on = np.sort(order[:most]), np.sort(order[most:])

    def fit(c: float, part: Int[np.ndarray, "part"]) -> Pipeline:
        regression = LogisticRegression(C=c, max_iter=config.max_iterations)
        return make_pipeline(StandardScaler(), regression).fit(features[part], labels[part])

    def score(c: float) -> float:
        return fit(c, fitted_on).score(features[chosen_on], labels[chosen_on])

    candidates = sorted(set(config.inverse_regularization))
    can_choose = len(candidates) > 1 and len(np.unique(labels[fitted_on])) > 1
    # One thread: on problems of this size the threads of BLAS cost far more than they save.
    with threadpool_limits(1), warnings.catch_warnings():
        # The limit of iterations is the probe's definition: it stops all rivals alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = best_inside(candidates, score) if can_choose else config.inverse_regularization[0]
        return float(fit(best, np.arange(len(labels))).score(test, truth)), best


def best_inside(candidates: Sequence[float], score: Callable[[float], float]) -> float:
    """Returns the candidate of the highest score; of equal ones the smallest inside the grid.

    Where the best is the first or last, what lies beyond may be better: the grid grows there, by
    the factor between its last two, until the best lies inside, within `LEAST_C` and `MOST_C`.

    Args:
        candidates: At least two positive numbers, ascending.
        score: Of a candidate.
    """
    grid = {c: score(c) for c in candidates}
    while True:
        ordered = sorted(grid)
        ends = {ordered[0], ordered[-1]}
        best = max(ordered, key=lambda c: (grid[c], c not in ends, -c))
        if best == ordered[0]:
            beyond = ordered[0] * ordered[0] / ordered[1]
        elif best == ordered[-1]:
            beyond = ordered[-1] * ordered[-1] / ordered[-2]
        else:
            return best
        if not LEAST_C * 0.999 <= beyond <= MOST_C * 1.001:
            return best
        grid[beyond] = score(beyond)

"""Linear probes of one vector per sample, their regularisation chosen on training samples."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Kind = Literal["class", "several", "number"]
"""What is read: one of several classes, any number of labels, or a number."""
LEAST_C, MOST_C = 1e-6, 1e4
"""How far the grid of C may grow beyond the candidates that were given."""

Predict = Callable[[Float[np.ndarray, "rows features"]], np.ndarray]


class Fitted(NamedTuple):
    """A probe.

    Attributes:
        predict: Returns answers for features [rows, features].
        strength: The C that was chosen.
        score: What it reached on the training samples that it was chosen on; NaN if there was no
            choice.
    """

    predict: Predict
    strength: float
    score: float


def fit_linear(
    features: Float[np.ndarray, "rows features"],
    labels: Shaped[np.ndarray, "rows ..."],
    kind: Kind,
    candidates: Sequence[float],
    folds: int = 1,
    max_iterations: int = 200,
) -> Fitted:
    """Fits a linear probe on standardised features.

    Logistic regression for a class, one for each of several labels, ridge regression for a number.

    Args:
        features: Of training samples.
        labels: A class of any dtype [rows], bool [rows, labels], or float [rows].
        kind: Which of these.
        candidates: For C, the inverse strength of the regularisation; the grid grows while its best
            is at an end, see `best_inside`. Ridge's penalty is 1 / C.
        folds: 1 chooses on a fifth of the samples, drawn at random, always the same; more are the
            folds of a cross-validation.
        max_iterations: Of the solver of logistic regression.
    """
    # Take long to import, and a run is trained before it is probed.
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    parts = folds_of(len(labels), folds)

    def score(c: float) -> float:
        found = []
        for fitted_on, chosen_on in parts:
            predict = _fit(features[fitted_on], labels[fitted_on], kind, c, max_iterations)
            found.append(agreement(predict(features[chosen_on]), labels[chosen_on], kind))
        return float(np.mean(found))

    ordered = sorted(set(candidates))
    # Samples of one class alone say nothing of how to tell classes apart.
    can_fit = kind != "class" or all(len(np.unique(labels[part])) > 1 for part, _ in parts)
    can_choose = len(ordered) > 1 and can_fit and len(labels) > 1
    # One thread: on problems of this size the threads of BLAS cost far more than they save.
    with threadpool_limits(1), warnings.catch_warnings():
        # The limit of iterations is the probe's definition: it stops all rivals alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = best_inside(ordered, score) if can_choose else candidates[0]
        reached = score(best) if can_choose and folds > 1 else float("nan")
        return Fitted(_fit(features, labels, kind, best, max_iterations), best, reached)


def folds_of(
    count: int, folds: int
) -> list[tuple[Int[np.ndarray, "fitted"], Int[np.ndarray, "chosen"]]]:
    """Returns which samples are fitted and which chosen on, ascending; see `fit_linear`."""
    # Samples may lie sorted by class.
    order = np.random.Generator(np.random.Philox(0)).permutation(count)
    if folds == 1 or count < 2:
        most = max(1, count * 4 // 5)
        return [(np.sort(order[:most]), np.sort(order[most:]))]
    parts = np.array_split(order, min(folds, count))
    return [(np.sort(np.setdiff1d(order, part)), np.sort(part)) for part in parts]


def agreement(answers: np.ndarray, labels: np.ndarray, kind: Kind) -> float:
    """Returns the accuracy of classes, F1 of labels, or the share of variance explained."""
    match kind:
        case "class":
            return float((answers == labels).mean())
        case "several":
            either = answers.sum() + labels.sum()
            return float(2 * (answers & labels).sum() / either) if either else 1.0
        case "number":
            residual = ((answers - labels) ** 2).mean()
            return float(1 - residual / max(labels.var(), 1e-12))


def _fit(
    features: Float[np.ndarray, "rows features"],
    labels: Shaped[np.ndarray, "rows ..."],
    kind: Kind,
    c: float,
    max_iterations: int,
) -> Predict:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaled = scaler.fit_transform(features)
    if kind != "several":
        is_class = kind == "class"
        model = LogisticRegression(C=c, max_iter=max_iterations) if is_class else Ridge(1 / c)
        fitted = model.fit(scaled, labels)
        return lambda rows: fitted.predict(scaler.transform(rows))
    # A label that is the same in all samples is answered so.
    models = {
        label: LogisticRegression(C=c, max_iter=max_iterations).fit(scaled, flag)
        for label, flag in enumerate(labels.T)
        if flag.any() and not flag.all()
    }

    def predict(rows: Float[np.ndarray, "rows features"]) -> Bool[np.ndarray, "rows labels"]:
        answers, rows = np.tile(labels[0], (len(rows), 1)), scaler.transform(rows)
        for label, model in models.items():
            answers[:, label] = model.predict(rows)
        return answers

    return predict


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

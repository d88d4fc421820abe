"""What likelihoods are good for: naming classes, matching, and finding what does not belong.

All of it compares log p(a | b) with log p(a), the pointwise mutual information: what is common in
itself, such as a short caption, counts for nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from fourm.inference.likelihood import likelihood_of_pairs, surprise_of_tokens
from fourm.model.transformer import FourM
from fourm.requests.batching import batches, check_whole, count_samples
from fourm.requests.editing import one_name
from tokenizers.base import PADDING, RawBatch, Tokenizer

TEMPLATES = ("{}",)
CHUNK = 64
"""Answers that are scored at once."""


@runtime_checkable
class Scorer(Protocol):
    """What scoring needs of a run: `fourm.any2any.Any2Any`."""

    model: FourM
    tokenizers: dict[str, Tokenizer]

    def encode_inputs(self, samples: Mapping[str, RawBatch | Any]) -> dict[str, np.ndarray]:
        """Returns all that the encoder reads of raw values."""

    def tokenize(self, samples: Mapping[str, RawBatch | Any]) -> dict[str, np.ndarray]:
        """Returns ids [batch, tokens] by modality."""

    def embed(self, inputs: Mapping[str, RawBatch | Any]) -> Float[np.ndarray, "batch dim"]:
        """Returns the encoder's features."""


class Ranks(NamedTuple):
    """How well pairs find each other among all.

    Attributes:
        ranks: Of every pair's own answer among all answers, 0 for the first.
        among: How many answers there are.
    """

    ranks: Int[np.ndarray, "pairs"]
    among: int

    def recall(self, at: int) -> float:
        """Returns the share of pairs whose own answer is among the first `at`."""
        return float((self.ranks < at).mean())


def score_pairs(
    run: Scorer,
    inputs: Mapping[str, RawBatch | Any],
    answers: Mapping[str, RawBatch | Any],
    *,
    relative: bool = True,
    num_draws: int = 2,
    seed: int = 0,
) -> Float[np.ndarray, "inputs answers"]:
    """Returns the log-likelihood, in nats, of each answer given each input.

    Args:
        run: Trained.
        inputs: Raw values by modality.
        answers: One modality and its raw values, any number of them.
        relative: Whether what an answer has given nothing is subtracted.
        num_draws: Pairs of passes where the answers are grids.
        seed: Of these passes.

    Raises:
        ValueError: If there is not one modality of answers, or it is among the inputs.
    """
    name = one_name(answers, "modality of answers is scored")
    if name in inputs or not inputs:
        raise ValueError(f"The inputs of a score are other modalities than {name}; give one.")
    known, ids = run.encode_inputs(inputs), run.tokenize(answers)[name]
    check_whole("num_draws", num_draws, 2)
    check_whole("seed", seed, 0, 2**32 - 1)
    parts = []
    for rows, real in batches(len(ids), CHUNK):
        to_score = run.model, known, name, ids[rows], num_draws, seed, relative
        parts.append(likelihood_of_pairs(*to_score)[:, :real])
    return np.concatenate(parts, axis=1)


def classify(
    run: Scorer,
    inputs: Mapping[str, RawBatch | Any],
    classes: Sequence[str],
    target: str,
    templates: Sequence[str] = TEMPLATES,
) -> Float[np.ndarray, "batch classes"]:
    """Returns the probability of each class by what is written of it, without any training.

    A class has the log-likelihood of its prompts, less that which they have given nothing, so that
    common words are no more likely to be chosen; over several templates their mean probability
    counts. All classes are equally likely beforehand.

    Args:
        run: Trained.
        inputs: What is to be classified, by modality.
        classes: Their names.
        target: The modality that names them, such as caption.
        templates: Texts with {} in the place of a name, such as "a photograph of a {}".

    Raises:
        ValueError: If there are fewer than two classes, or a template has no {}.
    """
    if isinstance(classes, str) or isinstance(templates, str):
        raise ValueError(
            f"{(classes if isinstance(classes, str) else templates)!r} is one text; give a list of "
            "classes, and of templates if any."
        )
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"The classes are {', '.join(classes)}; give at least two, each once.")
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"The template {wrong[0] if wrong else ''!r} has no {{}} for a class.")
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    scores = score_pairs(run, inputs, {target: prompts})
    scores = scores.reshape(len(scores), len(classes), len(templates))
    return _softmax(_log_mean_exp(scores))


def _log_mean_exp(scores: Float[np.ndarray, "batch classes last"]) -> np.ndarray:
    most = scores.max(axis=-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(scores - most).mean(axis=-1))


def _softmax(scores: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, "batch classes"]:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def cosine(
    run: Scorer, inputs: Mapping[str, RawBatch | Any], answers: Mapping[str, RawBatch | Any]
) -> Float[np.ndarray, "inputs answers"]:
    """Returns how alike the encoder's features of each input and each answer are, -1 to 1.

    Each modality's own mean is taken off first: what all of its samples have in common tells none
    of them apart.

    Raises:
        ValueError: If there is a single input or answer, of which nothing would be left.
    """
    first, second = run.embed(inputs), run.embed(answers)
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"There are {len(first)} inputs and {len(second)} answers; features are compared with "
            "the mean of their kind, so give at least two of each, or use score_pairs."
        )
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)[None]
    return first @ second.T / np.maximum(lengths, 1e-12)


def rank_pairs(scores: Float[np.ndarray, "pairs answers"]) -> Ranks:
    """Returns at which place each input has its own answer, which has the same number.

    Of answers with equal scores half count as better, rounded up. One without a score (NaN) is
    below all that have one.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    own = np.diagonal(scores)[:, None]
    better, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
    return Ranks(better + (equal + 1) // 2, scores.shape[1])


def area_under_roc(
    scores: Float[np.ndarray, "n"],
    is_positive: Bool[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | Int[np.ndarray, "n"] | None = None,
) -> float:
    """Returns how often a positive has a higher score than a negative, ties as half; NaN if none.

    That is the area under the ROC curve (Hanley and McNeil 1982).

    Args:
        scores: One each.
        is_positive: Which are to have high ones.
        weights: How often each counts; once if None.

    Raises:
        ValueError: If a score is NaN, which is neither above nor below another.
    """
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} have no score to rank.")
    times = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    inverse = np.unique(scores, return_inverse=True)[1]
    positives = np.bincount(inverse, times * is_positive)
    negatives = np.bincount(inverse, times * ~is_positive)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / pairs) if pairs else float("nan")


def word_scores(
    text: str,
    scores: Float[np.ndarray, "tokens"],
    tokenizer: Tokenizer,
) -> list[tuple[str, float]]:
    """Returns the words of a text, each with the sum of its tokens' scores.

    Args:
        text: As it was scored.
        scores: One for each token, as `TokenLikelihood.tokens` has them.
        tokenizer: Of the text.
    """
    (ids,) = np.asarray(tokenizer.encode([text]))
    real = ids[(ids != PADDING) & (ids != tokenizer.special.end)]
    found: list[tuple[str, float]] = []
    known, before = 0, 0.0
    for number in range(1, len(real) + 1):
        words = tokenizer.decode(_padded(real[:number], len(ids)))[0].split()
        # What comes before all words, such as a space, goes to the first one.
        score = float(scores[number - 1]) + before
        if len(words) > known:
            found += [(word, 0.0) for word in words[known:]]
            known = len(words)
        before = 0.0 if found else score
        if found:
            found[-1] = words[-1], found[-1][1] + score
    return found


def _padded(ids: Int[np.ndarray, "tokens"], length: int) -> Int[np.ndarray, "1 length"]:
    return np.pad(ids, (0, length - len(ids)), constant_values=PADDING)[None].astype(np.int32)


def surprise(
    run: Scorer,
    target: Mapping[str, RawBatch | Any],
    inputs: Mapping[str, RawBatch | Any],
) -> Float[np.ndarray, "batch y x"]:
    """Returns how odd each token of a grid is, in nats, given other modalities alone.

    Args:
        run: Trained.
        target: One modality whose tokens form a grid [y, x], and its raw values.
        inputs: What it is compared with, by modality; None where a sample lacks one.

    Raises:
        ValueError: If there is not one such target, or it is among the inputs.
    """
    name = one_name(target, "target is asked")
    ids, known = run.tokenize(target)[name], run.encode_inputs(inputs)
    count_samples({name: ids, **known}, None)
    parts = []
    for rows, real in batches(len(ids), CHUNK):
        own = {other: array[rows] for other, array in known.items()}
        parts.append(surprise_of_tokens(run.model, own, name, ids[rows])[:real])
    return np.concatenate(parts).reshape(len(ids), *run.model.space[name].token_shape)

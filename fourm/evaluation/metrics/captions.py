"""CIDEr-D of captions: how much of what is said is what people say of just this sample.

Vedantam et al. 2015, arXiv:1411.5726, section 5, with the numbers of their code: n-grams of one to
four words, weighted by how rarely the references of all samples have them, counted at most as often
as in a reference, with a Gaussian penalty on the difference in length; the mean over references,
times 10. N-grams are our own: words are runs of letters and digits in lower case, neither stemmed
nor split as the Penn Treebank does, so that numbers agree with those of other programs only where
both split a text alike.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tokenizers.base import Better, Choices, RawBatch

LONGEST = 4
"""Words of an n-gram, at most."""
SIGMA = 6.0
"""Of the penalty on lengths, in words."""

NGram = tuple[str, ...]


class _Weighted(NamedTuple):
    """A text as weights of its n-grams.

    Attributes:
        weights: By n-gram, a dictionary for each length.
        norms: Of each length.
        length: Words of the text.
    """

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int


class CaptionMetrics:
    """CIDEr-D against the texts of some samples, which also say how rare an n-gram is."""

    metrics: ClassVar[dict[str, Better]] = {"cider_d": "higher"}

    def __init__(self, truth: RawBatch):
        """Args:
        truth: A text, or several as `Choices`, of every sample.
        """
        references = [list(t) if isinstance(t, Choices) else [t] for t in truth]
        counts = [[count_ngrams(text) for text in texts] for texts in references]
        self._samples_with = Counter(
            ngram for texts in counts for ngram in {ngram for each in texts for ngram in each}
        )
        self._log_samples = math.log(len(references)) if references else 0.0
        self._references = [[self._weigh(each) for each in texts] for texts in counts]

    def score(
        self,
        predicted: Sequence[str],
        rows: Int[np.ndarray, "rows"] | None = None,
        confidence: object = None,
    ) -> dict[str, float]:
        """Returns the mean CIDEr-D, 0 to 10 and beyond, of texts.

        Args:
            predicted: One per sample.
            rows: Which samples these are; all if None.
            confidence: Of no account here.
        """
        del confidence
        scores = self.of_each(predicted, rows)
        return {"cider_d": float(scores.mean()) if len(scores) else math.nan}

    def of_each(
        self, predicted: Sequence[str], rows: Int[np.ndarray, "rows"] | None = None
    ) -> Float[np.ndarray, "rows"]:
        """Returns the score of each text by itself."""
        chosen = range(len(self._references)) if rows is None else map(int, rows)
        found = []
        for text, row in zip(predicted, chosen, strict=True):
            own = self._weigh(count_ngrams(text))
            likeness = [_compare(own, reference) for reference in self._references[row]]
            found.append(10 * sum(likeness) / len(likeness))
        return np.array(found)

    def _weigh(self, counts: Counter[NGram]) -> _Weighted:
        weights: list[dict[NGram, float]] = [{} for _ in range(LONGEST)]
        for ngram, times in counts.items():
            rarity = self._log_samples - math.log(max(self._samples_with[ngram], 1))
            weights[len(ngram) - 1][ngram] = times * rarity
        norms = [math.sqrt(sum(weight**2 for weight in each.values())) for each in weights]
        return _Weighted(weights, norms, sum(t for ngram, t in counts.items() if len(ngram) == 1))


def count_ngrams(text: str) -> Counter[NGram]:
    """Returns how often a text has each n-gram of one to four words."""
    words = re.findall(r"\w+", text.lower())
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    )


def _compare(text: _Weighted, reference: _Weighted) -> float:
    """Returns the mean over all lengths of n-grams of how alike two texts are."""
    total = 0.0
    for own, true, own_norm, true_norm in zip(
        text.weights, reference.weights, text.norms, reference.norms, strict=True
    ):
        if own_norm and true_norm:
            shared = sum(
                min(w, true[ngram]) * true[ngram] for ngram, w in own.items() if ngram in true
            )
            total += shared / (own_norm * true_norm)
    apart = text.length - reference.length
    return total / LONGEST * math.exp(-(apart**2) / (2 * SIGMA**2))

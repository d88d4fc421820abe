"""Metrics of single kinds that need all samples at once, or how sure the model is.

Of boxes average precision, of texts CIDEr-D: `Values.score` knows neither what an answer's
confidence is nor how rare a word is among all held-out texts.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fourm.evaluation.metrics.captions import CaptionMetrics
from fourm.evaluation.metrics.detections import Confidence, DetectionMetrics
from tokenizers.base import PADDING, RawBatch, Values
from tokenizers.boxes import BoxList
from tokenizers.spread import evenly_spread, take_rows
from tokenizers.text.sentencepiece import Text

CANDIDATES, JUDGED = 16, 256
"""Training texts of which one is the floor's constant, and training samples that choose it."""
TOKENS_OF_BOX = 5


def metrics_of(values: Values, truth: RawBatch) -> CaptionMetrics | DetectionMetrics | None:
    """Returns further metrics of a kind, against the truth of all samples; None if it has none."""
    if isinstance(values, BoxList):
        return DetectionMetrics(truth)
    if isinstance(values, Text):
        return CaptionMetrics(truth)
    return None


def best_constant(values: Values, training: RawBatch) -> Any:
    """Returns the value that does best as an answer to all training samples, or nearly so.

    Of boxes the list whose F1 is best; of texts the commonest one or one of a few others.
    """
    if isinstance(values, BoxList):
        return values.best_constant(training)
    texts = take_rows(training, evenly_spread(len(training), JUDGED))
    others = take_rows(training, evenly_spread(len(training), CANDIDATES))
    candidates = list(dict.fromkeys([Counter(training).most_common(1)[0][0], *others]))
    judge = CaptionMetrics(texts)
    scores = [judge.score([each] * len(texts))["cider_d"] for each in candidates]
    return candidates[int(np.argmax(scores))]


def confidence_of(
    model: Any, name: str, predicted: RawBatch, shown: Mapping[str, RawBatch]
) -> Confidence | None:
    """Returns how likely each predicted box is to the model, as it was written.

    The mean log-probability of its tokens, given the boxes before it. None if the predictions are
    no boxes, or the model knows no likelihoods.
    """
    is_able = hasattr(model, "log_likelihood")
    if not is_able or not isinstance(model.tokenizers[name].values, BoxList):
        return None
    tokens = model.log_likelihood({name: predicted}, shown).tokens
    ids = model.tokenize({name: predicted})[name]
    found = []
    for boxes, own, row in zip(predicted, tokens, ids, strict=True):
        count = len(boxes.classes)
        # A list is closed by one token, which is no box.
        assert (row != PADDING).sum() == TOKENS_OF_BOX * count + 1
        found.append(own[: TOKENS_OF_BOX * count].reshape(count, TOKENS_OF_BOX).mean(axis=1))
    return found

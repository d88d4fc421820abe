"""Which kinds have metrics of their own, their floors, and how sure a model is of boxes."""

from types import SimpleNamespace

import numpy as np

from fourm.evaluation.metrics.captions import CaptionMetrics
from fourm.evaluation.metrics.detections import DetectionMetrics
from fourm.evaluation.metrics.kinds import best_constant, confidence_of, metrics_of
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList, BoxTokenizerConfig
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Distances

BOXES = [
    Boxes(np.array([[0.1, 0.1, 0.5, 0.5], [0.5, 0, 1, 1]], np.float32), np.array([0, 1], np.int32)),
    Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32)),
]


def test_boxes_and_texts_have_metrics_of_their_own():
    assert isinstance(metrics_of(BoxList(("a", "b")), BOXES), DetectionMetrics)
    assert isinstance(metrics_of(Text(), ["a"]), CaptionMetrics)
    assert metrics_of(Distances(), np.ones((1, 2, 2))) is None


def test_the_constant_is_the_best_of_the_training_samples():
    texts = ["a red cube and a red ball", "a red cube and a ball", "nothing", "a red cube"] * 3
    assert best_constant(Text(), [*texts, "something else"]) in texts[:2]
    found = best_constant(BoxList(("a", "b")), [BOXES[0]] * 3)
    assert len(found.classes) == 2


def test_a_box_is_as_sure_as_its_tokens_are_likely():
    tokenizer = BoxTokenizerConfig(num_bins=10).fit(BoxList(("a", "b"), max_boxes=3), [])
    tokens = np.full((2, 16), np.nan)
    tokens[0, :11] = [-1, -2, -3, -4, -5, -10, -10, -10, -10, -20, -99]
    tokens[1, 0] = -7  # The end of an empty list.
    asked = []
    model = SimpleNamespace(
        tokenizers={"boxes": tokenizer},
        tokenize=lambda samples: {"boxes": tokenizer.encode(samples["boxes"])},
        log_likelihood=lambda target, shown: asked.append(shown) or SimpleNamespace(tokens=tokens),
    )
    first, second = confidence_of(model, "boxes", BOXES, {"rgb": "seen"})
    assert first.tolist() == [-3, -12] and len(second) == 0 and asked == [{"rgb": "seen"}]
    del model.log_likelihood
    assert confidence_of(model, "boxes", BOXES, {}) is None

"""The samples of a run: evenly spread, kept once, and read when somebody needs them."""

from dataclasses import replace

import numpy as np
import pytest

from configs.runs.samples import Samples
from fourm.evaluation.probes import ProbeConfig
from fourm.run_directory.sample_set import load_heldout
from tests.fixtures.tiny_scenes import config as tiny_config
from tokenizers.base import Boxes


class ByClass:
    """Samples that lie sorted by their class; every second has boxes, the first has a name."""

    def __init__(self, per_class: int):
        self.labels = np.repeat(np.arange(5), per_class)
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        self.num_read += len(indices)
        boxes = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
        return [
            {"rgb": np.zeros((8, 8, 3), np.uint8), "metadata": {"kind": int(self.labels[index])}}
            | ({"boxes": boxes} if index % 2 else {})
            for index in indices
        ]


CONFIG = replace(
    tiny_config,
    modalities={name: tiny_config.modalities[name] for name in ("rgb", "boxes")},
    tokenizer_samples=400,
    evaluation=replace(tiny_config.evaluation, num_samples=60),
    probes=ProbeConfig(tasks=("kind",), num_train=300, num_test=60),
)


def test_samples_that_lie_by_class_are_kept_from_all_classes(tmp_path):
    Samples(CONFIG, {"train": ByClass(100), "test": ByClass(20)}).keep_heldout(tmp_path)
    for split, count in (("train_reference", 300), ("test", 60)):
        kept = load_heldout(tmp_path, split)
        shares = np.bincount(kept.labels("kind", np.arange(kept.size)), minlength=5)
        assert kept.size >= count and max(shares) - min(shares) <= 1, split
    # Of the samples with boxes, so many were not among every fourth.
    assert len(load_heldout(tmp_path, "train_reference").rows(["boxes"])) >= 100


def test_what_is_kept_is_not_read_again(tmp_path):
    sources = {"train": ByClass(100), "test": ByClass(20)}
    Samples(CONFIG, sources).keep_heldout(tmp_path)
    assert sources["train"].num_read > 0 and sources["test"].num_read > 0
    sources = {"train": ByClass(100), "test": ByClass(20)}
    Samples(CONFIG, sources).keep_heldout(tmp_path)
    assert [source.num_read for source in sources.values()] == [0, 0]
    more = replace(CONFIG, evaluation=replace(CONFIG.evaluation, num_samples=70))
    Samples(more, sources).keep_heldout(tmp_path)
    assert [source.num_read for source in sources.values()] == [0, 70]


def test_a_fact_that_cannot_be_probed_is_told_whether_samples_are_kept_or_not(tmp_path):
    sources = {"train": ByClass(100), "test": ByClass(20)}
    wrong = replace(CONFIG, probes=replace(CONFIG.probes, tasks=("king",)))
    for _ in range(2):
        with pytest.raises(ValueError, match="The fact 'king' can't be probed"):
            Samples(wrong, sources).keep_heldout(tmp_path)
        Samples(CONFIG, sources).keep_heldout(tmp_path)

"""Recorded generation, replayed; and whether a difference would be found."""

import json

import numpy as np
import pytest

from fourm.interop.checks.generation import (
    check_generation,
    check_schedules,
    compare_choice,
    find_model,
    merge,
    sampling_distribution,
)
from fourm.token_space import TokenRange
from tests.paths import SHARED
from tokenizers.base import SequenceTokens

GOLDENS = SHARED / "parity" / "goldens"
TEXT = TokenRange("caption", 320, (6,), SequenceTokens(3, 5, 199), 0, 1, 0)


@pytest.mark.slow
@pytest.mark.skipif(not GOLDENS.is_dir(), reason="The recordings are not at hand.")
def test_every_recorded_array_is_replayed():
    found = {c.name: c for c in check_generation(GOLDENS / "generation_steps")}
    assert [c for c in found.values() if not c.is_equal] == []
    with np.load(GOLDENS / "generation_steps" / "outputs.npz") as recorded:
        assert set(recorded.files) <= set(found)


def test_schedules_that_differ_are_found():
    recorded = {
        "cosine": {"8,196": [7, 21, 32, 38, 38, 32, 21, 7], "8,16": [1, 2, 3, 3, 3, 3, 2, -1]},
        "linear": {"8,196": [25, 25, 25, 25, 24, 24, 24, 25]},
        "temps": {"linear,2,4,T=3.0,tokens=linear": [3.0, 1.5]},
    }
    assert [c.is_equal for c in check_schedules(recorded)] == [True, True, False, True]


def test_written_text_ends_at_the_next_sentinel_and_is_padded():
    raw = np.array([[5, 300, 301, 6, 302], [5, 300, 301, 302, 303]])
    merged, is_hidden = merge(raw, TEXT)
    assert merged.tolist() == [[300, 301, 0, 0], [300, 301, 302, 303]]
    assert is_hidden.tolist() == [[False, False, True, True], [False] * 4]


def test_any_of_the_equally_sure_tokens_may_be_chosen_but_not_less_sure_ones():
    confidence = np.array([[0.9, 0.5, 0.5, 0.1]])
    is_open = np.ones((1, 4), bool)
    for chosen, is_equal in (([1, 1, 0, 0], True), ([1, 0, 1, 0], True), ([1, 0, 0, 1], False)):
        found = compare_choice("c", confidence, is_open, 2, np.array([chosen], bool))
        assert found.is_equal == is_equal
    assert not compare_choice("c", confidence, is_open, 2, np.array([[1, 0, 0, 0]], bool)).is_equal


def test_top_k_may_be_a_share_of_the_vocabulary_and_zero_is_off():
    logits = np.log(np.array([[[0.4, 0.3, 0.2, 0.1]]]))
    np.testing.assert_allclose(
        sampling_distribution(logits, 1.0, 0.5, 0.0)[0, 0], [4 / 7, 3 / 7, 0, 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        sampling_distribution(logits, 1.0, 0, 0.0), np.exp(logits), rtol=1e-5
    )
    assert sampling_distribution(logits, 0.0, 0, 0.0).tolist() == [[[1.0, 0.0, 0.0, 0.0]]]


def test_the_model_of_the_traces_lies_beside_them(tmp_path):
    for name in ("traces", "one", "two"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="beside it are 0 models"):
        find_model(tmp_path / "traces")
    for name in ("one", "two"):
        (tmp_path / name / "model.safetensors").write_bytes(b"")
        (tmp_path / name / "config.json").write_text(json.dumps({"domains_in": []}))
    with pytest.raises(ValueError, match="beside it are 2 models"):
        find_model(tmp_path / "traces")
    (tmp_path / "traces" / "README.md").write_text("Traces of the model in `../two`.")
    assert find_model(tmp_path / "traces") == (tmp_path / "two").resolve()

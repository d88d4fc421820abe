"""Scores of pairs, classes, ranks, words: against what they are by definition."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fourm.inference.generate_tokens import generate_tokens
from fourm.inference.settings import GenerationConfig
from fourm.requests.scoring import (
    Ranks,
    area_under_roc,
    classify,
    cosine,
    rank_pairs,
    score_pairs,
    surprise,
    word_scores,
)
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.mark.slow
def test_pairs_are_scored_as_one_by_one(run):
    pictures = make_pictures(3)
    found = score_pairs(run, {"rgb": pictures}, {"caption": CAPTIONS})
    assert found.shape == (3, 4)
    for row in range(3):
        alone = run.log_likelihood(
            {"caption": CAPTIONS}, {"rgb": pictures[row : row + 1]}, relative=True
        )
        np.testing.assert_allclose(found[row], alone.total, rtol=1e-4, atol=1e-4)
    plain = score_pairs(run, {"rgb": pictures}, {"caption": CAPTIONS}, relative=False)
    np.testing.assert_allclose(
        plain[1], run.log_likelihood({"caption": CAPTIONS}, {"rgb": pictures[1:2]}).total, rtol=1e-4
    )


@pytest.mark.slow
def test_grids_are_answers_too_each_with_draws_of_its_own(run):
    pictures = make_pictures(3)
    found = score_pairs(run, {"caption": CAPTIONS[:2]}, {"rgb": pictures}, num_draws=3)
    assert found.shape == (2, 3) and np.isfinite(found).all()
    again = score_pairs(run, {"caption": CAPTIONS[:1]}, {"rgb": pictures}, num_draws=3)
    np.testing.assert_allclose(again[0], found[0], rtol=1e-5, atol=1e-4)
    assert cosine(run, {"caption": CAPTIONS[:2]}, {"rgb": pictures}).shape == (2, 3)
    with pytest.raises(ValueError, match="1 inputs and 3 answers; features are compared with"):
        cosine(run, {"caption": CAPTIONS[:1]}, {"rgb": pictures})


@pytest.mark.slow
def test_classes_have_probabilities_by_what_is_written_of_them(run):
    pictures = make_pictures(3)
    names, templates = ("red", "blue", "green"), ("a {} cube", "a {} ball")
    found = classify(run, {"rgb": pictures}, names, "caption", templates)
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found.sum(1), 1)
    prompts = [template.format(name) for name in names for template in templates]
    scores = score_pairs(run, {"rgb": pictures}, {"caption": prompts}).reshape(3, 3, 2)
    expected = np.exp(scores).mean(-1)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), rtol=1e-4)
    for wrong, told in (
        ({"classes": ("red",)}, "give at least two"),
        ({"classes": ("red", "red")}, "each once"),
        ({"templates": ("a cube",)}, "has no {} for a class"),
    ):
        with pytest.raises(ValueError, match=told):
            classify(run, {"rgb": pictures}, **{"classes": names, "target": "caption"} | wrong)


def test_what_can_not_be_scored_is_one_sentence(run):
    with pytest.raises(ValueError, match="One modality of answers is scored; none is given"):
        score_pairs(run, {"rgb": make_pictures(1)}, {})
    with pytest.raises(ValueError, match="rgb: 2, depth: 4"):
        surprise(run, {"rgb": make_pictures(2)}, {"depth": np.ones((4, 8, 8), np.float32)})
    with pytest.raises(ValueError, match="'red' is one text; give a list"):
        classify(run, {"rgb": make_pictures(1)}, "red", "caption")
    with pytest.raises(ValueError, match="other modalities than caption; give one"):
        score_pairs(run, {}, {"caption": CAPTIONS})


def test_ranks_count_what_is_better_and_half_of_what_is_equal():
    scores = np.array([[3.0, 1, 2], [5, 4, 4], [0, 0, 0]])
    found = rank_pairs(scores)
    assert found.ranks.tolist() == [0, 2, 1] and found.among == 3
    assert found.recall(1) == pytest.approx(1 / 3) and found.recall(3) == 1
    assert Ranks(np.array([0, 5]), 10).recall(5) == 0.5
    unknown = np.array([[np.nan, 1, 2], [5, 4, np.nan], [np.nan, np.nan, np.nan]])
    assert rank_pairs(unknown).ranks.tolist() == [2, 1, 1]


def test_the_area_is_how_often_a_positive_is_above_a_negative():
    random = np.random.default_rng(0)
    scores, positive = random.integers(0, 5, 40).astype(float), random.random(40) < 0.3
    above = scores[positive][:, None] - scores[~positive][None]
    expected = ((above > 0) + 0.5 * (above == 0)).mean()
    assert area_under_roc(scores, positive) == pytest.approx(expected)
    assert area_under_roc(np.array([2.0, 1.0]), np.array([True, False])) == 1
    assert np.isnan(area_under_roc(scores, np.ones(40, bool)))
    times = random.integers(0, 4, 40)
    often = area_under_roc(np.repeat(scores, times), np.repeat(positive, times))
    assert area_under_roc(scores, positive, times) == pytest.approx(often)
    scores[3] = np.nan
    with pytest.raises(ValueError, match="1 of 40 have no score"):
        area_under_roc(scores, positive)


def test_words_have_the_scores_of_their_tokens():
    texts = ["a red cube", "an extraordinary sphere", "a red sphere"]
    tokenizer = TextTokenizerConfig(vocab_size=330, max_tokens=40).fit(Text(), texts)
    text = "a red extraordinary unheard"
    (ids,) = tokenizer.encode([text])
    count = int((ids >= 0).sum())
    scores = np.arange(len(ids), dtype=float)
    found = word_scores(text, scores, tokenizer)
    assert [word for word, _ in found] == text.split()
    # The end is no word.
    assert sum(score for _, score in found) == scores[: count - 1].sum()
    assert found[0][1] < found[-1][1]


def test_what_comes_before_the_first_word_counts_for_it():
    pieces = {7: " ", 3: "a", 4: " b", 0: "", -1: ""}
    spaced = SimpleNamespace(
        special=SimpleNamespace(end=0),
        encode=lambda texts: np.array([[7, 3, 4, 0]]),
        decode=lambda ids: ["".join(pieces[int(n)] for n in ids[0])],
        **dict.fromkeys(("values", "vocab_size", "token_shape")),
        **dict.fromkeys(("save", "load"), print),
    )
    found = word_scores("a b", np.array([1.0, 2.0, 4.0, 8.0]), spaced)
    assert found == [("a", 3.0), ("b", 4.0)]


@pytest.mark.slow
def test_surprise_is_a_map_of_what_the_others_alone_say(run):
    entry, pictures = run.space["rgb"], make_pictures(2)
    found = surprise(run, {"rgb": pictures}, {"caption": CAPTIONS[:2]})
    assert found.shape == (2, *entry.token_shape)
    config = GenerationConfig(num_steps=1, temperature=1.0, decode="expected")
    known = {n: np.asarray(a) for n, a in run.encode_inputs({"caption": CAPTIONS[:2]}).items()}
    keys = jax.random.split(jax.random.key(0), 2)
    made = generate_tokens(run.model, known, ["rgb"], keys, {"rgb": config})
    ids = run.tokenize({"rgb": pictures})["rgb"]
    p = np.take_along_axis(np.asarray(made.probabilities["rgb"]), ids[..., None], -1)
    np.testing.assert_allclose(found.reshape(2, -1), -np.log(p[..., 0]), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="rgb is given and asked"):
        surprise(run, {"rgb": pictures}, {"rgb": pictures})
    with pytest.raises(ValueError, match="caption is no grid"):
        surprise(run, {"caption": CAPTIONS[:2]}, {"rgb": pictures})
    with pytest.raises(ValueError, match="One target is asked; none"):
        surprise(run, {}, {"rgb": pictures})

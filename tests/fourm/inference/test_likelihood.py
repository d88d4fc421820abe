"""Likelihoods against sums over everything there is, on tiny vocabularies."""

import itertools

import jax
import numpy as np
import pytest

from fourm.inference.generate_tokens import generate_tokens
from fourm.inference.likelihood import likelihood_of_tokens
from fourm.inference.settings import GenerationConfig
from fourm.model.config import ModelConfig
from fourm.token_space import TokenSpace
from tests.fourm.tiny import Shape, change_config, draw_model
from tokenizers.base import PADDING, SequenceTokens

pytestmark = pytest.mark.slow

SPACE = TokenSpace.build(
    {
        "grid": Shape(3, (2, 2)),
        "map": Shape(4, (2, 1)),
        "text": Shape(6, (3,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=3)),
    }
)
MAP = np.array([[1, 3]], np.int32)


@pytest.fixture(scope="module")
def model():
    shape = dict(dim=16, num_heads=2, encoder_layers=1, decoder_layers=2, embedding_std=1.0)
    model = draw_model(SPACE, change_config(ModelConfig(), **shape), 5)
    model.output_table[...] = model.output_table[...] * 10
    return model


def keys(seed, count):
    key = jax.random.key(seed)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(np.arange(count))


def likelihood(model, name, ids, known=None, seed=0, num_draws=2):
    count = len(ids)
    known = {} if known is None else {"map": np.repeat(known, count, axis=0)}
    return likelihood_of_tokens(model, known, name, ids, keys(seed, count), num_draws)


def every_text():
    """All texts that can be written: words 4 and 5, an end, or three words."""
    words = [w for length in range(3) for w in itertools.product([4, 5], repeat=length)]
    texts = [[*each, 0] for each in words] + [list(w) for w in itertools.product([4, 5], repeat=3)]
    ids = np.full((len(texts), 3), PADDING, np.int32)
    for row, tokens in zip(ids, texts, strict=True):
        row[: len(tokens)] = tokens
    return ids


@pytest.mark.parametrize("known", [None, MAP])
def test_the_probabilities_of_all_texts_add_up_to_1(model, known):
    found = likelihood(model, "text", every_text(), known)
    assert np.exp(found.total).sum() == pytest.approx(1, abs=1e-5)
    assert (found.error == 0).all()
    np.testing.assert_allclose(np.nansum(found.tokens, axis=1), found.total, rtol=1e-6)


def test_texts_are_written_as_often_as_their_likelihood_says(model):
    texts = every_text()
    count = 4000
    config = {"text": GenerationConfig()}
    known = {"map": np.repeat(MAP, count, axis=0)}
    written = np.asarray(
        generate_tokens(model, known, ["text"], keys(3, count), config).ids["text"]
    )
    share = (written[:, None] == texts[None]).all(-1).mean(0)
    assert share.sum() == pytest.approx(1)
    expected = np.exp(likelihood(model, "text", texts, MAP).total)
    error = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(share - expected) < 4.5 * error + 1e-9).all()


def exact(model, ids, known):
    """The mean over all orders of the log-probability, token by token."""
    hidden = np.full_like(ids, PADDING)
    config = {"grid": GenerationConfig(num_steps=1, temperature=1.0, decode="expected")}

    def log_p(is_shown):
        given = {"grid": np.where(is_shown, ids, hidden)} | known
        found = generate_tokens(model, given, ["grid"], keys(0, len(ids)), config)
        own = np.take_along_axis(np.asarray(found.probabilities["grid"]), ids[..., None], -1)
        return np.log(own[..., 0])

    subsets = {
        shown: log_p(np.isin(np.arange(4), shown)[None].repeat(len(ids), 0))
        for shown in (
            subset for size in range(4) for subset in itertools.combinations(range(4), size)
        )
    }
    totals = [
        sum(subsets[tuple(sorted(order[:i]))][:, order[i]] for i in range(4))
        for order in itertools.permutations(range(4))
    ]
    return np.mean(totals, axis=0)


def test_intervals_of_the_estimate_cover_the_mean_over_all_orders(model):
    ids = np.array([[0, 1, 2, 1], [2, 2, 0, 1]], np.int32)
    truth = exact(model, ids, {"map": MAP.repeat(2, axis=0)})
    many = likelihood(model, "grid", ids, MAP, num_draws=200)
    assert (np.abs(many.total - truth) < 4 * many.error).all()
    assert (many.error < 0.05 * np.abs(truth)).all()
    # Student's t with 7 degrees of freedom.
    covered = []
    for seed in range(100):
        found = likelihood(model, "grid", ids, MAP, seed=seed, num_draws=8)
        covered.append(np.abs(found.total - truth) < 2.365 * found.error)
    assert (np.sum(covered, axis=0) >= 90).all()


def test_a_sample_gets_the_same_whoever_its_neighbours_are(model):
    ids = np.array([[0, 1, 2, 1], [2, 2, 0, 1], [PADDING] * 4], np.int32)
    together = likelihood(model, "grid", ids, MAP)
    alone = likelihood(model, "grid", ids[:1], MAP)
    assert together.total[0] == alone.total[0] and together.error[0] == alone.error[0]
    assert np.isnan(together.total[2]) and np.isnan(together.tokens[2]).all()
    assert np.isfinite(together.total[:2]).all()
    texts = every_text()
    all_texts = likelihood(model, "text", texts, MAP)
    np.testing.assert_array_equal(
        likelihood(model, "text", texts[2:3], MAP).total, all_texts.total[2:3]
    )


def test_what_has_no_likelihood_is_one_sentence(model):
    with pytest.raises(ValueError, match="map is given and asked"):
        likelihood(model, "map", MAP, MAP)
    with pytest.raises(ValueError, match="num_draws is 1; at least 2"):
        likelihood(model, "grid", np.zeros((1, 4), np.int32), num_draws=1)

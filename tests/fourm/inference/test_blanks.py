"""Texts with blanks: every span is written where its sentinel stands, as in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.inference.conditions import gather_inputs
from fourm.inference.sequences import fill_blanks
from fourm.token_space import Targets
from tests.fourm.inference.test_generate_tokens import (  # noqa: F401  A fixture.
    BATCH,
    SPACE,
    full_logits,
    grid,
    model,
    run,
    text,
)
from tokenizers.base import PADDING

pytestmark = [pytest.mark.xdist_group("fourm/inference/test_generate_tokens"), pytest.mark.slow]

# The end is 0 and the sentinels 1, 2 and 3.
BLANKS = text([4, 1, 6, 0], [1, 0], [1, 5, 2, 0], [7, 1, 8], [9, 5, 0])


def test_spans_are_put_in_the_place_of_their_sentinels():
    given = jnp.asarray(text([4, 1, 6, 0], [1, 0], [1, 5, 2, 0], [7, 1, 8], [9, 5, 0]))
    written = np.full((5, 8), PADDING, np.int32)
    for row, tokens in zip(
        written, ([9, 9], [5, 6, 7, 8, 9], [2, 7, 7], [5, 2, 6, 0], []), strict=True
    ):
        row[: len(tokens)] = tokens
    filled = fill_blanks(given, jnp.asarray(written), SPACE["text"])
    assert (
        np.asarray(filled)
        == text([4, 9, 9, 6, 0], [5, 6, 7, 8, 9, 0], [5, 7, 7, 0], [7, 5, 8, 6, 0], [9, 5, 0])
    ).all()


def test_the_encoder_reads_the_sentinels_and_one_more_where_the_text_is_open():
    inputs = gather_inputs(SPACE, {"text": jnp.asarray(BLANKS)})
    ids, is_real = np.asarray(inputs.ids) - SPACE["text"].first_id, np.asarray(inputs.is_real)
    found = [row[real].tolist() for row, real in zip(ids, is_real, strict=True)]
    assert found == [[4, 1, 6, 0], [1, 0], [1, 5, 2, 0], [7, 1, 8, 2], [9, 5, 0]]


def write_by_hand(model, known, row):
    """Returns the greedy spans of one sample, by decoding all of the stream for every token."""
    entry = SPACE["text"]
    given = BLANKS[row][BLANKS[row] != PADDING].tolist()
    is_open = 0 not in given
    blanks = sum(token in (1, 2, 3) for token in given) + is_open
    room = entry.num_tokens - sum(token not in (1, 2, 3) for token in given)
    inputs = gather_inputs(SPACE, {name: jnp.asarray(ids) for name, ids in known.items()})
    stream, blank = [1], 0
    while blank < blanks and room > 0 and len(stream) <= entry.num_positions:
        padded = np.zeros((BATCH, entry.num_positions), np.int32)
        padded[row, : len(stream)] = stream
        place = np.broadcast_to(np.arange(entry.num_positions), padded.shape)
        targets = Targets(
            ids=padded,
            previous=padded + entry.first_id,
            modality=np.full_like(padded, entry.index),
            position=place + entry.first_position,
            is_real=place < len(stream),
        )
        logits = full_logits(model, jax.tree.map(jnp.asarray, targets), inputs, "text")
        logits = np.asarray(logits)[row, len(stream) - 1].copy()
        is_last = blank + 1 == blanks
        forbidden = {1, 2, 3} - {blank + 2} | (set() if is_last and is_open else {0})
        logits[list(forbidden)] = -np.inf
        token = int(logits.argmax())
        closes = token in (blank + 2, 0)
        token = 0 if closes and is_last and is_open else token
        stream.append(token)
        blank += closes
        room -= not closes or token == 0
    spans, at = [[]], 0
    for token in stream[1:]:
        spans = [*spans, []] if token in (2, 3) else [*spans[:-1], [*spans[-1], token]]
    filled = []
    for token in given + ([blanks] if is_open else []):
        if token in (1, 2, 3):
            filled += spans[at] if at < len(spans) else []
            at += 1
        else:
            filled.append(token)
    return filled


def test_blanks_are_filled_as_repeated_full_decoding_fills_them(model):
    known = {"map": grid("map"), "text": BLANKS}
    found = np.asarray(run(model, known, ["text"], temperature=0.0).ids["text"])
    for row in range(BATCH):
        by_hand = write_by_hand(model, known, row)
        assert found[row][found[row] != PADDING].tolist() == by_hand[: SPACE["text"].num_tokens]
    assert (found[4] == BLANKS[4]).all()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_what_is_given_stays_and_no_sentinel_is_left(model, guidance):
    known = {"map": grid("map"), "text": BLANKS}
    for seed in range(3):
        found = np.asarray(run(model, known, ["text"], seed, guidance=guidance).ids["text"])
        assert not np.isin(found, [1, 2, 3]).any()
        for row, given in zip(found, BLANKS, strict=True):
            left = iter(row[row != PADDING].tolist())
            kept = [token for token in given.tolist() if token not in (PADDING, 1, 2, 3)]
            assert all(token in left for token in kept)  # In their order.
            length = (row != PADDING).sum()
            assert (row[:length] != PADDING).all() and (row[: length - 1] != 0).all()


def test_a_sample_with_blanks_does_not_depend_on_its_neighbours(model):
    known = {"map": grid("map"), "text": BLANKS}
    together = np.asarray(run(model, known, ["text"]).ids["text"])
    alone = run(model, {name: ids[:1] for name, ids in known.items()}, ["text"]).ids["text"]
    assert (np.asarray(alone)[0] == together[0]).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([4, 2, 6, 0], "are not 1 and those that follow"),
        ([2, 5, 1, 0], "are not 1 and those that follow"),
        ([1, 4, 2, 5, 3, 0], "has 3 spans to be written; with its 3 sentinels at most 2"),
        ([1, 4, 2], "has 3 spans to be written; with its 3 sentinels at most 2"),
    ],
)
def test_sentinels_out_of_order_or_too_many_are_one_sentence(model, given, told):
    with pytest.raises(ValueError, match=told):
        run(model, {"text": text(given)}, ["text"])

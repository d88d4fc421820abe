"""Sequences are written to their end, as repeated decoding of the whole would write them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.inference.cache import decode_next, start_cache
from fourm.inference.conditions import gather_inputs
from fourm.token_space import Targets
from tests.fourm.inference.test_generate_tokens import (  # noqa: F401  Fixtures.
    BATCH,
    SPACE,
    build_model,
    full_logits,
    grid,
    hidden_text,
    model,
    run,
    text,
)
from tokenizers.base import PADDING

pytestmark = [pytest.mark.xdist_group("fourm/inference/test_generate_tokens"), pytest.mark.slow]


AS_PUBLISHED = {
    "num_registers": 2,
    "registers_in_context": True,
    "share_token_embeddings": False,
    "share_modality_embeddings": False,
    "separate_positions": ("text",),
}


@pytest.mark.parametrize(
    "options", [{}, {"scan_layers": False, "num_registers": 2}, AS_PUBLISHED], ids=str
)
def test_the_cached_decoder_gives_the_logits_of_the_full_one(hidden_text, options):
    """Teacher-forced: the stream that masking makes of a hidden text, all at once and by steps."""
    model = build_model(**options)
    batch = hidden_text
    entry = SPACE["text"]
    full = full_logits(model, batch.targets, batch.inputs, "text")

    @nnx.jit
    def start(model):
        context = model.build_context(model.encode(batch.inputs), batch.inputs)
        return start_cache(model, context, batch.inputs.is_real, 7)

    @nnx.jit
    def proceed(model, previous, place, cache):
        features, cache = decode_next(model, previous, place, entry, cache)
        return model.logits(features, entry)[:, 0], cache

    # The stream opens with the first sentinel; each token is then read to predict the next.
    previous = jnp.full(2, entry.special.first_sentinel + entry.first_id)
    cache = start(model)
    compared = 0
    for i in range(7):
        logits, cache = proceed(model, previous, jnp.array(i), cache)
        for row in np.flatnonzero(batch.targets.is_real[:, i]):
            assert batch.targets.previous[row, i] == previous[row]
            np.testing.assert_allclose(logits[row], full[row, i], rtol=1e-3, atol=1e-4)
            compared += 1
        previous = batch.targets.ids[:, i]
    # Every token, its end, and the sentinel that closes the stream.
    assert compared == (3 + 1) + (6 + 1)


def test_greedy_text_is_what_repeated_full_decoding_gives(model):
    known = {"map": jnp.asarray(grid("map"))}
    written = np.asarray(run(model, known, ["text"], temperature=0.0).ids["text"])
    entry = SPACE["text"]
    inputs = gather_inputs(SPACE, known)
    stream = np.zeros((BATCH, 7), np.int32)
    stream[:, 0] = entry.special.first_sentinel
    place = np.broadcast_to(np.arange(7), stream.shape)
    for i in range(6):
        targets = Targets(
            ids=stream,
            previous=stream + entry.first_id,
            modality=np.full_like(stream, entry.index),
            position=place + entry.first_position,
            is_real=place <= i,
        )
        logits = full_logits(model, jax.tree.map(jnp.asarray, targets), inputs, "text")[:, i]
        # The first and third sentinel may not be written; the second closes, as the end does.
        token = np.asarray(logits.at[:, jnp.array([1, 3])].set(-jnp.inf).argmax(-1))
        stream[:, i + 1] = np.where(token == 2, 0, token)
        is_running = written[:, i] != PADDING
        assert (written[is_running, i] == stream[is_running, i + 1]).all()


@pytest.mark.parametrize(("name", "guidance"), [("text", 1.0), ("text", 2.0), ("boxes", 1.0)])
def test_sequences_end_once_and_are_padded_after(model, name, guidance):
    entry = SPACE[name]
    first = entry.special.first_sentinel
    for seed in range(3):
        result = run(model, {"map": grid("map")}, [name], seed, guidance=guidance)
        for row in np.asarray(result.ids[name]):
            length = (row != PADDING).sum()
            assert (row[:length] != PADDING).all()
            assert ((row[:length] >= 0) & (row[:length] < entry.vocab_size)).all()
            assert (row[: length - 1] != entry.special.end).all()
            assert row[length - 1] == entry.special.end or length == entry.num_tokens
            assert not ((row >= first) & (row < first + entry.special.num_sentinels)).any()


def test_a_text_that_has_begun_is_continued_and_one_that_has_ended_is_kept(model):
    given = text([4, 5], [6, 7, 0], [4, 5, 6, 7, 8, 9], [], [9])
    ids = np.asarray(run(model, {"text": given, "map": grid("map")}, ["text"]).ids["text"])
    assert (ids[given != PADDING] == given[given != PADDING]).all()
    assert (ids[1] == given[1]).all()
    assert (ids[2] == given[2]).all()
    assert (ids[[0, 3, 4], [2, 0, 1]] != PADDING).all()


def test_the_encoder_reads_an_open_text_with_the_sentinel_that_training_put_there():
    given = text([4, 5], [6, 0], [])
    inputs = gather_inputs(SPACE, {"text": jnp.asarray(given)})
    first_id, first_position = SPACE["text"].first_id, SPACE["text"].first_position
    assert inputs.is_real.sum(1).tolist() == [3, 2, 0]
    assert (inputs.ids[0, :3] - first_id).tolist() == [4, 5, 1]
    assert (inputs.position[0] - first_position).tolist() == list(range(6))

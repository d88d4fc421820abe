"""Generation: every scheme completes exactly what is missing and changes nothing that is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.inference import grids
from fourm.inference.conditions import gather_inputs
from fourm.inference.generate_tokens import generate_tokens
from fourm.inference.grids import ask_grid
from fourm.inference.schedules import tokens_per_step
from fourm.inference.settings import GenerationConfig
from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from tests.fourm.tiny import Shape, change_config, draw_model
from tokenizers.base import PADDING, SequenceTokens, TokenBatch

pytestmark = pytest.mark.slow

BATCH = 5


SPACE = TokenSpace.build(
    {
        "picture": Shape(13, (3, 4)),
        "map": Shape(7, (2, 3)),
        "text": Shape(12, (6,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=3)),
        "boxes": Shape(9, (5,), SequenceTokens(end=8, first_sentinel=0, num_sentinels=2)),
        "number": Shape(5, (1,)),
    }
)


def build_model(**options) -> FourM:
    shape = dict(dim=16, num_heads=2, encoder_layers=1, decoder_layers=2, scan_layers=True)
    config = change_config(ModelConfig(), **shape | {"embedding_std": 1.0} | options)
    model = draw_model(SPACE, config, 5)
    # Larger logits than at the start of training, so that confidences differ, and smaller ones
    # for ends, so that sequences have all lengths.
    table = model.output_table[...] * 15
    ends = [entry.first_id + entry.special.end for entry in SPACE.ranges if entry.special]
    model.output_table[...] = table.at[jnp.array(ends)].multiply(0.3)
    return model


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model()


@pytest.fixture(scope="module")
def hidden_text():
    """Two samples that training shows a map of, and asks the text."""
    hidden = MaskingComponent(
        inputs={"map": 1.0}, targets={"text": 1.0}, num_inputs=(6, 6), num_targets=(8, 8)
    )
    return masked({"text": TEXT[:2], "map": grid("map", count=2)}, hidden)


def keys(seed=0, count=BATCH):
    key = jax.random.key(seed)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))


def grid(name, seed=0, share=1.0, count=BATCH):
    entry = SPACE[name]
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, entry.vocab_size, (count, entry.num_tokens)).astype(np.int32)
    return np.where(rng.random(ids.shape) <= share, ids, PADDING).astype(np.int32)


def masked(ids, component):
    """Splits two samples as training does; what `ids` lacks is absent."""
    absent = {e.name: np.full((2, e.num_tokens), PADDING, np.int32) for e in SPACE.ranges}
    ids = absent | ids
    num_real = {name: (value != PADDING).sum(1).astype(np.int32) for name, value in ids.items()}
    batch = TokenBatch(ids, num_real, np.arange(2, dtype=np.int32))
    split = jax.jit(lambda batch: mask_batch(jax.random.key(0), batch, SPACE, config))
    config = MaskingConfig((component,))
    return split(batch)


@functools.partial(nnx.jit, static_argnums=3)
def full_logits(model, targets, inputs, name):
    context = model.build_context(model.encode(inputs), inputs)
    return model.logits(model.decode(targets, context, inputs), SPACE[name])


def text(*rows):
    ids = np.full((len(rows), SPACE["text"].num_tokens), PADDING, np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids


TEXT = text([4, 5, 0], [6, 7, 8, 9, 10, 0], [11, 0], [], [5, 5, 5, 0])


def run(model, known, targets, seed=0, **settings):
    config = GenerationConfig(**{"num_steps": 2} | settings)
    batch = len(next(iter(known.values()))) if known else BATCH
    return generate_tokens(model, known, targets, keys(seed, batch), dict.fromkeys(targets, config))


@pytest.mark.parametrize(
    ("scheme", "guidance"), [("maskgit", 1.0), ("random", 2.0), ("autoregressive", 1.0)]
)
def test_grids_come_out_complete_and_keep_what_was_given(model, scheme, guidance):
    # Per sample another number of tokens is missing, none and all included.
    given = grid("picture", share=0.4)
    given[0] = PADDING
    given[1] = grid("picture")[1]
    known = {"picture": given, "text": TEXT}
    settings = dict(scheme=scheme, guidance=guidance, choice_noise=2.0)
    ids = np.asarray(run(model, known, ["picture"], **settings).ids["picture"])
    assert ((ids >= 0) & (ids < 13)).all()
    assert (ids[given != PADDING] == given[given != PADDING]).all()


@pytest.mark.parametrize("num_steps", [1, 20])
def test_more_steps_than_tokens_and_a_single_one_both_complete_a_grid(model, num_steps):
    ids = run(model, {"text": TEXT}, ["map"], num_steps=num_steps).ids["map"]
    assert ((ids >= 0) & (ids < 7)).all()


@pytest.mark.parametrize(("guidance", "num_steps"), [(1.0, 1), (3.0, 2)])
@pytest.mark.parametrize("target", ["picture", "text"])
def test_something_is_generated_from_nothing(model, target, guidance, num_steps):
    settings = dict(num_steps=num_steps, guidance=guidance, decode="expected")
    result = run(model, {}, [target], **settings)
    assert (result.ids[target][:, 0] >= 0).all()
    if target == "picture":
        assert jnp.isfinite(result.probabilities[target]).all()


def test_a_condition_that_a_sample_lacks_is_as_no_condition(model):
    lacking = {"map": np.full((BATCH, 6), PADDING, np.int32)}
    for target in ("picture", "text"):
        absent = run(model, {}, [target]).ids[target]
        assert (run(model, lacking, [target]).ids[target] == absent).all()


def test_inputs_are_those_that_masking_would_show_in_full():
    ids = {"text": TEXT[:2], "map": grid("map", count=2)}
    everything = MaskingComponent(
        inputs={"text": 5.0, "map": 5.0},
        targets={"picture": 1.0},
        num_inputs=(12, 12),
        num_targets=(4, 4),
        keep="all",
    )
    shown = masked(ids | {"picture": grid("picture", count=2)}, everything).inputs
    gathered = gather_inputs(SPACE, ids)

    def tokens(inputs, row):
        parts = (inputs.ids, inputs.modality, inputs.position)
        is_real = np.asarray(inputs.is_real[row])
        columns = [np.asarray(part[row])[is_real].tolist() for part in parts]
        return sorted(zip(*columns, strict=True))

    for row in range(2):
        assert tokens(shown, row) == tokens(gathered, row)


def test_a_sample_does_not_depend_on_its_neighbours(model):
    """Over two targets in turn; `test_any_batch` does so with every scheme."""
    known = {"map": grid("map"), "text": TEXT}
    targets = ["picture", "boxes"]
    both = dict.fromkeys(targets, GenerationConfig(num_steps=2, choice_noise=1.0, guidance=2.0))
    together = generate_tokens(model, known, targets, keys(), both).ids
    for rows in ([3, 1, 4, 0, 2], [1, 2]):
        some = {name: ids[rows] for name, ids in known.items()}
        apart = generate_tokens(model, some, targets, keys()[jnp.array(rows)], both).ids
        for name in targets:
            assert (apart[name] == together[name][jnp.array(rows)]).all()


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(model):
    first, again, other = (
        run(model, {"map": grid("map")}, ["picture", "text"], seed).ids for seed in (0, 0, 1)
    )
    for name in ("picture", "text"):
        assert (first[name] == again[name]).all()
        assert (first[name] != other[name]).any()


def test_temperature_zero_does_not_depend_on_the_seed(model):
    first, other = (
        run(model, {"map": grid("map")}, ["picture", "text"], seed, temperature=0.0).ids
        for seed in (0, 1)
    )
    for name in ("picture", "text"):
        assert (first[name] == other[name]).all()


def test_vectors_are_a_condition_and_missing_ones_are_none():
    space = TokenSpace.build(
        {"picture": Shape(13, (3, 4)), "pixels": Shape(0, (2, 2), None, feature_width=5)}
    )
    config = ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1)
    model = draw_model(space, config, 5)
    model.output_table[...] = model.output_table[...] * 15
    vectors = np.random.default_rng(0).normal(size=(2, BATCH, 4, 5)).astype(np.float32)
    vectors[1, 0] = np.nan
    settings = {"picture": GenerationConfig(num_steps=2, temperature=0.0)}
    keys = jax.random.split(jax.random.key(0), BATCH)
    one, other, none = (
        generate_tokens(model, known, ["picture"], keys, settings).ids["picture"]
        for known in ({"pixels": vectors[0]}, {"pixels": vectors[1]}, {})
    )
    assert (one != other).any()
    assert (other[0] == none[0]).all()
    with pytest.raises(ValueError, match="pixels has no tokens and is only ever input"):
        generate_tokens(model, {}, ["pixels"], keys, settings)
    with pytest.raises(ValueError, match=r"shape \(5, 4, 4\); \(5, 4, 5\) is needed"):
        generate_tokens(model, {"pixels": vectors[0, :, :, :4]}, ["picture"], keys, settings)


def test_a_falling_temperature_starts_like_a_constant_one_and_ends_otherwise(model):
    known = {"map": grid("map")}
    for num_steps, is_same in ((1, True), (6, False)):
        constant, falling = (
            run(model, known, ["picture"], num_steps=num_steps, temperature_schedule=schedule).ids
            for schedule in ("constant", "linear")
        )
        assert (constant["picture"] == falling["picture"]).all() == is_same


def test_maskgit_fixes_the_surest_tokens_first_even_at_temperature_zero(model):
    known = {"map": jnp.asarray(grid("map"))}
    ids = np.asarray(run(model, known, ["picture"], temperature=0.0).ids["picture"])

    place = jnp.broadcast_to(jnp.arange(12), (BATCH, 12))
    asked = ask_grid(SPACE["picture"], place, jnp.ones((BATCH, 12), bool))
    logits = full_logits(model, asked, gather_inputs(SPACE, known), "picture")
    probabilities = np.asarray(jax.nn.softmax(logits))
    surest = np.argsort(-probabilities.max(-1), axis=1)[:, :6]
    first = np.take_along_axis(probabilities.argmax(-1), surest, axis=1)
    assert (np.take_along_axis(ids, surest, axis=1) == first).all()


def test_asking_only_what_a_pass_fixes_gives_what_asking_in_place_gives(model):
    """A fixed order asks for a few slots, wherever their tokens are."""
    known = {"map": grid("map")}
    given = grid("picture", share=0.4)
    given[0] = PADDING
    settings = dict(scheme="autoregressive", num_steps=3, schedule="linear", temperature=0.0)
    result = run(model, known | {"picture": given}, ["picture"], decode="expected", **settings)

    ids = given.copy()
    place = jnp.broadcast_to(jnp.arange(12), (BATCH, 12))
    counts = [
        tokens_per_step("linear", 3, missing) for missing in (given == PADDING).sum(1).tolist()
    ]
    for i in range(3):
        is_asked = (ids == PADDING) & (np.cumsum(ids == PADDING, 1) <= np.stack(counts)[:, i, None])
        asked = ask_grid(SPACE["picture"], place, jnp.asarray(is_asked))
        inputs = gather_inputs(SPACE, known | {"picture": ids})
        logits = np.asarray(full_logits(model, asked, inputs, "picture"))
        ids = np.where(is_asked, logits.argmax(-1), ids)
        likely = np.asarray(jax.nn.softmax(logits))[is_asked]
        np.testing.assert_allclose(result.probabilities["picture"][is_asked], likely, atol=1e-5)
    assert (result.ids["picture"] == ids).all()


@pytest.mark.parametrize(("scheme", "share"), [("maskgit", 0.0), ("maskgit", 0.4), ("random", 0.0)])
def test_a_large_grid_becomes_what_it_would_in_passes_of_one_size(
    model, scheme, share, monkeypatch
):
    known = {"text": TEXT}
    if share:
        known["picture"] = grid("picture", share=share)
    settings = dict(scheme=scheme, num_steps=5, temperature=0.0, decode="expected", guidance=2.0)
    expected = run(model, known, ["picture"], **settings)
    monkeypatch.setattr(grids, "LARGE_GRID", 12)
    grids.generate_grid.clear_cache()
    result = run(model, known, ["picture"], **settings)
    assert (result.ids["picture"] == expected.ids["picture"]).all()
    np.testing.assert_allclose(
        result.probabilities["picture"], expected.probabilities["picture"], atol=1e-5
    )
    grids.generate_grid.clear_cache()


def test_guidance_of_one_is_the_limit_of_guidance(model):
    known = {"map": grid("map")}
    for target in ("picture", "text"):
        off, nearly_off, strong = (
            run(model, known, [target], guidance=scale).ids[target]
            for scale in (1.0, 1.0 + 1e-6, 8.0)
        )
        assert (off == nearly_off).all()
        assert (off != strong).any()


def test_guidance_of_zero_ignores_the_conditions(model):
    for target in ("picture", "text"):
        conditioned = run(model, {"map": grid("map")}, [target], guidance=0.0)
        unconditioned = run(model, {}, [target])
        assert (conditioned.ids[target] == unconditioned.ids[target]).all()


def test_a_generated_target_becomes_a_condition_of_the_next(model):
    known = {"map": grid("map")}
    chained = run(model, known, ["picture", "text"]).ids
    by_hand = run(model, known | {"picture": np.asarray(chained["picture"])}, ["text"]).ids
    alone = run(model, known, ["text"]).ids
    assert (chained["text"] == by_hand["text"]).all()
    assert (chained["text"] != alone["text"]).any()


def test_probabilities_are_those_the_tokens_were_drawn_from(model):
    given = grid("picture", share=0.3)
    settings = dict(temperature=0.0, decode="expected")
    result = run(model, {"picture": given}, ["picture"], **settings)
    probabilities = result.probabilities["picture"]
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert (probabilities.argmax(-1) == result.ids["picture"]).all()
    is_given = given != PADDING
    assert (np.asarray(probabilities.max(-1))[is_given] == 1).all()


def test_only_expected_decoding_keeps_probabilities(model):
    assert run(model, {}, ["number"], num_steps=1).probabilities == {}


def test_a_pass_without_given_tokens_reads_only_the_conditions(model):
    """The fast path of dense prediction leaves out slots that would be empty anyway."""
    known = {"map": grid("map")}
    empty = np.full((BATCH, 12), PADDING, np.int32)
    fast = run(model, known, ["picture"], num_steps=1, decode="expected")
    slow = run(model, known | {"picture": empty}, ["picture"], num_steps=1, decode="expected")
    assert (fast.ids["picture"] == slow.ids["picture"]).all()
    np.testing.assert_allclose(
        fast.probabilities["picture"], slow.probabilities["picture"], atol=1e-5
    )

"""The model: what may influence what, and the same numbers however it is run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.model.config import ModelConfig
from fourm.model.transformer import FourM, can_attend_targets
from fourm.token_space import Inputs, MaskedBatch, Targets, TokenRange, TokenSpace
from tests.fourm.tiny import SPACE, build_model, change_config, make_tokens

pytestmark = pytest.mark.slow

ALPHAS = {name: 1.0 for name in SPACE.names}
MASKING = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (6, 14), (8, 18)),))


def make_batch() -> MaskedBatch:
    mask = jax.jit(lambda key, tokens: mask_batch(key, tokens, SPACE, MASKING))
    return mask(jax.random.key(1), make_tokens(6, present=0.8))


BATCH = make_batch()


@jax.jit
def run(graph, state, batch):
    return nnx.merge(graph, state)(batch)


def apply(model, batch=BATCH):
    return np.asarray(run(*nnx.split(model), batch), np.float32)


def real(features, targets=BATCH.targets):
    return features[np.asarray(targets.is_real)]


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model(encoder_layers=2, decoder_layers=2)


def scramble(side, seed=0, where=None):
    """Other ids, modalities and positions where `where` says so (default: at padding)."""
    rng = np.random.default_rng(seed)
    where = ~np.asarray(side.is_real) if where is None else where
    limits = dict(ids=SPACE.vocab_size, previous=SPACE.vocab_size)
    limits |= dict(modality=len(SPACE.ranges), position=SPACE.num_positions)
    fields = {}
    for field, value in side._asdict().items():
        if field in limits:
            other = rng.integers(0, limits[field], value.shape)
            fields[field] = jnp.where(where, jnp.asarray(other, value.dtype), value)
    return side._replace(**fields)


def test_the_batch_of_these_tests_has_padding_and_all_modalities_on_both_sides():
    for side in BATCH:
        assert 0.2 < side.is_real.mean() < 0.95
        assert set(side.modality[side.is_real].tolist()) == set(range(5))


def test_padding_does_not_influence_real_targets(model):
    padded = MaskedBatch(scramble(BATCH.inputs), scramble(BATCH.targets))
    np.testing.assert_array_equal(real(apply(model)), real(apply(model, padded)))


def test_the_order_of_the_inputs_does_not_matter(model):
    order = np.random.default_rng(0).permutation(BATCH.inputs.ids.shape[1])
    inputs = jax.tree.map(lambda array: array[:, order], BATCH.inputs)
    moved = apply(model, BATCH._replace(inputs=inputs))
    np.testing.assert_allclose(real(apply(model)), real(moved), atol=2e-5)


def test_every_field_of_a_real_input_matters(model):
    plain = real(apply(model))
    for field in ("ids", "modality", "position"):
        value = getattr(BATCH.inputs, field)
        inputs = BATCH.inputs._replace(**{field: jnp.roll(value, 1, axis=1)})
        assert np.abs(real(apply(model, BATCH._replace(inputs=inputs))) - plain).max() > 1e-3


def test_targets_of_one_modality_do_not_influence_those_of_another(model):
    plain = apply(model)
    for index in range(len(SPACE.ranges)):
        own = np.asarray(BATCH.targets.modality == index)
        changed = scramble(BATCH.targets, where=own)._replace(modality=BATCH.targets.modality)
        changed = apply(model, BATCH._replace(targets=changed))
        others = np.asarray(BATCH.targets.is_real) & ~own
        np.testing.assert_array_equal(plain[others], changed[others])


def test_later_targets_of_a_sequence_do_not_influence_earlier_ones(model):
    entry = SPACE["text"]
    own = np.asarray(BATCH.targets.modality == entry.index) & np.asarray(BATCH.targets.is_real)
    late = own & (np.asarray(BATCH.targets.position) >= entry.first_position + 3)
    assert late.any()
    previous = jnp.where(late, entry.first_id + 7, BATCH.targets.previous)
    changed = apply(model, BATCH._replace(targets=BATCH.targets._replace(previous=previous)))
    plain = apply(model)
    np.testing.assert_array_equal(plain[own & ~late], changed[own & ~late])
    assert np.abs(plain[late] - changed[late]).max() > 1e-3


def test_targets_see_their_own_modality_and_in_sequences_nothing_later():
    picture, text = SPACE["picture"], SPACE["text"]
    modality = jnp.array([[picture.index] * 2 + [text.index] * 3 + [picture.index]])
    position = jnp.array([[4, 1, 30, 31, 32, 0]])
    is_real = jnp.array([[True] * 5 + [False]])
    targets = Targets(position, position, modality, position, is_real)
    is_sequence = jnp.array([entry.kind == "sequence" for entry in SPACE.ranges])
    drawn = ["xx....", "xx....", "..x...", "..xx..", "..xxx.", "xx...."]
    expected = np.array([[mark == "x" for mark in row] for row in drawn])
    np.testing.assert_array_equal(can_attend_targets(targets, is_sequence)[0], expected)


def test_targets_that_are_not_given_do_not_reveal_themselves(model):
    # The ids to be predicted are labels; the decoder reads only what precedes them.
    ids = jnp.zeros_like(BATCH.targets.ids)
    changed = apply(model, BATCH._replace(targets=BATCH.targets._replace(ids=ids)))
    np.testing.assert_array_equal(apply(model), changed)


@jax.jit
def differentiate(graph, params, rest, batch):
    def loss(params):
        features = nnx.merge(graph, params, rest)(batch)
        kept = jnp.where(batch.targets.is_real[..., None], features, 0)
        return jnp.sum(jnp.sin(kept.astype(jnp.float32)))

    return jax.value_and_grad(loss)(params)


def gradients(model, batch=BATCH):
    value, grads = differentiate(*nnx.split(model, nnx.Param, ...), batch)
    return value, nnx.to_pure_dict(grads)


def with_config(model, **changes) -> FourM:
    """A model of another configuration with the same parameters."""
    other = nnx.eval_shape(
        lambda: FourM(SPACE, change_config(model.config, **changes), nnx.Rngs(0))
    )
    graph, _ = nnx.split(other)
    return nnx.merge(graph, nnx.state(model))


@pytest.mark.parametrize(
    "changes",
    [
        dict(scan_layers=False),
        dict(remat="blocks"),
        dict(remat="everything"),
        dict(remat="everything", scan_layers=False),
    ],
)
def test_scanned_unrolled_and_rematerialised_layers_are_the_same_function(model, changes):
    value, grads = gradients(model)
    other_value, other_grads = gradients(with_config(model, **changes))
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def initial_model(**options) -> FourM:
    """A model as training begins with it."""
    shape = ModelConfig(dim=16, num_heads=2, encoder_layers=2, decoder_layers=1)
    config = change_config(shape, **options)
    return nnx.jit(lambda: FourM(SPACE, config, nnx.Rngs(0)))()


@pytest.fixture(scope="module")
def initial() -> FourM:
    return initial_model()


def test_layers_start_with_different_parameters(initial):
    kernel = initial.encoder.layers.mlp.up.kernel[...]
    assert np.abs(np.asarray(kernel[0] - kernel[1])).max() > 0.01


def test_nothing_visible_gives_finite_features_and_gradients(model):
    hidden = BATCH._replace(
        inputs=BATCH.inputs._replace(is_real=jnp.zeros_like(BATCH.inputs.is_real))
    )
    value, grads = gradients(model, hidden)
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_an_empty_sample_beside_full_ones_changes_nothing_and_stays_finite(model):
    keep = jnp.arange(6) != 2
    emptied = jax.tree.map(lambda array: array * keep[:, None].astype(array.dtype), BATCH)
    emptied = emptied._replace(
        inputs=emptied.inputs._replace(is_real=BATCH.inputs.is_real & keep[:, None]),
        targets=emptied.targets._replace(is_real=BATCH.targets.is_real & keep[:, None]),
    )
    features = apply(model, emptied)
    assert np.isfinite(features).all()
    others = np.asarray(emptied.targets.is_real)
    np.testing.assert_allclose(features[others], apply(model)[others], atol=1e-6)


def test_registers_change_the_features_but_not_their_number():
    model = build_model(num_registers=3)
    encode = nnx.jit(lambda model: model.encode(BATCH.inputs))
    plain = np.asarray(encode(model))
    assert plain.shape == (6, 14, 16)
    model.registers[...] = jnp.roll(model.registers[...], 1, axis=1)
    shown = np.asarray(BATCH.inputs.is_real)
    assert np.abs(np.asarray(encode(model)) - plain)[shown].max() > 1e-3


def test_half_precision_computes_near_the_same_and_keeps_parameters_in_full(model):
    half = with_config(model, compute_dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half, nnx.Param)))
    assert nnx.eval_shape(lambda: half(BATCH)).dtype == jnp.bfloat16
    difference = np.abs(real(apply(model)) - real(apply(half)))
    assert 0 < difference.mean() < 0.05


def test_logits_cover_one_modality_in_full_precision_and_do_not_tie(model):
    half = with_config(model, compute_dtype="bfloat16")
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 16)), jnp.bfloat16)
    entry = SPACE["text"]
    logits = np.asarray(half.logits(features, entry))
    assert logits.shape == (2, 40, entry.vocab_size)
    assert logits.dtype == np.float32
    table = model.output_table[...][entry.first_id : entry.first_id + entry.vocab_size]
    exact = features.astype(np.float32) @ table.astype(jnp.bfloat16).astype(np.float32).T
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-6)


def test_fixed_positions_are_not_parameters():
    for is_learned in (False, True):
        config = change_config(ModelConfig(dim=16, num_heads=2), learned_positions=is_learned)
        model = nnx.eval_shape(lambda config=config: FourM(SPACE, config, nnx.Rngs(0)))
        assert ("position_table" in nnx.to_pure_dict(nnx.state(model, nnx.Param))) == is_learned


def test_inputs_and_targets_name_the_same_kinds_of_fields():
    assert set(Inputs._fields) - {"features"} == set(Targets._fields) - {"previous"}


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        (dict(separate=False), ["xx....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxxxx."]),
        (dict(causal=True), ["x.....", "xx....", "..x...", "..xx..", "..xxx.", "xx...."]),
        (
            dict(separate=False, causal=True),
            ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxxxx."],
        ),
    ],
)
def test_targets_may_see_other_modalities_or_nothing_later(options, drawn):
    modality = jnp.array([[0, 0, 2, 2, 2, 0]])
    is_real = jnp.array([[True] * 5 + [False]])
    targets = Targets(modality, modality, modality, modality, is_real)
    is_sequence = jnp.array([entry.kind == "sequence" for entry in SPACE.ranges])
    found = can_attend_targets(targets, is_sequence, **options)[0]
    expected = np.array([[mark == "x" for mark in row] for row in drawn])
    # The last row is padding, of which nothing is asked.
    np.testing.assert_array_equal(found[:5], expected[:5])


def test_the_model_passes_its_mask_options_on():
    for options in (dict(separate_targets=False), dict(causal_targets=True)):
        plain, other = build_model(), build_model(**options)
        _, can_attend = other.start_decoder(BATCH.targets)
        assert (can_attend != plain.start_decoder(BATCH.targets)[1]).any()
        assert np.abs(real(apply(plain)) - real(apply(other))).max() > 1e-3


@pytest.mark.parametrize(
    ("option", "table", "side"),
    [
        (dict(share_token_embeddings=False), "previous_table", "targets"),
        (dict(share_modality_embeddings=False), "target_modality_table", "targets"),
        (dict(separate_positions=("map", "boxes")), "input_position_table", "inputs"),
        (dict(separate_positions=("map", "boxes")), "target_position_table", "targets"),
    ],
)
def test_a_table_of_one_side_matters_to_that_side_alone(option, table, side):
    assert getattr(build_model(), table) is None
    model = build_model(**option)
    before = {
        "inputs": model.start_encoder(BATCH.inputs)[0],
        "targets": model.start_decoder(BATCH.targets)[0],
    }
    getattr(model, table)[...] += 1.0
    after = {
        "inputs": model.start_encoder(BATCH.inputs)[0],
        "targets": model.start_decoder(BATCH.targets)[0],
    }
    for name in before:
        rows = np.asarray(getattr(BATCH, name).is_real)
        moved = np.abs(np.asarray(after[name] - before[name]))[rows].max(-1)
        if option.get("separate_positions"):
            own = [SPACE["map"].index, SPACE["boxes"].index]
            is_own = np.isin(np.asarray(getattr(BATCH, name).modality)[rows], own)
            assert is_own.any() and (moved[~is_own] == 0).all()
            moved = moved[is_own]
        np.testing.assert_allclose(moved, float(name == side), atol=1e-5)


def test_options_that_are_off_leave_the_first_parameters_as_they_were(initial):
    plain = nnx.to_pure_dict(nnx.state(initial, nnx.Param))
    options = dict(share_token_embeddings=False, share_modality_embeddings=False)
    more = initial_model(separate_positions=("map",), **options)
    more = nnx.to_pure_dict(nnx.state(more, nnx.Param))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), plain, {k: more[k] for k in plain})
    assert jax.tree.all(same) and len(more) == len(plain) + 4


def test_the_decoder_reads_registers_only_where_asked_to():
    model = build_model(num_registers=3)
    assert model.encode(BATCH.inputs).shape == (6, 14, 16)
    other = with_config(model, registers_in_context=True)
    features = other.encode(BATCH.inputs)
    assert features.shape == (6, 17, 16)
    np.testing.assert_array_equal(features[:, 3:], model.encode(BATCH.inputs))
    assert other.build_context(features, BATCH.inputs).shape == (6, 17, 16)
    assert np.abs(real(apply(model)) - real(apply(other))).max() > 1e-3


FEATURES = TokenSpace(
    (
        *SPACE.ranges,
        TokenRange(
            name="pixels",
            vocab_size=0,
            token_shape=(2, 3),
            special=None,
            index=len(SPACE.ranges),
            first_id=SPACE.vocab_size,
            first_position=SPACE.num_positions,
            feature_width=4,
            feature_bias=True,
        ),
    )
)


def test_features_are_projected_where_a_token_is_one_of_them():
    model = build_model(space=FEATURES)
    entry = FEATURES["pixels"]
    assert (entry.kind, entry.num_positions, model.input_table.shape[0]) == ("features", 6, 75)
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6, 4)), jnp.float32)
    at = jnp.array([1, 5])
    inputs = BATCH.inputs._replace(
        modality=BATCH.inputs.modality.at[:, :2].set(entry.index),
        position=BATCH.inputs.position.at[:, :2].set(entry.first_position + at),
        features={"pixels": pixels},
    )
    found = model.embed_inputs(inputs)
    projection = getattr(model, f"projection_{entry.index}")
    kernel, bias = projection.kernel[...], projection.bias[...]
    expected = jnp.einsum("btc,cd->btd", pixels[:, at], kernel) + bias[None, None]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-5)
    np.testing.assert_array_equal(found[:, 2:], model.embed(BATCH.inputs.ids)[:, 2:])
    assert np.isfinite(apply(model, BATCH._replace(inputs=inputs))).all()


def test_the_projection_of_features_has_a_bias_only_where_its_range_says_so():
    plain = dataclasses.replace(FEATURES["pixels"], feature_bias=False)
    model = build_model(space=TokenSpace((*SPACE.ranges, plain)))
    assert getattr(model, f"projection_{plain.index}").bias is None

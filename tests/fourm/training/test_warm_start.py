"""A model that starts from another: what is shared is equal, what is new is fresh."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.model.config import ModelConfig, PublishedOptions
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from fourm.training.warm_start import take_weights
from tests.fourm.tiny import Shape, change_config
from tokenizers.base import SequenceTokens
from tokenizers.boxes import BoxList, BoxTokenizerConfig

TEXT = Shape(30, (10,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=4))
SHAPES = {"map": Shape(7, (2, 3)), "text": TEXT, "set": Shape(5, (4,))}
CONFIG = ModelConfig(
    dim=16,
    num_heads=2,
    encoder_layers=1,
    decoder_layers=2,
    num_registers=2,
    published=PublishedOptions(
        separate_positions=("set",),
        share_token_embeddings=False,
        share_modality_embeddings=False,
    ),
)
SMALL = ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1)


def build(names, seed, config=CONFIG, shapes=SHAPES):
    space = TokenSpace.build({name: shapes[name] for name in names})
    return FourM(space, config, nnx.Rngs(seed))


@pytest.mark.slow
def test_a_model_of_the_same_modalities_becomes_the_source_bit_for_bit():
    source, model = build(SHAPES, 0), build(SHAPES, 1)
    take_weights(model, source, list(SHAPES))
    for (path, ours), (_, theirs) in zip(
        nnx.to_flat_state(nnx.state(model)), nnx.to_flat_state(nnx.state(source)), strict=True
    ):
        np.testing.assert_array_equal(ours.get_value(), theirs.get_value(), str(path))


@pytest.mark.slow
def test_shared_modalities_are_read_and_predicted_alike_wherever_they_lie():
    source = build(("map", "text", "set"), 0)
    model = build(("text", "new", "map", "set"), 1, shapes={**SHAPES, "new": Shape(9, (2, 2))})
    take_weights(model, source, ("map", "text", "set"))
    for name in ("map", "text", "set"):
        ours, theirs = model.space[name], source.space[name]
        for table in ("input_table", "output_table", "previous_table"):
            here = getattr(model, table)[...][ours.first_id :][: ours.vocab_size]
            there = getattr(source, table)[...][theirs.first_id :][: theirs.vocab_size]
            np.testing.assert_array_equal(here, there)
        place = model.place(jnp.array([[ours.index]]), jnp.array([[ours.first_position + 2]]))
        known = source.place(jnp.array([[theirs.index]]), jnp.array([[theirs.first_position + 2]]))
        np.testing.assert_array_equal(place, known)
        place = model.place_targets(jnp.array([[ours.index]]), jnp.array([[ours.first_position]]))
        known = source.place_targets(
            jnp.array([[theirs.index]]), jnp.array([[theirs.first_position]])
        )
        np.testing.assert_array_equal(place, known)


@pytest.mark.slow
def test_what_reads_boxes_is_taken_where_both_have_it_and_left_where_one_lacks_it():
    boxes = BoxTokenizerConfig(num_bins=4).fit(BoxList(("a",)), [])
    shapes = {**SHAPES, "boxes": boxes}
    names = ("map", "boxes")
    source = build(names, 0, SMALL, shapes)
    source.inside_boxes.kernel[...] += 1.0
    both, without = build(names, 1, SMALL, shapes), build(("map", "text"), 1, SMALL, shapes)
    take_weights(both, source, names)
    take_weights(without, source, ("map",))
    assert (both.inside_boxes.kernel[...] == 1).all() and without.inside_boxes is None
    take_weights(both := build(names, 1, SMALL, shapes), without, ("map",))
    assert not both.inside_boxes.kernel[...].any()


@pytest.mark.slow
def test_new_modalities_stay_as_they_were():
    source = build(("map", "text", "set"), 0)
    shapes = {**SHAPES, "new": Shape(9, (2, 2))}
    model, fresh = (build(("new", "map", "set"), 1, shapes=shapes) for _ in range(2))
    take_weights(model, source, ("map", "set"))
    entry = model.space["new"]
    rows = slice(entry.first_id, entry.first_id + entry.vocab_size)
    np.testing.assert_array_equal(model.input_table[...][rows], fresh.input_table[...][rows])
    np.testing.assert_array_equal(model.modality_table[...][0], fresh.modality_table[...][0])


@pytest.mark.slow
def test_projections_of_features_are_taken_by_name():
    features = Shape(0, (3,), feature_width=6, feature_bias=True)
    shapes = {"map": SHAPES["map"], "seen": features, "other": features}
    source = build(("seen", "map"), 0, SMALL, shapes)
    model = build(("other", "map", "seen"), 1, SMALL, shapes)
    before = np.asarray(model.projection_0.kernel[...])
    take_weights(model, source, ("map", "seen"))
    np.testing.assert_array_equal(model.projection_2.kernel[...], source.projection_0.kernel[...])
    np.testing.assert_array_equal(model.projection_0.kernel[...], before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"dim": 32}, "has shape .* here and .* in the model to start from; give --model"),
        ({"encoder_layers": 2}, "encoder.* here and"),
        ({"num_registers": 0}, "registers has shape"),
        ({"qkv_bias": True}, "bias has shape none here"),
    ],
)
def test_another_shape_is_refused_with_the_name_of_what_differs(knobs, message):
    model = build(SHAPES, 1)
    source = build(SHAPES, 0, change_config(CONFIG, **knobs))
    with pytest.raises(ValueError, match=message):
        take_weights(model, source, list(SHAPES))


@pytest.mark.slow
def test_another_vocabulary_is_refused():
    model = build(("map",), 0, SMALL, {"map": Shape(8, (2, 3))})
    source = build(("map",), 0, SMALL, {"map": Shape(7, (2, 3))})
    with pytest.raises(ValueError, match="vocab_size of map is 8, in the model to start from 7"):
        take_weights(model, source, ["map"])

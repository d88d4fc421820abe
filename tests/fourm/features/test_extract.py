"""Features of any layer, per token at its place or pooled."""

import numpy as np
import pytest
from flax import nnx

from fourm.inference.conditions import gather_inputs
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run
from tokenizers.base import PADDING


@pytest.fixture(scope="module")
def run():
    return make_run(encoder_layers=3)


def shown():
    """Three samples of two modalities; the second lacks its picture, the third its text."""
    first, _, third = make_pictures(3)
    return {"rgb": [first, None, third], "caption": [CAPTIONS[0], CAPTIONS[1], None]}


@pytest.mark.slow
def test_the_last_layer_is_what_the_decoder_reads_at_the_place_of_each_token(run):
    found = run.features(shown(), pool="none")
    inputs = gather_inputs(run.space, run.encode_inputs(shown()))
    features = np.asarray(nnx.jit(lambda model: model.encode(inputs))(run.model))
    assert found.values["rgb"].shape == (3, 1, 2, 2, 16)
    assert found.values["caption"].shape == (3, 1, 10, 16)
    np.testing.assert_allclose(
        found.values["rgb"][0, 0], features[0, :4].reshape(2, 2, 16), rtol=1e-4, atol=1e-5
    )
    for name in ("rgb", "caption"):
        is_there = np.isfinite(found.values[name][:, 0]).all(-1)
        assert (is_there == found.is_real[name]).all()
    assert not found.is_real["rgb"][1].any() and not found.is_real["caption"][2].any()
    assert found.is_real["caption"][0].any()


def test_a_map_has_its_places_also_where_tokens_are_missing(run):
    tokens = run.tokenize({"rgb": make_pictures(1)})["rgb"]
    tokens[0, [0, 3]] = PADDING
    found = run.features({}, pool="none", known={"rgb": tokens})
    assert found.is_real["rgb"].tolist() == [[[False, True], [True, False]]]
    assert np.isnan(found.values["rgb"][0, 0, 0, 0]).all()


@pytest.mark.slow
def test_layers_are_those_of_their_numbers_in_any_order(run):
    some, last = (run.features(shown(), layers) for layers in ((3, 0, 2), None))
    assert some.shape == (3, 3, 16) and last.shape == (3, 1, 16)
    np.testing.assert_allclose(some[:, 0], last[:, 0], rtol=1e-5, atol=1e-6)
    tokens = run.features(shown(), (0, 2, 3), pool="none")
    slots = np.concatenate([each.reshape(3, 3, -1, 16) for each in tokens.values.values()], axis=2)
    np.testing.assert_allclose(np.nanmean(slots, axis=2)[:, [2, 0, 1]], some, rtol=1e-4, atol=1e-5)
    largest = run.features(shown(), (0, 2, 3), "max")
    np.testing.assert_allclose(np.nanmax(slots, axis=2), largest, rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(some, axis=1)).max() > 0.1


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_the_batch_size_changes_no_bit(run, pool):
    inputs = {"rgb": make_pictures(8), "caption": CAPTIONS * 2, "count": [1.0, 2.0, None, 5.0] * 2}
    whole, *others = (run.features(inputs, (1, 3), pool, batch_size=size) for size in (8, 3, 1))
    for other in others:
        if pool == "mean":
            np.testing.assert_array_equal(whole, other)
        else:
            for name in inputs:
                np.testing.assert_array_equal(whole.values[name], other.values[name])


def test_a_sample_without_tokens_is_zero(run):
    for pool in ("mean", "max"):
        assert not run.features({"rgb": [None, make_pictures(1)[0]]}, pool=pool)[0].any()


def test_registers_are_pooled_where_a_model_has_them():
    with_registers = make_run(num_registers=2)
    found = with_registers.features({"rgb": make_pictures(2)}, pool="registers")
    assert found.shape == (2, 1, 16)
    assert not np.allclose(found, with_registers.features({"rgb": make_pictures(2)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (4,)}, "encoder has 3 of them, so 0 .* to 3 are allowed"),
        ({"layers": ()}, "at least one"),
        ({"layers": (1, 1)}, "name each layer once"),
        ({"pool": "cls"}, "have no cls token.*'mean'"),
        ({"pool": "attentive"}, "fourm probe"),
        ({"pool": "registers"}, "this model has none; train one with --model.num-registers"),
    ],
)
def test_what_the_model_does_not_have_is_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        run.features({"rgb": make_pictures(1)}, **options)

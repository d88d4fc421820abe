"""Grids whose tokens are described by numbers beside their ids, from masking to generation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from tests.fourm.tiny import SPACE, build_model, make_tokens
from tests.fourm.tiny_run import make_pictures, make_run
from tokenizers.base import described

WIDTH = 6
DESCRIBED = TokenSpace(
    tuple(
        replace(entry, feature_width=WIDTH) if entry.name in ("picture", "map") else entry
        for entry in SPACE.ranges
    )
)
ALPHAS = {name: 1.0 for name in SPACE.names}
MASKING = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (12, 12), (8, 18)),))


def described_tokens(batch: int = 64):
    """Random tokens; every third sample is not described."""
    tokens = make_tokens(batch, present=0.8)
    rng = np.random.default_rng(0)
    features, num_real = {}, dict(tokens.num_real)
    for entry in DESCRIBED.ranges:
        if entry.feature_width:
            name = entry.features_name
            shape = (batch, entry.num_tokens, WIDTH)
            features[name] = jnp.asarray(rng.normal(size=shape), jnp.float32)
            has_numbers = np.arange(batch) % 3 > 0
            num_real[name] = jnp.where(has_numbers, tokens.num_real[entry.name], 0)
    return tokens._replace(features=features, num_real=num_real)


def mask(tokens, space, config=MASKING):
    return jax.jit(lambda key, batch: mask_batch(key, batch, space, config))(
        jax.random.key(3), tokens
    )


def test_space_and_names():
    assert DESCRIBED["picture"].kind == "grid"
    assert DESCRIBED["picture"].features_name == described("picture") == "picture:features"
    DESCRIBED.check()


def test_masks_do_not_depend_on_numbers_and_some_grids_are_shown_by_ids_alone():
    tokens = described_tokens()
    bare, full = mask(make_tokens(64, present=0.8), SPACE), mask(tokens, DESCRIBED)
    same = full._replace(inputs=full.inputs._replace(features=None))
    jax.tree.map(np.testing.assert_array_equal, bare, same)
    for entry in (DESCRIBED["picture"], DESCRIBED["map"]):
        shown = np.asarray(full.inputs.features[entry.features_name])
        has_numbers = np.asarray(tokens.num_real[entry.features_name]) > 0
        is_shown = np.isfinite(shown).all(axis=(1, 2))
        assert (is_shown | np.isnan(shown).all(axis=(1, 2))).all()
        assert not is_shown[~has_numbers].any()
        assert 0.6 < is_shown[has_numbers].mean() < 0.98
        given = np.asarray(tokens.features[entry.features_name])
        np.testing.assert_array_equal(shown[is_shown], given[is_shown])


@pytest.mark.parametrize("ids_alone", [0.0, 1.0])
def test_always_and_never(ids_alone):
    tokens = described_tokens()
    shown = mask(tokens, DESCRIBED, replace(MASKING, ids_alone=ids_alone)).inputs.features
    for name, numbers in shown.items():
        has_numbers = np.asarray(tokens.num_real[name]) > 0
        found = np.isfinite(np.asarray(numbers)).all(axis=(1, 2))
        np.testing.assert_array_equal(found, has_numbers & (ids_alone == 0))


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"ids_alone is 1.5; it must be 0 to 1"):
        replace(MASKING, ids_alone=1.5)


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model(space=DESCRIBED)


@pytest.mark.slow
def test_numbers_are_added_to_the_rows_of_their_ids(model):
    inputs = mask(described_tokens(8), DESCRIBED).inputs
    found = np.asarray(model.embed_inputs(inputs))
    rows = np.asarray(model.embed(inputs.ids))
    for sample, slot in np.ndindex(*inputs.ids.shape):
        expected = rows[sample, slot]
        entry = DESCRIBED.ranges[int(inputs.modality[sample, slot])]
        if entry.feature_width and bool(inputs.is_real[sample, slot]):
            place = int(inputs.position[sample, slot]) - entry.first_position
            numbers = np.asarray(inputs.features[entry.features_name])[sample, place]
            if np.isfinite(numbers).all():
                kernel = np.asarray(getattr(model, f"projection_{entry.index}").kernel[...])
                expected = expected + numbers @ kernel
        if bool(inputs.is_real[sample, slot]):
            np.testing.assert_allclose(found[sample, slot], expected, atol=1e-5)


@pytest.mark.slow
def test_unknown_numbers_leave_everything_finite(model):
    batch = mask(described_tokens(8), DESCRIBED)
    graph, params = nnx.split(model)

    def total(params):
        return (nnx.merge(graph, params)(batch) ** 2).sum()

    value, gradients = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(each).all() for each in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_generation_and_embeddings_read_the_numbers_of_what_is_given():
    run = make_run()
    pictures = make_pictures(4)
    ids = run.tokenize({"rgb": pictures})
    assert list(ids) == ["rgb"]
    numbers = run.encode_inputs({"rgb": [pictures[0], None, pictures[2], pictures[3]]})
    assert list(numbers) == ["rgb", "rgb:features"]
    assert np.isnan(numbers["rgb:features"][1]).all()
    assert np.isfinite(numbers["rgb:features"][[0, 2, 3]]).all()

    seen = run.embed({"rgb": pictures})
    projection = run.model.projection_0
    kept = projection.kernel[...]
    projection.kernel[...] = jnp.zeros_like(kept)
    blind = run.embed({"rgb": pictures})
    projection.kernel[...] = kept
    assert np.abs(seen - blind).max() > 1e-3
    # The same picture is the same whatever its neighbours; ids that are given have no numbers.
    together = run.generate({"rgb": pictures}, ["depth"]).ids["depth"]
    by_ids = run.generate({}, ["depth"], known={"rgb": ids["rgb"]}).ids["depth"]
    projection.kernel[...] = jnp.zeros_like(kept)
    without = run.generate({"rgb": pictures}, ["depth"]).ids["depth"]
    projection.kernel[...] = kept
    np.testing.assert_array_equal(by_ids, without)
    assert (together != by_ids).any()

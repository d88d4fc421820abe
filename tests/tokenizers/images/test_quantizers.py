"""Quantisers against naive references and their own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tokenizers.images.quantizers import (
    CountingQuantizer,
    FiniteScalarQuantizer,
    LinearlyMovedQuantizer,
    VectorQuantizer,
    diversity,
)

LEVELS = [(2,), (5, 4), (7, 4, 3, 2), (8, 8, 8)]


def vq(num_codes=8, dim=3, **options):
    return VectorQuantizer(num_codes, dim, rngs=nnx.Rngs(0), **options)


def simvq(num_codes=8, dim=3, **options):
    return LinearlyMovedQuantizer(num_codes, dim, rngs=nnx.Rngs(0), **options)


@nnx.jit(static_argnames="train")
def quantize(quantizer, latents, key, train):
    """One compiled call, which is much faster than one operation after the other."""
    return quantizer.quantize(latents, key, train)


def blobs(count=256, centres=8, dim=3, seed=0):
    """Latents in tight groups around as many centres, far from where a codebook starts."""
    rng = np.random.default_rng(seed)
    where = rng.normal(size=(centres, dim)) * 4
    latents = where[rng.integers(centres, size=count)] + rng.normal(size=(count, dim)) * 0.01
    return jnp.asarray(latents, jnp.float32)


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_of_the_grid_comes_back_from_its_id(levels):
    quantizer = FiniteScalarQuantizer(levels)
    ids = jnp.arange(quantizer.num_codes)
    codes = np.asarray(quantizer.lookup(ids))
    assert quantizer.num_codes == np.prod(levels) == len(np.unique(codes, axis=0))
    assert codes.min() == -1 and codes.max() == 1
    # A latent on the middle of a code's bin is that code's; arctanh undoes the squashing.
    middles = jnp.arctanh(jnp.asarray(codes) * (np.asarray(levels) - 1) / np.asarray(levels))
    answer = quantize(quantizer, middles, jax.random.key(0), train=False)
    np.testing.assert_array_equal(answer.ids, ids)
    np.testing.assert_allclose(answer.codes, codes, atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_every_level_of_the_grid_is_an_equal_share_of_the_range(levels):
    quantizer = FiniteScalarQuantizer(levels)
    steps = (np.arange(840) + 0.5) / 840 * 2 - 1
    latents = jnp.arctanh(jnp.asarray(np.tile(steps[:, None], (1, len(levels))), jnp.float32))
    codes = quantize(quantizer, latents, jax.random.key(0), train=False).codes
    for number, count in enumerate(levels):
        _, shares = np.unique(np.round(codes[:, number], 5), return_counts=True)
        np.testing.assert_allclose(shares, 840 / count, atol=1)


@pytest.mark.parametrize("levels", [4, 5, 8])
def test_normal_latents_use_levels_alike_under_the_sigmoid_and_not_under_tanh(levels):
    latents = jax.random.normal(jax.random.key(0), (50_000, 1))
    spread = {}
    for bounding in ("tanh", "sigmoid"):
        quantizer = FiniteScalarQuantizer((levels,), bounding)
        ids = quantize(quantizer, latents, jax.random.key(0), train=False).ids
        shares = np.bincount(ids.ravel(), minlength=levels) / 50_000 * levels
        spread[bounding] = shares.max() - shares.min()
    assert spread["sigmoid"] < 0.2 < 0.3 < spread["tanh"]


def test_the_sigmoid_bounds_as_a_slower_tanh_does():
    latents = jnp.linspace(-5, 5, 1001)[:, None]
    fast, slow = (FiniteScalarQuantizer((7,), bounding) for bounding in ("tanh", "sigmoid"))
    ids = quantize(fast, 0.8 * latents, jax.random.key(0), train=False).ids
    np.testing.assert_array_equal(quantize(slow, latents, jax.random.key(0), train=False).ids, ids)


@pytest.mark.parametrize("bounding", ["tanh", "sigmoid"])
def test_extreme_latents_stay_on_the_grid(bounding):
    quantizer = FiniteScalarQuantizer((4, 3), bounding)
    latents = jnp.asarray([[1e30, -1e30], [-1e30, 1e30], [jnp.inf, -jnp.inf]])
    answer = quantize(quantizer, latents, jax.random.key(0), train=True)
    np.testing.assert_array_equal(answer.codes, [[1, -1], [-1, 1], [1, -1]])
    assert ((answer.ids >= 0) & (answer.ids < 12)).all()


def test_the_grid_counts_its_first_number_fastest():
    codes = FiniteScalarQuantizer((2, 3)).codebook()
    expected = [[-1, -1], [1, -1], [-1, 0], [1, 0], [-1, 1], [1, 1]]
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize(
    "quantizer",
    [FiniteScalarQuantizer((8, 8, 8)), FiniteScalarQuantizer((8, 8, 8), "sigmoid"), vq(), simvq()],
    ids=["fsq", "ifsq", "vq", "simvq"],
)
def test_half_precision_latents_give_float32_codes_that_the_ids_stand_for(quantizer):
    latents = jax.random.normal(jax.random.key(1), (5, 7, 3)).astype(jnp.bfloat16)
    answer = quantize(quantizer, latents, jax.random.key(0), train=False)
    assert answer.codes.dtype == answer.loss.dtype == jnp.float32
    assert answer.ids.dtype == jnp.int32 and answer.ids.shape == (5, 7)
    np.testing.assert_allclose(answer.codes, quantizer.lookup(answer.ids), atol=1e-6)
    np.testing.assert_array_equal(answer.codes.shape, latents.shape)


@pytest.mark.parametrize(
    "quantizer",
    [FiniteScalarQuantizer((5, 5, 5)), FiniteScalarQuantizer((5, 5, 5), "sigmoid"), vq(), simvq()],
    ids=["fsq", "ifsq", "vq", "simvq"],
)
def test_gradients_pass_straight_through_to_the_latents(quantizer):
    latents = jax.random.normal(jax.random.key(1), (6, 3)) * 0.1
    weights = jnp.arange(18.0).reshape(6, 3) + 1

    def total(x):
        return jnp.sum(quantizer.quantize(x, jax.random.key(0), train=False).codes * weights)

    gradient = jax.jit(jax.grad(total))(latents)
    assert (jnp.abs(gradient) > 0).all()


@pytest.mark.parametrize("build", [lambda: vq(16, 4, distance="euclidean"), lambda: simvq(16, 4)])
def test_euclidean_ids_are_the_nearest_codes(build):
    quantizer, latents = build(), jax.random.normal(jax.random.key(2), (50, 4))
    answer = quantize(quantizer, latents, jax.random.key(0), train=False)
    distances = np.linalg.norm(latents[:, None] - quantizer.codebook()[None], axis=-1)
    np.testing.assert_array_equal(answer.ids, distances.argmin(axis=-1))


def test_cosine_ids_do_not_depend_on_the_length_of_latents():
    quantizer, latents = vq(16, 4, distance="cosine"), jax.random.normal(jax.random.key(2), (50, 4))
    first, second = (
        quantize(quantizer, x, jax.random.key(0), train=False) for x in (latents, latents * 7)
    )
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(first.codes, axis=-1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_codebook_follows_the_averages_of_a_naive_reference(distance):
    decay, codes_count = 0.8, 4
    quantizer = vq(codes_count, 3, distance=distance, decay=decay, rare=0.0)
    codes, counts = np.asarray(quantizer.codebook(), np.float64), np.ones(codes_count)
    sums = codes.copy()
    for step in range(5):
        latents = np.asarray(jax.random.normal(jax.random.key(step), (40, 3)), np.float64)
        quantize(quantizer, jnp.asarray(latents), jax.random.key(step), train=True)
        if distance == "cosine":
            latents /= np.linalg.norm(latents, axis=-1, keepdims=True)
        ids = np.linalg.norm(latents[:, None] - codes[None], axis=-1).argmin(axis=-1)
        for code in range(codes_count):
            mine = latents[ids == code]
            counts[code] = decay * counts[code] + (1 - decay) * len(mine) / 10
            sums[code] = decay * sums[code] + (1 - decay) * mine.sum(axis=0) / 10
            codes[code] = sums[code] / counts[code]
        if distance == "cosine":
            codes /= np.linalg.norm(codes, axis=-1, keepdims=True)
        np.testing.assert_allclose(quantizer.codebook(), codes, atol=1e-5)


def test_nothing_moves_outside_training():
    quantizer = vq()
    before = np.asarray(quantizer.codebook())
    quantize(quantizer, blobs(), jax.random.key(0), train=False)
    np.testing.assert_array_equal(quantizer.codebook(), before)


@pytest.mark.slow
def test_rare_codes_are_replaced_until_every_group_of_latents_has_one():
    latents = blobs(centres=8)
    quantizer = vq(16, 3, distance="euclidean", decay=0.8, rare=0.1)
    first = quantize(quantizer, latents, jax.random.key(0), train=True)
    for step in range(40):
        last = quantize(quantizer, latents, jax.random.key(step), train=True)
    assert last.metrics["usage"] > first.metrics["usage"]
    assert last.metrics["usage"] >= 0.5
    # What is left is the spread within the groups.
    assert np.abs(quantizer.lookup(last.ids) - latents).max() < 0.1


def test_codes_in_use_are_left_alone_by_replacement():
    latents = jnp.asarray(np.repeat(np.eye(4, 3, dtype=np.float32), 16, axis=0))
    quantizer = vq(4, 3, distance="euclidean", decay=0.9, rare=0.9)
    quantizer.codes[...] = latents[::16] + 0.01
    quantizer.sums[...] = quantizer.codes[...]
    quantize(quantizer, latents, jax.random.key(0), train=True)
    np.testing.assert_allclose(quantizer.codebook(), latents[::16] + 0.009, atol=1e-6)


def test_replacement_is_the_same_for_the_same_key():
    first, second = vq(rare=0.5), vq(rare=0.5)
    for quantizer in (first, second):
        quantize(quantizer, blobs(), jax.random.key(3), train=True)
    np.testing.assert_array_equal(first.codebook(), second.codebook())


def test_spread_puts_codes_on_latents():
    latents = blobs(count=20)
    quantizer = vq(8, 3, distance="euclidean")
    quantizer.spread(latents, jax.random.key(0))
    distances = np.linalg.norm(quantizer.codebook()[:, None] - latents[None], axis=-1)
    assert distances.min(axis=-1).max() == 0
    assert len(np.unique(distances.argmin(axis=-1))) == 8


def test_training_moves_state_inside_jit_and_not_gradients():
    graph, params, rest = nnx.split(vq(), nnx.Param, ...)
    assert not jax.tree.leaves(params)

    @jax.jit
    def step(rest, latents):
        quantizer = nnx.merge(graph, params, rest, copy=True)
        answer = quantizer.quantize(latents, jax.random.key(0), train=True)
        return nnx.split(quantizer, nnx.Param, ...)[2], answer.metrics

    moved, metrics = step(rest, blobs())
    assert set(metrics) == {"usage", "perplexity"}
    assert any(
        (a != b).any() for a, b in zip(jax.tree.leaves(rest), jax.tree.leaves(moved), strict=True)
    )


def test_perplexity_counts_equally_frequent_codes():
    measured = diversity(jnp.asarray([5.0, 5.0, 5.0, 5.0, 0, 0, 0, 0]))
    np.testing.assert_allclose(measured["perplexity"], 4, rtol=1e-5)
    np.testing.assert_allclose(measured["usage"], 0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: vq(1, 3), "num_codes=1 and dim=3; give at least 2 codes"),
        (lambda: simvq(4, 0), "num_codes=4 and dim=0; give at least 2 codes"),
        (lambda: FiniteScalarQuantizer(()), "at least one number, each at least 2"),
        (lambda: FiniteScalarQuantizer((8, 1)), r"Levels are \(8, 1\)"),
    ],
)
def test_impossible_codebooks_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_linearly_moved_codes_are_what_the_layer_makes_of_frozen_ones():
    quantizer = simvq(16, 4)
    kernel, bias = np.asarray(quantizer.layer.kernel[...]), np.asarray(quantizer.layer.bias[...])
    by_hand = np.asarray(quantizer.codes[...]) @ kernel + bias
    np.testing.assert_allclose(quantizer.codebook(), by_hand, rtol=1e-5, atol=1e-6)
    ids = jnp.arange(16)
    np.testing.assert_allclose(quantizer.lookup(ids), by_hand, rtol=1e-5, atol=1e-6)
    again = quantize(quantizer, quantizer.lookup(ids), jax.random.key(0), train=False)
    np.testing.assert_array_equal(again.ids, ids)
    # Only the layer is trained; training itself leaves codes where they are.
    quantize(quantizer, blobs(dim=4), jax.random.key(0), train=True)
    np.testing.assert_allclose(quantizer.codebook(), by_hand, rtol=1e-5, atol=1e-6)
    trained = nnx.to_flat_state(nnx.state(quantizer, nnx.Param))
    assert {path for path, _ in trained} == {("layer", "kernel"), ("layer", "bias")}


def test_gradients_of_linearly_moved_codes_are_those_of_the_two_pulls():
    latents, quantizer = LATENTS, simvq(6, 4, commitment=0.5)
    graph, params, rest = nnx.split(quantizer, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradients(both):
        quantizer = nnx.merge(graph, both["layer"], rest)
        return quantizer.quantize(both["latents"], jax.random.key(0), train=True).loss

    gradient = gradients({"latents": jnp.asarray(latents), "layer": params})
    ids = quantize(quantizer, jnp.asarray(latents), jax.random.key(0), train=False).ids
    frozen, codes = np.asarray(quantizer.codes[...])[ids], np.asarray(quantizer.lookup(ids))
    pull = 2 * (codes - latents) / latents.size
    layer = gradient["layer"]["layer"]
    np.testing.assert_allclose(layer["kernel"][...], frozen.T @ pull, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer["bias"][...], pull.sum(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["latents"], -0.5 * pull, rtol=1e-4, atol=1e-5)


def test_spread_gives_linearly_moved_codes_the_mean_and_covariance_of_latents():
    mixing = np.random.default_rng(0).normal(size=(3, 3))
    latents = np.random.default_rng(1).normal(size=(500, 3)) @ mixing + [5.0, -3.0, 1.0]
    quantizer = simvq(20_000, 3)
    quantizer.spread(jnp.asarray(latents, jnp.float32), jax.random.key(0))
    codes = np.asarray(quantizer.codebook())
    np.testing.assert_allclose(codes.mean(axis=0), latents.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(codes.T), np.cov(latents.T), atol=0.2)


def test_latents_without_variance_leave_linearly_moved_codes_finite():
    quantizer = simvq()
    quantizer.spread(jnp.ones((5, 3)), jax.random.key(0))
    assert np.isfinite(quantizer.codebook()).all()
    assert len(np.unique(quantizer.codebook(), axis=0)) == 8


def use_of_wandering_latents(quantizer, steps: int) -> float:
    """Returns the perplexity at the end of training a quantiser whose latents move and narrow."""
    graph, params, rest = nnx.split(quantizer, nnx.Param, ...)
    optimizer = optax.adam(0.03)

    def latents_at(step):
        done = step / steps
        rows = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (512, 8))
        return done + (1 - done / 2) * rows

    quantizer.spread(latents_at(0), jax.random.key(1))
    graph, params, rest = nnx.split(quantizer, nnx.Param, ...)

    def step(carry, number):
        params, rest, moments = carry

        def compute(params):
            quantizer = nnx.merge(graph, params, rest, copy=True)
            answer = quantizer.quantize(latents_at(number), jax.random.key(2), train=True)
            return answer.loss, (nnx.state(quantizer, nnx.Not(nnx.Param)), answer.metrics)

        gradient, (rest, metrics) = jax.grad(compute, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), rest, moments), metrics["perplexity"]

    start = params, rest, optimizer.init(params)
    return float(jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(steps)))()[1][-1])


@pytest.mark.slow
def test_linearly_moved_codes_stay_in_use_where_codes_by_themselves_are_left_behind():
    alone = vq(32, 8, distance="euclidean", decay=0.98, rare=0.0)
    assert use_of_wandering_latents(alone, 100) < 8
    assert use_of_wandering_latents(simvq(32, 8), 100) > 24


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def counting(**settings) -> CountingQuantizer:
    """A codebook whose state is anything but its start."""
    quantizer = CountingQuantizer(6, 4, rngs=nnx.Rngs(0), **settings)
    rng = np.random.default_rng(1)
    quantizer.codes[...] = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    quantizer.sums[...] = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    quantizer.counts[...] = jnp.asarray(rng.uniform(1, 2, 6), jnp.float32)
    return quantizer


LATENTS = np.random.default_rng(2).normal(size=(10, 4)).astype(np.float32) * 3


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
def test_counted_directions_move_towards_the_mean_direction_of_their_latents(normalize):
    latents = np.concatenate([LATENTS[:3], 2 * LATENTS[:2]])
    quantizer = counting(distance="cosine", normalize_latents=normalize, decay=0.9)
    codes, counts = np.asarray(quantizer.codes[...]), np.asarray(quantizer.counts[...])
    quantized = quantizer.quantize(jnp.asarray(latents), jax.random.key(0), train=True)
    ids = (unit_rows(latents) @ unit_rows(codes).T).argmax(axis=1)
    np.testing.assert_array_equal(quantized.ids, ids)
    # Codes are returned at the length they have, and pulled at by latents at theirs.
    np.testing.assert_allclose(quantized.codes, codes[ids], rtol=1e-4, atol=1e-5)
    pulled = unit_rows(latents) if normalize else latents
    assert float(quantized.loss) == pytest.approx(np.square(pulled - codes[ids]).mean(), rel=1e-5)
    hits = np.bincount(ids, minlength=6)
    assert 0 in hits and hits.max() > 1
    expected = codes.copy()
    for code in range(6):
        mean = unit_rows(latents)[ids == code].sum(axis=0) if hits[code] else codes[code]
        expected[code] = 0.9 * codes[code] + 0.1 * unit_rows(mean)
    np.testing.assert_allclose(quantizer.codes[...], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quantizer.counts[...], 0.9 * counts + 0.1 * hits, rtol=1e-5)


@pytest.mark.slow
def test_counted_places_are_averaged_sums_over_averaged_counts():
    quantizer = counting(distance="euclidean", decay=0.9)
    codes, counts = np.asarray(quantizer.codes[...]), np.asarray(quantizer.counts[...])
    sums = np.asarray(quantizer.sums[...])
    ids = np.square(LATENTS[:, None] - codes).sum(axis=-1).argmin(axis=1)
    quantized = quantizer.quantize(jnp.asarray(LATENTS), jax.random.key(0), train=True)
    np.testing.assert_array_equal(quantized.ids, ids)
    hits = np.eye(6)[ids]
    sums, counts = 0.9 * sums + 0.1 * hits.T @ LATENTS, 0.9 * counts + 0.1 * hits.sum(axis=0)
    smoothed = (counts + 1e-5) / (counts.sum() + 6e-5) * counts.sum()
    np.testing.assert_allclose(quantizer.codes[...], sums / smoothed[:, None], rtol=1e-5)
    np.testing.assert_allclose(quantizer.sums[...], sums, rtol=1e-5)
    np.testing.assert_allclose(quantizer.counts[...], counts, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("replacement", ["latents", "split"])
def test_codes_counted_as_rare_are_replaced_by_what_was_asked_for(distance, replacement):
    quantizer = counting(distance=distance, rare=0.5, replacement=replacement, decay=0.9)
    quantizer.counts[...] = jnp.asarray([9.0, 0.01, 5.0, 0.01, 5.0, 5.0])
    # Far from everything, so that no latent keeps them in use.
    quantizer.codes[...] = quantizer.codes[...].at[jnp.array([1, 3])].set(-50.0)
    rows = np.abs(LATENTS) + 1
    quantizer.quantize(jnp.asarray(rows), jax.random.key(0), train=True)
    rare = np.asarray(quantizer.codes[...])[[1, 3]]
    others = np.asarray(quantizer.codes[...])[[0, 2, 4, 5]]
    if replacement == "latents":
        known = unit_rows(rows) if distance == "cosine" else rows
        gaps = np.linalg.norm(rare[:, None] - known, axis=-1).min(axis=1)
        assert gaps.max() < 1e-5
    else:
        gaps = np.linalg.norm(unit_rows(rare)[:, None] - unit_rows(others), axis=-1).min(axis=1)
        assert 0 < gaps.max() < 0.5
    if distance == "euclidean":  # The averages agree, or the next step would undo it.
        counts = np.asarray(quantizer.counts[...])
        smoothed = (counts + 1e-5) / (counts.sum() + 6e-5) * counts.sum()
        sums = np.asarray(quantizer.sums[...])
        np.testing.assert_allclose(sums, quantizer.codes[...] * smoothed[:, None], rtol=1e-4)


def test_without_training_a_counted_codebook_stays():
    quantizer = counting(distance="cosine")
    before = np.asarray(quantizer.codes[...])
    quantizer.quantize(jnp.asarray(LATENTS), jax.random.key(0), train=False)
    np.testing.assert_array_equal(quantizer.codes[...], before)

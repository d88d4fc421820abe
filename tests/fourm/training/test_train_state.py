"""One training step: decay, accumulation, averages, schedule and keys."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fourm.devices.layout import Layout
from fourm.training.train_state import (
    IS_FINITE,
    OptimizerConfig,
    build_optimizer,
    build_schedule,
    create_state,
    is_matrix,
    make_train_step,
    merge_state,
    parameter_names,
)
from tests.fourm.tiny import build_model

WARM = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0, clip_norm=0.0)

LAYOUT = Layout.single()


class Count(nnx.Variable):
    """Something that a model changes in passing."""


class Line(nnx.Module):
    """y = x kernel + bias, counting its calls."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.array([[0.5], [-1.0]]))
        self.bias = nnx.Param(jnp.array([0.25]))
        self.calls = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        return x @ self.kernel[...] + self.bias[...][None, :]


def squares(model, batch, key):
    x, y = batch
    loss = jnp.mean((model(x) - y) ** 2)
    return loss, {"noise": jax.random.uniform(key)}


def make_batch(size=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 2)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x @ np.array([[2.0], [3.0]], np.float32) + 1)


def start(config=WARM, steps=100, **options):
    model = Line()
    optimizer = build_optimizer(config, steps, LAYOUT)
    _, state = create_state(model, optimizer, LAYOUT)
    return state, make_train_step(model, squares, optimizer, LAYOUT, 0.9, **options)


def take(steps, state, step, batch=None):
    batch = make_batch() if batch is None else batch
    for _ in range(steps):
        state, metrics = step(state, batch, jax.random.key(0))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.slow
@pytest.mark.parametrize("slices", [2, 3, 12])
def test_slices_add_up_to_the_step_of_the_whole_batch(slices):
    whole, whole_metrics = take(4, *start())
    state, metrics = take(4, *start(accumulation=slices))
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], whole_metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], whole_metrics["gradient_norm"], rtol=1e-5)
    assert metrics["noise"] == whole_metrics["noise"]  # however a batch is cut, masks are the same


class MeanOfCounted:
    """The mean of what is counted, a `CountedLoss` whose slices have unequal counts."""

    def count(self, batch, key):
        return batch[1].sum()

    def __call__(self, model, batch, key, totals=None):
        x, counts = batch
        total = counts.sum() if totals is None else totals
        loss = jnp.sum(counts[:, None] * (model(x) - 1) ** 2) / total
        return loss, {"loss/text": loss, "targets/text": counts.sum()}


@pytest.mark.slow
@pytest.mark.parametrize("slices", [2, 3, 6])
def test_a_loss_divides_by_the_counts_of_the_whole_batch_whatever_its_slices_have(slices):
    batch = make_batch(6)[0], jnp.array([1.0, 3.0, 0.0, 0.0, 2.0, 0.0])

    def take_one(slices):
        model, optimizer = Line(), build_optimizer(WARM, 10, LAYOUT)
        _, state = create_state(model, optimizer, LAYOUT)
        step = make_train_step(model, MeanOfCounted(), optimizer, LAYOUT, 0.9, accumulation=slices)
        return take(1, state, step, batch)

    (whole, expected), (state, metrics) = take_one(1), take_one(slices)
    assert metrics["targets/text"] == expected["targets/text"] == 6
    for name in ("loss", "loss/text", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_loss_of_targets_that_cannot_be_told_their_number_is_refused_with_slices():
    def loss_fn(model, batch, key):
        return jnp.mean(model(batch[0]) ** 2), {"targets/text": jnp.ones(())}

    model, optimizer = Line(), build_optimizer(WARM, 10, LAYOUT)
    _, state = create_state(model, optimizer, LAYOUT)
    step = make_train_step(model, loss_fn, optimizer, LAYOUT, 0.9, accumulation=3)
    with pytest.raises(ValueError, match="must be a CountedLoss where a batch is cut into slices"):
        take(1, state, step)


def test_a_loss_that_is_not_finite_in_one_slice_shows_in_the_metrics():
    x, y = make_batch()
    _, metrics = take(1, *start(accumulation=3), (x, y.at[5].set(jnp.nan)))
    assert np.isnan(metrics["loss"])


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("slices", [1, 3])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count_of_steps(name, slices):
    state, step = start(replace(WARM, name=name, clip_norm=1.0), accumulation=slices)
    x, y = make_batch()
    before, metrics = take(2, state, step)
    assert metrics["skipped"] == 0
    for bad in (jnp.nan, jnp.inf, 1e30):  # whose loss is NaN, infinite, and too large to square
        after, metrics = take(1, jax.tree.map(jnp.asarray, before), step, (x, y.at[5].set(bad)))
        assert metrics["skipped"] == 1
        assert int(after.step) == 3 and int(after.variables["calls"]) == 2 * slices
        for a, b in zip(jax.tree.leaves(before)[1:], jax.tree.leaves(after)[1:], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is_finite():
    def loss_fn(model, batch, key):
        root = jnp.sqrt(jnp.sum(0 * model.bias[...]))  # of infinite slope and no value
        return jnp.mean(model(batch[0]) ** 2) + root, {}

    model, optimizer = Line(), build_optimizer(WARM, 10, LAYOUT)
    _, state = create_state(model, optimizer, LAYOUT)
    kept = jax.tree.map(np.asarray, state.params)
    state, metrics = take(1, state, make_train_step(model, loss_fn, optimizer, LAYOUT, 0.9))
    assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 1
    named = dict(zip(parameter_names(state.params), metrics[IS_FINITE], strict=True))
    assert named == {"bias": False, "kernel": True}
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keys_of_random_layers_stay_too_in_a_step_that_is_not_finite():
    class Noisy(Line):
        def __init__(self):
            super().__init__()
            self.rngs = nnx.Rngs(noise=0)

    def loss_fn(model, batch, key):
        return jnp.mean(model(batch) ** 2) * jax.random.uniform(model.rngs.noise()), {}

    model, optimizer = Noisy(), build_optimizer(WARM, 10, LAYOUT)
    _, state = create_state(model, optimizer, LAYOUT)
    step = make_train_step(model, loss_fn, optimizer, LAYOUT, 0.9)
    counts = []
    for value in (1.0, jnp.nan, 1.0):
        state, _ = step(state, jnp.full((2, 2), value), jax.random.key(0))
        counts.append(int(state.variables["rngs"]["noise"]["count"]))
    assert counts == [1, 1, 2]


def test_the_average_follows_its_formula():
    state, step = start()
    average = jax.device_get(state.params)
    for count in range(20):
        state, _ = take(1, state, step)
        decay = min(0.9, (1 + count) / (10 + count))
        average = jax.tree.map(
            lambda a, p, decay=decay: decay * a + (1 - decay) * p, average, state.params
        )
    for a, b in zip(jax.tree.leaves(average), jax.tree.leaves(state.average), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("slices", [1, 4])
def test_variables_that_are_not_trained_are_carried_along(slices):
    state, _ = take(3, *start(accumulation=slices))
    assert int(state.step) == 3
    assert state.variables["calls"] == 3 * slices


@pytest.mark.slow
def test_the_key_of_a_step_depends_on_the_seed_and_the_step_alone():
    state, step = start()
    seen = []
    for _ in range(3):
        state, metrics = step(state, make_batch(), jax.random.key(7))
        seen.append(float(metrics["noise"]))
    keys = [jax.random.fold_in(jax.random.key(7), number) for number in range(3)]
    assert seen == [float(jax.random.uniform(key)) for key in keys]


def test_weights_decay_on_kernels_and_tables_alone():
    biases = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias", "norm_bias"), True)
    model = build_model(**biases, num_registers=2, norm="layernorm")
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    decays = {
        ".".join(str(key.key) for key in path): is_matrix(path, leaf) for path, leaf in leaves
    }
    kept = {name for name, does in decays.items() if not does}
    assert all(name.rsplit(".", 1)[-1] in {"bias", "scale", "registers"} for name in kept)
    assert all(decays[name] for name in ("input_table", "output_table", "position_table"))
    assert decays["encoder.layers.mlp.up.kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_without_a_gradient_a_step_shrinks_what_decays_and_nothing_else(name):
    config = OptimizerConfig(name=name, learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    optimizer = build_optimizer(config, 1000, LAYOUT)
    params = {"norm": {"scale": jnp.ones((2, 4))}, "table": jnp.ones((3, 2))}
    params["kernel"] = jnp.ones((2, 3, 2))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0)
    np.testing.assert_allclose(updates["table"], -0.1 * 0.5, rtol=1e-6)
    scale = config.muon_scale if name == "muon" else 1.0
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * scale, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    clipped = build_optimizer(OptimizerConfig(clip_norm=1.0), 10, LAYOUT)
    free = build_optimizer(OptimizerConfig(clip_norm=0.0), 10, LAYOUT)
    params = {"kernel": jnp.ones((2, 2))}
    grads = {"kernel": jnp.full((2, 2), 50.0)}
    unit = {"kernel": jnp.full((2, 2), 0.5)}

    def moments(optimizer, grads, **told):
        _, state = optimizer.update(grads, optimizer.init(params), params, **told)
        return [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]

    expected = moments(free, unit)
    for told in ({}, {"norm": jnp.float32(100.0)}):
        for a, b in zip(moments(clipped, grads, **told), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.1)
    rate = build_schedule(config, 110)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0.2, 1.1, 2.0], rtol=1e-6)
    np.testing.assert_allclose(rate(60), (2.0 + 0.2) / 2, rtol=1e-5)
    np.testing.assert_allclose(rate(110), 0.2, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [0, 1, 100])
def test_every_length_of_run_and_warm_up_gives_positive_finite_rates(steps, warmup):
    rate = build_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=warmup), steps)
    rates = np.array([rate(step) for step in range(steps)])
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert rates.max() == 1.0


def test_an_unknown_optimizer_is_refused():
    config = OptimizerConfig()
    object.__setattr__(config, "name", "sgd")
    with pytest.raises(ValueError, match="no optimizer 'sgd'; there are adamw and muon"):
        build_optimizer(config, 10, LAYOUT)


@pytest.mark.parametrize("use_average", [True, False])
def test_merging_writes_parameters_and_variables_into_a_model(use_average):
    state, _ = take(5, *start())
    model = Line()
    merge_state(model, state, use_average)
    chosen = state.average if use_average else state.params
    np.testing.assert_array_equal(model.kernel[...], chosen["kernel"])
    assert int(model.calls[...]) == 5


@pytest.mark.slow
def test_a_step_is_that_of_optax():
    state, step = start()
    params = jax.device_get(state.params)
    x, y = make_batch()

    def loss(params):
        return jnp.mean((x @ params["kernel"] + params["bias"][None, :] - y) ** 2)

    adam = optax.adamw(0.1, b1=0.9, b2=0.95, weight_decay=0.0)
    updates, _ = adam.update(jax.grad(loss)(params), adam.init(params), params)
    found, metrics = take(1, state, step)
    for name, value in optax.apply_updates(params, updates).items():
        np.testing.assert_allclose(found.params[name], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss(params), rtol=1e-6)


def test_muon_takes_steps_of_equal_size_in_all_directions_of_a_kernel():
    config = OptimizerConfig(name="muon", learning_rate=0.1, warmup_steps=0, weight_decay=0.0)
    optimizer = build_optimizer(config, 1000, LAYOUT)
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.zeros((2, 8, 24)), "table": jnp.zeros((4, 4))}
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    grads["kernel"] = grads["kernel"] * jnp.linspace(1, 8, 8)[None, :, None]
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    spread = {}
    for name, kernels in (("gradient", grads["kernel"]), ("update", updates["kernel"])):
        sizes = np.linalg.svd(np.asarray(kernels), compute_uv=False)
        spread[name] = (sizes.max(1) / sizes.min(1)).tolist()
    assert min(spread["gradient"]) > 5
    assert max(spread["update"]) < 2
    sizes = np.abs(updates["table"])
    np.testing.assert_allclose(sizes, sizes.mean(), rtol=1e-3)  # AdamW's first step

"""Noise schedules and samplers: what must hold whatever the network is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenizers.images.diffusion import (
    DiffusionConfig,
    add_noise,
    ddim_step,
    ddpm_step,
    denoise,
    plan_sampling,
    read_prediction,
    signal_schedule,
    training_target,
)

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "shifted_cosine:0.5"]
CLEAN = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)), jnp.float32)
NOISE = jax.random.normal(jax.random.key(1), CLEAN.shape)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_signal_falls_from_one_to_nothing(schedule):
    signal = signal_schedule(DiffusionConfig(schedule=schedule, num_timesteps=50))
    assert signal.dtype == np.float32 and signal.shape == (50,)
    assert signal[0] > 0.99 and signal[-1] == 0
    assert (np.diff(signal) <= 0).all()


def test_a_larger_shift_is_noisier_and_some_signal_may_remain():
    noisier, cosine = (
        signal_schedule(DiffusionConfig(schedule=f"shifted_cosine:{shift}")) for shift in (2, 1)
    )
    assert (noisier[1:-1] <= cosine[1:-1]).all() and noisier[500] < cosine[500]
    remaining = signal_schedule(DiffusionConfig(schedule="linear", zero_terminal_snr=False))
    assert 0 < remaining[-1] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_network_that_knows_the_truth_leads_back_to_the_clean_picture(prediction, sampler):
    config = DiffusionConfig(
        schedule="linear", zero_terminal_snr=False, prediction=prediction, num_timesteps=100
    )
    signal = jnp.asarray(signal_schedule(config))

    def knows(noisy, times):
        present = signal[times][:, None, None, None]
        noise = (noisy - jnp.sqrt(present) * CLEAN) / jnp.sqrt(1 - present)
        return training_target(config, CLEAN, noise, signal[times])

    plan = plan_sampling(config, 10, "trailing", sampler)
    start = add_noise(CLEAN, NOISE, jnp.asarray(plan.signal[:1]).repeat(2))
    fresh = jax.random.normal(jax.random.key(2), (10, *CLEAN.shape))
    pictures, path = denoise(
        config, knows, start, plan, (lambda i: fresh[i]) if sampler == "ddpm" else None
    )
    assert np.allclose(pictures, CLEAN, atol=1e-4)
    assert path.samples.shape == (10, *CLEAN.shape)
    assert np.array_equal(path.samples[-1], pictures)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_the_training_target_is_read_as_the_clean_picture_and_the_noise(prediction):
    config = DiffusionConfig(
        prediction=prediction, schedule="linear", zero_terminal_snr=False, limit="none"
    )
    share = jnp.asarray([0.3, 0.3])
    noisy = add_noise(CLEAN, NOISE, share)
    target = training_target(config, CLEAN, NOISE, share)
    clean, noise = read_prediction(config, target, noisy, share[0])
    assert np.allclose(clean, CLEAN, atol=1e-5) and np.allclose(noise, NOISE, atol=1e-5)


def test_noise_keeps_the_variance():
    picture = jax.random.normal(jax.random.key(3), (2, 50, 50, 3))
    noise = jax.random.normal(jax.random.key(4), picture.shape)
    noisy = add_noise(picture, noise, jnp.asarray([0.2, 0.9]))
    assert np.allclose(noisy.std(axis=(1, 2, 3)), 1, atol=0.03)


def test_estimates_are_limited_and_their_noise_is_not():
    share, far = jnp.asarray(0.5), 3 * CLEAN
    read = {
        limit: read_prediction(DiffusionConfig(prediction="sample", limit=limit), far, NOISE, share)
        for limit in ("none", "clip", "threshold")
    }
    assert np.array_equal(read["none"][0], far)
    for limit in ("clip", "threshold"):
        assert np.array_equal(read[limit][0], jnp.clip(far, -1, 1))
        assert np.array_equal(read[limit][1], read["none"][1])


def test_epsilon_without_signal_is_refused_and_otherwise_divides_by_zero():
    with pytest.raises(ValueError, match="cannot tell a picture from pure noise"):
        DiffusionConfig(prediction="epsilon")
    with pytest.raises(ValueError, match="use v_prediction or sample"):
        DiffusionConfig(prediction="epsilon", schedule="linear")
    steps = {}
    for limit in ("none", "clip", "threshold"):
        config = DiffusionConfig(prediction="epsilon", limit=limit, may_divide_by_zero=True)
        steps[limit] = ddim_step(config, CLEAN, NOISE, jnp.asarray(0.0), jnp.asarray(0.5))
    assert np.isinf(steps["none"].clean).all()
    assert (np.abs(steps["clip"].clean) == 1).all()
    assert np.isnan(steps["threshold"].clean).all()


def test_the_last_step_of_ddpm_ignores_its_noise():
    config = DiffusionConfig(prediction="sample")
    share, all_signal = jnp.asarray(0.9), jnp.asarray(1.0)
    one, other = (
        ddpm_step(config, CLEAN, NOISE, share, all_signal, noise) for noise in (NOISE, 9 * NOISE)
    )
    assert np.array_equal(one.sample, other.sample)
    assert np.allclose(one.sample, CLEAN, atol=1e-6)


def test_times_follow_the_mode():
    config = DiffusionConfig()
    assert plan_sampling(config, 4, "trailing").times.tolist() == [999, 749, 499, 249]
    assert plan_sampling(config, 4, "linspace").times.tolist() == [999, 666, 333, 0]
    assert plan_sampling(config, 4, "leading").times.tolist() == [750, 500, 250, 0]
    assert plan_sampling(config, 4, "trailing", "ddpm").times.tolist() == [750, 500, 250, 0]
    assert len(plan_sampling(config, 7, "trailing").times) == 8


@pytest.mark.parametrize("mode", ["trailing", "linspace", "leading"])
def test_every_plan_ends_with_all_signal(mode):
    plan = plan_sampling(DiffusionConfig(), 5, mode)
    assert plan.next_signal[-1] == 1
    if mode != "linspace":  # There, strides and the list differ by a rounding.
        assert np.array_equal(plan.next_signal[:-1], plan.signal[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_timesteps": 1}, "num_timesteps is 1; give at least 2"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; it must be one of linear"),
        ({"schedule": "shifted_cosine:-1"}, "with a positive number for SHIFT"),
        ({"schedule": "shifted_cosine:nan"}, "with a positive number for SHIFT"),
        ({"schedule": "shifted_cosine:SHIFT"}, "with a positive number for SHIFT"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**change)


def test_plans_that_make_no_sense_are_refused():
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"num_steps={steps}; the schedule has 1000"):
            plan_sampling(DiffusionConfig(), steps)

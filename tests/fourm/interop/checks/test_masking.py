"""Masking by ml-4m's rules: examples as recorded, statistics within their errors."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourm.interop.checks import masking as module
from fourm.interop.checks import masking_statistics
from fourm.interop.checks.masking import check_examples, check_masking, check_setting, cut_to_length
from fourm.interop.checks.masking_statistics import (
    build_mixture,
    build_sample,
    build_space,
    errors_of_histograms,
    errors_of_means,
    errors_of_quantiles,
    errors_of_shares,
    histogram,
)
from tests.paths import GOLDENS

RECORDED = GOLDENS / "masking"
EXAMPLES = json.loads((RECORDED / "spans.json").read_text())
SETTINGS = json.loads((RECORDED / "stats.json").read_text())
HISTOGRAMS = dict(np.load(RECORDED / "hist.npz"))
ONE = "mod7_alpha10_128_64_keepall"
SAMPLES = 2000

# What is compiled once serves several tests.
pytestmark = pytest.mark.xdist_group("check_masking")


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """Masking so many samples takes longer than to optimise it a little, unlike other tests."""
    options = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
        yield


def wrong(comparisons):
    return {c.name: round(c.error, 2) for c in comparisons if not c.is_equal}


@pytest.mark.slow
def test_all_examples_and_all_statistics_agree_and_none_is_left_out():
    found = list(check_masking(RECORDED, SAMPLES))
    assert wrong(found) == {}
    names = {comparison.name for comparison in found}
    assert {name.removesuffix("/histogram") for name in names if name.endswith("gram")} == set(
        HISTOGRAMS
    )
    for setting, recorded in SETTINGS.items():
        quantities = [key for key, value in recorded.items() if "mean" in json.dumps(value)]
        assert len(quantities) == 11
        for what in quantities:
            assert {
                f"{setting}/{what}/{s}" for s in ("mean", "std", "p_zero", "quantiles")
            } <= names
    for kind, rows in EXAMPLES.items():
        assert any(name.startswith(f"spans/{kind}/") for name in names)
        assert rows


# What must not pass


@pytest.mark.slow
def test_a_window_that_begins_elsewhere_is_found(monkeypatch):
    def cut_first(sentinel, spans, budget):
        return jnp.zeros_like(sentinel), jnp.minimum(budget, spans.num_targets)

    monkeypatch.setattr(module, "cut_window", cut_first)
    found = wrong(check_examples(EXAMPLES))
    assert "spans/sequence_mask/tensor_nonpad" in found
    assert all(name.startswith("spans/sequence_mask/") for name in found)


@pytest.mark.slow
def test_draws_in_another_order_are_found():
    changed = json.loads(json.dumps(EXAMPLES))
    for kind in ("simple", "chunk"):
        changed[kind][2]["uniform"].reverse()
    changed["image_mask"][1]["noise"].reverse()
    assert len(wrong(check_examples(changed))) >= 5


@pytest.mark.slow
def test_another_concentration_and_another_keep_rule_are_found():
    changed = json.loads(json.dumps(SETTINGS[ONE]))
    changed["alphas"]["det"]["input"] = [9.0]
    changed["alphas"]["caption"]["keep"] = ["random"]
    own = {key: value for key, value in HISTOGRAMS.items() if key.startswith(f"{ONE}/")}
    found = wrong(check_setting(ONE, changed, own, SAMPLES))
    assert {f"{ONE}/input_budget/mean", f"{ONE}/input_sentinels/mean"} <= set(found)


# Settings


def test_a_mixture_is_that_of_the_setting_and_can_be_used_for_training():
    setting = SETTINGS["mod21_mix7_256_256"]
    space, config = build_space(setting), build_mixture(setting)
    assert [entry.name for entry in space.ranges if entry.kind == "sequence"] == [
        name for name in setting["modalities"] if name in setting["seq_modalities"]
    ]
    assert [entry.name for entry in space.ranges if entry.kind == "features"] == ["t5_caption"]
    assert [component.weight for component in config.components] == [1, 1, 1, 1, 1, 0.5, 0.5]
    assert config.components[4].inputs == {"rgb@224": 1000.0}
    assert config.components[5].keep_of["caption"] == "all"
    assert config.components[5].keep_of["color_palette"] == "binary"
    config.check_fits(space)
    with pytest.raises(ValueError, match=r"needs MaskingConfig.rules ml4m"):
        dataclasses.replace(config, rules="ours")


def test_samples_longer_than_there_is_room_lose_whole_chunks():
    setting = {"max_tokens": {"a": 8, "metadata": 7}, "raw_tokens": {"a": 12, "metadata": 9}}
    ids, num_real = build_sample(setting)
    assert num_real == {"a": 8, "metadata": 6}
    assert all(masking_statistics.SPECIAL.end not in own for own in ids.values())
    assert cut_to_length([7, 8], 3) == [[7], [8], [3]]
    assert cut_to_length([[7, 8], [9]], 3) == [[7, 8], [9]]
    assert cut_to_length([[7], [8, 9], [6]], 2) == [[7]]


# Standard errors


def test_means_differ_by_standard_errors():
    assert errors_of_means(np.array([0.3, -0.8]), np.array([0.01, 0.04]), 0.0) == pytest.approx(4)
    assert errors_of_means(np.array([1e-6]), np.zeros(1), 1e-5) == 0  # rounding
    assert errors_of_means(np.array([1.0]), np.zeros(1), 1e-5) > 1e6


def test_shares_differ_by_standard_errors():
    def errors(a, b, size=20_000, other=2000):
        return errors_of_shares(np.array([a / size]), np.array([b / other]), size, other)

    assert errors(5000, 500) == 0
    assert errors(5000, 500 + 100) == pytest.approx(100 / (2000 * 0.19 * 1.1) ** 0.5, rel=0.03)
    assert errors(20_000, 2000) == errors(0, 0) == 0
    # Three of three rare events in the smaller sample: once in 11 ** 3 cases.
    assert errors(0, 3) == pytest.approx(3.17, abs=0.01)
    assert errors(20_000, 1997) == pytest.approx(3.17, abs=0.01)
    assert errors(400, 0) > 4


def test_histograms_of_one_distribution_agree_and_others_do_not():
    rng = np.random.default_rng(0)
    draws = rng.geometric(0.3, (4000, 5))
    errors = [
        errors_of_histograms(
            histogram(rng.geometric(0.3, (4000, 5)), 40),
            histogram(rng.geometric(0.3, (2000, 5)), 40),
        )
        for _ in range(100)
    ]
    assert max(errors) < 4
    assert 0.2 < np.mean(np.array(errors) > 0.5) < 0.95
    other = rng.geometric([0.3, 0.3, 0.25, 0.3, 0.3], (4000, 5))
    assert errors_of_histograms(histogram(draws, 40), histogram(other, 40)) > 4
    constant = np.array([[0, 7]])
    assert errors_of_histograms(constant, constant) == 0


def test_quantiles_of_one_distribution_agree_and_others_do_not():
    rng = np.random.default_rng(1)
    levels = np.array([0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0])
    a, b = rng.poisson(6, (4000, 2)), rng.poisson(6, (3000, 2))
    recorded = np.quantile(a, levels, axis=0).T
    assert errors_of_quantiles(levels, recorded, histogram(b, 50), 4000) < 4
    for changed in (b + 1, np.minimum(b, 9)):
        assert errors_of_quantiles(levels, recorded, histogram(changed, 50), 4000) > 4


# Files


def test_a_folder_without_its_files_gets_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"needs readable spans.json, stats.json and hist.npz"):
        list(check_masking(tmp_path))


def test_recordings_that_lack_something_get_one_sentence(tmp_path):
    folder = shutil.copytree(RECORDED, tmp_path / "masking")
    (folder / "spans.json").write_text(json.dumps(EXAMPLES | {"simple": [{"seq": [7]}]}))
    with pytest.raises(ValueError, match=r"lack 'uniform'; record them anew"):
        list(check_masking(folder))

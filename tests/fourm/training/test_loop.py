"""The training loop: it learns, stops well, and goes on to the bit where it stopped."""

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourm.devices.layout import Layout
from fourm.masking.mixture import MaskingComponent, MaskingConfig
from fourm.run_directory.run_log import RunLog, read_metrics
from fourm.run_directory.saved_checkpoints import choose_checkpoint
from fourm.token_space import TokenSpace
from fourm.training.checkpoints import Checkpoints
from fourm.training.loop import TrainingConfig, TrainingStage, train
from fourm.training.masked_loss import LossConfig, MaskedLoss
from fourm.training.train_state import OptimizerConfig
from tests.fourm.devices.test_layout import free_port
from tests.fourm.tiny import Shape, build_model, make_tokens
from tests.paths import ROOT
from tokenizers.base import SequenceTokens, TokenBatch
from tokenizers.process.termination import Terminated, raises_terminated
from tokenizers.settings.checked import check_all, checked_later

SPACE = TokenSpace.build(
    {
        "map": Shape(6, (2, 2)),
        "text": Shape(12, (4,), SequenceTokens(end=0, first_sentinel=1, num_sentinels=3)),
    }
)
ALPHAS = {name: 1.0 for name in SPACE.names}
MASKING = MaskingConfig((MaskingComponent(ALPHAS, ALPHAS, (1, 4), (4, 4)),))
# Tests of one group run in one process, which starts the programs once.
shares_runs = pytest.mark.xdist_group("elastic runs")
CONFIG = TrainingConfig(
    steps=12,
    batch_size=4,
    log_every=3,
    checkpoint_every=5,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4),
)


class Interrupted(Exception):
    """Stands for a killed process."""


class Small(nnx.Module):
    """A line, and how often it was drawn; the fastest thing that can be trained."""

    def __init__(self, width=3, slope=0.0):
        self.kernel = nnx.Param(jnp.full((width,), slope))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))


def noisy(model, batch, key):
    """Least squares over noise from the key, with the names of metrics that a model has."""
    x = batch + jax.random.normal(key, batch.shape)
    model.calls[...] = model.calls[...] + 1
    loss = jnp.mean((x @ model.kernel[...][: x.shape[1]] - x.sum(1) + model.kernel[0]) ** 2)
    return loss, {"loss/map": loss, "accuracy/map": loss * 0, "targets/map": jnp.ones(())}


masked = MaskedLoss(SPACE, MASKING, LossConfig(tile=1), Layout.single())
"""What the transformer is trained on."""


def numbers(step):
    return np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)


def tokens(step):
    return make_tokens(4, step, SPACE)


def batches_until(stop=None, make=numbers):
    """Batches as a function of the step alone; at `stop` the process is killed."""

    def read(first):
        step = first
        while True:
            if step == stop:
                raise Interrupted
            yield make(step)
            step += 1

    return lambda first: nullcontext(read(first))


def samples_at(step):
    return [10 * step, 10 * step + 1]


def run(
    folder,
    config=CONFIG,
    *,
    stop=None,
    seed=0,
    loss_fn=noisy,
    model=None,
    batches=None,
    data=None,
    forked_at=None,
    heldout=None,
):
    model = Small() if model is None else model
    with RunLog(folder) as log:
        train(
            model,
            loss_fn,
            SimpleNamespace(open=batches or batches_until(stop), samples=samples_at),
            TrainingStage(
                "model",
                seed,
                folder / "checkpoints",
                config,
                origin=data or {},
                forked_at=forked_at,
                references={"entropy/map": 1.5},
            ),
            log,
            Layout.single(),
            heldout,
        )
    return model


def measured(folder):
    """All that was logged but the clock."""
    lines = read_metrics(folder)
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


def parameters(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return parameters(run(folder)), measured(folder)


@pytest.mark.slow
def test_the_loss_of_the_transformer_falls_to_what_chance_leaves(tmp_path):
    # All tokens of the map are alike, and the text names them.
    def copies(step):
        code = np.random.default_rng(step).integers(0, 6, (16, 1)).astype(np.int32)
        grid = jnp.asarray(np.repeat(code, 4, axis=1))
        text = jnp.asarray(np.concatenate([code + 5, code * 0, code * 0 - 1, code * 0 - 1], 1))
        present = jnp.full(16, 4, jnp.int32)
        return TokenBatch(
            {"map": grid, "text": text}, {"map": present, "text": present - 2}, jnp.arange(16)
        )

    config = replace(CONFIG, steps=150, batch_size=16, log_every=10, checkpoint_every=150)
    model = build_model(0, SPACE)
    run(tmp_path, config, loss_fn=masked, model=model, batches=batches_until(make=copies))
    losses = [line["loss"] for line in measured(tmp_path)]
    assert losses[0] > 1.3
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_transformer_that_was_killed_and_started_again_ends_with_the_same_bits(tmp_path):
    found = []
    for name, stops in (("whole", [None]), ("killed", [8, None])):
        for stop in stops:
            killed = pytest.raises(Interrupted) if stop else nullcontext()
            with killed:
                model = build_model(0, SPACE)
                batches = batches_until(stop, tokens)
                run(tmp_path / name, loss_fn=masked, model=model, batches=batches)
        found.append((parameters(model), measured(tmp_path / name)))
    (whole, whole_lines), (resumed, resumed_lines) = found
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert json.dumps(whole_lines) == json.dumps(resumed_lines)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 5, 8, 11])
def test_a_run_that_was_killed_and_started_again_ends_with_the_same_bits(
    tmp_path, uninterrupted, stop
):
    with pytest.raises(Interrupted):
        run(tmp_path, stop=stop)
    model = run(tmp_path)
    expected, lines = uninterrupted
    for a, b in zip(parameters(model), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert measured(tmp_path) == lines


@pytest.mark.slow
def test_a_run_that_was_killed_twice_logs_no_step_twice(tmp_path, uninterrupted):
    for stop in (7, 11):
        with pytest.raises(Interrupted):
            run(tmp_path, stop=stop)
    run(tmp_path)
    steps = [line["step"] for line in measured(tmp_path)]
    assert steps == [3, 6, 9, 12]
    assert measured(tmp_path) == uninterrupted[1]


def test_a_finished_run_is_not_trained_again(tmp_path, uninterrupted):
    run(tmp_path)
    text = (tmp_path / "metrics.jsonl").read_text()
    model = run(tmp_path, stop=12, model=Small(slope=9.0))  # a batch asked for would raise
    for a, b in zip(parameters(model), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_a_line_has_the_metrics_the_rate_and_the_references(uninterrupted):
    line = uninterrupted[1][0]
    assert {"loss", "loss/map", "accuracy/map", "targets/map"} <= set(line)
    assert line["entropy/map"] == 1.5
    np.testing.assert_allclose(line["learning_rate"], 1e-2 * 0.625)  # of the last step, the third
    assert line["gradient_norm"] > 0


def test_a_logged_line_is_the_mean_since_the_line_before(tmp_path, uninterrupted):
    single = replace(CONFIG, log_every=1)
    run(tmp_path, single)
    losses = {line["step"]: line["loss"] for line in measured(tmp_path)}
    for line, steps in zip(uninterrupted[1], [(1, 2, 3), (4, 5, 6)], strict=False):
        np.testing.assert_allclose(line["loss"], np.mean([losses[step] for step in steps]))


@pytest.mark.slow
def test_another_seed_or_shape_is_refused_in_one_sentence(tmp_path):
    run(tmp_path, replace(CONFIG, steps=1))
    with pytest.raises(
        ValueError, match=r"made with another seed \(0 there, 1 here\); use the same"
    ):
        run(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"another shape: .* restore the old settings, or"):
        run(tmp_path, model=Small(width=4))
    muon = replace(CONFIG, optimizer=OptimizerConfig(name="muon"))
    with pytest.raises(ValueError, match=r"another shape: opt_state.*; restore the old settings"):
        run(tmp_path, muon)


@pytest.mark.slow
def test_checkpoints_come_by_the_minute_too_and_change_no_bit(tmp_path, uninterrupted):
    config = replace(CONFIG, checkpoint_every=100, checkpoint_minutes=1e-9, keep_checkpoints=100)
    with pytest.raises(Interrupted):
        run(tmp_path, config, stop=4)
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {"1", "2", "3", "4"}
    model = run(tmp_path)
    for a, b in zip(parameters(model), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert measured(tmp_path) == uninterrupted[1]


@pytest.mark.slow
def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    config = replace(CONFIG, checkpoint_every=2, keep_checkpoints=1, log_every=2)
    run(tmp_path, config)
    losses = {line["step"]: line["loss"] for line in measured(tmp_path)}
    best = min(losses, key=losses.get)
    with closing(Checkpoints(tmp_path / "checkpoints", keep=1)) as checkpoints:
        assert checkpoints.latest_step == 12
    assert choose_checkpoint(tmp_path / "checkpoints", "best") == best
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {str(best), "12"}


def size_of_average(state):
    return {"loss": float(jnp.abs(state.average["kernel"]).sum()), "loss/map": int(state.step)}


@pytest.mark.slow
def test_a_held_out_loss_is_logged_changes_no_bit_and_is_the_same_after_a_kill(
    tmp_path, uninterrupted
):
    config = replace(CONFIG, evaluate_every=4)
    model = run(tmp_path / "whole", config, heldout=size_of_average)
    for a, b in zip(parameters(model), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    lines = measured(tmp_path / "whole")
    looked = [line for line in lines if "heldout_loss" in line]
    assert [(line["step"], line["heldout_loss/map"]) for line in looked] == [
        (4, 4),
        (8, 8),
        (12, 12),
    ]
    assert looked[-1]["heldout_loss"] == np.abs(parameters(model)[-1]).sum()
    trained = [
        {name: value for name, value in line.items() if "heldout" not in name}
        for line in lines
        if "loss" in line
    ]
    assert trained == uninterrupted[1]
    for stop in (7, 9, None):
        with nullcontext() if stop is None else pytest.raises(Interrupted):
            run(tmp_path / "killed", config, stop=stop, heldout=size_of_average)
    assert measured(tmp_path / "killed") == lines


@pytest.mark.slow
def test_the_best_checkpoint_is_that_of_the_lowest_held_out_loss(tmp_path):
    losses = {4: 1.0, 8: 0.5, 12: math.nan}
    config = replace(CONFIG, checkpoint_every=2, keep_checkpoints=1, evaluate_every=4)
    run(tmp_path, config, heldout=lambda state: {"loss": losses[int(state.step)]})
    assert choose_checkpoint(tmp_path / "checkpoints", "best") == 8
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"8", "12"}


@pytest.mark.slow
def test_other_data_are_refused_in_one_sentence(tmp_path):
    short = replace(CONFIG, steps=1)
    run(tmp_path, short, data={"num_samples": 48})
    with pytest.raises(ValueError, match=r"another num_samples \(48 there, 40 here\); use the"):
        run(tmp_path, data={"num_samples": 40})
    # A fork may go on over them.
    run(tmp_path, replace(CONFIG, steps=2), data={"num_samples": 40}, forked_at=1)


@pytest.mark.slow
def test_sigterm_ends_the_run_after_the_step_and_its_checkpoint(tmp_path, uninterrupted):
    def batches(first):
        def read():
            for step in range(first, 12):
                if step == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield numbers(step)

        return nullcontext(read())

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), raises_terminated():
        run(tmp_path, batches=batches)
    assert signal.getsignal(signal.SIGTERM) is before
    with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        assert checkpoints.latest_step == 8
    assert [line["step"] for line in measured(tmp_path)] == [3, 6]
    model = run(tmp_path)
    for a, b in zip(parameters(model), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert measured(tmp_path) == uninterrupted[1]


@pytest.fixture(scope="module")
def elastic(tmp_path_factory) -> tuple[list[int], dict[str, dict]]:
    """Exit codes of two processes of one run, and what runs on 1, 2 and 8 devices measured."""
    folder = tmp_path_factory.mktemp("elastic")

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fourm.training.elastic_worker", str(folder), *arguments],
            env=dict(os.environ, JAX_PLATFORMS="cpu"),
            cwd=ROOT,
        )

    together = ("--processes", f"127.0.0.1:{free_port()}", "2")
    codes = [each.wait() for each in [start(*together, index) for index in ("0", "1")]]
    assert start().wait() == 0
    found = json.loads((folder / "found.json").read_text())
    for run in found.values():
        run["lines"] = [{**line, "samples_per_second": 0} for line in run["lines"]]
    return codes, found


@pytest.mark.slow
@shares_runs
def test_a_run_that_was_killed_goes_on_to_the_same_bits_on_the_same_devices(elastic):
    _, found = elastic
    assert found["resumed"] == found["whole"]


@pytest.mark.slow
@shares_runs
@pytest.mark.parametrize("name", ["elastic", "together"])
def test_a_run_goes_on_with_other_devices_over_the_same_samples_and_masks(elastic, name):
    # One device, then eight, then two; or one of each of two processes, then two of one.
    codes, found = elastic
    assert codes == [75, 75]  # of the two processes only one got SIGTERM
    for line, expected in zip(found[name]["lines"], found["whole"]["lines"], strict=True):
        assert set(line) == set(expected)
        for metric, value in line.items():
            if metric.startswith("targets/") or metric in ("step", "stage", "skipped"):
                assert value == expected[metric]
            elif not metric.startswith("accuracy/"):
                np.testing.assert_allclose(value, expected[metric], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=-2), "--training.steps is -2; it must be at least -1"),
        (dict(keep_checkpoints=0), "--training.keep-checkpoints is 0; it must be at least 1"),
        (dict(checkpoint_minutes=-1.0), "--training.checkpoint-minutes is -1.0; .* at least 0"),
        (dict(checkpoint_minutes=math.nan), "--training.checkpoint-minutes is nan; it must"),
        (dict(evaluate_every=-1), "--training.evaluate-every is -1; it must be at least 0"),
        (dict(evaluate_samples=0), "--training.evaluate-samples is 0; it must be at least 1"),
        (dict(accumulation=0), "--training.accumulation is 0; it must be at least 1"),
        (dict(accumulation=3), "--training.batch-size is 4; it must be divisible by .*, 3"),
        (dict(average_decay=1.0), "--training.average-decay is 1.0; it must be at least 0"),
    ],
)
def test_impossible_settings_get_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        with checked_later():
            config = replace(CONFIG, **changes)
        check_all(config, "--training")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", value) for value in (0.0, math.inf, math.nan)),
        *(("warmup_steps", -1), ("final_fraction", 1.5), ("weight_decay", -0.1), ("b1", 1.0)),
        *(("b2", -0.1), ("muon_scale", 0.0), ("clip_norm", -1.0), ("clip_norm", math.nan)),
    ],
)
def test_impossible_settings_of_the_optimizer_get_one_sentence(name, value):
    with pytest.raises(ValueError, match=rf"OptimizerConfig.{name} is {value}; it must be"):
        OptimizerConfig(**{name: value})


def test_metrics_are_on_disk_as_lines_of_json(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, stop=4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]

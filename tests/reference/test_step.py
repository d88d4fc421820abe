"""A training step of the library is that of an independent computation in float64."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from fourm.training.train_state import IS_FINITE, build_schedule
from tests.paths import ROOT
from tests.reference import arithmetic
from tests.reference.arithmetic import Range, Slots, leaves
from tests.reference.step_worker import (
    AVERAGE_DECAY,
    AVERAGES,
    COMBINATIONS,
    MODEL,
    OPTIMIZER,
    PADDINGS,
    SPACE,
    STEPS,
    WEIGHTS,
)

TOLERANCE = 1e-5
RANGES = [
    Range(
        entry.name,
        entry.first_id,
        entry.vocab_size,
        entry.kind == "sequence",
        entry.first_position,
        entry.token_shape,
    )
    for entry in SPACE.ranges
]
# Tests of one group run in one process, which starts the program once.
pytestmark = [pytest.mark.xdist_group("the judge"), pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, np.ndarray]:
    """What the library did, by paths; see `step_worker`."""
    output = tmp_path_factory.mktemp("judge") / "found.npz"
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run(
        [sys.executable, "-m", "tests.reference.step_worker", str(output)],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
    )
    with np.load(output) as arrays:
        return {name.replace("|", "/"): arrays[name] for name in arrays.files}


def below(found, prefix: str) -> dict[str, np.ndarray]:
    """Arrays below a path, in float64 where they are numbers."""
    return {
        name.removeprefix(f"{prefix}/"): np.float64(array) if array.dtype.kind == "f" else array
        for name, array in found.items()
        if name.startswith(f"{prefix}/")
    }


def tree_of(found, prefix: str) -> dict:
    """The same as nested dictionaries."""
    tree: dict = {}
    for name, array in below(found, prefix).items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def slots_of(tree: dict) -> Slots:
    names = ("ids", "modality", "position", "is_real", "previous")
    return Slots(*(tree.get(name) for name in names))


def batch_of(found, padding: str) -> tuple[Slots, Slots]:
    masked = tree_of(found, f"masked/{padding}")
    return slots_of(masked["inputs"]), slots_of(masked["targets"])


@pytest.fixture(scope="module")
def judged(found) -> dict[tuple[str, str], arithmetic.Step]:
    """What is right, by average and padding."""
    rate = arithmetic.learning_rate(
        0, OPTIMIZER.learning_rate, OPTIMIZER.warmup_steps, STEPS, OPTIMIZER.final_fraction
    )
    return {
        (average, padding): arithmetic.first_step(
            tree_of(found, "before"),
            *batch_of(found, padding),
            RANGES,
            MODEL.num_heads,
            average,
            WEIGHTS,
            rate=rate,
            clip=OPTIMIZER.clip_norm,
            decay=OPTIMIZER.weight_decay,
            average_decay=AVERAGE_DECAY,
        )
        for average, padding in itertools.product(AVERAGES, PADDINGS)
    }


def test_batches_are_with_and_without_padding_and_lack_modalities(found):
    for padding in PADDINGS:
        for slots in batch_of(found, padding):
            assert slots.is_real.all() == (padding == "none")
    _, targets = batch_of(found, "some")
    where = {
        entry.name: np.unique(np.nonzero(targets.is_real & (targets.modality == entry.index))[0])
        for entry in SPACE.ranges
    }
    assert len(where["map"]) == 1 and len(where["never"]) == 0
    assert 1 < len(where["picture"]) < 16 and 1 < len(where["text"]) < 16


@pytest.mark.parametrize(("sizes", "slices", "average"), COMBINATIONS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_step_on_any_mesh_in_any_slices_is_right(found, judged, sizes, slices, average, padding):
    at = "/".join(["after", *map(str, sizes), str(slices), average, padding])
    right = judged[average, padding]
    metrics = below(found, f"{at}/metrics")
    assert metrics.pop(IS_FINITE).all() and metrics.pop("skipped") == 0
    assert metrics.keys() == right.metrics.keys()
    for name, value in right.metrics.items():
        assert metrics[name] == pytest.approx(value, rel=TOLERANCE, nan_ok=True), name

    gradients, moments = leaves(right.gradient), leaves(tree_of(found, f"{at}/moments"))
    assert gradients.keys() == moments.keys()
    size = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    for path, gradient in gradients.items():
        error = moments[path] / (1 - OPTIMIZER.b1) - gradient
        assert np.abs(error).max() < TOLERANCE * size, path

    # The first update of Adam is a sign where a gradient is not tiny.
    for part, whole in {"params": right.params, "average": right.average}.items():
        new, before = leaves(tree_of(found, f"{at}/{part}")), leaves(tree_of(found, "before"))
        for path, wanted in leaves(whole).items():
            clear = np.abs(gradients[path]) > 100 * TOLERANCE * size
            change = np.abs(wanted - before[path]).max()
            assert np.abs(new[path] - wanted)[clear].max(initial=0) < 1e-2 * change, path
            # Where nothing asks for a change there is decay alone, or nothing.
            still = gradients[path] == 0
            np.testing.assert_allclose(new[path][still], wanted[still], rtol=1e-6, atol=1e-8)


def test_a_slice_that_divides_by_its_own_counts_is_told_apart(found, judged):
    """What the judge is for: the mean over four slices' own means is another loss and gradient."""
    for average in AVERAGES:
        right, parts = judged[average, "some"], []
        for first in range(4):
            inputs, targets = batch_of(found, "some")
            take = lambda slots: Slots(*(a if a is None else a[first::4] for a in slots))  # noqa: B023, E731
            tape = arithmetic.map_tree(
                lambda path, leaf: arithmetic.wrap(leaf), tree_of(found, "before")
            )
            batch = take(inputs), take(targets), RANGES, MODEL.num_heads, average, WEIGHTS
            loss, _ = arithmetic.loss_of(tape, *batch)
            parts.append(float(loss.array.reshape(())))
        assert abs(np.mean(parts) - right.metrics["loss"]) > 20 * TOLERANCE * right.metrics["loss"]


def test_the_judges_gradient_is_that_of_its_loss(found, judged):
    """Along random directions, by central differences."""
    before = tree_of(found, "before")
    rng = np.random.default_rng(0)
    for average, padding in (("modalities", "some"), ("tokens", "none")):
        step = judged[average, padding]
        clip = min(1.0, OPTIMIZER.clip_norm / step.metrics["gradient_norm"])
        batch = *batch_of(found, padding), RANGES, MODEL.num_heads, average, WEIGHTS
        direction = arithmetic.map_tree(lambda path, leaf: rng.normal(size=leaf.shape), before)
        along, small = leaves(direction), 1e-5

        def loss_at(distance, along=along, batch=batch):
            moved = arithmetic.map_tree(
                lambda path, leaf: arithmetic.wrap(leaf + distance * along[path]),  # noqa: B023
                before,
            )
            return float(arithmetic.loss_of(moved, *batch)[0].array.reshape(()))

        measured = (loss_at(small) - loss_at(-small)) / (2 * small)
        gradients = leaves(step.gradient)
        told = sum(float((along[path] * g).sum()) for path, g in gradients.items()) / clip
        assert told == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize(("warmup", "steps"), [(4, 20), (100, 20), (1, 1), (3, 3), (10, 1000)])
def test_learning_rates_are_those_of_the_definition(warmup, steps):
    config = type(OPTIMIZER)(learning_rate=0.3, warmup_steps=warmup, final_fraction=0.1)
    schedule = build_schedule(config, steps)
    for step in {0, 1, 2, steps // 3, steps // 2, steps - 1, steps}:
        right = arithmetic.learning_rate(step, 0.3, warmup, steps, 0.1)
        assert float(schedule(step)) == pytest.approx(right, rel=TOLERANCE, abs=1e-9), step

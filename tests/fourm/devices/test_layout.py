"""Where arrays lie on a mesh, and that training does not depend on it."""

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.tree_util import DictKey

from fourm.devices.layout import Layout, MeshConfig
from fourm.devices.partition import partition
from fourm.training.train_state import OptimizerConfig, build_optimizer, create_state
from tests.fourm.tiny import build_model
from tests.paths import ROOT

MESH = "2,2,2,2"
ALONE = "1,1,1,2"

# Tests of one group run in one process, which starts the programs once.
shares_runs = pytest.mark.xdist_group("meshes")


def start(folder: Path, name: str, *arguments: str) -> tuple[subprocess.Popen, Path]:
    """Starts a program that trains on meshes; see `mesh_worker`."""
    output = folder / f"{name}.json"
    devices, *rest = arguments
    command = [sys.executable, "-m", "tests.fourm.training.mesh_worker", devices, str(output)]
    process = subprocess.Popen(
        [*command, *rest],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """What the programs wrote: in one process, on one and eight devices; on four of each of two."""
    folder = tmp_path_factory.mktemp("meshes")
    together = ("--processes", f"127.0.0.1:{free_port()}", "2")
    started = {
        "first": start(folder, "first", "4", MESH, *together, "0"),
        "second": start(folder, "second", "4", MESH, *together, "1"),
        "alone": start(folder, "alone", "8", MESH, ALONE, "--large", "--cut-up"),
    }
    found = {}
    try:
        for name, (process, output) in started.items():
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-3000:]
            found[name] = json.loads(output.read_text())
    finally:
        for process, _ in started.values():
            process.kill()
            process.wait()
    return found


@pytest.mark.slow
@shares_runs
@pytest.mark.parametrize("name", ["alone", "first", "second"])
def test_losses_are_those_of_one_device(found, name):
    alone, split = found["alone"][ALONE]["metrics"], found[name][MESH]["metrics"]
    assert len(split) == len(alone) == 4
    assert alone[0]["loss"] != pytest.approx(alone[-1]["loss"], abs=1e-3)
    for here, there in zip(split, alone, strict=True):
        assert set(here) == set(there)
        assert here["targets/text"] == there["targets/text"] > 0
        for metric, value in there.items():
            assert here[metric] == pytest.approx(value, rel=1e-5, abs=1e-5), metric


@pytest.mark.slow
@shares_runs
def test_the_first_step_is_the_same_however_its_batch_is_cut_over_slices_and_devices(found):
    steps = found["alone"]["cut up"]
    whole = {step["average"]: step["metrics"] for step in steps if step["at"] == [1, 1, 1, 1]}
    assert {step["at"][3] for step in steps} == {1, 2, 4, 8}
    assert {math.prod(step["at"][:3]) for step in steps} == {1, 2, 4}
    assert whole["tokens"]["loss"] != pytest.approx(whole["modalities"]["loss"], rel=1e-2)
    for step in steps:
        expected = whole[step["average"]]
        assert 0 < expected["targets/text"] <= 5  # all of one sample
        assert step["metrics"] == pytest.approx(expected, rel=1e-5), step["at"]


@pytest.mark.slow
@shares_runs
def test_two_processes_read_the_two_halves_of_a_batch(found):
    assert found["first"][MESH]["rows"] == [0, 8]
    assert found["second"][MESH]["rows"] == [8, 16]
    assert found["alone"][MESH]["rows"] == [0, 16]


@pytest.mark.slow
@shares_runs
def test_initial_parameters_do_not_depend_on_the_mesh(found):
    assert found["alone"][MESH]["difference"] < 1e-7


@pytest.mark.slow
@shares_runs
@pytest.mark.parametrize("name", ["alone", "first"])
def test_parameters_average_and_moments_lie_alike_and_stay_there(found, name):
    places = found[name][MESH]["places"]
    assert found[name][MESH]["stay"]
    for kind in (".params", ".average", ".opt_state"):
        found_in = {path: at for path, at in places.items() if path.startswith(kind)}
        kernels = [at for path, at in found_in.items() if path.endswith("['kernel']")]
        assert len(kernels) >= 17
        for shape, part in kernels:
            assert math.prod(part) == math.prod(shape) / 4, found_in
        scales = [at for path, at in found_in.items() if path.endswith("['scale']")]
        assert scales and all(shape == part for shape, part in scales)


@pytest.mark.slow
@shares_runs
def test_muon_works_on_whole_matrices_that_are_exchanged_once(found):
    origins = [origin for *_, origin in found["alone"][MESH]["collectives"]]
    update = [origin for origin in origins if "/cond/" in origin]
    assert any("all_to_all" in origin for origin in update)
    assert not any("dot_general" in origin for origin in update)


@pytest.mark.slow
@shares_runs
def test_a_device_has_an_eighth_of_the_large_model(found):
    large = found["alone"]["large"]
    assert large["parameters"] > 4e9  # bytes
    assert large["state"] == pytest.approx(4 * large["parameters"], rel=0.01)
    assert large["arguments"] == pytest.approx(large["state"] / 8, rel=0.1)
    assert large["donated"] == pytest.approx(large["state"] / 8, rel=0.1)


@pytest.mark.slow
@shares_runs
def test_the_large_model_is_never_whole_on_a_device(found):
    # Whole parameters and gradients would be twice as many. What is whole for the length of a step
    # are three tables and their gradients.
    assert found["alone"]["large"]["temporary"] < 1.2 * found["alone"]["large"]["parameters"]
    gathered = [row for row in found["alone"]["large"]["collectives"] if row[0] == "all-gather"]
    layers = [row for row in gathered if "1024,2730" in row[1]]
    assert layers and all("while/body" in origin for _, _, origin in layers)
    assert any("rematted" in origin for _, _, origin in layers)
    assert not any(re.search(r"\[24,", result) for _, result, _ in gathered)


@pytest.mark.slow
@shares_runs
def test_no_sample_leaves_its_device(found):
    # Ids, masks and keys are integers; all that crosses of them are counts of 8 modalities.
    integers = [
        result
        for _, result, _ in found["alone"]["large"]["collectives"]
        if re.search(r"\b[su]\d+\[|pred\[", result)
    ]
    assert integers == ["s32[8]{0}"]


@pytest.mark.slow
@shares_runs
def test_kernels_are_gathered_as_they_are_used_and_their_gradients_summed_in_float32(found):
    one, eight = (found["alone"]["bfloat16"][name] for name in ("one", "eight"))
    assert eight["kernels"] == one["kernels"]  # whole numbers
    # The context's kernel is split over both axes at once, the query's over fsdp.
    assert eight["all_gather"] == ["bf16"] * 2
    assert eight["reduce_scatter"] == ["f32"] * 2
    assert one["all_gather"] == one["reduce_scatter"] == []


def path_of(name: str) -> tuple:
    return tuple(map(DictKey, name.split(".")))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("encoder.layers.attention.query.kernel", (24, 64, 64), P(None, "fsdp", "tensor")),
        ("encoder.layers.attention.out.kernel", (24, 64, 64), P(None, "tensor", "fsdp")),
        ("decoder.layers.mlp.up.kernel", (24, 64, 256), P(None, "fsdp", "tensor")),
        ("decoder.layers.mlp.down.kernel", (24, 256, 64), P(None, "tensor", "fsdp")),
        ("mu.decoder.layers.mlp.down.kernel", (24, 256, 64), P(None, "tensor", "fsdp")),
        ("input_table", (100, 64), P("tensor", "fsdp")),
        # 2 does not divide the vocabulary, nor the hidden width: both axes split the other.
        ("input_table", (101, 64), P(None, ("fsdp", "tensor"))),
        ("decoder.layers.mlp.up.kernel", (24, 64, 85), P(None, ("fsdp", "tensor"), None)),
        ("context.kernel", (64, 64), P(("fsdp", "tensor"), None)),
        ("position_table", (36, 20), P("fsdp", None)),
        ("position_table", (35, 33), P(None, None)),
        ("encoder.layers.norm1.scale", (24, 64), P()),
        ("encoder.layers.attention.query.bias", (24, 64), P()),
        ("count", (), P()),
    ],
)
def test_the_rule_puts_arrays_where_it_says(name, shape, expected):
    assert partition(path_of(name), shape, fsdp=4, tensor=2) == expected


def test_without_tensor_parallelism_fsdp_has_all_axes_to_choose_from():
    name = path_of("encoder.layers.attention.query.kernel")
    assert partition(name, (8, 64, 64), fsdp=4, tensor=1) == P(None, "fsdp", None)
    assert partition(path_of("input_table"), (100, 64), fsdp=4, tensor=1) == P("fsdp", None)


@pytest.mark.parametrize(
    ("mesh", "devices", "sizes"),
    [
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(fsdp=4), 8, (2, 4, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), 8, (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(), 1, (1, 1, 1)),
    ],
)
def test_what_is_left_of_the_devices_goes_where_it_is_said(mesh, devices, sizes):
    assert mesh.resolve(devices) == sizes


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (dict(fsdp=3), r"--mesh.data -1 x --mesh.fsdp 3 x .* does not make 8, the number"),
        (dict(data=2), r"--mesh.data 2 x .* does not make 8, the number of devices"),
        (dict(data=16, fsdp=1), r"--mesh.data 16 x .* does not make 8"),
        (dict(tensor=0), r"MeshConfig.tensor 0 is impossible; sizes are at least 1, or -1"),
        (dict(fsdp=-1), r"leaves two sizes open; give one of them"),
    ],
)
def test_impossible_meshes_are_one_sentence(mesh, message):
    with pytest.raises(ValueError, match=message) as error:
        MeshConfig(**mesh).resolve(8)
    assert "\n" not in str(error.value)


def layout_of(data: int, fsdp: int, tensor: int) -> Layout:
    """A layout over devices that need not exist: of its mesh only the shape counts."""
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    return Layout(jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes)))


def test_what_a_run_cannot_split_is_one_sentence():
    layout_of(2, 2, 2).check(num_heads=4, batch_size=16, accumulation=4)
    with pytest.raises(ValueError, match=r"--mesh.tensor is 3; it must divide --model.num-heads"):
        layout_of(1, 1, 3).check(num_heads=4, batch_size=16, accumulation=1)
    with pytest.raises(ValueError, match=r"batch-size is 16; it must be divisible by the 4 shares"):
        layout_of(2, 2, 1).check(num_heads=4, batch_size=16, accumulation=8)


def test_on_one_device_nothing_changes():
    layout = Layout.single()
    model = layout.create_model(lambda: build_model(0))
    for a, b in zip(
        jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(build_model(0))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    batch = {"ids": np.arange(4)}
    placed = layout.distribute(batch)["ids"]
    assert isinstance(placed, jax.Array) and placed.tolist() == [0, 1, 2, 3]
    assert layout.rows(6) == slice(0, 6)

    def compute_loss(params, variables, batch, key):
        raise AssertionError("not to be called here")

    assert layout.share_loss(compute_loss) is compute_loss
    _, state = create_state(model, build_optimizer(OptimizerConfig(), 10, layout), layout)
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(state))

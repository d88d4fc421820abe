"""Every device gets some matrices whole. That Muon works on these is tested with the meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from fourm.devices.layout import Layout
from fourm.devices.partition import names_in
from fourm.training.sharded_muon import gather_layers, scatter_layers, update_whole_matrices

SIZES = {"data": 2, "fsdp": 3, "tensor": 2}


def on_all_devices(function):
    """Maps over devices, [data, fsdp, tensor, ...], as if each were one."""
    for name in reversed(SIZES):
        function = jax.vmap(function, axis_name=name, axis_size=SIZES[name])
    return function


def cut(matrices: np.ndarray, spec: P) -> np.ndarray:
    """Returns the part of every device, [data, fsdp, tensor, ...]."""
    parts = []
    for place in np.ndindex(*SIZES.values()):
        part, where = matrices, dict(zip(SIZES, place, strict=True))
        for axis, entry in enumerate(spec):
            for name in names_in(entry):
                part = np.split(part, SIZES[name], axis)[where[name]]
        parts.append(part)
    return np.stack(parts).reshape(*SIZES.values(), *part.shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((24, 6, 4), P(None, "fsdp", "tensor")),
        ((5, 4, 6), P(None, "tensor", "fsdp")),
        ((13, 4, 9), P(None, None, "fsdp")),
        ((2, 5, 7), P(None, None, None)),
        ((6, 4), P("fsdp", None)),
        ((24, 2, 12), P(None, None, ("fsdp", "tensor"))),
    ],
)
def test_every_matrix_goes_whole_to_one_device_and_comes_back(shape, spec):
    matrices = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    parts = cut(matrices, spec)
    stacks = on_all_devices(lambda part: gather_layers(SIZES, part, spec))(parts)
    # As many for every device, some of which may be filling; each of the others once.
    layers = matrices.reshape(-1, *shape[-2:])
    assert stacks.shape == (*SIZES.values(), -(-len(layers) // 12), *shape[-2:])
    found = np.asarray(stacks).reshape(-1, *shape[-2:])
    assert [(found == layer).all((1, 2)).sum() for layer in layers] == [1] * len(layers)
    assert found.any((1, 2)).sum() == len(layers)
    back = on_all_devices(lambda stack, part: scatter_layers(SIZES, stack, spec, part))(
        stacks, parts
    )
    np.testing.assert_array_equal(back, parts)


def test_what_is_no_matrix_stays_everywhere():
    for value in (jnp.float32(3), jnp.arange(3.0)):
        assert gather_layers(SIZES, value, P()) is value
        assert scatter_layers(SIZES, value, P(), value) is value


def test_on_one_device_nothing_changes():
    optimizer = optax.sgd(1.0)
    assert update_whole_matrices(optimizer, Layout.single()) is optimizer

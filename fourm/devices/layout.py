"""How parameters and batches lie on many devices: stated here once, and nowhere in the layers.

Devices form a mesh of three axes. Batches are split over `data` and `fsdp`; parameters, their
average and the optimizer's state over `fsdp` and `tensor`. XLA's partitioner derives everything
else from where arguments and results lie (Xu et al. 2021, arXiv:2105.04663): it gathers a layer's
parameters when it is that layer's turn (Rajbhandari et al. 2020, ZeRO stage 3), and adds up what
the shares of heads and hidden units contribute (Shoeybi et al. 2019, Megatron).

Where an array lies follows from its own name and shape alone; see `fourm.devices.partition`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from fourm.devices.partition import (
    AXES,
    OUTPUT_TABLE,
    keep_axes,
    names_in,
    partition,
    tensor_axis,
)
from tokenizers.settings.checked import Checked, name_knob

BATCH = P(("data", "fsdp"))
"""Rows of a batch: every share of the batch is on `tensor` devices."""


@dataclass(frozen=True)
class MeshConfig(Checked):
    """How many ways the devices share the work; the product is their number. -1 = what is left."""

    data: int = -1
    """Shares of the batch, each with parameters of its own."""
    fsdp: int = 1
    """Shares of the batch that also share the parameters: each device keeps one part of them."""
    tensor: int = 1
    """Shares of heads, hidden units and vocabulary; must divide --model.num-heads."""

    def check_knobs(self, knob: str) -> None:
        sizes = dict(zip(AXES, astuple(self), strict=True))
        shown = ", ".join(f"{name_knob(knob, axis)} {size}" for axis, size in sizes.items())
        if any(size < 1 and size != -1 for size in sizes.values()):
            raise ValueError(f"{shown} is impossible; sizes are at least 1, or -1 for the rest.")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"{shown} leaves two sizes open; give one of them.")

    def resolve(self, num_devices: int) -> tuple[int, int, int]:
        """Returns the three sizes for so many devices.

        Raises:
            ValueError: If no such mesh has that many devices.
        """
        sizes = astuple(self)
        known = math.prod(size for size in sizes if size != -1)
        if num_devices % known or (-1 not in sizes and known != num_devices):
            shown = " x ".join(
                f"--mesh.{axis} {size}" for axis, size in zip(AXES, sizes, strict=True)
            )
            raise ValueError(
                f"{shown} does not make {num_devices}, the number of devices; their product must, "
                "and -1 stands for what is left."
            )
        return tuple(num_devices // known if size == -1 else size for size in sizes)


class Layout:
    """Where arrays lie on the mesh, and how the loss is shared among its devices.

    On a single device nothing happens: arrays and programs are those of a run without a mesh.

    On several, the loss is computed by every share of the batch for itself (`jax.shard_map` over
    `data` and `fsdp`): its samples are masked, embedded, sorted and predicted where they are, and
    only sums cross. Within a share XLA's partitioner splits heads and hidden units over `tensor`;
    where that is the only axis, the whole batch is every device's.

    Attributes:
        mesh: The devices, by the axes `data`, `fsdp` and `tensor`.
        tensor: Devices that share one part of a batch.
        own_mesh: What `jax.shard_map` is told within a share of the batch.
        is_split: Whether they share the work.
    """

    def __init__(self, mesh: Mesh | AbstractMesh, repeats: bool = False):
        """Describes a run.

        Args:
            mesh: The devices.
            repeats: Nothing is split: every device does all of it.
        """
        self.mesh = mesh
        self._fsdp, self.tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
        self._repeats = repeats
        self.is_split = mesh.size > 1 and not repeats
        self._batch = P() if repeats else BATCH
        self._has_shares = self.is_split and mesh.shape["data"] * self._fsdp > 1
        # Within a share of the batch the mesh is what is around; without shares it must be named.
        self.own_mesh = None if self._has_shares else mesh

    @classmethod
    def build(cls, config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> "Layout":
        """Arranges devices, by default all there are, of all processes.

        Raises:
            ValueError: One sentence, if they can't be arranged so.
        """
        devices = jax.devices() if devices is None else devices
        sizes = config.resolve(len(devices))
        # In Explicit mode, the default, every projection would have to say where its result lies.
        mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
        return cls(mesh)

    @classmethod
    def single(cls) -> "Layout":
        """Returns the layout of a run on one device of this process."""
        return cls.build(MeshConfig(), jax.local_devices()[:1])

    @classmethod
    def repeated(cls) -> "Layout":
        """Returns the layout of something small that every process does alike, on one device.

        So all have the result, and take part in saving it, without anything to exchange.
        """
        if jax.process_count() == 1:
            return cls.single()
        first = {device.process_index: device for device in reversed(jax.devices())}
        devices = [first[index] for index in sorted(first)]
        return cls(cls.build(MeshConfig(), devices).mesh, repeats=True)

    def check(self, num_heads: int, batch_size: int, accumulation: int) -> None:
        """Raises ValueError, in one sentence, if a run can't be split so."""
        if num_heads % self.tensor:
            raise ValueError(
                f"--mesh.tensor is {self.tensor}; it must divide --model.num-heads, {num_heads}."
            )
        shares = self.mesh.shape["data"] * self._fsdp
        if batch_size % (shares * accumulation):
            raise ValueError(
                f"--training.batch-size is {batch_size}; it must be divisible by the {shares} "
                f"shares of --mesh.data x --mesh.fsdp times --training.accumulation, "
                f"{accumulation}."
            )

    # Where arrays lie.

    def spec(self, path: tuple, leaf: Any) -> P:
        """Returns the placement of one array of a tree; see `partition`."""
        if self._repeats:
            return P()
        return partition(path, leaf.shape, self._fsdp, self.tensor)

    def shardings(self, tree: PyTree) -> PyTree:
        """Returns where each array of a tree of arrays, or of their shapes, lies."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self.spec(path, leaf)), tree
        )

    def describe(self, shapes: PyTree) -> PyTree:
        """Returns types and shapes of arrays that also say where these are to lie."""
        places = self.shardings(shapes)
        if not self.is_split:
            places = jax.tree.map(lambda _: SingleDeviceSharding(self.mesh.devices.item()), places)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            places,
        )

    def create(self, make: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Returns the arrays that a function makes, each device having made its own part.

        Numbers from a key do not depend on the mesh: JAX draws each from its place alone.
        """
        if self.mesh.size == 1:
            return make(*arguments)
        shapes = jax.eval_shape(make, *arguments)
        return jax.jit(make, out_shardings=self.shardings(shapes))(*arguments)

    def create_model(self, build: Callable[[], nnx.Module]) -> nnx.Module:
        """Returns the model that `build` makes, no device ever having held more than its part."""
        if self.mesh.size == 1:
            return build()
        model = nnx.eval_shape(build)
        state = nnx.state(model)
        arrays = self.create(lambda: nnx.to_pure_dict(nnx.state(build())))
        nnx.replace_by_pure_dict(state, arrays)
        nnx.update(model, state)
        return model

    def place(self, tree: PyTree) -> PyTree:
        """Puts arrays that are whole in every process, or lie elsewhere, where they belong."""
        if self.mesh.size == 1:
            return tree

        def put(array: Array, sharding: NamedSharding) -> Array:
            if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(
                sharding, array.ndim
            ):
                return array
            whole = np.asarray(array)
            return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])

        return jax.tree.map(put, tree, self.shardings(tree))

    def keep_in_place(self, tree: PyTree) -> PyTree:
        """Says, inside a compiled function, that arrays lie where they belong."""
        if self.mesh.size == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def fetch(self, model: nnx.Module) -> None:
        """Makes the variables of a model whole, on the host of every process."""
        if jax.process_count() > 1:
            state = nnx.state(model)
            nnx.update(model, jax.tree.map(lambda x: process_allgather(x, tiled=True), state))

    # Batches.

    def rows(self, batch_size: int) -> slice:
        """Returns which samples of a batch this process reads.

        Raises:
            ValueError: If the mesh mixes the devices of several processes.
        """
        placed = NamedSharding(self.mesh, self._batch).addressable_devices_indices_map(
            (batch_size,)
        )
        rows = np.unique(np.concatenate([np.arange(batch_size)[at] for at in placed.values()]))
        if rows[-1] - rows[0] >= len(rows):
            raise ValueError(
                "The samples of a process do not follow each other on this machine's mesh; choose "
                "other sizes of --mesh."
            )
        return slice(int(rows[0]), int(rows[-1]) + 1)

    def distribute(self, batch: PyTree) -> PyTree:
        """Returns one batch over all devices, of which each process gives its `rows`.

        Called where batches are read ahead, so that they are there when their step begins.
        """
        if self.mesh.size == 1:
            return jax.device_put(batch)
        sharding = NamedSharding(self.mesh, self._batch)
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
        )

    # What the loss needs.

    def gather_when_used(self, state: nnx.State, dtypes: Mapping[tuple, Any]) -> nnx.State:
        """Returns variables of which a device has a part, and that are whole when they are read.

        So a layer's parameters are gathered when it is that layer's turn, and its gradients are
        summed and handed out again. What tensor parallelism splits stays split.

        Args:
            state: Parameters or other variables of a model.
            dtypes: As from `precisions`; others are gathered as they are stored.
        """
        if not self.is_split:
            return state
        state = jax.tree.map(lambda leaf: leaf, state)
        for path, variable in nnx.to_flat_state(state):
            stored = self.spec(path, variable)
            if not self._has_shares:
                stored = keep_axes(stored, "tensor")  # An axis of one device splits nothing.
            if any(stored):
                own = tensor_axis([str(key) for key in path], variable.shape, self.tensor)
                if path[-1] == OUTPUT_TABLE:
                    own = None
                used = P(*["tensor" if axis == own else None for axis in range(len(stored))])
                dtype = dtypes.get(path)
                variable.set_metadata(
                    on_get_value=partial(gather, self.own_mesh, stored, used, dtype)
                )
        return state

    def share_loss(self, compute_loss: Callable) -> Callable:
        """Returns a loss that is computed by each share of the batch.

        Args:
            compute_loss: (params, variables, batch, key, *totals) -> (loss, (metrics,
                variables)), of a share of the batch and parts of the variables (see
                `gather_when_used`); the loss and its metrics already added up (see `add_up`),
                variables unchanged. Totals are whole everywhere.
        """
        if not self._has_shares:
            return compute_loss

        def parts(tree: PyTree) -> PyTree:
            return jax.tree_util.tree_map_with_path(
                lambda path, leaf: keep_axes(self.spec(path, leaf), "fsdp"), tree
            )

        def share(params, variables, batch, key, *totals):
            return jax.shard_map(
                compute_loss,
                mesh=self.mesh,
                in_specs=(parts(params), parts(variables), BATCH, P(), *[P() for _ in totals]),
                out_specs=(P(), (P(), parts(variables))),
                axis_names=set(*BATCH),
                # Loops in the loss start from zeros that all devices have in common.
                check_vma=False,
            )(params, variables, batch, key, *totals)

        return share

    def share_count(self, count: Callable) -> Callable:
        """Returns a count that is made by each share of the batch.

        Args:
            count: (batch, key) -> counts of a share of the batch, already added up.
        """
        if not self._has_shares:
            return count
        return jax.shard_map(
            count,
            mesh=self.mesh,
            in_specs=(BATCH, P()),
            out_specs=P(),
            axis_names=set(*BATCH),
            check_vma=False,
        )

    def add_up(self, x: Array) -> Array:
        """Adds up, inside the loss, what the shares of the batch contribute."""
        return jax.lax.psum(x, *BATCH) if self._has_shares else x


def precisions(model: nnx.Module) -> dict[tuple, Any]:
    """Returns the dtype of kernels that are cast before they are used, by their paths."""
    return {
        (*path, "kernel"): layer.dtype
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, nnx.Linear) and layer.dtype is not None
    }


def gather(
    mesh: Mesh | None, stored: P, used: P, dtype: Any, _: nnx.Variable, part: Array
) -> Array:
    """Makes a variable whole but for what `used` leaves split; nnx calls it when one is read.

    What is used in a lower precision travels in it: half the traffic and memory. The gradient is
    summed in that of the variable.
    """
    # A layer that is scanned over has no axis of layers any more.
    stored, used = (P(*spec[len(spec) - part.ndim :]) for spec in (stored, used))

    def collect(part: Array) -> Array:
        for axis, (before, after) in enumerate(zip(stored, used, strict=True)):
            missing = tuple(name for name in names_in(before) if name != after)
            if missing:
                part = jax.lax.all_gather(part, missing, axis=axis, tiled=True)
        return part

    split = keep_axes(stored, "tensor")
    if any(split):
        # By hand over this axis, too: the partitioner would gather the array over it first.
        collect = jax.shard_map(
            collect,
            mesh=mesh,
            in_specs=split,
            out_specs=used,
            axis_names={"tensor"},
            check_vma=False,
        )
    if dtype is None or part.dtype == dtype:
        return collect(part)
    scatter_gradient = jax.linear_transpose(collect, part)
    cast_and_collect = jax.custom_vjp(lambda part: collect(part.astype(dtype)))
    cast_and_collect.defvjp(
        lambda part: (cast_and_collect(part), None),
        lambda _, gradient: scatter_gradient(gradient.astype(part.dtype)),
    )
    return cast_and_collect(part)

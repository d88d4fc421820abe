"""How parameters and batches lie on many devices: stated here once, and nowhere in the layers.

Devices form a mesh of three axes. Batches are split over `data` and `fsdp`; parameters, their
average and the optimizer's state over `fsdp` and `tensor`. XLA's partitioner derives everything
else from where arguments and results lie (Xu et al. 2021, arXiv:2105.04663): it gathers a layer's
parameters when it is that layer's turn (Rajbhandari et al. 2020, ZeRO stage 3), and adds up what
the shares of heads and hidden units contribute (Shoeybi et al. 2019, Megatron).

Where an array lies follows from its own name and shape alone; see `partition`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from fourm.model.cross_entropy import Segments, TokenScores, grouped_cross_entropy
from tokenizers.settings.checked import Checked, name_knob

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))
"""Rows of a batch: every share of the batch is on `tensor` devices."""

OUTPUT_TABLE = "output_table"

# The axis, from the end, that tensor parallelism splits: heads and hidden units are columns of what
# makes them and rows of what reads them; the vocabulary is the rows of a table.
TENSOR_AXES = {
    "query.kernel": -1,
    "key.kernel": -1,
    "value.kernel": -1,
    "out.kernel": -2,
    "gate.kernel": -1,
    "up.kernel": -1,
    "down.kernel": -2,
    "input_table": -2,
    "previous_table": -2,
    OUTPUT_TABLE: -2,
}
STACKED = "layers"
"""Whose arrays have an axis of layers in front, over which they are scanned: never split."""


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


def name_of(key: Any) -> str:
    """Returns the name that an entry of a path in a tree stands for."""
    return str(getattr(key, "key", getattr(key, "name", key)))


def partition(path: tuple, shape: tuple[int, ...], fsdp: int, tensor: int) -> P:
    """Says over which axes of the mesh an array is split, from its name and shape.

    1. What has no two axes beside that of stacked layers (norms, biases, counters) is whole
       everywhere. The axis of layers is never split.
    2. Heads, hidden units and vocabulary are split over `tensor`: columns of query, key, value,
       gate and up; rows of out, down and the token tables.
    3. The longest other axis that `fsdp` divides is split over `fsdp`; of equals the first.
    4. Where 2 names no axis, or one that `tensor` does not divide, the longest axis that
       `fsdp * tensor` divides is split over both; nothing is padded.
    5. What no axis fits is whole everywhere.

    Optimizer state has the names and shapes of the parameters that it belongs to, so the same
    rule puts it beside them.

    Example:
        >>> from jax.tree_util import DictKey
        >>> partition((DictKey("layers"), DictKey("up"), DictKey("kernel")), (24, 64, 256), 4, 2)
        P(None, 'fsdp', 'tensor')
    """
    names = [name_of(key) for key in path]
    first = 1 if STACKED in names else 0
    if len(shape) - first < 2:
        return P()
    entries: list[Any] = [None] * len(shape)
    free = sorted(range(first, len(shape)), key=lambda axis: -shape[axis])
    own = tensor_axis(names, shape, tensor)
    if own is not None:
        entries[own] = "tensor"
        free.remove(own)
    wanted = [("fsdp",)] if own is not None or tensor == 1 else [("fsdp", "tensor"), ("fsdp",)]
    sizes = {"fsdp": fsdp, "tensor": tensor}
    for axes in wanted:
        count = math.prod(sizes[axis] for axis in axes)
        axis = next((axis for axis in free if shape[axis] % count == 0), None)
        if axis is not None:
            entries[axis] = axes if len(axes) > 1 else axes[0]
            break
    return P(*entries)


def tensor_axis(names: list[str], shape: tuple[int, ...], tensor: int) -> int | None:
    """Returns the axis that tensor parallelism splits, if there is one and it can be split."""
    own = TENSOR_AXES.get(".".join(names[-2:]), TENSOR_AXES.get(names[-1]))
    if own is None or tensor == 1 or shape[own] % tensor:
        return None
    return own % len(shape)


class Layout:
    """How one run lies on the devices: everything that depends on there being several.

    On a single device nothing happens: arrays and programs are those of a run without a mesh.

    On several, the loss is computed by every share of the batch for itself (`jax.shard_map` over
    `data` and `fsdp`): its samples are masked, embedded, sorted and predicted where they are, and
    only sums cross. Within a share XLA's partitioner splits heads and hidden units over `tensor`;
    where that is the only axis, the whole batch is every device's.

    Attributes:
        mesh: The devices, by the axes `data`, `fsdp` and `tensor`.
        is_split: Whether they share the work.
    """

    def __init__(self, mesh: Mesh | AbstractMesh, repeats: bool = False):
        """Describes a run.

        Args:
            mesh: The devices.
            repeats: Nothing is split: every device does all of it.
        """
        self.mesh = mesh
        self._fsdp, self._tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
        self._repeats = repeats
        self.is_split = mesh.size > 1 and not repeats
        self._batch = P() if repeats else BATCH
        self._has_shares = self.is_split and mesh.shape["data"] * self._fsdp > 1
        # Within a share of the batch the mesh is what is around; without shares it must be named.
        self._own_mesh = None if self._has_shares else mesh

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
        if num_heads % self._tensor:
            raise ValueError(
                f"--mesh.tensor is {self._tensor}; it must divide --model.num-heads, {num_heads}."
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
        return partition(path, leaf.shape, self._fsdp, self._tensor)

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

    # The loss.

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
                own = tensor_axis([str(key) for key in path], variable.shape, self._tensor)
                if path[-1] == OUTPUT_TABLE:
                    own = None
                used = P(*["tensor" if axis == own else None for axis in range(len(stored))])
                dtype = dtypes.get(path)
                variable.set_metadata(
                    on_get_value=partial(gather, self._own_mesh, stored, used, dtype)
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

    def cross_entropy(
        self,
        features: Float[Array, "rows dim"],
        table: Float[Array, "vocab dim"],
        labels: Int[Array, "rows"],
        group: Int[Array, "rows"],
        weights: Float[Array, "rows"],
        segments: Segments,
        tile: int,
    ) -> tuple[Float[Array, ""], TokenScores]:
        """Computes `grouped_cross_entropy` of a share's targets, each device taking some of them.

        A modality's vocabulary is a segment of the table, which would lie on a few devices of the
        `tensor` axis and leave the others idle. So they split the targets instead.
        """
        if self._tensor == 1:
            return grouped_cross_entropy(features, table, labels, group, weights, segments, tile)
        rows = len(features)
        missing = -rows % self._tensor
        whole = P() if self._own_mesh is None else NamedSharding(self._own_mesh, P())

        def pad(x: Array, value: int = 0) -> Array:
            width = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
            padded = jnp.pad(x, width, constant_values=value) if missing else x
            # Else the partitioner would split all that leads here in the same way.
            return jax.lax.with_sharding_constraint(padded, whole)

        def take_some(features, table, labels, group, weights):
            loss, scores = grouped_cross_entropy(
                features, table, labels, group, weights, segments, tile
            )
            return jax.lax.psum(loss, "tensor"), scores

        some = P("tensor")
        loss, scores = jax.shard_map(
            take_some,
            mesh=self._own_mesh,
            in_specs=(some, P(), some, some, some),
            out_specs=(P(), TokenScores(some, some)),
            axis_names={"tensor"},
            check_vma=False,
        )(pad(features), table, pad(labels), pad(group, len(segments)), pad(weights))
        scores = jax.lax.with_sharding_constraint(scores, whole)
        return loss, jax.tree.map(lambda x: x[:rows], scores)


def keep_axes(spec: P, kept: str) -> P:
    """Returns what a placement says of one axis of the mesh.

    Example:
        >>> keep_axes(P(None, ("fsdp", "tensor")), "fsdp")
        P(None, 'fsdp')
    """
    return P(*[kept if kept in names_in(entry) else None for entry in spec])


def names_in(entry: Any) -> tuple[str, ...]:
    """Returns the axes of the mesh over which one axis of an array is split, outermost first."""
    return entry if isinstance(entry, tuple) else (entry,) if entry else ()


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
    hand_out = jax.linear_transpose(collect, part)
    cast_and_collect = jax.custom_vjp(lambda part: collect(part.astype(dtype)))
    cast_and_collect.defvjp(
        lambda part: (cast_and_collect(part), None),
        lambda _, gradient: hand_out(gradient.astype(part.dtype)),
    )
    return cast_and_collect(part)

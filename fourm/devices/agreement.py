"""Decisions that all processes of a run have to take alike, though their clocks differ."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool


class Agreement:
    """Joins the flags that processes set, a few per step: what one process asks for, all do.

    Saving is work for all processes together, so they must begin it at the same step, while
    signals and clocks reach each of them at another time. The flags travel over the devices
    behind the step that is under way and are read one step later, so that nothing waits for
    them. A single process has its flags at once.
    """

    def __init__(self) -> None:
        self._is_single = jax.process_count() == 1
        self._under_way: Bool[Array, "flags"] | None = None
        if not self._is_single:
            mesh = Mesh(np.asarray(jax.devices()), ("device",))
            self._each = NamedSharding(mesh, PartitionSpec("device"))
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._any = jax.jit(partial(jnp.any, axis=0), out_shardings=everywhere)

    def any_process(self, *flags: bool) -> tuple[bool, ...]:
        """Returns, for each flag, whether some process set it.

        That of this call if there is but one process, of the call before if there are several. All
        processes must call it equally often.
        """
        if self._is_single:
            return flags
        rows = np.tile(np.asarray(flags, bool), (jax.local_device_count(), 1))
        shape = (jax.device_count(), len(flags))
        arrived = self._under_way
        self._under_way = self._any(jax.make_array_from_process_local_data(self._each, rows, shape))
        if arrived is None:
            return (False,) * len(flags)
        return tuple(bool(flag) for flag in np.asarray(arrived))

    def forget(self) -> None:
        """Drops the flags that are on their way, as when what they ask for was just done."""
        self._under_way = None

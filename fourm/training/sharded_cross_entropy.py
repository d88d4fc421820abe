"""The cross-entropy of a share of a batch, divided over the devices of the `tensor` axis."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from fourm.devices.layout import Layout
from fourm.model.cross_entropy import Segments, Tiles, TokenScores, grouped_cross_entropy


def sharded_cross_entropy(
    layout: Layout,
    features: Float[Array, "rows dim"],
    table: Float[Array, "vocab dim"],
    labels: Int[Array, "rows"],
    group: Int[Array, "rows"],
    weights: Float[Array, "rows"],
    segments: Segments,
    tile: int,
    tiles: Tiles = "fitted",
) -> tuple[Float[Array, ""], TokenScores]:
    """Computes `grouped_cross_entropy` of a share's targets, each device taking some of them.

    A modality's vocabulary is a segment of the table, which would lie on a few devices of the
    `tensor` axis and leave the others idle. So they split the targets instead.
    """
    if layout.tensor == 1:
        return grouped_cross_entropy(features, table, labels, group, weights, segments, tile, tiles)
    rows = len(features)
    missing = -rows % layout.tensor
    whole = P() if layout.own_mesh is None else NamedSharding(layout.own_mesh, P())

    def pad(x: Array, value: int = 0) -> Array:
        width = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
        padded = jnp.pad(x, width, constant_values=value) if missing else x
        # Else the partitioner would split all that leads here in the same way.
        return jax.lax.with_sharding_constraint(padded, whole)

    def take_some(features, table, labels, group, weights):
        loss, scores = grouped_cross_entropy(
            features, table, labels, group, weights, segments, tile, tiles
        )
        return jax.lax.psum(loss, "tensor"), scores

    some = P("tensor")
    loss, scores = jax.shard_map(
        take_some,
        mesh=layout.own_mesh,
        in_specs=(some, P(), some, some, some),
        out_specs=(P(), TokenScores(some, some)),
        axis_names={"tensor"},
        check_vma=False,
    )(pad(features), table, pad(labels), pad(group, len(segments)), pad(weights))
    scores = jax.lax.with_sharding_constraint(scores, whole)
    return loss, jax.tree.map(lambda x: x[:rows], scores)

"""Cross-entropy whose cost follows each target's own modality.

Targets of all modalities come mixed. They are sorted by modality and taken tile by tile through
that modality's part of the output table alone; the gradient is made in the same pass, so that
logits exist for one tile at a time.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Segments = tuple[tuple[int, int], ...]
"""(first id, vocabulary size) per modality."""

Tiles = Literal["fitted", "even"]
"""fitted: what is left of a modality goes through a tile of its own height, which wastes least; for
each height there is a loop. even: all tiles are of one height, and there is one loop for all
vocabularies of a size: a GPU starts a loop's every round from its host, and compiles each loop for
long."""

TILE_HEIGHTS = 8
"""Heights of the last tile of a modality: its targets are rounded up to one of them."""


class TokenScores(NamedTuple):
    """What the loss knows of each target; not differentiated.

    Attributes:
        nll: Negative log-likelihood in nats, 0 on padding.
        is_correct: Whether the likeliest id is the right one.
    """

    nll: Float[Array, "rows"]
    is_correct: Bool[Array, "rows"]


def grouped_cross_entropy(
    features: Float[Array, "rows dim"],
    table: Float[Array, "vocab dim"],
    labels: Int[Array, "rows"],
    group: Int[Array, "rows"],
    weights: Float[Array, "rows"],
    segments: Segments,
    tile: int,
    tiles: Tiles = "fitted",
) -> tuple[Float[Array, ""], TokenScores]:
    """Computes sum(weights * nll), each row over its own group's vocabulary.

    Args:
        features: One row per target.
        table: The output table of the whole token space.
        labels: Shared ids, within the row's own segment.
        group: The row's modality; `len(segments)` for rows to be ignored.
        weights: Weight of each row in the sum.
        segments: First id and size of each group's vocabulary.
        tile: Most rows taken at once.
        tiles: How rows are divided; a matter of speed alone.

    Returns:
        The weighted sum (differentiable in features and table), and scores per row.
    """
    if tiles == "even":
        tile = choose_height(len(features), segments, tile)
    return _grouped(features, table, labels, group, weights, segments, tile, tiles)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _grouped(features, table, labels, group, weights, segments, tile, tiles):
    return _forward(features, table, labels, group, weights, segments, tile, tiles, False)[0]


def _forward(features, table, labels, group, weights, segments, tile, tiles, with_gradient):
    rows = len(features)
    order = jnp.argsort(group, stable=True)
    counts = jnp.bincount(group, length=len(segments) + 1)
    starts = jnp.cumsum(counts) - counts

    def in_order(x):  # padded, so that the last tile of the last group stays inside
        return jnp.pad(x[order], [(0, tile)] + [(0, 0)] * (x.ndim - 1))

    x, label, weight = in_order(features), in_order(labels), in_order(weights)
    nll = jnp.zeros(rows + tile)
    correct = jnp.zeros(rows + tile, bool)
    x_grad = jnp.zeros_like(x) if with_gradient else None
    table_grad = jnp.zeros(table.shape, jnp.float32) if with_gradient else None
    carry = nll, correct, x_grad, table_grad
    for size in sorted({size for _, size in segments if size}):  # Features have no vocabulary.
        # One loop serves all vocabularies of a size: there is less to compile.
        members = [number for number, segment in enumerate(segments) if segment[1] == size]
        first_ids = jnp.array([segments[number][0] for number in members])
        own_starts, own_counts = starts[jnp.array(members)], counts[jnp.array(members)]

        def take_group(number, carry, size=size, of=(first_ids, own_starts, own_counts)):
            first, start, count = (values[number] for values in of)
            segment = jax.lax.dynamic_slice_in_dim(table, first, size).astype(features.dtype)
            step = partial(_take_tile, segment, first, x, label, weight, start, count)
            if tiles == "even":
                return _take_even_tiles(step, tile, first, size, count, carry)
            for height, done, trips in plan_tiles(count, tile):
                carry = jax.lax.fori_loop(0, trips, partial(step, first, height, done), carry)
            return carry

        carry = jax.lax.fori_loop(0, len(members), take_group, carry)

    nll, correct, x_grad, table_grad = carry
    back = jnp.argsort(order)
    scores = TokenScores(nll[back], correct[back])
    loss = jnp.sum(weights * scores.nll)
    gradients = (x_grad[back], table_grad.astype(table.dtype)) if with_gradient else None
    return (loss, scores), gradients


def _take_even_tiles(step, tile, first, size, count, carry):
    """Scores all rows of a group in tiles of one height."""
    *rows, table_grad = carry
    trips = -(-count // tile)
    if table_grad is None:
        return jax.lax.fori_loop(0, trips, partial(step, first, tile, 0), carry)
    # The gradient of the group's own rows is added up apart: a product that is added to a whole
    # array is one kernel on a GPU.
    own = jnp.zeros((size, table_grad.shape[1]), table_grad.dtype)
    *rows, own = jax.lax.fori_loop(0, trips, partial(step, 0, tile, 0), (*rows, own))
    return *rows, jax.lax.dynamic_update_slice_in_dim(table_grad, own, first, 0)


def _take_tile(segment, first, x, label, weight, start, count, at, height, done, number, carry):
    """Scores `height` rows of a group, and adds what they say to the gradients.

    The segment's gradient begins at the row `at` of what is carried.
    """
    nll, correct, x_grad, table_grad = carry
    offset = done + number * height
    is_own = offset + jnp.arange(height) < count

    def take(array):
        return jax.lax.dynamic_slice_in_dim(array, start + offset, height)

    def put(array, new):
        mask = is_own.reshape(-1, *[1] * (array.ndim - 1))
        new = jnp.where(mask, new.astype(array.dtype), take(array))
        return jax.lax.dynamic_update_slice_in_dim(array, new, start + offset, 0)

    rows = take(x)
    own = jnp.where(is_own, take(label) - first, 0)
    logits = multiply(rows, segment.T)
    top = logits.max(1)
    exp = jnp.exp(logits - top[:, None])
    total = exp.sum(1)
    right = jnp.take_along_axis(logits, own[:, None], 1)[:, 0]
    nll = put(nll, jnp.log(total) + top - right)
    correct = put(correct, right >= top)
    if table_grad is not None:
        scale = jnp.where(is_own, take(weight), 0.0)
        # Compared rather than scattered into: that is part of the same pass.
        is_right = jnp.arange(logits.shape[1])[None] == own[:, None]
        slope = exp * (scale / total)[:, None] - jnp.where(is_right, scale[:, None], 0.0)
        slope = slope.astype(rows.dtype)
        x_grad = put(x_grad, multiply(slope, segment))
        so_far = jax.lax.dynamic_slice_in_dim(table_grad, at, len(segment))
        table_grad = jax.lax.dynamic_update_slice_in_dim(
            table_grad, so_far + multiply(slope.T, rows), at, 0
        )
    return nll, correct, x_grad, table_grad


def plan_tiles(
    count: Int[Array, ""], tile: int
) -> list[tuple[int, Int[Array, ""], Int[Array, ""]]]:
    """Covers `count` rows by tiles of `tile`, and what is left by one that is hardly higher.

    Compiled code needs fixed heights: there is a loop for each of them, most of which run once or
    not at all.

    Returns:
        Per height, in rows: the height, the rows covered before it, and how many such tiles.
    """
    whole, left = count // tile, count % tile
    plan = [(tile, jnp.zeros_like(count), whole)]
    grain = -(-tile // TILE_HEIGHTS)
    for low in range(0, tile, grain):
        is_needed = (left > low) & (left <= low + grain)
        plan.append((min(low + grain, tile), whole * tile, is_needed.astype(count.dtype)))
    return plan


def choose_height(rows: int, segments: Segments, most: int) -> int:
    """Returns the height of even tiles, so that they are few and not nearly empty.

    That is the largest power of two that is not above the mean number of rows of a group.

    Args:
        rows: Of all groups.
        segments: As `grouped_cross_entropy` takes them.
        most: The largest height.
    """
    groups = sum(size > 0 for _, size in segments)
    mean = max(1, rows // max(groups, 1))
    return min(most, 1 << (mean.bit_length() - 1))


def multiply(a: Float[Array, "i j"], b: Float[Array, "j k"]) -> Float[Array, "i k"]:
    """Multiplies matrices of any precision into float32: logits rounded to bfloat16 would tie."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _grouped_forward(features, table, labels, group, weights, segments, tile, tiles):
    return _forward(features, table, labels, group, weights, segments, tile, tiles, True)


def _grouped_backward(segments, tile, tiles, gradients, cotangents):
    slope = cotangents[0]
    features_grad, table_grad = gradients
    return (
        (slope * features_grad).astype(features_grad.dtype),
        slope * table_grad,
        None,
        None,
        None,
    )


_grouped.defvjp(_grouped_forward, _grouped_backward)

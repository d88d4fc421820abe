"""How much arithmetic a training step needs, by formula."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fourm.model.config import ModelConfig
from fourm.model.positions import (
    cells_of,
    cells_of_boxes,
    has_boxes,
    has_cells_of_different_size,
    shares_of_cells,
)
from fourm.model.transformer import can_attend_targets
from fourm.token_space import MaskedBatch, TokenSpace


def count_flops(space: TokenSpace, config: ModelConfig, batch: MaskedBatch) -> float:
    """Counts the useful FLOPs of one training step: of matrix products, forward and backward.

    What counts is what the method needs, not what a program does: tokens that are real, pairs of
    tokens of which one may attend to the other, logits of each target's own modality, and vectors
    of features that are shown. Per product of an [a, b] with a [b, c] matrix 2abc; the backward
    pass takes twice the forward pass. Not counted: lookups, norms, softmax, other elementwise
    work, the optimizer, masking, and what is computed again to save memory.

    Args:
        space: Of the model.
        config: Of the model.
        batch: What is shown and asked.

    Returns:
        The sum over the batch.
    """
    inputs, targets = batch.inputs, batch.targets
    shown = np.asarray(inputs.is_real.sum(1), np.float64) + config.num_registers
    asked = np.asarray(targets.is_real.sum(1), np.float64)
    context = shown - (0 if config.published.registers_in_context else config.num_registers)
    is_sequence = jnp.array([entry.kind == "sequence" for entry in space.ranges])
    allowed = can_attend_targets(
        targets, is_sequence, config.published.separate_targets, config.published.causal_targets
    )
    pairs = np.asarray((allowed & targets.is_real[:, :, None]).sum((1, 2)), np.float64)

    square = 2.0 * config.dim**2  # Of one token and one projection.
    mlp = (3 if config.is_gated else 2) * 2.0 * config.dim * config.mlp_hidden
    pair = 4.0 * config.dim  # A score, and what it weighs.
    encoder = (4 * square + mlp) * shown + pair * shown**2
    decoder = (
        (4 * square + mlp) * asked
        + pair * pairs
        + 2 * square * (asked + context)
        + pair * asked * context
    )
    layers = config.encoder_layers * encoder + config.decoder_layers * decoder
    vocabulary = np.array([entry.vocab_size for entry in space.ranges], np.float64)
    widths = np.array([entry.feature_width for entry in space.ranges], np.float64)
    head = 2 * config.dim * _sum_over(vocabulary, targets.modality, targets.is_real)
    projections = 2 * config.dim * _sum_over(widths, inputs.modality, inputs.is_real)
    cells = jnp.asarray(cells_of(space))
    own, same = cells[targets.position], cells[inputs.position]
    are_real = targets.is_real[:, :, None] & inputs.is_real[:, None, :]

    def gathered(others: Array, means: int) -> np.ndarray:
        """Of means over what shares a place, and of projecting them."""
        pairs = ((shares_of_cells(own, others) > 0) & are_real).sum((1, 2))
        return means * (square * asked + 2 * config.dim * np.asarray(pairs, np.float64))

    places = np.zeros(len(shown))
    if config.same_place:
        # The mean, and what is weighted by each of three offsets.
        has_offsets = config.within_place and has_cells_of_different_size(space)
        places = gathered(same, 4 if has_offsets else 1)
    if config.inside_boxes and has_boxes(space):
        places = places + gathered(cells_of_boxes(space, inputs), 4)
    return 3 * float((layers + square * context + places + head + projections).sum())


def _sum_over(values: np.ndarray, modality: Int[Array, "batch t"], is_real: Array) -> np.ndarray:
    """Sums, per sample, a value of each real token's modality."""
    return (values[np.asarray(modality)] * np.asarray(is_real)).sum(1)

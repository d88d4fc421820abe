"""The training loss of a run: tokens are masked, and what was masked is predicted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fourm.devices.layout import Layout
from fourm.masking.mask import mask_batch
from fourm.masking.mixture import MaskingConfig
from fourm.model.cross_entropy import Tiles, TokenScores, grouped_cross_entropy
from fourm.model.transformer import FourM
from fourm.token_space import MaskedBatch, TokenSpace
from fourm.training.sharded_cross_entropy import sharded_cross_entropy
from tokenizers.base import TokenBatch
from tokenizers.settings.checked import Checked, name_knob


@dataclass(frozen=True)
class LossConfig(Checked):
    """How the modalities' losses are joined."""

    average: Literal["modalities", "tokens"] = "modalities"
    """Mean over the modalities that have targets in the batch, or over all target tokens."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight per modality; 1 where not named."""
    tile: int = 0
    """Targets that go through the output head at once. 0 leaves it to the device: 256 on a CPU,
    whose caches hold their logits, and 2048 elsewhere, so that products are large and few."""

    tiles: Literal["auto", "fitted", "even"] = "auto"
    """How targets are divided for the output head, a matter of speed alone. fitted: tiles of nine
    heights, which waste least. even: one height, in few loops. auto is fitted on a CPU and even
    elsewhere."""

    @property
    def tile_size(self) -> int:
        """The tile, on this machine if that is left to it."""
        return self.tile or (256 if jax.default_backend() == "cpu" else 2048)

    @property
    def chosen_tiles(self) -> Tiles:
        """The kind of tiles, on this machine if that is left to it."""
        if self.tiles == "auto":
            return "fitted" if jax.default_backend() == "cpu" else "even"
        return self.tiles

    def weigh(
        self, names: Sequence[str], counts: Int[Array, "modalities"] | Float[Array, "modalities"]
    ) -> Float[Array, "modalities"]:
        """Returns what one target of each modality weighs in a loss over so many of each."""
        importance = jnp.array([self.weights.get(name, 1.0) for name in names])
        if self.average == "modalities":
            share = jnp.where(counts > 0, importance, 0.0)
            return share / jnp.maximum(share.sum(), 1e-9) / jnp.maximum(counts, 1)
        return importance / jnp.maximum((importance * counts).sum(), 1e-9)

    def check_knobs(self, knob: str) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"{name_knob(knob, 'weights')}.{name} is {weight}; it must be finite and not "
                    "negative."
                )
        if self.tile < 0:
            raise ValueError(
                f"{name_knob(knob, 'tile')} is {self.tile}; it must be positive, or 0 to leave it "
                "to the device."
            )


class MaskedLoss:
    """Masks a batch of tokens and predicts its targets; a `CountedLoss` of the training step.

    Masks follow from the key and the index of each sample, so a sample has the same targets
    whatever batch, slice or device it is in.
    """

    def __init__(
        self,
        space: TokenSpace,
        masking: MaskingConfig,
        config: LossConfig,
        layout: Layout,
    ):
        """Describes the loss.

        Args:
            space: That of the model and of the tokens.
            masking: How inputs and targets are drawn.
            config: How the losses of the modalities are joined.
            layout: How the devices share the work.
        """
        self._space, self._masking, self._config = space, masking, config
        self._layout = layout

    def __call__(
        self,
        model: FourM,
        batch: TokenBatch,
        key: Key[Array, ""],
        totals: Int[Array, "modalities"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the loss in nats and its metrics; see `masked_loss`.

        Args:
            model: Predicts.
            batch: Tokens of a batch, or of a device's share of it.
            key: Of the masks.
            totals: Targets of every modality in the whole batch, if this is a slice of it.
        """
        masked = mask_batch(key, batch, self._space, self._masking)
        cross_entropy = partial(sharded_cross_entropy, self._layout)
        return masked_loss(model, masked, self._config, self._layout.add_up, cross_entropy, totals)

    def count(self, batch: TokenBatch, key: Key[Array, ""]) -> Int[Array, "modalities"]:
        """Returns how many targets of every modality a batch has, on all devices."""
        masked = mask_batch(key, batch, self._space, self._masking)
        return self._layout.add_up(count_targets(masked, len(self._space.ranges)))


def groups_of(batch: MaskedBatch, num_groups: int) -> Int[Array, "rows"]:
    """Returns the modality of every target, and `num_groups` where there is only padding."""
    targets = batch.targets
    return jnp.where(targets.is_real, targets.modality, num_groups).reshape(-1)


def count_targets(batch: MaskedBatch, num_groups: int) -> Int[Array, "modalities"]:
    """Returns how many targets a batch has of each of `num_groups` modalities."""
    return jnp.bincount(groups_of(batch, num_groups), length=num_groups + 1)[:num_groups]


def masked_loss(
    model: FourM,
    batch: MaskedBatch,
    config: LossConfig,
    add_up: Callable[[Array], Array] = lambda x: x,
    cross_entropy: Callable[..., tuple[Float[Array, ""], TokenScores]] = grouped_cross_entropy,
    totals: Int[Array, "modalities"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Computes the training loss of a batch, or what a slice of it contributes.

    The loss is sum over targets of (weight of one target of its modality) * nll, where the weight
    follows from how many targets the whole batch has (`LossConfig.weigh`). A slice that counted
    its own targets would have other weights, and the mean over slices would be another loss.

    Args:
        model: Gives the features.
        batch: What was shown and what was asked; or a share of such a batch.
        config: How the modalities count.
        add_up: Where this is a share of a batch, adds up what all shares contribute to an array.
        cross_entropy: As `grouped_cross_entropy`, which it may divide further.
        totals: Targets of every modality in the whole batch, where `batch` is a slice of it.

    Returns:
        The loss in nats, and metrics: `loss/M` (mean nats per target), `accuracy/M` and
        `targets/M` (how many) of every modality M; loss and accuracy are NaN where a modality
        has no target in the batch. With `totals`, the terms of these that the slice contributes:
        the sums over all slices are the loss and the metrics of the whole batch.
    """
    space = model.space
    targets = batch.targets
    features = model(batch)
    num_groups = len(space.ranges)
    group = groups_of(batch, num_groups)
    counts = add_up(count_targets(batch, num_groups))
    totals = counts if totals is None else totals
    weights = jnp.append(config.weigh(space.names, totals), 0.0)[group]
    loss, scores = cross_entropy(
        features.reshape(-1, features.shape[-1]),
        model.output_table[...],
        targets.ids.reshape(-1),
        group,
        weights,
        tuple((each.first_id, each.vocab_size) for each in space.ranges),
        config.tile_size,
        config.chosen_tiles,
    )

    def mean_by_group(values: Float[Array, "rows"]) -> Float[Array, "modalities"]:
        # Sums of rows, not products with zeros, which would spread what is not finite.
        sums = jax.ops.segment_sum(values, group, num_groups + 1)[:num_groups]
        return add_up(sums) / totals

    nll = mean_by_group(scores.nll)
    accuracy = mean_by_group(scores.is_correct.astype(jnp.float32))
    metrics = {}
    for modality in space.ranges:
        metrics[f"loss/{modality.name}"] = nll[modality.index]
        metrics[f"accuracy/{modality.name}"] = accuracy[modality.index]
        metrics[f"targets/{modality.name}"] = counts[modality.index].astype(jnp.float32)
    return add_up(loss), metrics
